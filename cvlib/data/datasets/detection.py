"""One detection set, whatever format its labels came in."""

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

from cvlib.data.datasets.base import ImageSet
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


class DetectionDataset(ImageSet):
    """Images with boxes, and with masks where the labels have them.

    Images are decoded when asked for. Labels are checked at once: each that cannot be right is
    an error that names its file and row. Workers share the labels, and the cache.

    Args:
        table: The labels.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        bad_labels: ``"raise"``, or ``"drop"``: leave wrong objects out, with one warning. A set
            whose boxes are all misread, such as x, y, width, height for corners, always raises.
        upright: Turn images as their EXIF orientation says, which is how labelling tools show
            them; ``False`` where labels are in stored pixels. Where the labels claim a size that
            only the other choice gives, reading the image is an error that says so.
        cache: Keep decoded images in memory from their first use on, as uint8.

    Attributes:
        classes: Class names.
        task: ``"detection"``.
        table: The labels of the objects that are left.
        transform: As given; may be replaced.

    Raises:
        BadLabelsError: Wrong labels, and ``bad_labels`` is ``"raise"``.
        MemoryError: The cache would take more than 80 % of the free memory.

    Warns:
        UserWarning: Labels were left out, or their files are odd.

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
                f"DetectionDataset: expected bad_labels 'raise' or 'drop', got {bad_labels!r}"
            )
        findings, bad = find_bad_labels(table)
        wrong = [*errors_of(table.findings), *findings]
        # Where the layout of the whole set is misread, dropping would leave next to nothing.
        is_misread = any(finding.code in DATASET_CODES for finding in findings)
        if wrong and (bad_labels == "raise" or is_misread):
            advice = [ADVICE_FIX] if is_misread else [ADVICE_DROP, ADVICE_FIX]
            raise BadLabelsError(f"{table.layout} in {table.root}", wrong, *advice)
        self._warn(wrong, table.findings)
        self.table = _without_faults(table, bad) if wrong else table
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
        """Makes a set of plain lists or arrays, one entry for each image.

        Args:
            images: P paths.
            boxes: P lists or arrays of shape (N, 4), in pixels; ``[]``: no objects.
            labels: P lists or arrays of shape (N,): integers in 0..K-1, or names of classes.
            classes: K names.
            masks: P lists of N masks: polygons, run lengths, arrays (H, W) or ``None``.
            format: Of the boxes: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.
            options: As of the class.

        Raises:
            TypeError: Labels, classes or paths of other kinds.
            ValueError: Lists or shapes that do not fit together.
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
            ``iscrowd`` int64 (N,) (1 for VOC's difficult objects, too: neither to be learnt nor
            to be counted), and ``masks`` uint8 (N, H, W) where the labels have them.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The image is missing or damaged, is not of the size that its
                labels claim, or its masks cannot be decoded. A ``ValueError``.
        """
        index = self._checked(index)
        image = self._read(index)
        size = int(image.shape[1]), int(image.shape[2])
        self._check_size(index, size)
        target = self.target(index, size)
        sample = tv_tensors.Image(image), target
        return sample if self.transform is None else self.transform(*sample)

    def target(self, index: int, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """The labels of an image, without decoding it.

        Args:
            index: -len to len - 1.
            size: Height and width; by default what the labels claim, or else the file's header.

        Returns:
            As `__getitem__`.

        Raises:
            UnreadableImageError: A mask cannot be decoded or has another size, or the header
                cannot be read.
        """
        index = self._checked(index)
        size = self.image_size(index) if size is None else size
        things = self.table.objects(index)
        corners = self.table.boxes[things]
        given = self.table.areas[things]
        ignored = self.table.iscrowd[things] | self.table.difficult[things]
        own = (corners[:, 2:] - corners[:, :2]).prod(1)
        boxes = torch.from_numpy(corners.astype(np.float32))
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(self.table.labels[things].copy()),
            "image_id": int(self.table.image_ids[index]),
            "area": torch.from_numpy(np.where(np.isnan(given), own, given).astype(np.float32)),
            "iscrowd": torch.from_numpy(ignored.astype(np.int64)),
        }
        if self.table.masks is not None:
            masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
            for mask, thing in zip(masks, range(things.start, things.stop), strict=True):
                mask.copy_(self._mask(index, thing, size))
            target["masks"] = tv_tensors.Mask(masks)
        return target

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image: what the labels claim, or else the file's header.

        Raises:
            UnreadableImageError: The header cannot be read.
        """
        index = self._checked(index)
        height, width = (int(side) for side in self.table.sizes[index])
        if height >= 0:
            return height, width
        return super().image_size(index)

    def image_info(self, index: int) -> dict[str, Any]:
        """Facts about an image: ``path``, ``image_id``, ``height``, ``width``, ``label_file``."""
        index = self._checked(index)
        height, width = self.image_size(index)
        return {
            "path": self.table.path(index),
            "image_id": int(self.table.image_ids[index]),
            "height": height,
            "width": width,
            "label_file": self.table.label_file(index),
        }

    def subset(self: _Self, chosen: Sequence[int] | Sequence[str] | NDArray[np.int64]) -> _Self:
        """A part of the set.

        Args:
            chosen: Indices of images, in the order wanted; or names of classes: the images
                with at least one object of them, without the other objects, labels counted anew
                in the order given.

        Raises:
            IndexError: An index is out of range.
            ValueError: A name is none of the classes, or given twice.
        """
        if isinstance(chosen, str):
            raise TypeError(f"subset: expected indices or names, got the string {chosen!r}")
        names = [one for one in chosen if isinstance(one, str)]
        if names and len(names) == len(chosen):
            return self._of_classes(names)
        return super().subset(chosen)  # type: ignore[arg-type]

    def rename_classes(self: _Self, names: Mapping[str, str]) -> _Self:
        """The same set with other class names; classes that get one name become one class.

        Args:
            names: Old name to new name; classes that are not named keep theirs.

        Raises:
            ValueError: An old name is none of the classes.
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
        """The labels in COCO's layout, with the ids that their files gave."""
        return table_to_coco(self.table, self._sizes())

    def save_coco(self, path: str | Path) -> None:
        """Writes `to_coco` as JSON, atomically."""
        write_coco(path, self.table, self._sizes())

    def _path(self, index: int) -> Path:
        return self.table.path(index)

    def _select(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        return {"table": self.table.select(chosen)}

    def _labels_by_image(self) -> list[NDArray[np.int64]]:
        return [self.table.labels[self.table.objects(index)] for index in range(len(self))]

    def _known_sizes(self) -> NDArray[np.int64]:
        return self.table.sizes.copy()

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        height, width = self.table.sizes[index].tolist()
        if height < 0 or (height, width) == size:
            return
        path = self.table.path(index)
        hint = "label the right image, or correct the size"
        if (height, width) == read_image_size(path, upright=not self.upright):
            hint = f"the labels are in {'stored' if self.upright else 'upright'} pixels: pass "
            hint += f"upright={not self.upright}"
        raise UnreadableImageError(
            f"{type(self).__name__}: expected the image at index {index} to have the size "
            f"{width} x {height} that {self.table.label_file(index) or 'its labels'} claims, got "
            f"{size[1]} x {size[0]} in {path}; {hint}",
            path,
        )

    def _mask(self, index: int, thing: int, size: tuple[int, int]) -> Tensor:
        """Of shape ``size``, bool."""
        assert self.table.masks is not None
        mask = self.table.masks[thing]
        try:
            if not mask:
                return torch.zeros(size, dtype=torch.bool)
            if isinstance(mask, dict):
                return rle_to_masks([mask, {"size": size, "counts": [size[0] * size[1]]}])[0]
            return polygons_to_masks([mask], size)[0]
        except (TypeError, ValueError) as error:
            path = self.table.path(index)
            raise UnreadableImageError(
                f"{type(self).__name__}: expected a mask of {path} in {self.table.row(thing)} of "
                f"{self.table.label_file(index) or 'its labels'}, got: {error}",
                path,
            ) from error

    def _of_classes(self: _Self, names: list[str]) -> _Self:
        self._check_names("subset", names)
        if len(set(names)) < len(names):
            raise ValueError(f"subset: expected each class once, got {', '.join(names)}")
        places = [self.classes.index(name) for name in names]
        number = np.full(len(self.classes), -1, dtype=np.int64)
        number[places] = np.arange(len(places))
        table = self.table.without_objects(number[self.table.labels] < 0)
        ids = tuple(table.category_ids[place] for place in places)
        table = replace(table, classes=tuple(names), labels=number[table.labels], category_ids=ids)
        return self._copy(table=table)._with(np.flatnonzero(np.diff(table.starts)))

    def _check_names(self, function: str, names: Sequence[str] | Mapping[str, str]) -> None:
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise ValueError(
                f"{function}: expected names among {', '.join(self.classes[:20])}, got "
                f"{', '.join(map(str, unknown))}"
            )

    def _warn(self, wrong: list[Finding], findings: Sequence[Finding]) -> None:
        """One warning about what was left out, one about what is odd."""
        odd = [finding for finding in findings if finding.severity == "warning"]
        for words, group in (("left out labels that cannot be right", wrong), ("odd labels", odd)):
            if group:
                warnings.warn(
                    f"{type(self).__name__}: {words}, {counted(len(group), 'finding')}, the "
                    f"first: {group[0]}",
                    UserWarning,
                    stacklevel=3 if type(self) is DetectionDataset else 4,
                )


def _without_faults(table: LabelTable, bad: NDArray[np.bool_]) -> LabelTable:
    """What is left when wrong objects are dropped; that they were has been told."""
    left = tuple(finding for finding in table.findings if finding.severity != "error")
    return replace(table.without_objects(bad), findings=left)
