"""Memory: keeping freed memory for reuse, and advice when it runs out."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from cvlib.engine.config import TrainConfig

# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory instead of returning it to the system.

    Every training step frees and allocates activations of tens of megabytes; fetching them from the
    system each time costs a page fault per 4 KB. The setting affects the whole process, so scripts
    should call this, not libraries.

    Returns:
        Whether it took effect (glibc only).
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
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Add advice to the error when memory runs out.

    Raises:
        MemoryError: Instead of torch's error, with advice that fits the settings.
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
                f"fit: a worker process was killed, probably because memory ran out; try "
                f"--workers {(config.workers or 0) // 2} ({_first_line(text)})"
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host ran out of memory."""
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
        ways.append("--freeze-backbone stores activations and moments of the head only")
    ways.append("a smaller image_size of the model")
    return "try one of: " + "; ".join(ways)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
