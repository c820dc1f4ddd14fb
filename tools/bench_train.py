"""Measures the training loop against the book's recipe, in turns in one process.

    python tools/bench_train.py --threads 2

The book's recipe: plain float32 TinySSD on pixels 0..255, batches of 32, SGD, anchors and targets
made image by image in PyTorch. Ours: the loop of cvlib.fit with its augmentation, batches of 8.
Both train on the same drawn bananas, kept in memory. A ratio is the median over the turns.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from bench_cases.multibox import banana_anchors, target_in_pytorch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cvlib.data import SyntheticBananas, collate
from cvlib.engine import TrainConfig
from cvlib.engine.device import choose_device
from cvlib.engine.loop import Progress, choose_precision, train_step
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.optim import make_optimizers
from cvlib.models import TinySSD

IMAGES_PER_TURN = 64
BOOK_BATCH = 32


@dataclass(frozen=True)
class Arguments:
    """Measures the training loop against the book's recipe."""

    threads: int = 2
    """Threads for computation."""
    turns: int = 5
    """Turns of each contestant; one more is not counted."""
    keep_memory: bool = True
    """Let the C library keep freed memory, for both contestants; --no-keep-memory is the default of
    a plain script and slows both down."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""
    out: Path = Path("runs/bench")
    """Folder for bench_train.json."""


def book_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """The book's down-sampling block."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class BookSSD(nn.Module):
    """The book's TinySSD: no normalisation of the input, anchors made in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        base = nn.Sequential(book_block(3, 16), book_block(16, 32), book_block(32, 64))
        blocks = [book_block(64, 128), book_block(128, 128), book_block(128, 128)]
        self.blocks = nn.ModuleList([base, *blocks, nn.AdaptiveMaxPool2d(1)])
        channels = (64, 128, 128, 128, 128)
        self.class_heads = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in channels)
        self.box_heads = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c in channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives anchors, class scores (B, A, 2) and offsets (B, 4A)."""
        scores, offsets = [], []
        for block, to_class, to_box in zip(
            self.blocks, self.class_heads, self.box_heads, strict=True
        ):
            images = block(images)
            scores.append(to_class(images).permute(0, 2, 3, 1).flatten(1))
            offsets.append(to_box(images).permute(0, 2, 3, 1).flatten(1))
        anchors = banana_anchors(str(images.device))
        return anchors, torch.cat(scores, 1).unflatten(1, (-1, 2)), torch.cat(offsets, 1)


class Book:
    """The book's training recipe."""

    def __init__(self, device: torch.device) -> None:
        self.model = BookSSD().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2, weight_decay=5e-4)

    def train(self, samples: list) -> None:
        """Learns from the samples once."""
        for start in range(0, len(samples), BOOK_BATCH):
            images, targets = collate(samples[start : start + BOOK_BATCH])
            device = next(self.model.parameters()).device
            rows = torch.cat([targets["labels"][..., None], targets["boxes"] / 256], dim=2)
            rows = rows.to(device)
            anchors, scores, offsets = self.model(images.float().to(device))
            valid = [one[one[:, 0] >= 0] for one in rows]
            made = [target_in_pytorch(anchors, one[None]) for one in valid]
            wanted, mask, classes = (torch.cat(parts) for parts in zip(*made, strict=True))
            entropy = F.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
            error = (offsets * mask - wanted * mask).abs().mean(dim=1)
            loss = entropy.view(len(images), -1).mean(dim=1) + error
            self.optimizer.zero_grad()
            loss.mean().backward()
            self.optimizer.step()


class Ours:
    """The loop of cvlib.fit."""

    def __init__(self, device: torch.device) -> None:
        self.config = TrainConfig()
        self.model = TinySSD(("banana",)).to(device).to(memory_format=torch.channels_last)
        config = self.config
        self.optimizers = make_optimizers(
            self.model, config.learning_rate, config.muon_learning_rate, config.weight_decay
        )
        self.progress = Progress()
        self.progress.precision = choose_precision(self.model, config, device, print)
        self.model.train()

    def train(self, samples: list) -> None:
        """Learns from the samples once."""
        size = self.config.batch_size
        for start in range(0, len(samples), size):
            images, targets = collate(samples[start : start + size])
            train_step(self.model, self.optimizers, images, targets, self.config, self.progress)
            self.progress.step += 1


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    device = choose_device(arguments.device)
    drawn = SyntheticBananas(2 * IMAGES_PER_TURN)
    pictures = (drawn[i] for i in range(len(drawn)))
    # The book's code cannot take a picture without objects.
    samples = [one for one in pictures if len(one[1]["labels"])][:IMAGES_PER_TURN]
    contestants: dict[str, Book | Ours] = {"book": Book(device), "cvlib": Ours(device)}
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(arguments.turns + 1), unit="turn", disable=None):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant.train(samples)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                speeds[name].append(IMAGES_PER_TURN / (time.perf_counter() - start))
    ratio = statistics.median(
        own / book for own, book in zip(speeds["cvlib"], speeds["book"], strict=True)
    )
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        f"book {medians['book']:.1f} images/s, cvlib {medians['cvlib']:.1f} images/s: "
        f"{ratio:.2f} times the book's"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "settings": {name: str(value) for name, value in asdict(arguments).items()},
        "images_per_second": medians,
        "ratio": ratio,
        "torch": torch.__version__,
    }
    (arguments.out / "bench_train.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
