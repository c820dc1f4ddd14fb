"""Trains TinySSD on bananas: real ones when they are at hand, drawn ones otherwise.

    python tools/train_ssd.py --data banana-detection
    python tools/train_ssd.py --synthetic --images 16000 --out runs/mine
    python tools/train_ssd.py --resume --out runs/mine
    python tools/train_ssd.py --config runs/mine/run.yaml --seed 1

The run folder holds run.yaml (the settings), metrics.csv, metrics.json, best.pt, best.safetensors,
last.pt, curves.png and predictions.png.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from cvlib._distributed import rank
from cvlib._files import save_json
from cvlib.data import BananaDataset, SyntheticBananas, fetch_bananas
from cvlib.engine import TrainConfig, evaluate, fit, parse_command_line
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.processes import from_first, join_processes
from cvlib.metrics import GroundTruth
from cvlib.models import Model, create_model
from cvlib.predict import detect
from cvlib.visualize import draw_comparison

# Drawn pictures hold more objects, smaller and partly hidden ones, and take longer to learn.
SYNTHETIC_IMAGES = 24_000
SYNTHETIC_EPOCH = 2000
SYNTHETIC_VAL = 200
# Drawn validation pictures must not be among the training pictures of any seed in use.
SYNTHETIC_VAL_SEED = 1_000_000
PICTURES_SHOWN = 8


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Trains TinySSD on bananas and writes a run folder with checkpoints, figures and pictures."""

    images: int = TrainConfig.images
    """Pictures to train on altogether, in as many epochs as come nearest to it. Left at its
    default, it becomes 24,000 when the pictures are drawn."""
    loss: Literal["multibox", "book"] = "multibox"
    """"multibox": quality focal loss and generalised IoU. "book": cross-entropy over all anchors
    and L1."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    data: Path | None = None
    """Folder with bananas_train and bananas_val. Unset: the book's set, from the cache or
    downloaded; without a network, drawn bananas."""
    synthetic: bool = False
    """Train on drawn bananas even when real ones are at hand."""
    out: Path | None = None
    """Run folder. Unset: runs/ssd, runs/ssd-2, and so on."""
    resume: bool = False
    """Go on with the run in --out (unset: the newest) where it was interrupted, with its data and
    settings; other options of the training are not read."""
    threads: int | None = None
    """Threads for computation; unset: all cores."""
    download_timeout: float = 10.0
    """Seconds to wait for the download's server."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"expected --threads >= 1, got {self.threads}")

    def train_config(self, is_drawn: bool) -> TrainConfig:
        """The settings of the run, without those of this script."""
        config = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})
        if is_drawn and config.images == TrainConfig.images:
            config = replace(config, images=SYNTHETIC_IMAGES)
        return config


@dataclass(frozen=True)
class Source:
    """Where a run's pictures come from: a folder, or drawn by the code."""

    folder: str | None
    seed: int
    length: int

    def open(self) -> tuple[BananaDataset | SyntheticBananas, BananaDataset | SyntheticBananas]:
        """The training and the validation set."""
        if self.folder is None:
            drawn = SyntheticBananas(self.length, seed=self.seed)
            return drawn, SyntheticBananas(SYNTHETIC_VAL, seed=SYNTHETIC_VAL_SEED)
        real = BananaDataset(self.folder, "train", cache=True)
        return real, BananaDataset(self.folder, "val", cache=True)

    def __str__(self) -> str:
        drawn = "the synthetic set (drawn bananas); --data gives real ones"
        return drawn if self.folder is None else self.folder


def choose_source(arguments: Arguments) -> Source:
    """The folder given or in the cache, or the drawn set when there is none."""
    folder = arguments.data
    if folder is None and not arguments.synthetic:
        try:
            folder = fetch_bananas(timeout=arguments.download_timeout)
        except OSError as error:
            print(f"no real bananas: {error}")
    length = min(SYNTHETIC_EPOCH, arguments.images)
    return Source(None if folder is None else str(folder.resolve()), arguments.seed, length)


def choose_folder(arguments: Arguments) -> Path:
    """The run folder: a new one, or the one to resume."""
    if arguments.out is not None:
        if not arguments.resume and (arguments.out / "last.pt").exists():
            raise FileExistsError(
                f"{arguments.out} holds a run already; add --resume to go on with it, or choose "
                "another --out"
            )
        return arguments.out
    runs = Path("runs")
    if arguments.resume:
        found = sorted(runs.glob("ssd*/last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise FileNotFoundError("--resume: expected a run in runs/ssd*, found none; give --out")
        return found[-1].parent
    number = 1
    while (folder := runs / ("ssd" if number == 1 else f"ssd-{number}")).exists():
        number += 1
    return folder


def save_predictions(path: Path, model: Model, val: Dataset) -> None:
    """Writes a grid of validation pictures with the truth and the detections."""
    samples = [val[i] for i in range(min(PICTURES_SHOWN, len(val)))]  # type: ignore[arg-type]
    images = [image.as_subclass(torch.Tensor) for image, _ in samples]
    truths = [
        GroundTruth(target["boxes"], target["labels"], tuple(image.shape[1:]))
        for image, target in samples
    ]
    draw_comparison(images, truths, detect(model, images)).save(path)


def _say_nothing(line: str) -> None:
    """In all processes but the first."""


def main() -> None:
    """Runs the script."""
    arguments = parse_command_line(Arguments, description=__doc__ or "")
    torch.set_flush_denormal(True)
    keep_freed_memory()
    start = time.perf_counter()
    join_processes(arguments.device)
    say = print if rank() == 0 else _say_nothing
    out = from_first(lambda: choose_folder(arguments))
    if arguments.resume:
        saved = load_checkpoint(out / "last.pt")  # told before all else when it is damaged
        options = saved.get("options", {})
        source = Source(**json.loads((out / "source.json").read_text()))
        config = TrainConfig(**json.loads((out / "config.json").read_text()))
        say(f"going on with {out}")
    else:
        source = from_first(lambda: choose_source(arguments))
        options = {"loss": arguments.loss}
        config = arguments.train_config(is_drawn=source.folder is None)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(config.seed)
    train, val = source.open()
    if rank() == 0:
        out.mkdir(parents=True, exist_ok=True)
        save_json(out / "source.json", asdict(source))
    model = create_model("tiny_ssd", train.classes, **options)
    say(f"training on {source}: {len(train)} pictures, validating on {len(val)}")
    result = fit(model, train, val, config, out, resume=arguments.resume, say=say)
    if not result.finished:
        sys.exit(130)
    if rank() == 0:
        save_predictions(out / "predictions.png", result.model, val)
    say(f"best: {evaluate(result.model, val)}")
    say(
        f"done in {time.perf_counter() - start:.0f} s; look at {out / 'predictions.png'} and "
        f"{out / 'curves.png'}; find bananas with: python tools/detect.py {out} PICTURES"
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(f"train_ssd: {error}")
