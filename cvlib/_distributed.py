"""Several processes that train as one: who is who, and numbers that all of them share."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Says whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def mean_over_ranks(count: Tensor, least: float = 0.0) -> Tensor:
    """Averages what a loss is divided by, so that several processes learn what one would.

    Gradients are averaged over the R processes. A loss that each of them divides by its own number
    of objects would therefore weigh an object by how few others its process has. Divided by this
    mean instead, the average is the sum over all objects divided by the number of all of them.

    Args:
        count: Scalar: the number of objects, images or anchors in this process's share.
        least: Of the number over all processes: keeps a batch without objects from dividing by 0.

    Returns:
        Scalar: ``max(total, least) / R``; with one process ``count`` itself, at least ``least``.

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
    """Adds a tensor of every process, number by number; all of them get the sum."""
    if not is_distributed():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gather_objects(own: T) -> list[T]:
    """Gives what every process has, in the order of their ranks; every process must call it.

    Args:
        own: Of this process; anything that can be pickled.

    Returns:
        One entry for each process; ``[own]`` where there is only this one.
    """
    if not is_distributed():
        return [own]
    everything: list[Any] = [None] * world_size()
    dist.all_gather_object(everything, own)
    return everything
