"""What data sets share whose labels are one thing for each picture: a class, or a mask."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.data._images import UnreadablePictureError, read_image, read_image_size
from cvlib.data._shared import PictureCache, SharedObject, is_for_worker
from cvlib.data.findings import BadLabelsError, Finding, counted, errors_of
from cvlib.data.table import PackedList

_Self = TypeVar("_Self", bound="PictureSet")


class PictureSet(Dataset[Any]):
    """Pictures that are decoded when asked for; workers share paths, labels and the cache.

    Args:
        pictures: Paths.
        classes: Class names.
        transform: Called as ``transform(image, target)``.
        cache: Keep decoded pictures in memory from their first use on, as uint8.
        findings: What a person should know of the files.

    Raises:
        BadLabelsError: Among the findings are errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string.
        ValueError: No class, or one twice.

    Warns:
        UserWarning: Among the findings are warnings.
    """

    # Attributes with one entry for each picture.
    columns: ClassVar[tuple[str, ...]] = ("pictures",)

    def __init__(
        self,
        pictures: Sequence[str | Path],
        classes: Sequence[str],
        transform: Callable[..., Any] | None,
        cache: bool,
        findings: Sequence[Finding],
    ) -> None:
        name = type(self).__name__
        self.classes = tuple(check_classes(name, classes))
        self.pictures = PackedList(str(path) for path in pictures)
        self.transform = transform
        self.findings = tuple(findings)
        if wrong := errors_of(findings):
            raise BadLabelsError(name, wrong)
        odd = [finding for finding in findings if finding.severity == "warning"]
        if odd:
            text = f"{name}: odd files, {counted(len(odd), 'finding')}, the first: {odd[0]}"
            warnings.warn(text, UserWarning, stacklevel=3)
        # Where in the cache each picture lies: a subset shares that of the whole set.
        self._slots = np.arange(len(self.pictures))
        self._cache = PictureCache(self._sizes()) if cache else None
        self._shared: SharedObject | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of a picture as it is shown, from its header.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadablePictureError: The header cannot be read.
        """
        index = self._checked(index)
        try:
            return read_image_size(self.pictures[index])
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error

    def subset(self: _Self, indices: Sequence[int] | NDArray[np.int64]) -> _Self:
        """The same set with some of its pictures, in the order given.

        Raises:
            IndexError: An index is out of range.
        """
        chosen = np.array([self._checked(index) for index in indices], dtype=np.int64)
        # Not copy.copy, which would leave the cache behind as pickling does.
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._shared, part._slots = None, self._slots[chosen]
        for name in self.columns:
            column = getattr(self, name)
            packed = isinstance(column, PackedList)
            some = PackedList(column[i] for i in chosen) if packed else column[chosen]
            setattr(part, name, some)
        return part

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_shared": None}
        if is_for_worker():
            if self._shared is None:  # made once: all workers read the same memory
                self._shared = SharedObject({name: state[name] for name in self.columns})
            return {k: v for k, v in state.items() if k not in self.columns} | {
                "_shared": self._shared
            }
        return state | {name: None for name in self._caches()}  # a copy for elsewhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            self.__dict__.update(self._shared.value())

    def _caches(self) -> list[str]:
        return [name for name, value in self.__dict__.items() if isinstance(value, PictureCache)]

    def _checked(self, index: int) -> int:
        """The index from 0."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            name = type(self).__name__
            raise IndexError(f"{name}: expected index below {len(self)}, got {index}")
        return index % len(self)

    def _read(self, index: int) -> Tensor:
        slot = int(self._slots[index])
        image = None if self._cache is None else self._cache.get(slot)
        if image is not None:
            return image
        try:
            image = read_image(self.pictures[index])
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error
        if self._cache is not None:
            self._cache.put(slot, image)
        return image

    def _unreadable(self, index: int, error: Exception) -> UnreadablePictureError:
        return UnreadablePictureError(
            f"{type(self).__name__}: expected a readable picture at index {index}, got: {error}",
            self.pictures[index],
        )

    def _sizes(self) -> NDArray[np.int64]:
        """Shape (P, 2): height and width; -1 where the picture cannot be read."""
        sizes = np.full((len(self), 2), -1, dtype=np.int64)
        for index in range(len(self)):
            try:
                sizes[index] = self.image_size(index)
            except UnreadablePictureError:
                continue
        return sizes


def check_classes(function: str, classes: Sequence[str]) -> list[str]:
    """The names as a list.

    Raises:
        TypeError: A single string, or names that are no strings.
        ValueError: No name, or one twice.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(
            f"{function}: expected classes a sequence of names, got {classes!r}; write "
            '("cat", "dog")'
        )
    names = list(classes)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice or not names:
        raise ValueError(
            f"{function}: expected classes with different names, at least one, got "
            + (f"{twice[0]!r} twice" if twice else "none")
        )
    return names
