"""What the machine can do at most, and how much memory a call takes: yardsticks of a benchmark."""

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

# A measurement lasts at least this long, so that cold caches after the other's turn do not count.
LEAST_SECONDS = 5e-3
_TURNS = 5
_MATRIX = 1536
_SMALLEST_COPY = 1 << 14
_LARGEST_COPY = 1 << 29


def time_call(call: Callable[[], Any], device: str) -> float:
    """Milliseconds of one call in steady state: repeated until there is enough to measure."""
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
        if elapsed > LEAST_SECONDS:
            return elapsed / repeats * 1e3
        repeats *= 4


@functools.cache
def _copy_ms(size: int, device: str, threads: int) -> float:
    source = torch.ones(size // 8, device=device)
    target = torch.empty_like(source)
    return min(time_call(lambda: target.copy_(source), device) for _ in range(_TURNS))


def copy_rate(size: int, device: str) -> float:
    """Bytes read and written per second by a copy that moves this many bytes: small ones in cache.

    Measured on this machine, once for each power of two and number of threads, into memory that
    is there already: a result that needs fresh memory pays for its page faults as well.
    """
    power = 1 << math.ceil(math.log2(max(size, 1)))
    power = min(max(power, _SMALLEST_COPY), _LARGEST_COPY)
    return power / _copy_ms(power, device, torch.get_num_threads()) * 1e3


@functools.cache
def _product_ms(device: str, threads: int) -> float:
    a, b = (torch.ones(_MATRIX, _MATRIX, device=device) for _ in range(2))
    return min(time_call(lambda: a @ b, device) for _ in range(_TURNS))


def product_rate(device: str) -> float:
    """Multiplications and additions per second of a large float32 matrix product."""
    return 2 * _MATRIX**3 / _product_ms(device, torch.get_num_threads()) * 1e3


def least_ms(bytes_moved: int, operations: int, device: str) -> float | None:
    """The time below which a kernel that does this much cannot come; None without figures."""
    if not bytes_moved:
        return None
    moving = bytes_moved / copy_rate(bytes_moved, device)
    computing = operations / product_rate(device) if operations else 0.0
    return max(moving, computing) * 1e3


def _resident(field: str) -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if field in one)
    return int(line.split()[1]) * 1024


def peak_megabytes(call: Callable[[], Any], device: str) -> float | None:
    """How much more memory the process has during the call than before it, the result included.

    None where the system does not tell (the CPU outside of Linux).
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
