"""Base classes of the datasets of all tasks: decoding, caching, sharing with workers, splitting."""

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

_Self = TypeVar("_Self", bound="ImageDataset")


class ImageDataset(Dataset[Any], ABC):
    """Base class of datasets whose images are decoded on access.

    Subclasses set the attributes named in `columns` before they call ``__init__``.

    Args:
        count: Number of images.
        transform: Called as ``transform(image, target)``.
        cache: Keep decoded images in memory after their first use, as uint8.
        upright: Apply the EXIF orientation.

    Raises:
        MemoryError: The cache would take more than 80 % of the free memory.
    """

    # Per-image attributes, which workers read from shared memory.
    columns: ClassVar[tuple[str, ...]]
    # Default of `stratify` in `split`.
    stratified: ClassVar[bool] = False

    def __init__(
        self, count: int, transform: Callable[..., Any] | None, cache: bool, upright: bool = True
    ) -> None:
        self.transform = transform
        self.upright = upright
        # Cache slot of each image: a subset shares the cache of the full dataset.
        self._slots = np.arange(count)
        self._cache = ImageCache(self._sizes(), type(self).__name__) if cache else None
        self._shared: SharedObject | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._slots)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {describe(self)}>"

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image as it is decoded, from its header.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The header cannot be read.
        """
        index = self._normalise_index(index)
        try:
            return read_image_size(self._path(index), upright=self.upright)
        except (OSError, ValueError) as error:
            raise self._unreadable_error(index, error) from error

    def subset(self: _Self, indices: Sequence[int] | NDArray[np.int64]) -> _Self:
        """Return the dataset of some images, in the order given.

        Raises:
            IndexError: An index is out of range.
            TypeError: ``indices`` are booleans.
        """
        if np.asarray(indices).dtype == np.bool_:
            raise TypeError(
                "subset: expected `indices` to be integers, got booleans; use numpy.flatnonzero"
            )
        chosen = [self._normalise_index(index) for index in indices]
        return self._select(np.array(chosen, dtype=np.int64))

    def split(
        self: _Self, fraction: float, seed: int = 0, *, stratify: bool | None = None
    ) -> tuple[_Self, _Self]:
        """Split the dataset into two that share no image.

        Args:
            fraction: Share of the first part, between 0 and 1.
            seed: Random seed; equal seeds give equal parts.
            stratify: Keep the share of every class in both parts, counted in objects for
                detection and in images otherwise; for segmentation every mask is read. Default:
                only for classification.

        Raises:
            ValueError: ``fraction`` is out of range, or a part would be empty.
        """
        by_class = self.stratified if stratify is None else stratify
        labels = self._labels_by_image() if by_class else None
        first, second = split_images(len(self), fraction, seed, labels)
        return self._select(first), self._select(second)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_shared": None}
        if is_for_worker():
            if self._shared is None:  # created once, so that all workers read the same memory
                self._shared = SharedObject({name: state[name] for name in self.columns})
            return {k: v for k, v in state.items() if k not in self.columns} | {
                "_shared": self._shared
            }
        caches = [name for name, value in state.items() if isinstance(value, ImageCache)]
        return state | dict.fromkeys(caches)  # other copies start without a cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            self.__dict__.update(self._shared.value())

    @abstractmethod
    def _path(self, index: int) -> Path:
        """Path of an image."""

    @abstractmethod
    def _select_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """Columns of some images, keyed by name."""

    @abstractmethod
    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        """Classes of each image, repeated as often as they count in a stratified split."""

    def _known_sizes(self) -> NDArray[np.int64]:
        """Height and width of each image, shape (P, 2); -1 if only the image file knows."""
        return np.full((len(self), 2), -1, dtype=np.int64)

    def _normalise_index(self, index: int) -> int:
        """Return the non-negative index, or raise IndexError."""
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
            raise self._unreadable_error(index, error) from error
        if self._cache is not None:
            self._cache.put(slot, image)
        return image

    def _unreadable_error(self, index: int, error: Exception) -> UnreadableImageError:
        return UnreadableImageError(
            f"{type(self).__name__}: expected a readable image at index {index}, got: {error}",
            self._path(index),
        )

    def _sizes(self) -> NDArray[np.int64]:
        """Height and width of each image, shape (P, 2); -1 if the image cannot be read."""
        sizes = self._known_sizes()
        for index in np.flatnonzero(sizes[:, 0] < 0):
            try:
                sizes[index] = self.image_size(int(index))
            except UnreadableImageError:
                continue
        return sizes

    def _copy(self: _Self, **changes: Any) -> _Self:
        other = object.__new__(type(self))  # copy.copy would drop the cache, see __getstate__
        other.__dict__.update(self.__dict__, _shared=None, **changes)
        return other

    def _select(self: _Self, indices: NDArray[np.int64]) -> _Self:
        return self._copy(_slots=self._slots[indices], **self._select_columns(indices))


class SingleLabelDataset(ImageDataset):
    """Base class of datasets with one label per image: a class, or a mask.

    Args:
        images: Image paths.
        classes: Class names.
        transform: See `ImageDataset`.
        cache: See `ImageDataset`.
        findings: Findings of the reader about the files.

    Raises:
        BadLabelsError: ``findings`` has errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string.
        ValueError: ``classes`` is empty or has duplicates.

    Warns:
        UserWarning: ``findings`` has warnings.
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
        if errors := errors_of(findings):
            raise BadLabelsError(name, errors)
        suspicious = [finding for finding in findings if finding.severity == "warning"]
        if suspicious:
            count = counted(len(suspicious), "finding")
            text = f"{name}: suspicious files, {count}, the first: {suspicious[0]}"
            warnings.warn(text, UserWarning, stacklevel=3)
        super().__init__(len(self.images), transform, cache)

    def _path(self, index: int) -> Path:
        return Path(self.images[index])

    def _select_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in self.columns}
        return {
            name: PackedList(column[i] for i in indices)
            if isinstance(column, PackedList)
            else column[indices]
            for name, column in columns.items()
        }


def describe(dataset: Any) -> str:
    """Describe the size of a dataset: images, objects if it has a label table, and classes."""
    count, table = len(dataset.classes), getattr(dataset, "table", None)
    names = f"{count} class{'es' if count > 1 else ''} ({name_some(dataset.classes)})"
    if table is None:
        return f"{len(dataset):,} images of {names}"
    masks = " with masks" if table.masks is not None else ""
    return f"{len(dataset):,} images, {table.num_objects:,} objects of {names}{masks}"


def check_classes(function: str, classes: Sequence[str]) -> list[str]:
    """Return class names as a list.

    Args:
        function: Function name used as the prefix of error messages.
        classes: Class names.

    Raises:
        TypeError: ``classes`` is a single string, or has names that are not strings.
        ValueError: ``classes`` is empty or has duplicates.
    """
    expected = f"{function}: expected `classes` to be"
    if isinstance(classes, str):
        raise TypeError(
            f"{expected} a sequence of names, got the string {classes!r}; write ({classes!r},)"
        )
    if not all(isinstance(name, str) for name in classes):
        raise TypeError(f"{expected} a sequence of names, got {classes!r}")
    names = list(classes)
    duplicates = [name for place, name in enumerate(names) if name in names[:place]]
    if duplicates or not names:
        actual = f"{duplicates[0]!r} twice" if duplicates else "none"
        raise ValueError(f"{expected} unique names, at least one, got {actual}")
    return names
