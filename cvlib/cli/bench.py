"""cvlib bench: how fast this machine is."""

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

from cvlib.cli import GOOD
from cvlib.cli._inputs import name_split, open_model
from cvlib.cli.running import UsageError, parse
from cvlib.data import SyntheticBananas, collate, load_dataset
from cvlib.data.load import find_splits
from cvlib.data.transforms import make_transform
from cvlib.engine import config_for
from cvlib.engine.device import choose_device
from cvlib.engine.optim import make_optimizer
from cvlib.models import Model
from cvlib.models.base import evaluation_mode

DESCRIPTION = """Measures speed on this machine.

    cvlib bench                              a model: images a second, latencies
    cvlib bench --model runs/bananas --batch-sizes 1 8 32
    cvlib bench train                        training steps of a detector
    cvlib bench data bananas/                reading and decoding of a data set
    cvlib bench ops --only nms               operators, from a checkout of the sources

Close other programs first. Operators are measured by tools/bench_ops.py, which is not installed
with the package.
"""
_WARM_UP = 2
_MEGA = 1e6
Row = tuple[str, ...]


@dataclass(frozen=True)
class Arguments:
    """Measures speed."""

    what: Annotated[Literal["model", "train", "data", "ops"], tyro.conf.Positional] = "model"
    """model: images a second and latencies by batch size; train: training steps; data: reading a
    set; ops: operators."""
    data: Annotated[Path | None, tyro.conf.Positional] = None
    """The data set for data."""
    model: str = "tiny_ssd"
    """Name of a model, or a run folder."""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Images in one forward pass or training step."""
    seconds: float = 2.0
    """How long each row is measured, at least."""
    only: str = ""
    """For ops: operators whose name contains this."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError(f"expected --batch-sizes >= 1, got {self.batch_sizes}")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"expected --seconds > 0, got {self.seconds}")
        if self.what == "data" and self.data is None:
            raise UsageError("expected a data set for data, got none")


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib bench", DESCRIPTION, arguments)
    if options.what == "ops":
        return _bench_ops(options)
    if options.what == "data":
        _bench_data(options)
        return GOOD
    device = choose_device(options.device)
    model = open_model(options.model).to(device)
    print(
        f"{model.name} at {model.image_size[0]} x {model.image_size[1]} on {device}, "
        f"{torch.get_num_threads()} threads"
    )
    measure = _bench_model if options.what == "model" else _bench_train
    rows: list[Row] = [("batch", "images/s", "median ms", "90% ms", "99% ms", "calls")]
    for batch_size in options.batch_sizes:
        times = measure(model, batch_size, options.seconds)
        rows.append(_row(batch_size, times))
    print(_table(rows))
    return GOOD


def time_calls(call: Callable[[], Any], seconds: float, device: torch.device) -> np.ndarray:
    """Calls a function again and again.

    Args:
        call: What is measured.
        seconds: How long, after two calls that do not count.
        device: Whose work is waited for.

    Returns:
        Seconds of each call; at least three.
    """
    times: list[float] = []
    for _ in range(_WARM_UP):
        call()
    while sum(times) < seconds or len(times) < 3:
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
    if model.task != "detection":
        raise ValueError(f"expected a detector for train, got a model for {model.task}")
    drawn = SyntheticBananas(batch_size, image_size=max(model.image_size))
    resize = make_transform("light", "detection", model.image_size, train=False)
    images, targets = collate([resize(*drawn[i]) for i in range(batch_size)])
    targets = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in targets.items()}
    images = images.to(model.device)
    optimizer = make_optimizer(model, config_for(model.name))
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model.loss(model(images), targets).values())).sum().backward()
        optimizer.step()

    return time_calls(step, seconds, model.device)


def _bench_data(options: Arguments) -> None:
    assert options.data is not None  # checked by Arguments
    splits = find_splits(options.data)
    dataset = load_dataset(options.data, name_split(splits, "train", options.data))
    start, count, pixels = time.perf_counter(), 0, 0
    while time.perf_counter() - start < options.seconds or count < 3:
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
            "expected tools/bench_ops.py beside the package, got an installed cvlib; run cvlib "
            "bench ops in a checkout of the sources"
        )
    command = [sys.executable, str(tool), "--seconds", str(options.seconds)]
    return subprocess.call([*command, *(["--only", options.only] if options.only else [])])


def _row(batch_size: int, times: np.ndarray) -> Row:
    speed = batch_size * len(times) / times.sum()
    shares = (f"{1000 * value:.2f}" for value in np.quantile(times, (0.5, 0.9, 0.99)))
    return (str(batch_size), f"{speed:.1f}", *shares, str(len(times)))


def _table(rows: list[Row]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    )
