"""Benchmark the training loop against the book's recipe and a bare loop, in turns in one process.

    python tools/bench_train.py --threads 2

The book's recipe: plain float32 TinySSD on pixels 0..255, batches of 32, SGD, anchors and targets
computed image by image in PyTorch. cvlib: the loop of cvlib.fit with its augmentation, batches of
8. The bare loop: cvlib's model, optimiser and batches in the fewest lines that train. All train on
the same synthetic bananas, kept in memory. A ratio is the median over the turns.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from bench_cases.multibox import banana_anchors, target_in_pytorch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cvlib.data import SyntheticBananas, collate
from cvlib.engine import TrainConfig
from cvlib.engine.batches import Batches, load_batches
from cvlib.engine.device import join_processes
from cvlib.engine.loop import train_epoch
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.run_folder import start
from cvlib.models import TinySSD

IMAGES_PER_TURN = 64
BOOK_BATCH = 32


@dataclass(frozen=True)
class Arguments:
    """Benchmark the training loop against the book's recipe and a bare loop."""

    threads: int = 2
    """Number of CPU threads."""
    turns: int = 5
    """Turns of each contestant, after one that is not counted."""
    keep_memory: bool = True
    """Let the C library keep freed memory, for all contestants; --no-keep-memory behaves like a
    plain script and slows all of them down."""
    device: str = "auto"
    """"auto": CUDA if available, otherwise the CPU."""
    out: Path = Path("runs/bench")
    """Folder for bench_train.json."""


def book_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build the book's down-sampling block."""
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
    """The book's TinySSD: no normalisation of the input, new anchors in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        base = nn.Sequential(book_block(3, 16), book_block(16, 32), book_block(32, 64))
        blocks = [book_block(64, 128), book_block(128, 128), book_block(128, 128)]
        self.blocks = nn.ModuleList([base, *blocks, nn.AdaptiveMaxPool2d(1)])
        channels = (64, 128, 128, 128, 128)
        self.class_heads = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in channels)
        self.box_heads = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c in channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return anchors, class scores (B, A, 2) and offsets (B, 4A)."""
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
        """Train on the samples once."""
        for first in range(0, len(samples), BOOK_BATCH):
            images, targets = collate(samples[first : first + BOOK_BATCH])
            device = next(self.model.parameters()).device
            rows = torch.cat([targets["labels"][..., None], targets["boxes"] / 256], dim=2)
            rows = rows.to(device)
            anchors, scores, offsets = self.model(images.float().to(device))
            objects = [image_rows[image_rows[:, 0] >= 0] for image_rows in rows]
            per_image = [target_in_pytorch(anchors, image_rows[None]) for image_rows in objects]
            wanted, mask, classes = (torch.cat(field) for field in zip(*per_image, strict=True))
            entropy = F.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
            error = (offsets * mask - wanted * mask).abs().mean(dim=1)
            loss = entropy.view(len(images), -1).mean(dim=1) + error
            self.optimizer.zero_grad()
            loss.mean().backward()
            self.optimizer.step()


class Cvlib:
    """The loop of cvlib.fit. A turn is one epoch without the evaluation after it."""

    def __init__(self, samples: list, turns: int, folder: str, device: torch.device) -> None:
        config = TrainConfig(epochs=2 * turns, device=str(device))
        model = TinySSD(("banana",))
        self.run = start(model, samples, config, Path(folder), device, False, print, ())  # type: ignore[arg-type]
        batches = Batches(samples, model, config.recipe, config.seed)
        self.steps = load_batches(batches, self.run.plan, 0, 0, device)

    def train(self, samples: list) -> None:
        """Train on the samples once."""
        train_epoch(self.run, self.steps, lambda: False)


class Bare:
    """A minimal loop around the model, optimiser and batches of `Cvlib`.

    Args:
        other: Contestant to share them with, so that both do the same work on the same memory.
    """

    def __init__(self, other: Cvlib) -> None:
        self.other = other
        self.optimizer = other.run.optimizer.optimizer  # type: ignore[attr-defined]

    def train(self, samples: list) -> None:
        """Train on the samples once."""
        run = self.other.run
        model, device = run.model, run.model.device
        in_bfloat16 = run.progress.precision == "bfloat16"
        for _ in range(run.plan.steps_per_epoch):
            (batch,) = next(self.other.steps)
            images, targets = batch.to(device)
            self.optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
                raw = model(images)
            losses = model.loss(raw, targets)
            loss = losses["class"] + losses["box"]
            loss.backward()
            self.optimizer.step()
            loss.item()


def main() -> None:
    """Run the benchmark."""
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    device = join_processes(arguments.device)
    drawn = SyntheticBananas(2 * IMAGES_PER_TURN)
    images = (drawn[i] for i in range(len(drawn)))
    # The book's code cannot handle an image without objects.
    samples = [sample for sample in images if len(sample[1]["labels"])][:IMAGES_PER_TURN]
    with tempfile.TemporaryDirectory() as folder:
        own = Cvlib(samples, arguments.turns + 1, folder, device)
        contestants = {"book": Book(device), "cvlib": own, "bare": Bare(own)}
        speeds = measure(contestants, samples, arguments.turns, device)
    report(arguments, speeds)


def measure(
    contestants: dict[str, Any], samples: list, turns: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the images per second of each contestant and turn, without the first turn."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(turns + 1), unit="turn", disable=None):
        # In alternating order, so that none is always the first after a pause.
        names = list(contestants) if turn % 2 else list(contestants)[::-1]
        for name in names:
            start_time = time.perf_counter()
            contestants[name].train(samples)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                speeds[name].append(IMAGES_PER_TURN / (time.perf_counter() - start_time))
    return speeds


def report(arguments: Arguments, speeds: dict[str, list[float]]) -> None:
    """Print medians and paired ratios, and write them as JSON."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratio = paired_ratio(speeds["cvlib"], speeds["book"])
    overhead = paired_ratio(speeds["bare"], speeds["cvlib"]) - 1
    print(
        f"book {medians['book']:.1f} images/s, cvlib {medians['cvlib']:.1f} images/s: "
        f"{ratio:.2f} times the book's"
    )
    print(
        f"bare loop {medians['bare']:.1f} images/s: the loop's overhead is {overhead:.1%} of a step"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    measurements = {
        "settings": {name: str(value) for name, value in asdict(arguments).items()},
        "images_per_second": medians,
        "ratio": ratio,
        "overhead": overhead,
        "torch": torch.__version__,
    }
    (arguments.out / "bench_train.json").write_text(json.dumps(measurements, indent=2) + "\n")


def paired_ratio(speeds: list[float], others: list[float]) -> float:
    """Return the median over the turns of the ratio within each turn."""
    return statistics.median(a / b for a, b in zip(speeds, others, strict=True))


if __name__ == "__main__":
    main()
