"""COCO's JSON: boxes, polygons, run lengths, crowds, ids with gaps."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from tqdm.auto import tqdm

from cvlib._files import inside, read_text, write_text
from cvlib.data.findings import Finding, Severity
from cvlib.data.table import LabelTable, Mask, TableBuilder

# A bar is shown for more annotations than are read in a second or two.
_LONG = 300_000
# So many pictures are looked for in each folder that might hold them.
_LOOKED_FOR = 50
_LARGEST_ID = 2**63 - 1


def read_coco(json_path: str | Path, images_folder: str | Path | None = None) -> LabelTable:
    """Reads a COCO instance file.

    Category ids may have gaps: classes are counted from 0 in the order of their ids, and
    ``category_ids`` of the table leads back. What is wrong with an entry becomes a finding that
    names it, and the entry is left out; `DetectionDataset` refuses a table with errors.

    Args:
        json_path: Of the file.
        images_folder: Folder of the pictures. By default it is looked for beside the file (its
            folder, ``images``, and the name of the file without ``instances_``, there and one
            folder higher): the one that holds the pictures is taken.

    Returns:
        The labels; ``rows`` are the annotations' ids.

    Raises:
        FileNotFoundError: There is no such file, or no folder with the pictures beside it.
        ValueError: Not JSON, not COCO's layout, or two folders that might be meant.

    Note:
        About 3 microseconds for each annotation, beside what Python's ``json`` takes.
    """
    path = Path(json_path).expanduser()
    content = _parse(path)
    images, annotations, categories = (_section(content, key, path) for key in _SECTIONS)
    folder = _find_images(path, images_folder, images)
    reader = _Reader(path, folder)
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


def _find_images(path: Path, images_folder: str | Path | None, images: list[Any]) -> Path:
    """Finds the folder that holds the pictures, by looking."""
    if images_folder is not None:
        folder = Path(images_folder).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"read_coco: expected images_folder an existing folder, got {folder}"
            )
        return folder
    names = [e.get("file_name") for e in images[:_LOOKED_FOR] if isinstance(e, dict)]
    tried = [folder for folder in _candidates(path) if folder.is_dir()]
    held = {folder: sum(_holds(folder, name) for name in names) for folder in tried}
    best = max(held.values(), default=0)
    winners = [folder for folder in tried if held[folder] == best]
    if not names:
        return path.parent
    if not best:
        raise FileNotFoundError(
            f"read_coco: expected the pictures of {path} beside it, such as {names[0]!r}, got "
            f"none of the first {len(names)} in {', '.join(map(str, tried))}; pass images_folder="
        )
    if len(winners) > 1:
        raise ValueError(
            f"read_coco: expected one folder with the pictures of {path}, got "
            f"{', '.join(map(str, winners))}; pass images_folder="
        )
    return winners[0]


def _candidates(path: Path) -> list[Path]:
    """Folders that usually hold the pictures, each once, whatever links lead there."""
    stem = re.sub(r"^_*(instances|annotations)[_.-]?|[_.-]?(annotations|instances)\.?(coco)?$", "",
                  path.stem)  # fmt: skip
    found: dict[Path, Path] = {}
    for base in (path.parent, path.parent.parent):
        for name in ("", "images", stem, f"images/{stem}", f"{stem}/images", "data", "JPEGImages"):
            folder = base / name
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _holds(folder: Path, name: object) -> bool:
    try:
        return inside(folder, name).is_file()
    except (OSError, ValueError):
        return False


@dataclass
class _Reader:
    """Collects what the three lists say, with what is wrong about it."""

    path: Path
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    # Of each picture: path, id, (height, width).
    pictures: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)
    # For each picture its objects: box, label, row, iscrowd, difficult, area, mask.
    objects: list[list[tuple[Any, ...]]] = field(default_factory=list)
    _labels: dict[int, int] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _unusable: set[int] = field(default_factory=set)

    def refuse(self, code: str, row: str, message: str, fix: str = "", picture: str = "") -> None:
        """Adds an error."""
        self._note("error", code, row, message, fix, picture)

    def warn(self, code: str, row: str, message: str, fix: str = "") -> None:
        """Adds a warning."""
        self._note("warning", code, row, message, fix, "")

    def _note(
        self, severity: Severity, code: str, row: str, message: str, fix: str, picture: str
    ) -> None:
        place = str(self.path)
        self.findings.append(Finding(severity, code, message, place, row, picture, fix=fix))

    def read_categories(self, entries: list[Any]) -> None:
        """Gives classes their numbers, in the order of their ids."""
        names: dict[int, str] = {}
        for place, entry in enumerate(entries):
            row = f"category {place}"
            number, name = (entry.get(k) for k in ("id", "name")) if _is_dict(entry) else (0, 0)
            if not _is_id(number) or not isinstance(name, str) or not name.strip():
                self.refuse("bad-category", row, f"expected an id and a name, got {_show(entry)}")
            elif number in names:
                self.refuse(
                    "duplicate-id", row, f"expected each category id once, got {number} again"
                )
            elif name in names.values():
                self.refuse(
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
        """Lists the pictures in the order of the file."""
        if not entries:
            raise ValueError(f"read_coco: expected images in {self.path}, got none")
        for place, entry in enumerate(entries):
            number = entry.get("id") if _is_dict(entry) else None
            if not _is_id(number):
                self.refuse("bad-picture", f"image {place}", f"expected an id, got {_show(entry)}")
                continue
            row = f"image {number}"
            if number in self._places:
                self.refuse(
                    "duplicate-id",
                    row,
                    f"expected each image id once, got {entry.get('file_name')!r} with that of "
                    f"{self.pictures[self._places[number]][0]!r}",
                    "give it an id of its own, and its annotations, too",
                )
                continue
            try:
                path = inside(self.folder, entry.get("file_name"))
            except ValueError as error:
                self._unusable.add(number)
                self.refuse("bad-path", row, str(error))
                continue
            self._places[number] = len(self.pictures)
            name = path.relative_to(self.folder).as_posix()
            self.pictures.append((name, number, self._size(entry, row)))
            self.objects.append([])

    def _size(self, entry: Mapping[str, Any], row: str) -> tuple[int, int]:
        height, width = entry.get("height"), entry.get("width")
        if _is_side(height) and _is_side(width):
            return int(height), int(width)  # type: ignore[arg-type]
        if height is not None or width is not None:
            self.warn(
                "bad-size",
                row,
                f"expected height and width in whole pixels, got {height!r} and {width!r}",
                "correct or remove them",
            )
        return -1, -1

    def read_annotations(self, entries: list[Any]) -> None:
        """Puts each annotation with its picture."""
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
        given = [entry.get("id") if _is_dict(entry) else None for entry in entries]
        own = [number for number in given if _is_id(number)]
        free = max([0, *own]) + 1
        without = len(given) - len(own)
        if without:
            self.warn(
                "bad-id",
                "",
                f"expected annotations with an id, got {without} without; they count from {free}",
            )
        if len(set(own)) < len(own):
            for number in (number for number, times in Counter(own).items() if times > 1):
                self.warn(
                    "duplicate-id",
                    f"annotation {number}",
                    "expected each annotation id once, got it again; other tools keep the last",
                    "give each its own",
                )
        numbers = iter(range(free, free + without))
        return [number if _is_id(number) else next(numbers) for number in given]

    def _read_annotation(self, number: int, entry: Any) -> None:
        row = f"annotation {number}"
        if not _is_dict(entry):
            self.refuse("bad-annotation", row, f"expected an object, got {_show(entry)}")
            return
        image = entry.get("image_id")
        place = self._places.get(image) if _is_id(image) else None
        if place is None:
            if image not in self._unusable:
                self.refuse(
                    "unknown-image",
                    row,
                    f"expected image_id that of a picture of the file, got {image!r}",
                    "add the picture to images, or remove the annotation",
                )
            return
        try:
            self.objects[place].append(self._object(number, entry, self.pictures[place][2]))
        except _BadEntryError as error:
            picture = str(self.folder / self.pictures[place][0])
            self.refuse(error.code, row, str(error), error.fix, picture=picture)

    def _object(self, number: int, entry: Mapping[str, Any], size: tuple[int, int]) -> Any:
        try:
            label = self._labels[entry["category_id"]]
        except (KeyError, TypeError):
            raise _BadEntryError(
                "unknown-class",
                f"expected category_id one of {len(self.classes)} categories, got "
                f"{entry.get('category_id')!r}",
                "correct it, or add the category",
            ) from None
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise _BadEntryError("bad-crowd", f"expected iscrowd 0 or 1, got {crowd!r}")
        mask = _mask(entry.get("segmentation"), size)
        box = _box(entry.get("bbox"), mask)
        area = entry.get("area")
        if area is None or not _is_number(area) or not math.isfinite(area) or area < 0:
            if area is not None:
                self.warn(
                    "bad-area",
                    f"annotation {number}",
                    f"expected area a number of at least 0, got {area!r}; that of the box is taken",
                )
            area = math.nan
        return box, label, number, crowd == 1, bool(entry.get("difficult")), float(area), mask

    def table(self) -> LabelTable:
        """All of it as arrays."""
        builder = TableBuilder("COCO json", self.folder, self.classes, "annotation",
                               self.category_ids, self.findings)  # fmt: skip
        missing = 0
        for (name, number, size), things in zip(self.pictures, self.objects, strict=True):
            builder.add_picture(name, image_id=number, size=size, label_file=self.path)
            for box, label, row, iscrowd, difficult, area, mask in things:
                builder.add_object(
                    box, label, row, iscrowd=iscrowd, difficult=difficult, area=area, mask=mask
                )
                missing += mask is None
        total = sum(map(len, self.objects))
        if 0 < missing < total:
            self.warn(
                "missing-mask",
                "",
                f"expected masks of all objects or of none, got {missing} of {total} without",
                "draw them, or remove all",
            )
        return builder.build()


class _BadEntryError(Exception):
    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def _box(bbox: Any, mask: Mask) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of ``[x, y, width, height]``; without one, that of the mask."""
    if bbox is None or bbox == []:
        if mask is None:
            raise _BadEntryError("missing-box", "expected a bbox or a segmentation, got neither")
        return _box_of_mask(mask)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise _BadEntryError(
            "bad-box",
            f"expected bbox four numbers [x, y, width, height], got {_show(bbox)}",
            "write numbers without quotes",
        )
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise _BadEntryError("bad-box", "expected bbox in pixels, got huge numbers") from None
    return x, y, x + width, y + height


