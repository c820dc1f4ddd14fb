"""Memory shared by the workers of a DataLoader, forked or spawned."""

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

# Share of the free memory that a cache may take; training needs some, too.
_CACHE_SHARE = 0.8


def is_for_worker() -> bool:
    """Whether an object is being pickled for a process that is about to start."""
    return context.get_spawning_popen() is not None


class SharedBlock:
    """Bytes shared by this process and its workers, forked or spawned.

    An anonymous file in memory: not limited by the size of ``/dev/shm`` like shared tensors (64 MB
    in many containers), and freed with the last process. Unwritten pages take no memory.

    Args:
        size: Size in bytes.
        descriptor: File descriptor of an existing block to map.
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
            raise TypeError("SharedBlock: expected to be pickled for a worker process")
        return _map_block, (self._size, reduction.DupFd(self._descriptor))


def _map_block(size: int, descriptor: Any) -> SharedBlock:
    return SharedBlock(size, descriptor.detach())


class SharedObject:
    """An object whose arrays are stored in a `SharedBlock`.

    Args:
        value: Any object that can be pickled.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        self._rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        # Arrays are aligned to 64 bytes, as NumPy's own are.
        lengths = [-(-view.nbytes // 64) * 64 for view in views]
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).tolist()
        self._spans = [(start, start + v.nbytes) for start, v in zip(starts, views, strict=False)]
        self._block = SharedBlock(starts[-1])
        for (start, end), view in zip(self._spans, views, strict=True):
            self._block.bytes[start:end] = np.frombuffer(view, dtype=np.uint8)

    def value(self) -> Any:
        """Return the object with read-only arrays in the shared memory."""
        memory = self._block.bytes.data.toreadonly()
        return pickle.loads(self._rest, buffers=[memory[start:end] for start, end in self._spans])


class ImageCache:
    """Cache of decoded images that all workers fill and read.

    Args:
        sizes: Height and width of each image, shape (P, 2); images without pixels are not cached.
        owner: Class of the dataset, used as the prefix of error messages.
        channels: 3, or 1 for masks.

    Raises:
        MemoryError: The images take more than 80 % of the free memory.
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
        # A memory fence: taking a lock orders the writes of the pixels before that of the flag.
        self._fence = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_fence"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _fence=threading.Lock())

    def get(self, slot: int) -> Tensor | None:
        """Return a writable copy of an image, or None if it is not cached."""
        with self._fence:
            filled = self._filled.bytes[slot]
        return torch.from_numpy(self._view(slot).copy()) if filled else None

    def put(self, slot: int, image: Tensor) -> None:
        """Store an image, unless its size differs from the declared one."""
        view = self._view(slot)
        if view.size and view.shape == tuple(image.shape):
            view[...] = image.numpy()
            with self._fence:
                self._filled.bytes[slot] = 1

    def _view(self, slot: int) -> NDArray[np.uint8]:
        flat = self._pixels.bytes[self._starts[slot] : self._starts[slot + 1]]
        return flat.reshape(self._channels, *np.maximum(self._sizes[slot], 0))


def available_memory() -> int:
    """Return the bytes of memory that this process may still use on its machine or container."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read_lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    for limit_file, usage_file in _CGROUP_FILES:
        limit, usage = _read_lines(limit_file), _read_lines(usage_file)
        if limit and usage and limit[0].isdigit():
            free.append(int(limit[0]) - int(usage[0]))
    return max(0, min(free))


_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
