"""Learning rates over a run, as shares of their peak: closed forms of the step alone."""

from __future__ import annotations

import math

import torch

from cvlib.engine.config import TrainConfig

# One cycle starts at this share of the peak and ends at that share of the start.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4


def schedule(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of a step as a share of its peak.

    Args:
        step: From 0.
        total: Steps of the whole run.
        config: ``schedule``, ``warmup``, ``milestones`` and ``step_factor``.

    Returns:
        In [0, 1].

    References:
        Loshchilov and Hutter, "SGDR" (2017) for the cosine; Smith and Topin, "Super-convergence"
        (2018) for one cycle.

    Example:
        >>> config = TrainConfig(warmup=0.5, schedule="cosine")
        >>> [round(schedule(step, 8, config), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    rising = max(1, round(config.warmup * total))
    if config.schedule == "one-cycle":
        return _one_cycle(step, total, rising)
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
    if config.schedule == "step":
        passed = sum(step >= round(share * total) for share in config.milestones)
        return config.step_factor**passed
    return 1.0


def _one_cycle(step: int, total: int, rising: int) -> float:
    if step < rising:
        return _half_cosine(ONE_CYCLE_START, 1.0, step / rising)
    return _half_cosine(
        1.0, ONE_CYCLE_START * ONE_CYCLE_END, (step - rising) / max(1, total - 1 - rising)
    )


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Sets every group to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
