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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cvlib.cli.running import choose_folder
from cvlib.cli.train import Source, log, train_model
from cvlib.data import SyntheticBananas, fetch_bananas
from cvlib.engine import TrainConfig
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.config import parse_command_line
from cvlib.engine.device import from_first, join_processes
from cvlib.engine.memory import keep_freed_memory
from cvlib.models import create_model

# Drawn images hold more objects, smaller and partly hidden ones, and take longer to learn.
SYNTHETIC_IMAGES = 24_000
SYNTHETIC_EPOCH = 2000
SYNTHETIC_VAL = 200
# Drawn validation images must not be among the training images of any seed in use.
SYNTHETIC_VAL_SEED = 1_000_000


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Trains TinySSD on bananas and writes a run folder with checkpoints, figures and images."""

    images: int = TrainConfig.images
    """Images to train on altogether, in as many epochs as come nearest to it. Left at its
    default, it becomes 24,000 when the images are drawn."""
    loss: Literal["multibox", "book"] = "multibox"
    """"multibox": quality focal loss and generalised IoU. "book": cross-entropy over all anchors
    and L1."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    data: Path | None = None
    """Folder or file of a detection set, in any layout. Unset: the book's bananas, from the cache
    or downloaded; without a network, drawn bananas."""
    cache: bool = True
    """Keep decoded images in memory; --no-cache for sets that do not fit, and for shards."""
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


@dataclass(frozen=True)
class Drawn:
    """Images that the code draws, in place of files."""

    seed: int
    length: int

    def open(self) -> tuple[SyntheticBananas, SyntheticBananas]:
        """The training and the validation set."""
        val = SyntheticBananas(SYNTHETIC_VAL, seed=SYNTHETIC_VAL_SEED)
        return SyntheticBananas(self.length, seed=self.seed), val


def choose_source(arguments: Arguments) -> Source | Drawn:
    """The folder given or in the cache, or the drawn set when there is none."""
    folder = arguments.data
    if folder is None and not arguments.synthetic:
        try:
            folder = fetch_bananas(timeout=arguments.download_timeout)
        except OSError as error:
            print(f"no real bananas: {error}")
    if folder is not None:
        return Source(str(folder.resolve()), seed=arguments.seed, cache=arguments.cache)
    return Drawn(arguments.seed, min(SYNTHETIC_EPOCH, arguments.images))


def read_source(facts: dict[str, Any]) -> Source | Drawn:
    """What the ``data.json`` of a run says."""
    return Source(**facts) if "data" in facts else Drawn(**facts)


def find_folder(arguments: Arguments) -> Path:
    """The run folder: a new one, or the one to resume."""
    if arguments.out is not None:
        return arguments.out
    if not arguments.resume:
        return choose_folder("ssd")
    found = sorted(Path("runs").glob("ssd*/last.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError("--resume: expected a run in runs/ssd*, found none; give --out")
    return found[-1].parent


def main() -> int:
    """Runs the script; gives the exit code."""
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
        if isinstance(source, Drawn) and config.images == TrainConfig.images:
            config = replace(config, images=SYNTHETIC_IMAGES)
    if isinstance(source, Drawn):
        log("training on the synthetic set (drawn bananas); --data gives real ones")
    torch.manual_seed(config.seed)
    train, val = source.open()
    model = create_model("tiny_ssd", train.classes, **options)
    return train_model(model, train, val, config, out, asdict(source), arguments.resume)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(f"train_ssd: {error}")
