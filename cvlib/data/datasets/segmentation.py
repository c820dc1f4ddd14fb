"""Semantic segmentation: images with a mask of class indices each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from tqdm.auto import tqdm

from cvlib.data.datasets.base import SingleLabelDataset
from cvlib.data.files.folders import escape
from cvlib.data.files.images import UnreadableImageError, read_image_size
from cvlib.data.files.mask_images import Colour, read_classes
from cvlib.data.files.shared_memory import ImageCache
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import PackedList
from cvlib.geometry.view import VOID


class SegmentationDataset(SingleLabelDataset):
    """Images with a class for every pixel.

    Images and masks are decoded on access; workers share paths and caches.

    Args:
        images: Image paths; EXIF orientation is applied.
        masks: Path of the mask of each image, in a lossless format. Palette images are read as
            indices, whatever their colours.
        classes: Names of classes 0..K-1, K <= 255; background, if any, is one of them.
        void: Value in the files for pixels without a class; in samples it is 255.
        palette: Colours of the classes as (red, green, blue), for masks stored as colours.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; returns the pair of the sample.
        cache: Keep decoded images and masks in memory after their first use, as uint8.
        findings: Findings of the reader about the files.

    Attributes:
        classes: Class names.
        task: ``"segmentation"``.
        images: Paths as strings.
        masks: Paths as strings.
        findings: See the argument.
        transform: See the argument; may be replaced.

    Raises:
        BadLabelsError: ``findings`` has errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string.
        ValueError: The lengths differ, there are no or too many classes, or too few colours.

    Warns:
        UserWarning: ``findings`` has warnings.

    Example:
        >>> data = SegmentationDataset(["a.jpg"], ["a.png"], ["road", "sky"])
        >>> len(data), data.classes
        (1, ('road', 'sky'))
    """

    task: ClassVar[str] = "segmentation"
    columns: ClassVar[tuple[str, ...]] = ("images", "masks")

    def __init__(
        self,
        images: Sequence[str | Path],
        masks: Sequence[str | Path],
        classes: Sequence[str],
        *,
        void: int = VOID,
        palette: Sequence[Colour] | None = None,
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(images, classes, transform, cache, findings)
        if len(images) != len(masks):
            raise ValueError(
                f"SegmentationDataset: expected `masks` for each of {len(images)} images, got "
                f"{len(masks)} masks"
            )
        count = len(self.classes)
        if count > VOID:
            raise ValueError(f"SegmentationDataset: expected at most {VOID} `classes`, got {count}")
        if palette is not None and len(palette) < count:
            raise ValueError(
                f"SegmentationDataset: expected `palette` with a colour for each of {count} "
                f"classes, got {len(palette)}"
            )
        self.masks = PackedList(str(path) for path in masks)
        self.void = void
        self.palette = palette
        self._mask_cache = ImageCache(self._sizes(), "SegmentationDataset", 1) if cache else None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``mask`` uint8 (H, W),
            0..K-1 and 255 for void, and ``image_id`` int, the index.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The image or the mask is missing or damaged, their sizes
                differ, or the mask has unknown classes. A ``ValueError``.
        """
        index = self._normalise_index(index)
        image, mask = self._read(index), self._read_mask(index)
        if image.shape[1:] != mask.shape:
            raise self._size_error(index, tuple(image.shape[1:]), tuple(mask.shape))
        target = {"mask": tv_tensors.Mask(mask), "image_id": index}
        sample = tv_tensors.Image(image), target
        return sample if self.transform is None else self.transform(*sample)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the mask without its image: shape (H, W), 0..K-1 and 255 for void.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The mask is missing, damaged, or has unknown classes.
        """
        index = self._normalise_index(index)
        try:
            return read_classes(Path(self.masks[index]), len(self.classes), self.void, self.palette)
        except OSError as error:
            raise self._unreadable_error(index, error) from error

    def mask_size(self, index: int) -> tuple[int, int]:
        """Return height and width of a mask, from its header.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The header cannot be read.
        """
        index = self._normalise_index(index)
        try:
            return read_image_size(self.masks[index], upright=False)
        except OSError as error:
            raise self._unreadable_error(index, error) from error

    def count_pixels(self) -> NDArray[np.int64]:
        """Count the pixels of each class; reads every mask.

        Returns:
            Shape (K + 1,): pixels of each class, and last those of void.

        Raises:
            UnreadableImageError: See `mask`.
        """
        counts = np.zeros(256, dtype=np.int64)
        for index in tqdm(range(len(self)), "counting pixels", disable=None, leave=False, delay=1):
            counts += np.bincount(self.mask(index).ravel(), minlength=256)
        return np.append(counts[: len(self.classes)], counts[VOID])

    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        bar = tqdm(range(len(self)), "reading masks", disable=None, leave=False, delay=1)
        labels = [np.unique(self.mask(index)).astype(np.int64) for index in bar]
        return [classes[classes != VOID] for classes in labels]

    def _read_mask(self, index: int) -> Tensor:
        slot = int(self._slots[index])
        cached = None if self._mask_cache is None else self._mask_cache.get(slot)
        if cached is not None:
            return cached[0]
        mask = torch.from_numpy(self.mask(index))
        if self._mask_cache is not None:
            self._mask_cache.put(slot, mask[None])
        return mask

    def _size_error(
        self, index: int, size: tuple[int, ...], mask_size: tuple[int, ...]
    ) -> UnreadableImageError:
        path = self.images[index]
        advice = ""
        if read_image_size(path, upright=False) == mask_size:
            advice = "; its EXIF orientation turns the image: draw the mask as the image is shown"
        return UnreadableImageError(
            f"SegmentationDataset: expected image and mask of one size, got {mask_size} "
            f"(height, width) in {escape(self.masks[index])} and {size} in {escape(path)}{advice}",
            path,
        )
