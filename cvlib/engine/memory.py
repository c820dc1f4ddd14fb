"""Memory: how to keep what will be needed again, and what to do when there is not enough."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from cvlib.engine.config import TrainConfig

# Of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Asks the C library to keep freed memory instead of giving it back to the system.

    Activations of tens of megabytes are freed and asked for again in every training step; getting
    them from the system each time costs a page fault for every 4 KB. Changes the whole process, so
    it is for scripts to call, not for libraries.

    Returns:
        True where it took effect (glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    return bool(mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT - 1) and kept)


@contextlib.contextmanager
def advising(config: TrainConfig) -> Iterator[None]:
    """Says what to do when memory runs out.

    Raises:
        MemoryError: In place of torch's error, with advice that fits the settings.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if is_out_of_memory(error):
            raise MemoryError(f"fit: out of memory; {_advice(config)} ({_first_line(text)})") from (
                error
            )
        if "DataLoader worker" in text and "killed" in text:
            raise MemoryError(
                f"fit: a process that loads images was killed, mostly for want of memory; try "
                f"--workers {(config.workers or 0) // 2} ({_first_line(text)})"
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error means that memory of the device or the host has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "std::bad_alloc")
    )


def _advice(config: TrainConfig) -> str:
    ways = []
    if config.batch_size > 1:
        half = config.batch_size // 2
        ways.append(
            f"--batch-size {half} --accumulate {2 * config.accumulate} takes the same steps in "
            "about half the memory"
        )
    if config.precision == "float32":
        ways.append("--precision bfloat16 halves the activations")
    if not config.freeze_backbone:
        ways.append("--freeze-backbone keeps activations and moments of the head alone")
    ways.append("a smaller image_size of the model")
    return "try one of: " + "; ".join(ways)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
