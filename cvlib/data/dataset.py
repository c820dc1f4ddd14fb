"""One detection set, whatever format its labels came in."""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib._files import write_text
from cvlib.data._images import UnreadablePictureError, read_image, read_image_size
from cvlib.data._shared import PictureCache, SharedObject, is_for_worker
from cvlib.data._split import split_pictures
from cvlib.data.findings import (
    ADVICE_DROP,
    ADVICE_FIX,
    BadLabelsError,
    Finding,
    counted,
    errors_of,
)
from cvlib.data.formats.coco import table_to_coco
from cvlib.data.formats.lists import BoxFormat, read_lists
from cvlib.data.label_rules import SET_CODES, find_bad_labels
from cvlib.data.table import LabelTable
from cvlib.ops.rle import polygons_to_masks, rle_to_masks

BadLabels = Literal["raise", "drop"]
_Self = TypeVar("_Self", bound="DetectionDataset")


class DetectionDataset(Dataset[Any]):
    """Pictures with boxes, and with masks where the labels have them.

    Pictures are decoded when asked for. Labels are checked at once: each that cannot be right is
    an error that names its file and row. Workers share the labels, and the cache.

    Args:
        table: The labels.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        bad_labels: ``"raise"``, or ``"drop"``: leave wrong objects out, with one warning. A set
            whose boxes are all misread, such as x, y, width, height for corners, always raises.
        upright: Turn pictures as their EXIF orientation says, which is how labelling tools show
            them; ``False`` where labels are in stored pixels. Where the labels claim a size that
            only the other choice gives, reading the picture is an error that says so.
        cache: Keep decoded pictures in memory from their first use on, as uint8.

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
        is_misread = any(finding.code in SET_CODES for finding in findings)
        if wrong and (bad_labels == "raise" or is_misread):
            advice = [ADVICE_FIX] if is_misread else [ADVICE_DROP, ADVICE_FIX]
            raise BadLabelsError(f"{table.layout} in {table.root}", wrong, *advice)
        self._warn(wrong, table.findings)
        self.table = _without_faults(table, bad) if wrong else table
        self.transform = transform
        self.upright = upright
        # Where in the cache each picture lies: a subset shares that of the whole set.
        self._slots = np.arange(table.num_pictures)
        self._cache = PictureCache(self._sizes()) if cache else None
        self._shared: SharedObject | None = None

    @staticmethod
    def from_lists(
        pictures: Sequence[str | Path],
        boxes: Sequence[ArrayLike],
        labels: Sequence[ArrayLike],
        classes: Sequence[str],
        masks: Sequence[Sequence[Any]] | None = None,
        format: BoxFormat = "xyxy",
        **options: Any,
    ) -> DetectionDataset:
        """Makes a set of plain lists or arrays, one entry for each picture.

        Args:
            pictures: P paths.
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
            read_lists(pictures, boxes, labels, classes, masks, format), **options
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.table.classes

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.table.num_pictures

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
            UnreadablePictureError: The picture is missing or damaged, is not of the size that its
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
        """The labels of a picture, without decoding it.

        Args:
            index: -len to len - 1.
            size: Height and width; by default what the labels claim, or else the file's header.

        Returns:
            As `__getitem__`.

        Raises:
            UnreadablePictureError: A mask cannot be decoded or has another size, or the header
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
        """Height and width of a picture: what the labels claim, or else the file's header.

        Raises:
            UnreadablePictureError: The header cannot be read.
        """
        index = self._checked(index)
        height, width = (int(side) for side in self.table.sizes[index])
        if height >= 0:
            return height, width
        path = self.table.path(index)
        try:
            return read_image_size(path, upright=self.upright)
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error

    def image_info(self, index: int) -> dict[str, Any]:
        """Facts about a picture: ``path``, ``image_id``, ``height``, ``width``, ``label_file``."""
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
            chosen: Indices of pictures, in the order wanted; or names of classes: the pictures
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
        if isinstance(chosen, np.ndarray) and chosen.dtype == np.bool_:
            raise TypeError("subset: expected indices, got booleans; use numpy.flatnonzero")
        indices = [self._checked(operator.index(one)) for one in chosen]  # type: ignore[arg-type]
        return self._with(np.array(indices, dtype=np.int64))

    def split(
        self: _Self, fraction: float, seed: int = 0, *, stratify: bool = False
    ) -> tuple[_Self, _Self]:
        """Two parts that share no picture.

        Args:
            fraction: Between 0 and 1: share of the first part.
            seed: The same seed gives the same parts.
            stratify: Give both parts the same share of the objects of every class.

        Raises:
            ValueError: ``fraction`` is out of range, or a part would be empty.
        """
        first, second = split_pictures(self.table, fraction, seed, stratify)
        return self._with(first), self._with(second)

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
        return self._copy(
            replace(self.table, classes=tuple(classes), labels=labels, category_ids=ids)
        )

    def to_coco(self) -> dict[str, Any]:
        """The labels in COCO's layout, with the ids that their files gave."""
        return table_to_coco(self.table, self._sizes())

    def save_coco(self, path: str | Path) -> None:
        """Writes `to_coco` as JSON, atomically."""
        write_text(Path(path), json.dumps(self.to_coco(), allow_nan=False) + "\n")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_shared": None}
        if is_for_worker():
            # Made once: all workers read the same memory.
            self._shared = self._shared or SharedObject(self.table)
            state |= {"table": None, "_shared": self._shared}
        elif self._cache is not None:  # a copy for elsewhere
            state["_cache"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            self.table = self._shared.value()

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
            image = read_image(self.table.path(index), upright=self.upright)
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error
        if self._cache is not None:
            self._cache.put(slot, image)
        return image

    def _unreadable(self, index: int, error: Exception) -> UnreadablePictureError:
        return UnreadablePictureError(
            f"{type(self).__name__}: expected a readable picture at index {index}, got: {error}",
            self.table.path(index),
        )

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        height, width = self.table.sizes[index].tolist()
        if height < 0 or (height, width) == size:
            return
        path = self.table.path(index)
        hint = "label the right picture, or correct the size"
        if (height, width) == read_image_size(path, upright=not self.upright):
            hint = f"the labels are in {'stored' if self.upright else 'upright'} pixels: pass "
            hint += f"upright={not self.upright}"
        raise UnreadablePictureError(
            f"{type(self).__name__}: expected the picture at index {index} to have the size "
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
            raise UnreadablePictureError(
                f"{type(self).__name__}: expected a mask of {path} in {self.table.row(thing)} of "
                f"{self.table.label_file(index) or 'its labels'}, got: {error}",
                path,
            ) from error

    def _sizes(self) -> NDArray[np.int64]:
        """Shape (P, 2): height and width; -1 where the picture cannot be read."""
        sizes = self.table.sizes.copy()
        for i in np.flatnonzero(sizes[:, 0] < 0):
            try:
                sizes[i] = self.image_size(int(i))
            except UnreadablePictureError:
                continue
        return sizes

    def _copy(self: _Self, table: LabelTable) -> _Self:
        other = object.__new__(type(self))  # not copy.copy, which would pickle the cache away
        other.__dict__.update(self.__dict__, table=table, _shared=None)
        return other

    def _with(self: _Self, pictures: NDArray[np.int64]) -> _Self:
        other = self._copy(self.table.select(pictures))
        other._slots = self._slots[pictures]
        return other

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
        return self._copy(table)._with(np.flatnonzero(np.diff(table.starts)))

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