def _box_of_mask(mask: Mask) -> tuple[float, float, float, float]:
    if isinstance(mask, dict):
        from cvlib.ops.masks import masks_to_boxes
        from cvlib.ops.rle import rle_to_masks

        try:
            x1, y1, x2, y2 = masks_to_boxes(rle_to_masks([mask]))[0].tolist()
        except (TypeError, ValueError) as error:
            raise _BadEntryError("bad-mask", str(error)) from None
        return x1, y1, x2, y2
    xs = [x for part in mask or () for x in part[::2]]
    ys = [y for part in mask or () for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """Checks the form; whether runs add up is seen when they are decoded."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise _BadEntryError(
            "bad-mask", f"expected segmentation polygons or run lengths, got {_show(segmentation)}"
        )
    if not isinstance(segmentation[0], list):
        raise _BadEntryError(
            "bad-mask",
            f"expected segmentation a list of polygons, got {_show(segmentation)}",
            "write a single polygon as [[x1, y1, ...]]",
        )
    for part in segmentation:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            raise _BadEntryError(
                "bad-mask",
                f"expected polygons [x1, y1, x2, y2, x3, y3, ...], got {_show(part)}",
                "draw it again or remove it",
            )
        if not all(map(_is_finite, part)):
            raise _BadEntryError("bad-mask", "expected polygons of finite numbers, got others")
    return segmentation


def _run_lengths(rle: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    own, counts = rle.get("size"), rle.get("counts")
    if not isinstance(own, list) or len(own) != 2 or not all(map(_is_side, own)):
        raise _BadEntryError("bad-mask", f"expected a size [height, width], got {_show(own)}")
    if not isinstance(counts, str | list):
        raise _BadEntryError("bad-mask", f"expected counts a text or a list, got {_show(counts)}")
    if size[0] >= 0 and tuple(own) != size:
        raise _BadEntryError(
            "mask-size",
            f"expected run lengths of the picture's size (height, width) {size}, got {tuple(own)}",
            "encode the mask in the size of the picture",
        )
    return {"size": own, "counts": counts}


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1e18


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID


def _is_side(value: Any) -> bool:
    return _is_finite(value) and value == int(value) and 0 < value < 2**31


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def table_to_coco(table: LabelTable, sizes: np.ndarray | None = None) -> dict[str, Any]:
    """Gives labels in COCO's layout; what the file said about ids is kept.

    Args:
        table: The labels; of classes that it has, and without NaN.
        sizes: Shape (P, 2), height and width of the pictures, where the table lacks them.

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
        image = {"id": number, "file_name": str(table.pictures[i])}
        images.append(image if height < 0 else {**image, "width": width, "height": height})
    owners = table.image_ids[table.picture_of_object()]
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
