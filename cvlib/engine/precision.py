"""Choice of the floating-point precision of training."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cvlib.engine.config import TrainConfig
from cvlib.models import Model

# Number of timed pairs of steps, after one warm-up step of each kind.
_PAIRS = 5


def choose_precision(
    model: Model, config: TrainConfig, device: torch.device, log: Callable[[str], None]
) -> str:
    """Choose the precision of a run; ``"auto"`` times float32 and bfloat16 on this machine.

    Args:
        model: The model, left unchanged.
        config: Settings ``precision`` and ``batch_size``.
        device: Device of the model.
        log: Called with the result.

    Returns:
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        ValueError: float16 on the CPU, which does not scale gradients.
    """
    if config.precision == "float16" and device.type == "cpu":
        raise ValueError(
            "fit: expected `precision` to be float32 or bfloat16 on the CPU, got float16, which "
            "needs CUDA"
        )
    if config.precision != "auto":
        return config.precision
    trial = copy.deepcopy(model).train()
    images = torch.rand(max(2, config.batch_size), 3, *model.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)

    def run(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            raw = trial(images)
        torch.stack([one.float().sum() for one in _trainable(raw)]).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout draws
        run(False), run(True)
        pairs = [(run(False), run(True)) for _ in range(_PAIRS)]
    ratio = sorted(float32 / bfloat16 for float32, bfloat16 in pairs)[len(pairs) // 2]
    chosen = "bfloat16" if ratio > 1 else "float32"
    log(f"precision: {chosen} (bfloat16 is {ratio:.2f} times as fast as float32 on this machine)")
    return chosen


def _trainable(raw: Any) -> Iterator[Tensor]:
    """Yield the differentiable tensors in nested output."""
    if isinstance(raw, Tensor):
        if raw.requires_grad:
            yield raw
    elif isinstance(raw, Mapping | tuple | list):
        for one in raw.values() if isinstance(raw, Mapping) else raw:
            yield from _trainable(one)
