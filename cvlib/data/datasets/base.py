"""What the data sets of all tasks share: decoding, cache, workers, parts."""

from __future__ import annotations

import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.data.datasets.split import split_images
from cvlib.data.files.folders import name_some
from cvlib.data.files.images import UnreadableImageError, read_image, read_image_size
from cvlib.data.files.shared_memory import ImageCache, SharedObject, is_for_worker
from cvlib.data.labels.findings import BadLabelsError, Finding, counted, errors_of
from cvlib.data.labels.table import PackedList

_Self = TypeVar("_Self", bound="ImageSet")


class ImageSet(Dataset[Any], ABC):
    """Images that are decoded when asked for; workers share their labels and the cache.

    Its columns must be there before it is initialised.

    Args:
        count: Number of images.
        transform: Called as ``transform(image, target)``.
        cache: Keep decoded images in memory from their first use on, as uint8.
        upright: Turn images as their EXIF orientation says.

    Raises:
        MemoryError: The cache would take more than 80 % of the free memory.
    """

    # Attributes that say something of each image, and that workers read in shared memory.
    columns: ClassVar[tuple[str, ...]]
    # Whether `split` keeps the share of every class where nobody says.
    stratified: ClassVar[bool] = False

    def __init__(
        self, count: int, transform: Callable[..., Any] | None, cache: bool, upright: bool = True
    ) -> None:
        self.transform = transform
        self.upright = upright
        # Where in the cache each image lies: a subset shares that of the whole set.
        self._slots = np.arange(count)
        self._cache = ImageCache(self._sizes(), type(self).__name__) if cache else None
        self._shared: SharedObject | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {describe(self)}>"

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image as it is shown, from its header.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The header cannot be read.
        """
        index = self._checked(index)
        try:
            return read_image_size(self._path(index), upright=self.upright)
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error

    def subset(self: _Self, indices: Sequence[int] | NDArray[np.int64]) -> _Self:
        """The same set with some of its images, in the order given.

        Raises:
            IndexError: An index is out of range.
            TypeError: Booleans.
        """
        if np.asarray(indices).dtype == np.bool_:
            raise TypeError("subset: expected indices, got booleans; use numpy.flatnonzero")
        return self._with(np.array([self._checked(one) for one in indices], dtype=np.int64))

    def split(
        self: _Self, fraction: float, seed: int = 0, *, stratify: bool | None = None
    ) -> tuple[_Self, _Self]:
        """Two parts that share no image.

        Args:
            fraction: Between 0 and 1: share of the first part.
            seed: The same seed gives the same parts.
            stratify: Give both parts the same share of every class: of its objects, of its
                images, or of the images that show it, for which every mask is read. By default
                only where an image has one class.

        Raises:
            ValueError: ``fraction`` is out of range, or a part would be empty.
        """
        by_class = self.stratified if stratify is None else stratify
        labels = self._labels_by_image() if by_class else None
        first, second = split_images(len(self), fraction, seed, labels)
        return self._with(first), self._with(second)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_shared": None}
        if is_for_worker():
            if self._shared is None:  # made once: all workers read the same memory
                self._shared = SharedObject({name: state[name] for name in self.columns})
            return {k: v for k, v in state.items() if k not in self.columns} | {
                "_shared": self._shared
            }
        caches = [name for name, value in state.items() if isinstance(value, ImageCache)]
        return state | dict.fromkeys(caches)  # a copy for elsewhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            self.__dict__.update(self._shared.value())

    @abstractmethod
    def _path(self, index: int) -> Path:
        """Where an image lies."""

    @abstractmethod
    def _select(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """The columns of some images."""

    @abstractmethod
    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        """The classes in each image, each as often as it counts."""

    def _known_sizes(self) -> NDArray[np.int64]:
        """Shape (P, 2): height and width; -1 where only the image tells."""
        return np.full((len(self), 2), -1, dtype=np.int64)

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
            image = read_image(self._path(index), upright=self.upright)
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error
        if self._cache is not None:
            self._cache.put(slot, image)
        return image

    def _unreadable(self, index: int, error: Exception) -> UnreadableImageError:
        return UnreadableImageError(
            f"{type(self).__name__}: expected a readable image at index {index}, got: {error}",
            self._path(index),
        )

    def _sizes(self) -> NDArray[np.int64]:
        """Shape (P, 2): height and width; -1 where the image cannot be read."""
        sizes = self._known_sizes()
        for index in np.flatnonzero(sizes[:, 0] < 0):
            try:
                sizes[index] = self.image_size(int(index))
            except UnreadableImageError:
                continue
        return sizes

    def _copy(self: _Self, **changes: Any) -> _Self:
        other = object.__new__(type(self))  # not copy.copy, which would pickle the cache away
        other.__dict__.update(self.__dict__, _shared=None, **changes)
        return other

    def _with(self: _Self, chosen: NDArray[np.int64]) -> _Self:
        return self._copy(_slots=self._slots[chosen], **self._select(chosen))


class SingleLabelSet(ImageSet):
    """Images with one label each: a class, or a mask.

    Args:
        images: Paths.
        classes: Class names.
        transform: As of `ImageSet`.
        cache: As of `ImageSet`.
        findings: What a person should know of the files.

    Raises:
        BadLabelsError: Among the findings are errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string.
        ValueError: No class, or one twice.

    Warns:
        UserWarning: Among the findings are warnings.
    """

    def __init__(
        self,
        images: Sequence[str | Path],
        classes: Sequence[str],
        transform: Callable[..., Any] | None,
        cache: bool,
        findings: Sequence[Finding],
    ) -> None:
        name = type(self).__name__
        self.classes = tuple(check_classes(name, classes))
        self.images = PackedList(str(path) for path in images)
        self.findings = tuple(findings)
        if wrong := errors_of(findings):
            raise BadLabelsError(name, wrong)
        odd = [finding for finding in findings if finding.severity == "warning"]
        if odd:
            text = f"{name}: odd files, {counted(len(odd), 'finding')}, the first: {odd[0]}"
            warnings.warn(text, UserWarning, stacklevel=3)
        super().__init__(len(self.images), transform, cache)

    def _path(self, index: int) -> Path:
        return Path(self.images[index])

    def _select(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in self.columns}
        return {
            name: PackedList(column[i] for i in chosen)
            if isinstance(column, PackedList)
            else column[chosen]
            for name, column in columns.items()
        }


def describe(dataset: Any) -> str:
    """The size of a data set in words: images, objects where it has a table, classes."""
    count, table = len(dataset.classes), getattr(dataset, "table", None)
    names = f"{count} class{'es' if count > 1 else ''} ({name_some(dataset.classes)})"
    if table is None:
        return f"{len(dataset):,} images of {names}"
    masks = " with masks" if table.masks is not None else ""
    return f"{len(dataset):,} images, {table.num_objects:,} objects of {names}{masks}"


def check_classes(function: str, classes: Sequence[str]) -> list[str]:
    """The names as a list.

    Raises:
        TypeError: A single string, or names that are no strings.
        ValueError: No name, or one twice.
    """
    if isinstance(classes, str):
        raise TypeError(
            f"{function}: expected classes a sequence of names, got the string {classes!r}; write "
            f"({classes!r},)"
        )
    if not all(isinstance(name, str) for name in classes):
        raise TypeError(f"{function}: expected classes a sequence of names, got {classes!r}")
    names = list(classes)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice or not names:
        raise ValueError(
            f"{function}: expected classes with different names, at least one, got "
            + (f"{twice[0]!r} twice" if twice else "none")
        )
    return names
