"""A dataset whose samples go through a transform, with random numbers that can be repeated."""

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
    """Samples of a dataset, changed at random.

    A sample is asked for by ``(epoch, index)``, or by its index alone in epoch 0. Its random
    numbers, those of torch, NumPy and Python, follow from ``(seed, epoch, index)`` alone:
    not from the order of access, nor from the number of workers. The global generators are left as
    they were.

    A transform that has a method ``partners()`` is called with as many further samples as that asks
    for, drawn from the same dataset with the same random numbers.

    Args:
        dataset: Gives ``(image, target)``.
        transform: Called as ``transform(image, target, *partners)``; see `make_transform`.
        seed: Any integer of 64 bits.

    Attributes:
        classes: Those of the dataset.
        task: That of the dataset.

    Raises:
        ValueError: ``seed`` has more than 64 bits.

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
            raise ValueError(f"TransformedDataset: expected seed of 64 bits, got {seed}")
        self.dataset, self.transform, self.seed = dataset, transform, seed % 2**64
        self.classes: tuple[str, ...] = tuple(getattr(dataset, "classes", ()))
        self.task: str = getattr(dataset, "task", "detection")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Any, Any]:
        """Make a sample.

        Args:
            item: ``(epoch, index)``, or an index for epoch 0; indices from -len to len - 1.

        Returns:
            What the transform gives.

        Raises:
            IndexError: The index is out of range.
        """
        epoch, index = item if isinstance(item, tuple) else (0, item)
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"TransformedDataset: expected index below {size}, got {index}")
        index %= size
        if get_worker_info() is not None:
            _stay_on_one_thread()
        with random_numbers_of(self.seed, epoch, index):
            image, target = self.dataset[index]
            partners = getattr(self.transform, "partners", None)
            others = [] if partners is None else torch.randint(size, (partners(),)).tolist()
            return self.transform(image, target, *(self.dataset[other] for other in others))

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> list[tuple[Any, Any]]:
        """Make the samples of a batch, as a ``DataLoader`` asks for them; faster than one by one.

        Args:
            items: What `__getitem__` takes.

        Returns:
            A sample for each.
        """
        with generators_kept():
            return [self[item] for item in items]


class _Global(threading.local):
    """Whether the global generators will be put back, so that a sample may just seed them."""

    are_kept = False


_global = _Global()


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Leaves the global generators of torch, NumPy and Python as they were, whatever is drawn.

    To read and write their states takes longer than to make a small sample: so it is done once
    around many.
    """
    states = torch.get_rng_state(), random.getstate()
    were_kept, _global.are_kept = _global.are_kept, True
    try:
        with _another_of_numpy():
            yield
    finally:
        _global.are_kept = were_kept
        torch.set_rng_state(states[0])
        random.setstate(states[1])


@contextlib.contextmanager
def random_numbers_of(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seeds the global generators by three numbers, and puts them back at the end.

    Args:
        seed: From 0 to 2**64 - 1.
        epoch: From 0 to 2**63 - 1.
        index: The same.
    """
    with contextlib.nullcontext() if _global.are_kept else generators_kept():
        digest = hashlib.blake2b(struct.pack("<Qqq", seed, epoch, index), digest_size=20).digest()
        for_torch, for_python, for_numpy = struct.unpack("<QQI", digest)
        # Of the CPU alone: seeding all devices takes longer than most transforms.
        torch.default_generator.manual_seed(for_torch)
        random.seed(for_python)
        np.random.seed(for_numpy)  # noqa: NPY002
        _global.are_kept = False  # a sample of another set, made within this one, puts them back
        try:
            yield
        finally:
            _global.are_kept = True


@contextlib.contextmanager
def _another_of_numpy() -> Iterator[None]:
    """Another generator takes the place of NumPy's global one, which transforms of others may use.

    To write a state back would take as long as to read it.
    """
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    own, other = get_bit_generator(), _spare.pop() if _spare else np.random.MT19937()
    set_bit_generator(other)
    try:
        yield
    finally:
        set_bit_generator(own)
        if state.get("has_gauss"):  # half of a pair, which the generator does not hold
            np.random.set_state(state)  # noqa: NPY002
        _spare.append(other)


# One for each data set within another.
_spare: list[np.random.MT19937] = []


@lru_cache(maxsize=1)
def _stay_on_one_thread() -> None:
    """Keeps OpenCV of a worker from starting a thread for every core, as torch does for its own.

    0 and not 1: for 1 OpenCV would wait for the threads of its pool to end, and after a fork the
    pool's threads do not exist.
    """
    import cv2

    cv2.setNumThreads(0)
