"""How the process handles memory that it will need again."""

from __future__ import annotations

import ctypes
import sys

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
