"""Classification: images with one class each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchvision import tv_tensors

from cvlib.data.datasets.base import SingleLabelDataset
from cvlib.data.files.folders import escape
from cvlib.data.labels.findings import Finding


class ClassificationDataset(SingleLabelDataset):
    """Images with one class each.

    Args:
        paths: Image paths; images are decoded on access, with EXIF orientation applied.
        labels: Class of each image, 0..K-1.
        classes: Names of the K classes.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; returns the pair of the sample.
        cache: Keep decoded images in memory after their first use, as uint8; workers share them.
        findings: Findings of the reader about the files.

    Attributes:
        classes: Class names.
        task: ``"classification"``.
        images: Paths as strings.
        labels: Shape (P,), int64.
        findings: See the argument.
        transform: See the argument; may be replaced.

    Raises:
        BadLabelsError: ``findings`` has errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string, or ``labels`` are not integers.
        ValueError: The lengths differ, or a label is outside 0..K-1.

    Warns:
        UserWarning: ``findings`` has warnings.

    Example:
        >>> data = ClassificationDataset(["a.jpg", "b.jpg"], [1, 0], ["ant", "bee"])
        >>> data.count_labels().tolist()
        [1, 1]
    """

    task: ClassVar[str] = "classification"
    columns: ClassVar[tuple[str, ...]] = ("images", "labels")
    stratified: ClassVar[bool] = True

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: ArrayLike,
        classes: Sequence[str],
        *,
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(paths, classes, transform, cache, findings)
        self.labels = _check_labels(labels, paths, len(self.classes))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``label`` int64 () and
            ``image_id`` int, the index.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The image is missing or damaged. A ``ValueError``.
        """
        index = self._normalise_index(index)
        image = tv_tensors.Image(self._read(index))
        target = {"label": torch.tensor(int(self.labels[index])), "image_id": index}
        return (image, target) if self.transform is None else self.transform(image, target)

    def count_labels(self) -> NDArray[np.int64]:
        """Return the number of images of each class, shape (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        return list(self.labels[:, None])


def _check_labels(
    labels: ArrayLike, paths: Sequence[str | Path], num_classes: int
) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(
            f"ClassificationDataset: expected `labels` to be integers, got {values.dtype}"
        )
    if values.shape != (len(paths),):
        raise ValueError(
            f"ClassificationDataset: expected `labels` of shape ({len(paths)},), one per image, "
            f"got {values.shape}"
        )
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"ClassificationDataset: expected `labels` in 0..{num_classes - 1}, got "
            f"{values[first]} for {escape(paths[first])} and {len(outside) - 1} more outside"
        )
    return values.astype(np.int64)
