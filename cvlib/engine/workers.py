"""How many processes load pictures."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

from cvlib._distributed import world_size
from cvlib.data import (
    ClassificationDataset,
    DetectionDataset,
    SegmentationDataset,
    SyntheticBananas,
)
from cvlib.data.check._sources import unwrap
from cvlib.data.shards import ShardDataset

# Sets that processes share well: their labels and cache are memory that all of them read.
_SHARED = (
    *(DetectionDataset, SegmentationDataset, ClassificationDataset),
    *(ShardDataset, SyntheticBananas),
)
# One process reads this many pictures in less time than it takes to start others.
_FEW = 100
_MOST = 8


def choose_workers(wanted: int | None, *datasets: Any) -> int:
    """Says how many processes shall load pictures beside this one.

    Args:
        wanted: What the user wants; ``None`` leaves it to the machine.
        datasets: That are read.

    Returns:
        ``wanted``; or half of the cores that this process may use, divided by the training
        processes of the machine, at most 8, since the other half computes. But none for a few
        pictures; for sets of other makers, which may hold what processes cannot share, such as an
        open file; and where processes are not forked, because each would import torch again.
    """
    if wanted is not None:
        return wanted
    # Not the plain call, which would settle the method for the whole process.
    method = multiprocessing.get_start_method(allow_none=True)
    if (method or multiprocessing.get_all_start_methods()[0]) != "fork":
        return 0
    if max(len(one) for one in datasets) < _FEW:
        return 0
    if not all(isinstance(unwrap(one)[0], _SHARED) for one in datasets):
        return 0
    together = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return min(_MOST, len(os.sched_getaffinity(0)) // (2 * together))


def leave_interrupts_to_others(_: int) -> None:
    """Makes a worker outlive Ctrl-C: the terminal tells it to all processes, the first decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
