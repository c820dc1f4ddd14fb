"""Dataset with a random transform that can be repeated exactly."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from torch.utils.data import Dataset, get_worker_info


class TransformedDataset(Dataset[Any]):
    """Dataset whose samples go through a random transform.

    Samples are addressed by ``(epoch, index)``, or by an index alone for epoch 0. Their random
    numbers, those of torch, NumPy and Python, depend only on ``(seed, epoch, index)``, not on the
    order of access or the number of workers. The state of the global generators is preserved.

    If the transform has a method ``partners()``, it is called with that many additional samples,
    drawn from the dataset with the same random numbers.

    Args:
        dataset: Dataset of ``(image, target)`` samples.
        transform: Called as ``transform(image, target, *partners)``; see `make_transform`.
        seed: A 64-bit integer.

    Attributes:
        classes: Class names of the dataset.
        task: Task of the dataset.

    Raises:
        ValueError: ``seed`` does not fit in 64 bits.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.data.transforms import make_transform
        >>> light = make_transform("light", "detection", (64, 64), train=True)
        >>> bananas = TransformedDataset(SyntheticBananas(8), light, seed=1)
        >>> bool((bananas[2, 5][0] == bananas[2, 5][0]).all())
        True
        >>> bool((bananas[2, 5][0] == bananas[3, 5][0]).all())
        False
    """

    def __init__(
        self, dataset: Dataset[Any], transform: Callable[..., tuple[Any, Any]], seed: int = 0
    ) -> None:
        if not -(2**63) <= operator.index(seed) < 2**64:
            raise ValueError(f"TransformedDataset: expected `seed` to fit in 64 bits, got {seed}")
        self.dataset, self.transform, self.seed = dataset, transform, seed % 2**64
        self.classes: tuple[str, ...] = tuple(getattr(dataset, "classes", ()))
        self.task: str = getattr(dataset, "task", "detection")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Any, Any]:
        """Return a transformed sample.

        Args:
            item: ``(epoch, index)``, or an index for epoch 0, from -len to len - 1.

        Returns:
            Image and target.

        Raises:
            IndexError: The index is out of range.
        """
        epoch, index = item if isinstance(item, tuple) else (0, item)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"TransformedDataset: expected `index` below {size}, got {index}")
        index %= size
        if get_worker_info() is not None:
            _limit_opencv_to_one_thread()
        with seeded_generators(self.seed, epoch, index):
            image, target = self.dataset[index]
            partners = getattr(self.transform, "partners", None)
            others = [] if partners is None else torch.randint(size, (partners(),)).tolist()
            return self.transform(image, target, *(self.dataset[other] for other in others))

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> list[tuple[Any, Any]]:
        """Return the samples of a batch; ``DataLoader`` calls it, faster than sample by sample.

        Args:
            items: See `__getitem__`.

        Returns:
            One sample per item.
        """
        with preserve_generators():
            return [self[item] for item in items]


class _GeneratorState(threading.local):
    """Whether an enclosing block restores the global generators, so that samples only seed them."""

    is_preserved = False


_generator_state = _GeneratorState()


@contextlib.contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the global generators of torch, NumPy and Python on exit.

    Reading and writing their states takes longer than making a small sample, so this is done once
    around a whole batch.
    """
    states = torch.get_rng_state(), random.getstate()
    was_preserved, _generator_state.is_preserved = _generator_state.is_preserved, True
    try:
        with _substitute_numpy_generator():
            yield
    finally:
        _generator_state.is_preserved = was_preserved
        torch.set_rng_state(states[0])
        random.setstate(states[1])


@contextlib.contextmanager
def seeded_generators(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed the global generators with three numbers, and restore them on exit.

    Args:
        seed: From 0 to 2**64 - 1.
        epoch: From 0 to 2**63 - 1.
        index: From 0 to 2**63 - 1.
    """
    with contextlib.nullcontext() if _generator_state.is_preserved else preserve_generators():
        digest = hashlib.blake2b(struct.pack("<Qqq", seed, epoch, index), digest_size=20).digest()
        for_torch, for_python, for_numpy = struct.unpack("<QQI", digest)
        # CPU only: seeding all devices takes longer than most transforms.
        torch.default_generator.manual_seed(for_torch)
        random.seed(for_python)
        np.random.seed(for_numpy)  # noqa: NPY002
        _generator_state.is_preserved = False  # nested datasets restore them
        try:
            yield
        finally:
            _generator_state.is_preserved = True


@contextlib.contextmanager
def _substitute_numpy_generator() -> Iterator[None]:
    """Replace NumPy's global generator, which third-party transforms may use, temporarily.

    Cheaper than reading its state and writing it back.
    """
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    original = get_bit_generator()
    substitute = _substitutes.pop() if _substitutes else np.random.MT19937()
    set_bit_generator(substitute)
    try:
        yield
    finally:
        set_bit_generator(original)
        if state.get("has_gauss"):  # cached second normal, not held by the bit generator
            np.random.set_state(state)  # noqa: NPY002
        _substitutes.append(substitute)


# One for each level of nested datasets.
_substitutes: list[np.random.MT19937] = []


@lru_cache(maxsize=1)
def _limit_opencv_to_one_thread() -> None:
    """Keep OpenCV in a worker from starting one thread per core, as torch does for itself.

    0 instead of 1, because for 1 OpenCV would wait for the threads of its pool to end, and these do
    not exist after a fork.
    """
    import cv2

    cv2.setNumThreads(0)
