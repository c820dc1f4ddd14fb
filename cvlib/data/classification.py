"""Classification: pictures, each of one class."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib.data._images import read_image
from cvlib.data.findings import Finding
from cvlib.data.formats._folders import check_classes, shown
from cvlib.data.table import PackedList


class ClassificationDataset(Dataset[Any]):
    """Pictures with one class each.

    Args:
        paths: Of the pictures; they are decoded when asked for.
        labels: The class of each picture, 0..K-1.
        classes: Names of the K classes.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        cache: Keep decoded pictures in memory as uint8 from their first use on. Each worker of a
            DataLoader keeps its own, so use ``persistent_workers=True`` with it.
        findings: What a person should know of the files.

    Attributes:
        classes: Class names.
        task: ``"classification"``.
        pictures: Paths as strings.
        labels: Shape (P,), int64.
        findings: As given.

    Raises:
        TypeError: ``classes`` is a single string, or labels are no integers.
        ValueError: Lengths that differ, or a label that is none of the classes.

    Example:
        >>> data = ClassificationDataset(["a.jpg", "b.jpg"], [1, 0], ["ant", "bee"])
        >>> data.count_labels()
        array([1, 1])
    """

    task: ClassVar[str] = "classification"

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int] | NDArray[np.int64],
        classes: Sequence[str],
        *,
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
        findings: Sequence[Finding] = (),
    ) -> None:
        names = check_classes("ClassificationDataset", classes)
        self.labels = _check_labels(labels, paths, names)
        self.pictures = PackedList(str(path) for path in paths)
        self.classes = tuple(names)
        self.transform = transform
        self.findings = tuple(findings)
        self._cache: dict[int, Tensor] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``label`` int64 () and
            ``image_id`` int, the index.

        Raises:
            IndexError: ``index`` is out of range.
            ValueError: The picture is damaged.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"ClassificationDataset: expected index below {len(self)}, got {index}"
            )
        index %= len(self)
        image = tv_tensors.Image(self._read(index))
        target = {"label": torch.tensor(self.labels[index]), "image_id": index}
        return (image, target) if self.transform is None else self.transform(image, target)

    def subset(self, indices: Sequence[int]) -> ClassificationDataset:
        """The same set with some of its pictures, in the order given."""
        chosen = copy(self)
        chosen.pictures = PackedList(self.pictures[i] for i in indices)
        chosen.labels = self.labels[np.asarray(indices, dtype=np.int64)]
        chosen._cache = None if self._cache is None else {}
        return chosen

    def count_labels(self) -> NDArray[np.int64]:
        """Counts the pictures of each class, shape (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def _read(self, index: int) -> Tensor:
        if self._cache is not None and index in self._cache:
            return self._cache[index].clone()
        image = read_image(Path(self.pictures[index]), upright=True)
        if self._cache is not None:
            self._cache[index] = image.clone()
        return image


def _check_labels(
    labels: Sequence[int] | NDArray[np.int64], paths: Sequence[str | Path], classes: list[str]
) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(
            f"ClassificationDataset: expected labels to be integers, got {values.dtype}"
        )
    if values.shape != (len(paths),):
        raise ValueError(
            f"ClassificationDataset: expected a label for each of {len(paths)} pictures, got shape "
            f"{values.shape}"
        )
    outside = np.flatnonzero((values < 0) | (values >= len(classes)))
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"ClassificationDataset: expected labels in 0..{len(classes) - 1}, got "
            f"{values[first]} for {shown(paths[first])} and {len(outside) - 1} more outside"
        )
    return values.astype(np.int64)
