"""COCO json: boxes, polygons, run lengths, crowds and ids with gaps."""

from __future__ import annotations

import json
import math
import mmap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from cvlib._files import inside, read_text
from cvlib.data.files.folders import describe_folder, list_files, list_folders, name_some
from cvlib.data.formats.coco_entries import (
    BadEntryError,
    is_id,
    is_number,
    is_side,
    parse_box,
    parse_mask,
)
from cvlib.data.formats.label_files import FindingCollector, find_images_folder, short_repr
from cvlib.data.labels.table import LabelTable, TableBuilder

_SECTIONS = ("images", "annotations", "categories")
_ROBOFLOW_FILE = "_annotations.coco.json"
# More annotations than this take longer than a second or two: show a progress bar.
_MANY = 300_000


def read_coco(
    json_path: str | Path,
    images_folder: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> LabelTable:
    """Read a COCO instance file.

    Category ids may have gaps: labels count from 0 in the order of the ids, and ``category_ids``
    of the table maps them back. An invalid entry is left out and becomes a finding; with errors
    among the findings, `DetectionDataset` refuses the table.

    Args:
        json_path: The annotation file.
        images_folder: Folder of the images. Default: the folder next to the file that has them
            (its own folder, ``images``, or the name of the file without ``instances_``, there and
            one level higher).
        classes: The class names in another order. Default: the order of the ids.

    Returns:
        The labels; ``rows`` are annotation ids.

    Raises:
        FileNotFoundError: The file does not exist, or no folder near it has the images.
        ValueError: The file is not COCO json, two folders have the images, or ``classes`` differ
            from the names in the file.

    Note:
        A million annotations with small polygons take 15 seconds, half of them in ``json``.
    """
    path = Path(json_path).expanduser()
    content = _parse(path)
    images, annotations, categories = (_section(content, key, path) for key in _SECTIONS)
    names = (entry.get("file_name") for entry in images if isinstance(entry, dict))
    folder = find_images_folder("read_coco", path, images_folder, names)
    reader = _Reader(path, folder, FindingCollector(path))
    reader.read_categories(categories)
    reader.read_images(images)
    reader.read_annotations(annotations)
    table = reader.build()
    return table if classes is None else _reorder_classes(table, classes)


def _parse(path: Path) -> dict[str, Any]:
    text = read_text(path, "read_coco", "a COCO json file")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(
            f"read_coco: expected COCO json, got lists nested too deeply in {path}"
        ) from None
    except ValueError as error:
        reason = str(error) if text.strip() else "it is empty"
        raise ValueError(
            f"read_coco: expected json, got {path}, which cannot be parsed: {reason}"
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
        actual = type(entries).__name__ if key in content else "no such key"
        raise ValueError(
            f"read_coco: expected {key!r} in {path} to be a list, got {actual}; its keys: "
            f"{', '.join(map(str, list(content)[:10])) or 'none'}"
        )
    return entries


def _reorder_classes(table: LabelTable, classes: Sequence[str]) -> LabelTable:
    if sorted(classes) != sorted(table.classes):
        raise ValueError(
            "read_coco: expected `classes` to be the names in the file, "
            f"{name_some(table.classes)}, in any order, got {name_some(classes)}"
        )
    new_labels = np.array([list(classes).index(name) for name in table.classes], dtype=np.int64)
    ids = [table.category_ids[table.classes.index(name)] for name in classes]
    return replace(
        table,
        classes=tuple(classes),
        labels=new_labels[table.labels],
        category_ids=tuple(ids),
    )


@dataclass
class _Reader:
    """Collects the entries of the three lists, and the findings about them."""

    path: Path
    folder: Path
    findings: FindingCollector
    classes: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    # Path, id and (height, width) of each image.
    images: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)
    # Objects of each image: box, label, row, iscrowd, difficult, area, mask.
    objects: list[list[tuple[Any, ...]]] = field(default_factory=list)
    _label_of_category: dict[int, int] = field(default_factory=dict)
    _index_of_image: dict[int, int] = field(default_factory=dict)
    _id_of_file: dict[str, int] = field(default_factory=dict)
    _bad_images: set[int] = field(default_factory=set)

    def read_categories(self, entries: list[Any]) -> None:
        """Number the classes in the order of their ids."""
        names: dict[int, str] = {}
        for index, entry in enumerate(entries):
            row = f"category {index}"
            is_dict = isinstance(entry, dict)
            number, name = (entry.get("id"), entry.get("name")) if is_dict else (None, None)
            if not is_id(number) or not isinstance(name, str) or not name.strip():
                self.findings.error(
                    "bad-category", row, f"expected an id and a name, got {short_repr(entry)}"
                )
            elif number in names:
                self.findings.error(
                    "duplicate-id", row, f"expected unique category ids, got {number} again"
                )
            elif name in names.values():
                self.findings.error(
                    "duplicate-class",
                    row,
                    f"expected unique category names, got {name!r} again with id {number}",
                    "rename one of them, or give all their annotations one id",
                )
            else:
                names[number] = name
        if not names:
            raise ValueError(f"read_coco: expected categories in {self.path}, got none")
        self.category_ids = sorted(names)
        self.classes = [names[number] for number in self.category_ids]
        self._label_of_category = {id_: label for label, id_ in enumerate(self.category_ids)}

    def read_images(self, entries: list[Any]) -> None:
        """List the images in the order of the file."""
        if not entries:
            raise ValueError(f"read_coco: expected images in {self.path}, got none")
        for index, entry in enumerate(entries):
            number = entry.get("id") if isinstance(entry, dict) else None
            if not is_id(number):
                self.findings.error(
                    "bad-image", f"image {index}", f"expected an id, got {short_repr(entry)}"
                )
            else:
                self._read_image(number, entry)

    def _read_image(self, number: int, entry: Mapping[str, Any]) -> None:
        row = f"image {number}"
        if number in self._index_of_image:
            self.findings.error(
                "duplicate-id",
                row,
                f"expected unique image ids, got {entry.get('file_name')!r} with the id of "
                f"{self.images[self._index_of_image[number]][0]!r}",
                "give the image and its annotations an id of their own",
            )
            return
        try:
            path = inside(self.folder, entry.get("file_name"))
        except ValueError as error:
            self._bad_images.add(number)
            self.findings.error("bad-path", row, str(error))
            return
        name = path.relative_to(self.folder).as_posix()
        if (first := self._id_of_file.setdefault(name, number)) != number:
            self.findings.warning(
                "listed-twice",
                row,
                f"expected each image once, got {name!r} as image {first}, too: either shows the "
                "objects of the other as background",
                "give all its annotations one image_id",
            )
        self._index_of_image[number] = len(self.images)
        self.images.append((name, number, self._parse_size(entry, row)))
        self.objects.append([])

    def _parse_size(self, entry: Mapping[str, Any], row: str) -> tuple[int, int]:
        height, width = entry.get("height"), entry.get("width")
        if is_side(height) and is_side(width):
            return int(height), int(width)  # type: ignore[arg-type]
        if height is not None or width is not None:
            self.findings.warning(
                "bad-size",
                row,
                "expected `height` and `width` to be whole numbers of pixels, got "
                f"{height!r} and {width!r}",
                "correct or remove them",
            )
        return -1, -1

    def read_annotations(self, entries: list[Any]) -> None:
        """Assign each annotation to its image."""
        numbers = self._number_annotations(entries)
        disable = None if len(entries) > _MANY else True
        pairs = zip(numbers, entries, strict=True)
        for number, entry in tqdm(pairs, "read_coco", len(entries), disable=disable):
            self._read_annotation(number, entry)

    def _number_annotations(self, entries: list[Any]) -> list[int]:
        """Return the ids of the annotations, with the next free numbers for missing ids."""
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
        valid = [number for number in ids if is_id(number)]
        free = max([0, *valid]) + 1
        num_missing = len(ids) - len(valid)
        if num_missing:
            self.findings.warning(
                "bad-id",
                "",
                f"expected annotations with an id, got {num_missing} without; they are numbered "
                f"from {free}",
            )
        for number in (number for number, count in Counter(valid).items() if count > 1):
            self.findings.warning(
                "duplicate-id",
                f"annotation {number}",
                "expected unique annotation ids, got this one again; other tools keep the last",
                "give each annotation its own id",
            )
        free_numbers = iter(range(free, free + num_missing))
        return [number if is_id(number) else next(free_numbers) for number in ids]

    def _read_annotation(self, number: int, entry: Any) -> None:
        row = f"annotation {number}"
        if not isinstance(entry, dict):
            self.findings.error(
                "bad-annotation", row, f"expected an object, got {short_repr(entry)}"
            )
            return
        image = entry.get("image_id")
        index = self._index_of_image.get(image) if is_id(image) else None
        if index is None:
            if not is_id(image) or image not in self._bad_images:
                self.findings.error(
                    "unknown-image",
                    row,
                    f"expected `image_id` to be the id of an image in the file, got {image!r}",
                    "add the image to images, or remove the annotation",
                )
            return
        try:
            self.objects[index].append(self._parse_object(number, entry, self.images[index][2]))
        except BadEntryError as error:
            file = str(self.folder / self.images[index][0])
            self.findings.error(error.code, row, str(error), error.fix, image=file)

    def _parse_object(self, number: int, entry: Mapping[str, Any], size: tuple[int, int]) -> Any:
        category = entry.get("category_id")
        label = self._label_of_category.get(category) if is_id(category) else None
        if label is None:
            raise BadEntryError(
                "unknown-class",
                f"expected `category_id` to be one of {len(self.classes)} categories, got "
                f"{category!r}",
                "correct it, or add the category",
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise BadEntryError("bad-crowd", f"expected `iscrowd` to be 0 or 1, got {crowd!r}")
        mask = parse_mask(entry.get("segmentation"), size)
        box = parse_box(entry.get("bbox"), mask)
        area = entry.get("area")
        if area is not None and not (is_number(area) and math.isfinite(area) and area >= 0):
            self.findings.warning(
                "bad-area",
                f"annotation {number}",
                f"expected `area` to be a number >= 0, got {area!r}; the area of the box is used",
            )
            area = None
        area = math.nan if area is None else float(area)
        return box, label, number, crowd == 1, bool(entry.get("difficult")), area, mask

    def build(self) -> LabelTable:
        """Return all images and objects as a table."""
        builder = TableBuilder(
            "COCO json", self.folder, self.classes, "annotation", self.category_ids
        )
        without_mask = 0
        for (name, number, size), objects in zip(self.images, self.objects, strict=True):
            builder.add_image(name, image_id=number, size=size, label_file=self.path)
            for box, label, row, iscrowd, difficult, area, mask in objects:
                builder.add_object(
                    box, label, row, iscrowd=iscrowd, difficult=difficult, area=area, mask=mask
                )
                without_mask += mask is None
        total = sum(map(len, self.objects))
        if 0 < without_mask < total:
            self.findings.warning(
                "missing-mask",
                "",
                f"expected masks for all objects or for none, got {without_mask} of {total} "
                "without",
                "draw them, or remove all",
            )
        builder.findings = self.findings.findings()
        return builder.build()


def read_coco_split(
    path: Path, split: str | None, *, classes: Sequence[str] | None = None
) -> LabelTable:
    """Read a split of a folder with COCO files, by default the first."""
    files = _find_json_files(path)
    if not files and not path.is_file():
        raise FileNotFoundError(
            f"read_coco: expected annotations in COCO json, got {describe_folder(path)}"
        )
    return read_coco(files[split] if split else next(iter(files.values()), path), classes=classes)


def list_coco_splits(path: Path) -> list[str]:
    """List the splits by the names of their annotation files."""
    return list(_find_json_files(path))


def recognise_coco(path: Path) -> str | None:
    """Return the names of the COCO files at a path, or None."""
    files = _find_json_files(path).values()
    return name_some(f.name if f == path else f.relative_to(path) for f in files) or None


def _find_json_files(path: Path) -> dict[str, Path]:
    """Return the annotation files of the splits at a path."""
    if path.is_file():
        return {_split_of(path): path} if path.suffix == ".json" and _is_coco(path) else {}
    if not path.is_dir():
        return {}
    folders = [path, *(path / name for name in list_folders(path))]
    files = [
        folder / name
        for folder in folders
        if folder in (path, path / "annotations") or (folder / _ROBOFLOW_FILE).is_file()
        for name in list_files(folder, lambda name: name.endswith(".json"))
    ]
    # COCO also ships captions and keypoints of the same images.
    instances = [file for file in files if file.name.startswith("instances_")]
    return {_split_of(file): file for file in instances or files if _is_coco(file)}


def _split_of(file: Path) -> str:
    if file.name == _ROBOFLOW_FILE:
        return file.parent.name
    return file.stem.removeprefix("instances_")


def _is_coco(file: Path) -> bool:
    """Whether a file is an object with the keys of COCO, without parsing gigabytes."""
    if file.stat().st_size < 2:
        return False
    with (
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        is_object = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
        return is_object and min(content.find(b'"images"'), content.find(b'"annotations"')) >= 0
