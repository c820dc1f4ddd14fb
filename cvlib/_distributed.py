"""Rank, world size and reductions of distributed training; without it, one process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def mean_over_ranks(count: Tensor, least: float = 0.0) -> Tensor:
    """Average the normaliser of a loss over processes.

    Gradients are averaged over the R processes. If each process divided its loss by its local
    number of objects, objects in sparse batches would weigh more. Divided by this mean, the
    averaged loss is the sum over all objects divided by their total number, as in one process.

    Args:
        count: Number of objects, images or anchors of this process, a scalar.
        least: Lower bound of the number over all processes, against division by 0.

    Returns:
        ``max(total, least) / R``, a scalar.

    Example:
        >>> mean_over_ranks(torch.tensor(3)), mean_over_ranks(torch.tensor(0), least=1)
        (tensor(3), tensor(1))
    """
    if not is_distributed():
        return count.clamp(min=least) if least else count
    total = count.detach().to(torch.float32)
    dist.all_reduce(total)
    return total.clamp(min=least) / world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, elementwise; all processes get the sum."""
    if not is_distributed():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gather_objects(value: T) -> list[T]:
    """Gather an object of every process; all processes must call this.

    Args:
        value: Object of this process; must be picklable.

    Returns:
        One object per process, by rank.
    """
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
