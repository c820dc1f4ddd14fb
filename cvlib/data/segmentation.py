"""Semantic segmentation: pictures, each with a mask of class numbers."""

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
from tqdm.auto import tqdm

from cvlib.data._images import read_image
from cvlib.data._mask_images import Colour, read_classes, read_mask_size
from cvlib.data.findings import Finding
from cvlib.data.formats._folders import check_classes
from cvlib.data.table import PackedList

VOID = 255


class SegmentationDataset(Dataset[Any]):
    """Pictures with a class for every pixel.

    Pictures and masks are decoded when asked for.

    Args:
        pictures: Paths.
        masks: Path of the mask of each picture, in a format without loss. Of palette pictures the
            indices count, whatever the colours.
        classes: Names of classes 0..K-1, K <= 255; a background, where there is one, is a class.
        void: The number in the files for pixels that belong to no class; in samples it is 255.
        palette: Colours of the classes as (red, green, blue), for masks of colours.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        cache: Keep decoded pictures and masks in memory as uint8 from their first use on. Each
            worker of a DataLoader keeps its own, so use ``persistent_workers=True`` with it.
        findings: What a person should know of the files.

    Attributes:
        classes: Class names.
        task: ``"segmentation"``.
        pictures: Paths as strings.
        masks: Paths as strings.
        findings: As given.

    Raises:
        TypeError: ``classes`` is a single string.
        ValueError: Lengths that differ, no or too many classes, or void is one of the classes.

    Example:
        >>> data = SegmentationDataset(["a.jpg"], ["a.png"], ["road", "sky"])
        >>> len(data), data.classes
        (1, ('road', 'sky'))
    """

    task: ClassVar[str] = "segmentation"

    def __init__(
        self,
        pictures: Sequence[str | Path],
        masks: Sequence[str | Path],
        classes: Sequence[str],
        *,
        void: int = VOID,
        palette: Sequence[Colour] | None = None,
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
        findings: Sequence[Finding] = (),
    ) -> None:
        names = check_classes("SegmentationDataset", classes)
        if len(pictures) != len(masks):
            raise ValueError(
                f"SegmentationDataset: expected a mask for each of {len(pictures)} pictures, got "
                f"{len(masks)} masks"
            )
        if len(names) > VOID:
            raise ValueError(
                f"SegmentationDataset: expected at most {VOID} classes, got {len(names)}"
            )
        if palette is not None and len(palette) < len(names):
            raise ValueError(
                f"SegmentationDataset: expected palette with a colour for each of {len(names)} "
                f"classes, got {len(palette)}"
            )
        self.pictures = PackedList(str(path) for path in pictures)
        self.masks = PackedList(str(path) for path in masks)
        self.classes = tuple(names)
        self.void = void
        self.palette = palette
        self.transform = transform
        self.findings = tuple(findings)
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``mask`` uint8 (H, W),
            0..K-1 and 255 for void, and ``image_id`` int, the index.

        Raises:
            IndexError: ``index`` is out of range.
            ValueError: The picture or the mask is damaged, their sizes differ, or the mask has
                numbers that are no class.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"SegmentationDataset: expected index below {len(self)}, got {index}")
        index %= len(self)
        pixels, numbers = self._read(index)
        image, target = tv_tensors.Image(pixels), {"mask": tv_tensors.Mask(numbers)}
        target["image_id"] = index
        return (image, target) if self.transform is None else self.transform(image, target)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask alone: shape (H, W), 0..K-1 and 255 for void."""
        path = Path(self.masks[index])
        return read_classes(path, len(self.classes), self.void, self.palette)

    def mask_size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask, from its header."""
        return read_mask_size(Path(self.masks[index]))

    def subset(self, indices: Sequence[int]) -> SegmentationDataset:
        """The same set with some of its pictures, in the order given."""
        chosen = copy(self)
        chosen.pictures = PackedList(self.pictures[i] for i in indices)
        chosen.masks = PackedList(self.masks[i] for i in indices)
        chosen._cache = None if self._cache is None else {}
        return chosen

    def count_pixels(self) -> NDArray[np.int64]:
        """Counts the pixels of each class; every mask is read.

        Returns:
            Shape (K + 1,): of the classes, and last those that are void.

        Raises:
            ValueError: A mask is damaged or has numbers that are no class.
        """
        counts = np.zeros(256, dtype=np.int64)
        for index in tqdm(range(len(self)), desc="counting pixels", disable=None, leave=False):
            counts += np.bincount(self.mask(index).ravel(), minlength=256)
        return np.append(counts[: len(self.classes)], counts[VOID])

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cache is not None and index in self._cache:
            image, mask = self._cache[index]
            return image.clone(), mask.clone()
        path = Path(self.pictures[index])
        image, mask = read_image(path, upright=True), torch.from_numpy(self.mask(index))
        if image.shape[1:] != mask.shape:
            raise ValueError(
                f"SegmentationDataset: expected a mask of the size of its picture, got "
                f"{tuple(mask.shape)} (height, width) in {self.masks[index]} and "
                f"{tuple(image.shape[1:])} in {path}{self._turned(path, mask)}"
            )
        if self._cache is not None:
            self._cache[index] = (image.clone(), mask.clone())
        return image, mask

    def _turned(self, path: Path, mask: Tensor) -> str:
        stored = read_image(path).shape[1:]
        if stored != mask.shape:
            return ""
        return "; its EXIF orientation turns the picture: draw the mask as the picture is shown"
