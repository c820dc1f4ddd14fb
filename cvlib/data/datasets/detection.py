"""Object detection: images with boxes, and optionally masks, from any label format."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchvision import tv_tensors

from cvlib.data.datasets.base import ImageDataset
from cvlib.data.files.images import UnreadableImageError, read_image_size
from cvlib.data.formats.coco_writer import table_to_coco, write_coco
from cvlib.data.formats.in_memory import BoxFormat, read_lists
from cvlib.data.labels.findings import (
    ADVICE_DROP,
    ADVICE_FIX,
    BadLabelsError,
    Finding,
    counted,
    errors_of,
)
from cvlib.data.labels.rules import DATASET_CODES, find_bad_labels
from cvlib.data.labels.table import LabelTable
from cvlib.ops.rle import polygons_to_masks, rle_to_masks

BadLabels = Literal["raise", "drop"]
_Self = TypeVar("_Self", bound="DetectionDataset")


class DetectionDataset(ImageDataset):
    """Images with boxes, and with masks if the labels have them.

    Images are decoded on access. Labels are checked when the dataset is opened, and each invalid
    one is reported with its file and row. Workers share the labels and the cache.

    Args:
        table: Labels.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; returns the pair of the sample.
        bad_labels: ``"raise"``, or ``"drop"`` to remove invalid objects with one warning. If the
            boxes of the whole dataset are misread, for instance x, y, width, height as corners,
            it always raises.
        upright: Apply the EXIF orientation, as labelling tools do; False if the labels are in
            stored pixels. If the size in the labels fits only the other choice, reading the image
            raises an error that suggests it.
        cache: Keep decoded images in memory after their first use, as uint8.

    Attributes:
        classes: Class names.
        task: ``"detection"``.
        table: Labels, without dropped objects.
        transform: See the argument; may be replaced.

    Raises:
        BadLabelsError: Labels are invalid, and ``bad_labels`` is ``"raise"``.
        MemoryError: The cache would take more than 80 % of the free memory.

    Warns:
        UserWarning: Labels were dropped, or their files are suspicious.

    Example:
        >>> boxes = [[[0, 0, 8, 6], [2, 2, 4, 4]], []]
        >>> cats = DetectionDataset.from_lists(["a.jpg", "b.jpg"], boxes, [[0, 0], []], ["cat"])
        >>> len(cats), cats.classes, cats.target(0, (6, 8))["labels"]
        (2, ('cat',), tensor([0, 0]))
    """

    task: ClassVar[str] = "detection"
    columns: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(
        self,
        table: LabelTable,
        *,
        transform: Callable[..., Any] | None = None,
        bad_labels: BadLabels = "raise",
        upright: bool = True,
        cache: bool = False,
    ) -> None:
        if bad_labels not in ("raise", "drop"):
            raise ValueError(
                f"DetectionDataset: expected `bad_labels` 'raise' or 'drop', got {bad_labels!r}"
            )
        findings, bad = find_bad_labels(table)
        errors = [*errors_of(table.findings), *findings]
        # If the whole dataset is misread, dropping objects would leave next to nothing.
        is_misread = any(finding.code in DATASET_CODES for finding in findings)
        if errors and (bad_labels == "raise" or is_misread):
            advice = [ADVICE_FIX] if is_misread else [ADVICE_DROP, ADVICE_FIX]
            raise BadLabelsError(f"{table.layout} in {table.root}", errors, *advice)
        self._warn(errors, table.findings)
        self.table = _drop_objects(table, bad) if errors else table
        super().__init__(table.num_images, transform, cache, upright)

    @staticmethod
    def from_lists(
        images: Sequence[str | Path],
        boxes: Sequence[ArrayLike],
        labels: Sequence[ArrayLike],
        classes: Sequence[str],
        masks: Sequence[Sequence[Any]] | None = None,
        format: BoxFormat = "xyxy",
        **options: Any,
    ) -> DetectionDataset:
        """Create a dataset from lists or arrays with one entry per image.

        Args:
            images: P image paths.
            boxes: P lists or arrays of shape (N, 4), in pixels; ``[]`` for no objects.
            labels: P lists or arrays of shape (N,): integers in 0..K-1, or class names.
            classes: K class names.
            masks: P lists of N masks: polygons, run lengths, arrays (H, W) or None.
            format: Box format: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.
            options: Further arguments of the class.

        Raises:
            TypeError: Paths, labels or classes have another type.
            ValueError: Lengths or shapes differ.
        """
        return DetectionDataset(
            read_lists(images, boxes, labels, classes, masks, format), **options
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.table.classes

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``boxes`` float32 (N, 4)
            xyxy pixels, ``labels`` int64 (N,), ``image_id`` int, ``area`` float32 (N,),
            ``iscrowd`` int64 (N,), which is also 1 for VOC's difficult objects (neither trained
            on nor counted), and ``masks`` uint8 (N, H, W) if the labels have them.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The image is missing or damaged, its size differs from that in
                its labels, or its masks cannot be decoded. A ``ValueError``.
        """
        index = self._normalise_index(index)
        image = self._read(index)
        size = int(image.shape[1]), int(image.shape[2])
        self._check_size(index, size)
        target = self.target(index, size)
        sample = tv_tensors.Image(image), target
        return sample if self.transform is None else self.transform(*sample)

    def target(self, index: int, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return the target of an image without decoding the image.

        Args:
            index: -len to len - 1.
            size: Height and width; by default those of `image_size`.

        Returns:
            The target of `__getitem__`.

        Raises:
            UnreadableImageError: A mask cannot be decoded or has another size, or the header
                cannot be read.
        """
        index = self._normalise_index(index)
        size = self.image_size(index) if size is None else size
        objects = self.table.objects(index)
        corners = self.table.boxes[objects]
        ignored = self.table.iscrowd[objects] | self.table.difficult[objects]
        areas = self.table.areas[objects]
        areas = np.where(np.isnan(areas), (corners[:, 2:] - corners[:, :2]).prod(1), areas)
        boxes = torch.from_numpy(corners.astype(np.float32))
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(self.table.labels[objects].copy()),
            "image_id": int(self.table.image_ids[index]),
            "area": torch.from_numpy(areas.astype(np.float32)),
            "iscrowd": torch.from_numpy(ignored.astype(np.int64)),
        }
        if self.table.masks is not None:
            masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
            for mask, row in zip(masks, range(objects.start, objects.stop), strict=True):
                mask.copy_(self._decode_mask(index, row, size))
            target["masks"] = tv_tensors.Mask(masks)
        return target

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, from its labels or else from its header.

        Raises:
            UnreadableImageError: The header cannot be read.
        """
        index = self._normalise_index(index)
        height, width = (int(side) for side in self.table.sizes[index])
        if height >= 0:
            return height, width
        return super().image_size(index)

    def image_info(self, index: int) -> dict[str, Any]:
        """Return ``path``, ``image_id``, ``height``, ``width`` and ``label_file`` of an image."""
        index = self._normalise_index(index)
        height, width = self.image_size(index)
        return {
            "path": self.table.path(index),
            "image_id": int(self.table.image_ids[index]),
            "height": height,
            "width": width,
            "label_file": self.table.label_file(index),
        }

    def subset(self: _Self, chosen: Sequence[int] | Sequence[str] | NDArray[np.int64]) -> _Self:
        """Return the dataset of some images, or of some classes.

        Args:
            chosen: Indices of images, in the wanted order; or class names, which keep the images
                with at least one object of these classes, drop all other objects, and number the
                classes in the order given.

        Raises:
            IndexError: An index is out of range.
            TypeError: ``chosen`` is a single string, or booleans.
            ValueError: A name is unknown or repeated.
        """
        if isinstance(chosen, str):
            raise TypeError(
                f"subset: expected `chosen` to be indices or names, got the string {chosen!r}"
            )
        names = [name for name in chosen if isinstance(name, str)]
        if names and len(names) == len(chosen):
            return self._select_classes(names)
        return super().subset(chosen)  # type: ignore[arg-type]

    def rename_classes(self: _Self, names: Mapping[str, str]) -> _Self:
        """Return the dataset with other class names; classes with equal names are merged.

        Args:
            names: New names keyed by old ones; other classes keep their names.

        Raises:
            ValueError: An old name is unknown.
        """
        self._check_names("rename_classes", names)
        renamed = [names.get(name, name) for name in self.classes]
        classes = list(dict.fromkeys(renamed))
        number = np.array([classes.index(name) for name in renamed], dtype=np.int64)
        ids = tuple(self.table.category_ids[renamed.index(name)] for name in classes)
        labels = number[self.table.labels]
        table = replace(self.table, classes=tuple(classes), labels=labels, category_ids=ids)
        return self._copy(table=table)

    def to_coco(self) -> dict[str, Any]:
        """Return the labels as COCO json, with the ids of their files."""
        return table_to_coco(self.table, self._sizes())

    def save_coco(self, path: str | Path) -> None:
        """Write `to_coco` to a JSON file, atomically."""
        write_coco(path, self.table, self._sizes())

    def _path(self, index: int) -> Path:
        return self.table.path(index)

    def _select_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        return {"table": self.table.select(indices)}

    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        return [self.table.labels[self.table.objects(index)] for index in range(len(self))]

    def _known_sizes(self) -> NDArray[np.int64]:
        return self.table.sizes.copy()

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        height, width = self.table.sizes[index].tolist()
        if height < 0 or (height, width) == size:
            return
        path = self.table.path(index)
        advice = "label the right image, or correct the size"
        if (height, width) == read_image_size(path, upright=not self.upright):
            pixels = "stored" if self.upright else "upright"
            advice = f"the labels are in {pixels} pixels: pass upright={not self.upright}"
        raise UnreadableImageError(
            f"{type(self).__name__}: expected the image at index {index} to have the size "
            f"{width} x {height} as in {self.table.label_file(index) or 'its labels'}, got "
            f"{size[1]} x {size[0]} in {path}; {advice}",
            path,
        )

    def _decode_mask(self, index: int, row: int, size: tuple[int, int]) -> Tensor:
        """Decode the mask in row ``row`` of the table: shape ``size``, bool."""
        assert self.table.masks is not None
        mask = self.table.masks[row]
        try:
            if not mask:
                return torch.zeros(size, dtype=torch.bool)
            if isinstance(mask, dict):
                return rle_to_masks([mask], image_size=size)[0]
            return polygons_to_masks([mask], size)[0]
        except (TypeError, ValueError) as error:
            path = self.table.path(index)
            raise UnreadableImageError(
                f"{type(self).__name__}: expected a mask of {path} in {self.table.row(row)} of "
                f"{self.table.label_file(index) or 'its labels'}, got: {error}",
                path,
            ) from error

    def _select_classes(self: _Self, names: list[str]) -> _Self:
        self._check_names("subset", names)
        if len(set(names)) < len(names):
            raise ValueError(f"subset: expected each class once, got {', '.join(names)}")
        places = [self.classes.index(name) for name in names]
        number = np.full(len(self.classes), -1, dtype=np.int64)
        number[places] = np.arange(len(places))
        table = self.table.without_objects(number[self.table.labels] < 0)
        ids = tuple(table.category_ids[place] for place in places)
        table = replace(table, classes=tuple(names), labels=number[table.labels], category_ids=ids)
        return self._copy(table=table)._select(np.flatnonzero(np.diff(table.starts)))

    def _check_names(self, function: str, names: Sequence[str] | Mapping[str, str]) -> None:
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise ValueError(
                f"{function}: expected names among {', '.join(self.classes[:20])}, got "
                f"{', '.join(map(str, unknown))}"
            )

    def _warn(self, errors: list[Finding], findings: Sequence[Finding]) -> None:
        """Warn once of dropped labels, and once of suspicious ones."""
        suspicious = [finding for finding in findings if finding.severity == "warning"]
        for words, group in (("dropped invalid labels", errors), ("suspicious labels", suspicious)):
            if group:
                warnings.warn(
                    f"{type(self).__name__}: {words}, {counted(len(group), 'finding')}, the "
                    f"first: {group[0]}",
                    UserWarning,
                    stacklevel=3 if type(self) is DetectionDataset else 4,
                )


def _drop_objects(table: LabelTable, bad: NDArray[np.bool_]) -> LabelTable:
    """Drop invalid objects, and the errors of which the caller has warned."""
    findings = tuple(finding for finding in table.findings if finding.severity != "error")
    return replace(table.without_objects(bad), findings=findings)
