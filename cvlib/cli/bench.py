"""cvlib bench: speed of models, training, data loading and operators on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch.utils.data import Dataset
from torchvision.tv_tensors import Mask

from cvlib.cli import GOOD
from cvlib.cli.datasets import choose_split
from cvlib.cli.errors import UsageError
from cvlib.cli.models import load_model, open_model
from cvlib.cli.options import parse
from cvlib.data import SyntheticBananas, collate, load_dataset
from cvlib.data.load import find_splits
from cvlib.engine import config_for
from cvlib.engine.batches import apply_recipe
from cvlib.engine.device import choose_device
from cvlib.engine.optim import make_optimizer
from cvlib.models import Model
from cvlib.models.base import evaluation_mode

DESCRIPTION = """Measure speed on this machine.

    cvlib bench                              a model: images per second, latencies
    cvlib bench model runs/bananas --batch-sizes 1 8 32
    cvlib bench train --model resnet18       training steps of a model
    cvlib bench data bananas/                reading and decoding of a dataset
    cvlib bench ops --only nms               operators, from a checkout of the sources

Close other programs first. Operators are measured by tools/bench_ops.py, which is not installed
with the package.
"""
# Calls before the measurement.
_WARM_UP = 2
_MIN_CALLS = 3
_MEGA = 1e6
Row = tuple[str, ...]


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib bench``."""

    what: Annotated[Literal["model", "train", "data", "ops"], tyro.conf.Positional] = "model"
    """model: images per second and latencies by batch size; train: training steps; data: reading a
    dataset; ops: operators."""
    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATH]")] = None
    """Dataset for data; run folder or checkpoint for model and train. Unset: a new --model."""
    model: str | None = None
    """Name of a model, or package.module:Class of a model of your own. Unset: tiny_ssd, or the
    model of the checkpoint."""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Images per forward pass or training step."""
    seconds: float = 2.0
    """Minimum time per row."""
    only: str = ""
    """For ops: measure only operators whose name contains this."""
    device: str = "auto"
    """Device: auto (CUDA if available), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError(f"expected --batch-sizes >= 1, got {self.batch_sizes}")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"expected --seconds > 0, got {self.seconds}")
        if self.what == "data" and self.path is None:
            raise UsageError("expected a dataset for data, got none")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib bench", DESCRIPTION, arguments)
    if options.what == "ops":
        return _bench_ops(options)
    if options.what == "data":
        _bench_data(options)
        return GOOD
    device = choose_device(options.device)
    if options.path is None:
        model = open_model(options.model or "tiny_ssd").to(device)
    else:
        model = load_model(options.path, options.model, device)
    print(
        f"{model.name} at {model.image_size[0]} x {model.image_size[1]} on {device}, "
        f"{torch.get_num_threads()} threads"
    )
    measure = _bench_model if options.what == "model" else _bench_train
    rows: list[Row] = [("batch", "images/s", "median ms", "90% ms", "99% ms", "calls")]
    for batch_size in options.batch_sizes:
        times = measure(model, batch_size, options.seconds)
        rows.append(_make_row(batch_size, times))
    print(_format_table(rows))
    return GOOD


def time_calls(call: Callable[[], Any], seconds: float, device: torch.device) -> np.ndarray:
    """Measure the duration of repeated calls, after a warm-up.

    Args:
        call: Function to measure.
        seconds: Minimum total duration.
        device: Device to synchronise after each call.

    Returns:
        Duration of each call in seconds; at least three.
    """
    times: list[float] = []
    for _ in range(_WARM_UP):
        call()
    while sum(times) < seconds or len(times) < _MIN_CALLS:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return np.array(times)


def _bench_model(model: Model, batch_size: int, seconds: float) -> np.ndarray:
    images = torch.randint(0, 256, (batch_size, 3, *model.image_size), dtype=torch.uint8)
    images = images.to(model.device)
    with evaluation_mode(model):
        return time_calls(lambda: model.decode(model(images)), seconds, model.device)


def _bench_train(model: Model, batch_size: int, seconds: float) -> np.ndarray:
    samples = apply_recipe("auto", _Bananas(batch_size, model), model, seed=0)
    images, targets = collate([samples[0, i] for i in range(batch_size)])
    targets = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in targets.items()}
    images = images.to(model.device)
    optimizer = make_optimizer(model, config_for(model))
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model.loss(model(images), targets).values())).sum().backward()
        optimizer.step()

    return time_calls(step, seconds, model.device)


# Target of a sample by task, from objects with masks.
_TARGETS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "detection": lambda objects: {name: objects[name] for name in ("boxes", "labels")},
    "segmentation": lambda objects: {"mask": Mask(objects["masks"].sum(0) > 0).to(torch.uint8)},
    "classification": lambda objects: {"label": torch.tensor(0)},
}


class _Bananas(Dataset[Any]):
    """Synthetic samples for the task of a model."""

    def __init__(self, count: int, model: Model) -> None:
        self.bananas = SyntheticBananas(count, image_size=max(model.image_size), masks=True)
        self.task = model.task

    def __len__(self) -> int:
        return len(self.bananas)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image, objects = self.bananas[index]
        return image, {**_TARGETS[self.task](objects), "image_id": index}


def _bench_data(options: Arguments) -> None:
    assert options.path is not None  # checked by Arguments
    splits = find_splits(options.path)
    dataset = load_dataset(options.path, choose_split(splits, "train", options.path))
    start, count, pixels = time.perf_counter(), 0, 0
    while time.perf_counter() - start < options.seconds or count < _MIN_CALLS:
        image, _ = dataset[count % len(dataset)]
        pixels += image.shape[1] * image.shape[2]
        count += 1
    seconds = time.perf_counter() - start
    print(
        f"{count / seconds:.0f} images/s, {pixels / seconds / _MEGA:.0f} megapixels/s in one "
        f"process ({count} read with their labels)"
    )


def _bench_ops(options: Arguments) -> int:
    tool = Path(__file__).parents[2] / "tools" / "bench_ops.py"
    if not tool.is_file():
        raise FileNotFoundError(
            "expected tools/bench_ops.py next to the package, got an installed cvlib; run cvlib "
            "bench ops in a checkout of the sources"
        )
    command = [sys.executable, str(tool), "--seconds", str(options.seconds)]
    return subprocess.call([*command, *(["--only", options.only] if options.only else [])])


def _make_row(batch_size: int, times: np.ndarray) -> Row:
    speed = batch_size * len(times) / times.sum()
    shares = (f"{1000 * value:.2f}" for value in np.quantile(times, (0.5, 0.9, 0.99)))
    return (str(batch_size), f"{speed:.1f}", *shares, str(len(times)))


def _format_table(rows: list[Row]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
