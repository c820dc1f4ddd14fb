"""Labels of a whole dataset in a few arrays, as read from files and not yet checked."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.findings import Finding


class PackedList(Sequence[Any]):
    """Immutable list of plain values, stored in two arrays that workers can share.

    Workers that only read a list of a million Python objects still copy it page by page, because
    reference counts are stored in the objects.

    Args:
        items: Strings, numbers, lists, dictionaries and arrays.

    Example:
        >>> PackedList(["a.jpg", "b.jpg"])[1]
        'b.jpg'
    """

    def __init__(self, items: Iterable[Any]) -> None:
        blobs = [pickle.dumps(item, protocol=5) for item in items]
        self._bytes = np.frombuffer(b"".join(blobs), dtype=np.uint8)
        self._starts = np.zeros(len(blobs) + 1, dtype=np.int64)
        np.cumsum([len(blob) for blob in blobs], out=self._starts[1:])

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"PackedList: expected index below {len(self)}, got {index}")
        start, end = self._starts[index % len(self)], self._starts[index % len(self) + 1]
        return pickle.loads(self._bytes[start:end].tobytes())  # pickled in __init__


# Polygons as flat lists x1, y1, x2, y2, ... in pixels, or a run-length encoding
# {"size": [height, width], "counts": str | list}; None for an object without a mask.
Mask = list[list[float]] | dict[str, Any] | None


@dataclass(frozen=True)
class LabelTable:
    """Labels of P images with T objects, as read from the files.

    Nothing has been checked: boxes may be inverted and labels unknown. `find_bad_labels` reports
    such objects, `DetectionDataset` refuses them.

    Attributes:
        layout: Layout in words, such as ``"COCO json"``.
        root: Folder that relative paths start from.
        classes: Names of the K classes.
        images: P paths as strings, relative to ``root`` or absolute.
        image_ids: Shape (P,), int64.
        sizes: Height and width according to the label files, shape (P, 2), int64; -1 if unknown.
        starts: Shape (P + 1,), int64; image i has the objects ``starts[i]`` to
            ``starts[i + 1] - 1``.
        boxes: Shape (T, 4), float64, (x1, y1, x2, y2) in pixels.
        labels: Shape (T,), int64, in 0..K-1; other values mean an unknown class.
        rows: Position of each object in its label file, counted in ``row_word``, shape (T,),
            int64.
        iscrowd: Shape (T,), bool, True for regions of many objects and others not to be counted.
        difficult: Pascal VOC's flag, shape (T,), bool.
        areas: Shape (T,), float64, in pixels; NaN if unknown.
        masks: T masks, or None if the dataset has none.
        label_files: Path of the label file of each image; a single entry if all share one.
        row_word: ``"line"``, ``"annotation"`` or ``"object"``.
        category_ids: Id of each class in the files.
        findings: Problems met while reading.
    """

    layout: str
    root: Path
    classes: tuple[str, ...]
    images: PackedList
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: PackedList | None
    label_files: PackedList
    row_word: str
    category_ids: tuple[int, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def num_objects(self) -> int:
        """Number of objects."""
        return len(self.labels)

    def path(self, image: int) -> Path:
        """Return the path of an image."""
        return self.root / self.images[image]

    def objects(self, image: int) -> slice:
        """Return the slice of an image's objects."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def image_of_object(self) -> NDArray[np.int64]:
        """Return the image index of each object, shape (T,)."""
        return np.repeat(np.arange(self.num_images), np.diff(self.starts))

    def label_file(self, image: int) -> str:
        """Return the path of an image's label file, or an empty string."""
        if not len(self.label_files):
            return ""
        file = self.label_files[image if len(self.label_files) > 1 else 0]
        return str(file)

    def row(self, index: int) -> str:
        """Return the position of an object in its label file, in words."""
        return f"{self.row_word} {self.rows[index]}"

    def select(self, images: Sequence[int] | NDArray[np.int64]) -> LabelTable:
        """Return the table of some images, in the order given."""
        chosen = np.asarray(images, dtype=np.int64)
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        objects = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], lengths)
        files = self.label_files
        return replace(
            self._select_objects(objects),
            images=PackedList(self.images[i] for i in chosen),
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            starts=starts.astype(np.int64),
            label_files=PackedList(files[i] for i in chosen) if len(files) > 1 else files,
        )

    def without_objects(self, bad: NDArray[np.bool_]) -> LabelTable:
        """Return the table of all images without some of the objects.

        Args:
            bad: Shape (T,), True for objects to remove.
        """
        good = ~bad
        before = np.concatenate([[0], np.cumsum(good)])
        return replace(self._select_objects(np.flatnonzero(good)), starts=before[self.starts])

    def _select_objects(self, indices: NDArray[np.int64]) -> LabelTable:
        return replace(
            self,
            boxes=self.boxes[indices],
            labels=self.labels[indices],
            rows=self.rows[indices],
            iscrowd=self.iscrowd[indices],
            difficult=self.difficult[indices],
            areas=self.areas[indices],
            masks=None if self.masks is None else PackedList(self.masks[i] for i in indices),
        )


