"""Limits of the machine and the memory use of a call, for benchmarks."""

from __future__ import annotations

import ctypes
import functools
import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Long enough that cold caches after another contestant's turn do not matter.
MIN_SECONDS = 5e-3
_TURNS = 5
_MATRIX = 1536
_SMALLEST_COPY = 1 << 14
_LARGEST_COPY = 1 << 29


def time_call(call: Callable[[], Any], device: str) -> float:
    """Return the milliseconds of one call in steady state, repeating it for ``MIN_SECONDS``."""
    repeats = 1
    while True:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed > MIN_SECONDS:
            return elapsed / repeats * 1e3
        repeats *= 4


@functools.cache
def _copy_ms(size: int, device: str, threads: int) -> float:
    source = torch.ones(size // 8, device=device)
    target = torch.empty_like(source)
    return min(time_call(lambda: target.copy_(source), device) for _ in range(_TURNS))


def copy_rate(size: int, device: str) -> float:
    """Return the bytes read and written per second by a copy of this size.

    Small copies stay in the cache. Measured once per power of two and number of threads, into
    allocated memory: a result in fresh memory has to pay for its page faults as well.
    """
    power = 1 << math.ceil(math.log2(max(size, 1)))
    power = min(max(power, _SMALLEST_COPY), _LARGEST_COPY)
    return power / _copy_ms(power, device, torch.get_num_threads()) * 1e3


@functools.cache
def _product_ms(device: str, threads: int) -> float:
    a, b = (torch.ones(_MATRIX, _MATRIX, device=device) for _ in range(2))
    return min(time_call(lambda: a @ b, device) for _ in range(_TURNS))


def product_rate(device: str) -> float:
    """Return the operations per second of a large float32 matrix product."""
    return 2 * _MATRIX**3 / _product_ms(device, torch.get_num_threads()) * 1e3


def least_ms(bytes_moved: int, operations: int, device: str) -> float | None:
    """Return the shortest possible time of a kernel; None when ``bytes_moved`` is unknown."""
    if not bytes_moved:
        return None
    moving = bytes_moved / copy_rate(bytes_moved, device)
    computing = operations / product_rate(device) if operations else 0.0
    return max(moving, computing) * 1e3


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if field in line)
    return int(line.split()[1]) * 1024


def peak_megabytes(call: Callable[[], Any], device: str) -> float | None:
    """Return the additional memory that a call takes at its peak, including its result.

    None where the system does not report it (the CPU outside Linux).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        torch.cuda.synchronize()
        del result
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        result = call()
        del result
        return max(0, _resident("VmHWM") - before) / 1e6
    except (OSError, AttributeError, StopIteration):
        return None
