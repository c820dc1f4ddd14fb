"""Train TinySSD on bananas: on real ones if available, otherwise on synthetic ones.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cvlib.cli.outputs import choose_folder
from cvlib.cli.train import Source, log, train_model
from cvlib.data import SyntheticBananas, fetch_bananas
from cvlib.engine import TrainConfig
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.config import parse_command_line
from cvlib.engine.device import from_first, join_processes
from cvlib.engine.memory import keep_freed_memory
from cvlib.models import create_model

# Synthetic images hold more objects, some small or partly hidden, and need longer training.
SYNTHETIC_IMAGES = 24_000
SYNTHETIC_EPOCH = 2000
SYNTHETIC_VAL = 200
# Far from the seeds of training images, so that no validation image is among them.
SYNTHETIC_VAL_SEED = 1_000_000


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Train TinySSD on bananas and write a run folder with checkpoints, metrics and images."""

    images: int = TrainConfig.images
    """Total number of training images, rounded to whole epochs. The default becomes 24,000 for
    synthetic images."""
    loss: Literal["multibox", "book"] = "multibox"
    """"multibox": quality focal loss and generalised IoU. "book": cross-entropy over all anchors
    and L1."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    data: Path | None = None
    """Folder or file of a detection dataset, in any layout. By default the book's bananas, from the
    cache or downloaded; without a network, synthetic bananas."""
    cache: bool = True
    """Keep decoded images in memory; use --no-cache for shards and datasets that do not fit."""
    synthetic: bool = False
    """Train on synthetic bananas even if real ones are available."""
    out: Path | None = None
    """Run folder. By default runs/ssd, runs/ssd-2, and so on."""
    resume: bool = False
    """Continue the interrupted run in --out (by default the newest) with its data and settings;
    other training options are ignored."""
    threads: int | None = None
    """Number of CPU threads. By default all cores."""
    download_timeout: float = 10.0
    """Seconds to wait for the download server."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"expected --threads >= 1, got {self.threads}")


@dataclass(frozen=True)
class SyntheticSource:
    """Synthetic bananas in place of files."""

    seed: int
    length: int

    def open(self) -> tuple[SyntheticBananas, SyntheticBananas]:
        """Return the training and validation datasets."""
        val = SyntheticBananas(SYNTHETIC_VAL, seed=SYNTHETIC_VAL_SEED)
        return SyntheticBananas(self.length, seed=self.seed), val


def choose_source(arguments: Arguments) -> Source | SyntheticSource:
    """Return the dataset of --data or the cache, otherwise synthetic bananas."""
    folder = arguments.data
    if folder is None and not arguments.synthetic:
        try:
            folder = fetch_bananas(timeout=arguments.download_timeout)
        except OSError as error:
            print(f"no real bananas: {error}")
    if folder is not None:
        return Source(str(folder.resolve()), seed=arguments.seed, cache=arguments.cache)
    return SyntheticSource(arguments.seed, min(SYNTHETIC_EPOCH, arguments.images))


def read_source(facts: dict[str, Any]) -> Source | SyntheticSource:
    """Return the source described by the ``data.json`` of a run."""
    return Source(**facts) if "data" in facts else SyntheticSource(**facts)


def find_folder(arguments: Arguments) -> Path:
    """Return a new run folder, or the one to resume."""
    if arguments.out is not None:
        return arguments.out
    if not arguments.resume:
        return choose_folder("ssd")
    checkpoints = sorted(Path("runs").glob("ssd*/last.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise FileNotFoundError("--resume: expected a run in runs/ssd*, found none; pass --out")
    return checkpoints[-1].parent


def main() -> int:
    """Run the script and return the exit code."""
    arguments = parse_command_line(Arguments, description=__doc__ or "")
    torch.set_flush_denormal(True)
    keep_freed_memory()
    join_processes(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = from_first(lambda: find_folder(arguments))
    if arguments.resume:
        saved = from_first(lambda: load_checkpoint(out / "last.pt"))
        source = from_first(lambda: read_source(json.loads((out / "data.json").read_text())))
        options, config = saved["options"], TrainConfig(**saved["config"])
    else:
        source = from_first(lambda: choose_source(arguments))
        options, config = {"loss": arguments.loss}, arguments.train_config()
        if isinstance(source, SyntheticSource) and config.images == TrainConfig.images:
            config = replace(config, images=SYNTHETIC_IMAGES)
    if isinstance(source, SyntheticSource):
        log("training on synthetic bananas; choose real ones with --data")
    torch.manual_seed(config.seed)
    train, val = source.open()
    model = create_model("tiny_ssd", train.classes, **options)
    return train_model(model, train, val, config, out, asdict(source), arguments.resume)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(f"train_ssd: {error}")
