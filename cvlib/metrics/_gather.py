"""What the processes of a distributed evaluation tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """The number of this process among those of ``torch.distributed``; 0 where it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_objects(own: T) -> list[T]:
    """Gives what every process has, in the order of their ranks; every process must call it.

    Args:
        own: Of this process; anything that can be pickled.

    Returns:
        One entry for each process; ``[own]`` where there is only this one.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [own]
    everything: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, own)
    return everything  # type: ignore[return-value]
