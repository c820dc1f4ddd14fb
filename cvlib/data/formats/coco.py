"""COCO's JSON: boxes, polygons, run lengths, crowds, ids with gaps."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from cvlib._files import inside, read_text, write_text
from cvlib.data.formats.coco_entries import (
    BadEntryError,
    is_id,
    is_number,
    is_object,
    is_side,
    parse_box,
    parse_mask,
)
from cvlib.data.formats.label_files import Notes, find_images_folder, show
from cvlib.data.labels.table import LabelTable, TableBuilder

# A bar is shown for more annotations than are read in a second or two.
_LONG = 300_000


def read_coco(json_path: str | Path, images_folder: str | Path | None = None) -> LabelTable:
    """Reads a COCO instance file.

    Category ids may have gaps: classes are counted from 0 in the order of their ids, and
    ``category_ids`` of the table leads back. What is wrong with an entry becomes a finding that
    names it, and the entry is left out; `DetectionDataset` refuses a table with errors.

    Args:
        json_path: Of the file.
        images_folder: Folder of the images. By default it is looked for beside the file (its
            folder, ``images``, and the name of the file without ``instances_``, there and one
            folder higher): the one that holds the images is taken.

    Returns:
        The labels; ``rows`` are the annotations' ids.

    Raises:
        FileNotFoundError: There is no such file, or no folder with the images beside it.
        ValueError: Not JSON, not COCO's layout, or two folders that might be meant.

    Note:
        A million annotations with small polygons take 15 seconds, of which Python's ``json`` takes
        half.
    """
    path = Path(json_path).expanduser()
    content = _parse(path)
    images, annotations, categories = (_section(content, key, path) for key in _SECTIONS)
    names = (entry.get("file_name") for entry in images if is_object(entry))
    folder = find_images_folder("read_coco", path, images_folder, names)
    reader = _Reader(path, folder, Notes(path))
    reader.read_categories(categories)
    reader.read_images(images)
    reader.read_annotations(annotations)
    return reader.table()


_SECTIONS = ("images", "annotations", "categories")


def _parse(path: Path) -> dict[str, Any]:
    text = read_text(path, "read_coco", "a COCO JSON file")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(
            f"read_coco: expected COCO's JSON, got lists nested too deeply in {path}"
        ) from None
    except ValueError as error:
        reason = str(error) if text.strip() else "it is empty"
        raise ValueError(
            f"read_coco: expected JSON, got {path}, which cannot be read as it: {reason}"
        ) from None
    if not isinstance(content, dict):
        hint = "; it looks like results, not labels" if isinstance(content, list) else ""
        raise ValueError(
            f"read_coco: expected an object with {', '.join(_SECTIONS)} in {path}, got "
            f"{type(content).__name__}{hint}"
        )
    return content


def _section(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    entries = content.get(key)
    if not isinstance(entries, list):
        actual = f"one that is {type(entries).__name__}" if key in content else "none"
        raise ValueError(
            f"read_coco: expected a list {key!r} in {path}, got {actual} among "
            f"{', '.join(map(str, list(content)[:10])) or 'nothing'}"
        )
    return entries


@dataclass
class _Reader:
    """Collects what the three lists say, with what is wrong about it."""

    path: Path
    folder: Path
    notes: Notes
    classes: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    # Of each image: path, id, (height, width).
    images: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)
    # For each image its objects: box, label, row, iscrowd, difficult, area, mask.
    objects: list[list[tuple[Any, ...]]] = field(default_factory=list)
    _labels: dict[int, int] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)
    _unusable: set[int] = field(default_factory=set)

    def read_categories(self, entries: list[Any]) -> None:
        """Gives classes their numbers, in the order of their ids."""
        names: dict[int, str] = {}
        for place, entry in enumerate(entries):
            row = f"category {place}"
            number, name = (entry.get(k) for k in ("id", "name")) if is_object(entry) else (0, 0)
            if not is_id(number) or not isinstance(name, str) or not name.strip():
                self.notes.error(
                    "bad-category", row, f"expected an id and a name, got {show(entry)}"
                )
            elif number in names:
                self.notes.error(
                    "duplicate-id", row, f"expected each category id once, got {number} again"
                )
            elif name in names.values():
                self.notes.error(
                    "duplicate-class",
                    row,
                    f"expected each category name once, got {name!r} again with id {number}",
                    "give the two different names, or all their annotations one id",
                )
            else:
                names[number] = name
        if not names:
            raise ValueError(f"read_coco: expected categories in {self.path}, got none")
        self.category_ids = sorted(names)
        self.classes = [names[number] for number in self.category_ids]
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def read_images(self, entries: list[Any]) -> None:
        """Lists the images in the order of the file."""
        if not entries:
            raise ValueError(f"read_coco: expected images in {self.path}, got none")
        for place, entry in enumerate(entries):
            number = entry.get("id") if is_object(entry) else None
            if not is_id(number):
                self.notes.error(
                    "bad-image", f"image {place}", f"expected an id, got {show(entry)}"
                )
                continue
            row = f"image {number}"
            if number in self._places:
                self.notes.error(
                    "duplicate-id",
                    row,
                    f"expected each image id once, got {entry.get('file_name')!r} with that of "
                    f"{self.images[self._places[number]][0]!r}",
                    "give it an id of its own, and its annotations, too",
                )
                continue
            try:
                path = inside(self.folder, entry.get("file_name"))
            except ValueError as error:
                self._unusable.add(number)
                self.notes.error("bad-path", row, str(error))
                continue
            name = path.relative_to(self.folder).as_posix()
            if (first := self._ids.setdefault(name, number)) != number:
                self.notes.warning(
                    "listed-twice",
                    row,
                    f"expected each image once, got {name!r} as image {first}, too: either shows "
                    "the objects of the other as background",
                    "give all its annotations one image_id",
                )
            self._places[number] = len(self.images)
            self.images.append((name, number, self._size(entry, row)))
            self.objects.append([])

    def _size(self, entry: Mapping[str, Any], row: str) -> tuple[int, int]:
        height, width = entry.get("height"), entry.get("width")
        if is_side(height) and is_side(width):
            return int(height), int(width)  # type: ignore[arg-type]
        if height is not None or width is not None:
            self.notes.warning(
                "bad-size",
                row,
                f"expected height and width in whole pixels, got {height!r} and {width!r}",
                "correct or remove them",
            )
        return -1, -1

    def read_annotations(self, entries: list[Any]) -> None:
        """Puts each annotation with its image."""
        ids = self._rows(entries)
        long = len(entries) > _LONG
        for row, entry in tqdm(
            zip(ids, entries, strict=True),
            "read_coco",
            len(entries),
            disable=None if long else True,
        ):
            self._read_annotation(row, entry)

    def _rows(self, entries: list[Any]) -> list[int]:
        """The annotations' own ids; where one has none, the next free number."""
        given = [entry.get("id") if is_object(entry) else None for entry in entries]
        own = [number for number in given if is_id(number)]
        free = max([0, *own]) + 1
        without = len(given) - len(own)
        if without:
            self.notes.warning(
                "bad-id",
                "",
                f"expected annotations with an id, got {without} without; they count from {free}",
            )
        if len(set(own)) < len(own):
            for number in (number for number, times in Counter(own).items() if times > 1):
                self.notes.warning(
                    "duplicate-id",
                    f"annotation {number}",
                    "expected each annotation id once, got it again; other tools keep the last",
                    "give each its own",
                )
        numbers = iter(range(free, free + without))
        return [number if is_id(number) else next(numbers) for number in given]

    def _read_annotation(self, number: int, entry: Any) -> None:
        row = f"annotation {number}"
        if not is_object(entry):
            self.notes.error("bad-annotation", row, f"expected an object, got {show(entry)}")
            return
        image = entry.get("image_id")
        place = self._places.get(image) if is_id(image) else None
        if place is None:
            if image not in self._unusable:
                self.notes.error(
                    "unknown-image",
                    row,
                    f"expected image_id that of an image of the file, got {image!r}",
                    "add the image to images, or remove the annotation",
                )
            return
        try:
            self.objects[place].append(self._object(number, entry, self.images[place][2]))
        except BadEntryError as error:
            file = str(self.folder / self.images[place][0])
            self.notes.error(error.code, row, str(error), error.fix, image=file)

    def _object(self, number: int, entry: Mapping[str, Any], size: tuple[int, int]) -> Any:
        category = entry.get("category_id")
        label = self._labels.get(category) if is_id(category) else None
        if label is None:
            raise BadEntryError(
                "unknown-class",
                f"expected category_id one of {len(self.classes)} categories, got {category!r}",
                "correct it, or add the category",
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise BadEntryError("bad-crowd", f"expected iscrowd 0 or 1, got {crowd!r}")
        mask = parse_mask(entry.get("segmentation"), size)
        box = parse_box(entry.get("bbox"), mask)
        area = entry.get("area")
        if area is None or not is_number(area) or not math.isfinite(area) or area < 0:
            if area is not None:
                self.notes.warning(
                    "bad-area",
                    f"annotation {number}",
                    f"expected area a number of at least 0, got {area!r}; that of the box is taken",
                )
            area = math.nan
        return box, label, number, crowd == 1, bool(entry.get("difficult")), float(area), mask

    def table(self) -> LabelTable:
        """All of it as arrays."""
        builder = TableBuilder(
            "COCO json", self.folder, self.classes, "annotation", self.category_ids
        )
        missing = 0
        for (name, number, size), things in zip(self.images, self.objects, strict=True):
            builder.add_image(name, image_id=number, size=size, label_file=self.path)
            for box, label, row, iscrowd, difficult, area, mask in things:
                builder.add_object(
                    box, label, row, iscrowd=iscrowd, difficult=difficult, area=area, mask=mask
                )
                missing += mask is None
        total = sum(map(len, self.objects))
        if 0 < missing < total:
            self.notes.warning(
                "missing-mask",
                "",
                f"expected masks of all objects or of none, got {missing} of {total} without",
                "draw them, or remove all",
            )
        builder.findings = self.notes.findings()
        return builder.build()


def table_to_coco(table: LabelTable, sizes: np.ndarray | None = None) -> dict[str, Any]:
    """Gives labels in COCO's layout; what the file said about ids is kept.

    Args:
        table: The labels; of classes that it has, and without NaN.
        sizes: Shape (P, 2), height and width of the images, where the table lacks them.

    Raises:
        ValueError: Labels that JSON cannot hold.
    """
    outside = (table.labels < 0) | (table.labels >= len(table.classes))
    if outside.any() or not np.isfinite(table.boxes).all():
        raise ValueError(
            f"write_coco: expected finite boxes with labels in 0..{len(table.classes) - 1}, got "
            f"others in {table.layout} of {table.root}; DetectionDataset(table) lists them"
        )
    sizes = table.sizes if sizes is None else sizes
    own_ids = table.row_word == "annotation" and len(np.unique(table.rows)) == table.num_objects
    numbers = table.rows if own_ids else np.arange(1, table.num_objects + 1)
    images = []
    for i, (number, (height, width)) in enumerate(
        zip(table.image_ids.tolist(), sizes.tolist(), strict=True)
    ):
        image = {"id": number, "file_name": str(table.images[i])}
        images.append(image if height < 0 else {**image, "width": width, "height": height})
    owners = table.image_ids[table.image_of_object()]
    return {
        "images": images,
        "annotations": [
            _annotation(table, k, int(numbers[k]), int(owners[k])) for k in range(table.num_objects)
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(table.category_ids, table.classes, strict=True)
        ],
    }


def _annotation(table: LabelTable, thing: int, number: int, image: int) -> dict[str, Any]:
    x1, y1, x2, y2 = table.boxes[thing].tolist()
    # Rounded, or 0.1 + 0.2 - 0.1 would come back with seventeen digits.
    width, height = round(x2 - x1, 9), round(y2 - y1, 9)
    area = float(table.areas[thing])
    annotation = {
        "id": number,
        "image_id": image,
        "category_id": table.category_ids[table.labels[thing]],
        "bbox": [x1, y1, width, height],
        "area": width * height if math.isnan(area) else area,
        "iscrowd": int(table.iscrowd[thing]),
    }
    if table.difficult[thing]:
        annotation["difficult"] = 1
    mask = None if table.masks is None else table.masks[thing]
    return annotation if mask is None else {**annotation, "segmentation": mask}


def write_coco(path: str | Path, table: LabelTable, sizes: np.ndarray | None = None) -> None:
    """Writes labels as a COCO file, atomically; arguments as of `table_to_coco`."""
    write_text(Path(path), json.dumps(table_to_coco(table, sizes), allow_nan=False) + "\n")
