"""Semantic segmentation: images, each with a mask of class numbers."""

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

from cvlib.data.datasets.base import SingleLabelSet
from cvlib.data.files.folders import shown
from cvlib.data.files.images import UnreadableImageError, read_image_size
from cvlib.data.files.mask_images import Colour, read_classes
from cvlib.data.files.shared_memory import ImageCache
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import PackedList

VOID = 255


class SegmentationDataset(SingleLabelSet):
    """Images with a class for every pixel.

    Images and masks are decoded when asked for; workers share paths and caches.

    Args:
        images: Paths; they are turned upright as EXIF says.
        masks: Path of the mask of each image, in a format without loss. Of palette images the
            indices count, whatever the colours.
        classes: Names of classes 0..K-1, K <= 255; a background, where there is one, is a class.
        void: The number in the files for pixels that belong to no class; in samples it is 255.
        palette: Colours of the classes as (red, green, blue), for masks of colours.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        cache: Keep decoded images and masks in memory from their first use on, as uint8.
        findings: What a person should know of the files.

    Attributes:
        classes: Class names.
        task: ``"segmentation"``.
        images: Paths as strings.
        masks: Paths as strings.
        findings: As given.
        transform: As given; may be replaced.

    Raises:
        BadLabelsError: Among the findings are errors.
        MemoryError: The cache would take more than 80 % of the free memory.
        TypeError: ``classes`` is a single string.
        ValueError: Lengths that differ, no or too many classes, or too few colours.

    Warns:
        UserWarning: Among the findings are warnings.

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
                f"SegmentationDataset: expected a mask for each of {len(images)} images, got "
                f"{len(masks)} masks"
            )
        count = len(self.classes)
        if count > VOID:
            raise ValueError(f"SegmentationDataset: expected at most {VOID} classes, got {count}")
        if palette is not None and len(palette) < count:
            raise ValueError(
                f"SegmentationDataset: expected palette with a colour for each of {count} "
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
                differ, or the mask has numbers that are no class. A ``ValueError``.
        """
        index = self._checked(index)
        image, mask = self._read(index), self._read_mask(index)
        if image.shape[1:] != mask.shape:
            raise self._unequal(index, tuple(image.shape[1:]), tuple(mask.shape))
        target = {"mask": tv_tensors.Mask(mask), "image_id": index}
        sample = tv_tensors.Image(image), target
        return sample if self.transform is None else self.transform(*sample)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask alone: shape (H, W), 0..K-1 and 255 for void.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The mask is missing, damaged, or has numbers that are no class.
        """
        index = self._checked(index)
        try:
            return read_classes(Path(self.masks[index]), len(self.classes), self.void, self.palette)
        except OSError as error:
            raise self._unreadable(index, error) from error

    def mask_size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask, from its header.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The header cannot be read.
        """
        index = self._checked(index)
        try:
            return read_image_size(self.masks[index], upright=False)
        except OSError as error:
            raise self._unreadable(index, error) from error

    def count_pixels(self) -> NDArray[np.int64]:
        """Counts the pixels of each class; every mask is read.

        Returns:
            Shape (K + 1,): of the classes, and last those that are void.

        Raises:
            UnreadableImageError: As `mask`.
        """
        counts = np.zeros(256, dtype=np.int64)
        for index in tqdm(range(len(self)), "counting pixels", disable=None, leave=False, delay=1):
            counts += np.bincount(self.mask(index).ravel(), minlength=256)
        return np.append(counts[: len(self.classes)], counts[VOID])

    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        bar = tqdm(range(len(self)), "reading masks", disable=None, leave=False, delay=1)
        found = [np.unique(self.mask(index)).astype(np.int64) for index in bar]
        return [classes[classes != VOID] for classes in found]

    def _read_mask(self, index: int) -> Tensor:
        slot = int(self._slots[index])
        kept = None if self._mask_cache is None else self._mask_cache.get(slot)
        if kept is not None:
            return kept[0]
        mask = torch.from_numpy(self.mask(index))
        if self._mask_cache is not None:
            self._mask_cache.put(slot, mask[None])
        return mask

    def _unequal(
        self, index: int, size: tuple[int, ...], mask_size: tuple[int, ...]
    ) -> UnreadableImageError:
        path = self.images[index]
        turned = read_image_size(path, upright=False) == mask_size
        advice = (
            "; its EXIF orientation turns the image: draw the mask as the image is shown"
            if turned
            else ""
        )
        return UnreadableImageError(
            f"SegmentationDataset: expected a mask of the size of its image, got {mask_size} "
            f"(height, width) in {shown(self.masks[index])} and {size} in {shown(path)}{advice}",
            path,
        )