@dataclass
class TableBuilder:
    """Builds a `LabelTable` image by image and object by object.

    Attributes:
        layout: Layout in words, such as ``"Pascal VOC"``.
        root: Folder that relative paths start from.
        classes: Class names; may grow until `build`.
        row_word: See `LabelTable`.
        category_ids: Id of each class in the files; by default 0..K-1.
        findings: See `LabelTable`; may grow until `build`.
    """

    layout: str
    root: Path
    classes: list[str]
    row_word: str = "line"
    category_ids: list[int] | None = None
    findings: list[Finding] = field(default_factory=list)
    _images: list[tuple[str, int, tuple[int, int], str]] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _boxes: list[Sequence[float]] = field(default_factory=list)
    _fields: list[tuple[int, int, bool, bool, float]] = field(default_factory=list)
    _masks: list[Mask] = field(default_factory=list)

    def add_image(
        self,
        path: str | Path,
        *,
        image_id: int | None = None,
        size: tuple[int, int] | None = None,
        label_file: str | Path = "",
    ) -> None:
        """Begin an image; `add_object` adds to the last one.

        Args:
            path: Path relative to ``root``, or absolute.
            image_id: By default the index of the image.
            size: Height and width according to the label file.
            label_file: Path of the label file.
        """
        number = len(self._images) if image_id is None else image_id
        self._images.append((str(path), number, size or (-1, -1), str(label_file)))
        self._counts.append(0)

    def add_object(
        self,
        box: Sequence[float],
        label: int,
        row: int,
        *,
        iscrowd: bool = False,
        difficult: bool = False,
        area: float = float("nan"),
        mask: Mask = None,
    ) -> None:
        """Add an object to the last image.

        Args:
            box: (x1, y1, x2, y2) in pixels.
            label: Class index; -1 for an unknown category.
            row: Position in the label file.
            iscrowd: See `LabelTable`.
            difficult: See `LabelTable`.
            area: Area in pixels, if the file has it.
            mask: Mask, if the file has it.
        """
        self._counts[-1] += 1
        self._boxes.append(box)
        self._fields.append((label, row, iscrowd, difficult, area))
        self._masks.append(mask)

    def build(self) -> LabelTable:
        """Return the table."""
        labels, rows, crowds, difficult, areas = (
            zip(*self._fields, strict=True) if self._fields else [()] * 5
        )
        files = [file for *_, file in self._images]
        return LabelTable(
            layout=self.layout,
            root=self.root,
            classes=tuple(self.classes),
            images=PackedList(path for path, *_ in self._images),
            image_ids=np.array([number for _, number, *_ in self._images], dtype=np.int64),
            sizes=np.array([size for _, _, size, _ in self._images], np.int64).reshape(-1, 2),
            starts=np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)]).astype(np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64),
            rows=np.array(rows, dtype=np.int64),
            iscrowd=np.array(crowds, dtype=np.bool_),
            difficult=np.array(difficult, dtype=np.bool_),
            areas=np.array(areas, dtype=np.float64),
            masks=PackedList(self._masks) if any(m is not None for m in self._masks) else None,
            label_files=PackedList(files[:1] if len(set(files)) == 1 else files),
            row_word=self.row_word,
            category_ids=tuple(self.category_ids or range(len(self.classes))),
            findings=tuple(self.findings),
        )
