"""Memory that the workers of a DataLoader share, however they were started."""

from __future__ import annotations

import mmap
import os
import pickle
import threading
import weakref
from multiprocessing import context, reduction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of the free memory that a cache may take: training needs some, too.
_CACHE_SHARE = 0.8


def is_for_worker() -> bool:
    """Says whether an object is being pickled for a process that is about to start."""
    return context.get_spawning_popen() is not None


class SharedBlock:
    """Bytes that this process and its workers, forked or spawned, see alike.

    It is a file in memory without a name: not bounded by the size of ``/dev/shm``, as shared
    tensors are (64 MB in many containers), and gone with the last process. Pages that nobody has
    written take no memory.

    Args:
        size: In bytes.
        descriptor: Of a block to join.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self._size = size
        self._descriptor = os.memfd_create("cvlib") if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        if descriptor is None:
            os.ftruncate(self._descriptor, max(size, 1))
        self.bytes: NDArray[np.uint8] = np.frombuffer(
            mmap.mmap(self._descriptor, max(size, 1)), dtype=np.uint8
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if not is_for_worker():
            raise TypeError("SharedBlock: expected to be pickled for a worker alone")
        return _join, (self._size, reduction.DupFd(self._descriptor))


def _join(size: int, descriptor: Any) -> SharedBlock:
    return SharedBlock(size, descriptor.detach())


class SharedObject:
    """An object whose arrays lie in a `SharedBlock`.

    Args:
        value: Anything that can be pickled.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        self._rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        # Every array begins at a multiple of 64, as NumPy's own.
        lengths = [-(-view.nbytes // 64) * 64 for view in views]
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).tolist()
        self._spans = [(start, start + v.nbytes) for start, v in zip(starts, views, strict=False)]
        self._block = SharedBlock(starts[-1])
        for (start, end), view in zip(self._spans, views, strict=True):
            self._block.bytes[start:end] = np.frombuffer(view, dtype=np.uint8)

    def value(self) -> Any:
        """The object, with arrays that are read in place."""
        memory = self._block.bytes.data.toreadonly()
        return pickle.loads(self._rest, buffers=[memory[start:end] for start, end in self._spans])


class ImageCache:
    """Decoded images that all workers share; one that any of them has decoded is there for all.

    Args:
        sizes: Shape (P, 2): height and width; where one is below 1 the image is not kept.
        owner: Class of the data set, for errors.
        channels: 3, or 1 for masks.

    Raises:
        MemoryError: They take more than 80 % of the memory that is free.
    """

    def __init__(self, sizes: NDArray[np.int64], owner: str, channels: int = 3) -> None:
        self._sizes = sizes
        self._channels = channels
        lengths = channels * np.maximum(sizes, 0).prod(1)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        free = available_memory()
        if self._starts[-1] > _CACHE_SHARE * free:
            raise MemoryError(
                f"{owner}: expected room for a cache of {self._starts[-1] / 1e9:.1f} GB, "
                f"got {free / 1e9:.1f} GB of free memory; leave cache=False, take a subset, or "
                "store smaller images"
            )
        self._pixels = SharedBlock(int(self._starts[-1]))
        self._filled = SharedBlock(len(sizes))
        self._make_fence()

    def _make_fence(self) -> None:
        # Taking a lock orders the writes of the pixels before that of the flag for other cores.
        self._fence = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_fence"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_fence()

    def get(self, slot: int) -> Tensor | None:
        """A copy of an image, which a transform may overwrite, or ``None``."""
        with self._fence:
            filled = self._filled.bytes[slot]
        return torch.from_numpy(self._place(slot).copy()) if filled else None

    def put(self, slot: int, image: Tensor) -> None:
        """Keeps an image of the size that was announced."""
        place = self._place(slot)
        if place.size and place.shape == tuple(image.shape):
            place[...] = image.numpy()
            with self._fence:
                self._filled.bytes[slot] = 1

    def _place(self, slot: int) -> NDArray[np.uint8]:
        flat = self._pixels.bytes[self._starts[slot] : self._starts[slot + 1]]
        return flat.reshape(self._channels, *np.maximum(self._sizes[slot], 0))


def available_memory() -> int:
    """Bytes of memory that this process may still take, by the machine and by its container."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    for limit, used in _CGROUP_FILES:
        most, now = _lines(limit), _lines(used)
        if most and now and most[0].isdigit():
            free.append(int(most[0]) - int(now[0]))
    return max(0, min(free))


_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
