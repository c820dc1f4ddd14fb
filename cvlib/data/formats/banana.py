"""The layout of the book's bananas: ``bananas_{split}/label.csv`` beside ``images/``."""

from __future__ import annotations

import csv
import math
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

import numpy as np

from cvlib._files import IMAGE_SUFFIXES
from cvlib.data.files.folders import name_some, natural_order
from cvlib.data.files.images import read_image_size
from cvlib.data.formats.csv import read_csv
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable, PackedList

_COLUMNS = ("img_name", "label", "xmin", "ymin", "xmax", "ymax")
_CORNERS = _COLUMNS[2:]
_SHOWN = 20
_XYWH_SHARE = 0.1  # of the rows upside down: no longer a slip but another format
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Box:
    """One row of the file.

    Attributes:
        line: Line number in the file, from 1.
        name: Path of the image below ``images/``.
        label: Class index.
        corners: (x1, y1, x2, y2) in pixels.
    """

    line: int
    name: str
    label: int
    corners: tuple[float, float, float, float]


def read_labels(
    path: Path, images: Path, files: set[str], num_classes: int
) -> dict[str, list[Box]]:
    """Read ``label.csv`` and check every row.

    Args:
        path: The file.
        images: Folder of the images.
        files: Names of the images in it.
        num_classes: Labels must be below this.

    Returns:
        The boxes of each image that has any, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: columns are missing, or rows are wrong: up to 20 are listed with their lines.
    """
    rows = _read_rows(path)
    problems: list[tuple[int, str]] = []
    boxes = []
    for line, row in rows:
        box, complaints = _parse(line, row, num_classes)
        problems += [(line, complaint) for complaint in complaints]
        if box is not None:
            boxes.append(box)
    _check_unit(path, boxes)
    problems += _check_sides(boxes) + _check_duplicates(boxes)
    problems += _check_images(boxes, images, files)
    if problems:
        raise ValueError(_report(path, problems, _xywh_hint(boxes)))
    grouped: dict[str, list[Box]] = {}
    for box in boxes:
        grouped.setdefault(box.name, []).append(box)
    return grouped


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows as dicts of stripped text, each with its line number."""
    if not path.is_file():
        found = ", ".join(sorted(one.name for one in path.parent.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"BananaDataset: expected {path.name} in {path.parent}, got only {found}"
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"BananaDataset: expected a CSV file in UTF-8, got {path}, which cannot be read as "
            f"one: {error}; save it again as CSV UTF-8"
        ) from error
    table = [(line, row) for line, row in table if any(row)]
    if not table:
        raise ValueError(f"BananaDataset: expected rows in {path}, got an empty file")
    (_, header), body = table[0], table[1:]
    _check_header(path, header)
    if not body:
        raise ValueError(f"BananaDataset: expected rows in {path}, got the header alone")
    wrong = [(line, f"expected {len(header)} fields, got {len(row)}") for line, row in body
             if len(row) != len(header)]  # fmt: skip
    if wrong:
        raise ValueError(_report(path, wrong, ""))
    return [(line, dict(zip(header, row, strict=True))) for line, row in body]


def _check_header(path: Path, header: list[str]) -> None:
    missing = [column for column in _COLUMNS if column not in header]
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise ValueError(
            f"BananaDataset: expected each column of {path} once, got {', '.join(twice)} twice"
        )
    if not missing:
        return
    hint = ""
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        hint = "; the fields must be separated by commas"
    elif any(_NUMBER.fullmatch(cell) for cell in header):
        hint = f"; the first line must name the columns: {','.join(_COLUMNS)}"
    raise ValueError(
        f"BananaDataset: expected columns {', '.join(_COLUMNS)} in {path}, got "
        f"{', '.join(header)}: missing {', '.join(missing)}{hint}"
    )


def _parse(line: int, row: dict[str, str], num_classes: int) -> tuple[Box | None, list[str]]:
    """Turn one row into a box, or say what is wrong with it."""
    complaints = []
    label, complaint = _parse_label(row["label"], num_classes)
    complaints += complaint
    corners = []
    for column in _CORNERS:
        number, complaint = _parse_number(column, row[column])
        corners.append(number)
        complaints += complaint
    name = posixpath.normpath(row["img_name"]) if row["img_name"] else ""
    complaints += _check_name(row["img_name"])
    if complaints:
        return None, complaints
    x1, y1, x2, y2 = corners
    return Box(line, name, label, (x1, y1, x2, y2)), []


def _parse_label(text: str, num_classes: int) -> tuple[int, list[str]]:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        return 0, [f"expected label an integer, got {text!r}"]
    label = int(text)
    if not 0 <= label < num_classes:
        names = f"{num_classes} classes" if num_classes > 1 else "1 class"
        return 0, [
            f"expected label from 0 to {num_classes - 1} ({names}), got {label}; pass classes=... "
            "with a name for every label, counted from 0"
        ]
    return label, []


def _parse_number(column: str, text: str) -> tuple[float, list[str]]:
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number, []
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity") or _NUMBER.fullmatch(text):
        return 0.0, [f"expected {column} a finite number, got {text}"]
    return 0.0, [f"expected {column} a number, got {text!r}"]


def _check_name(name: str) -> list[str]:
    if not name:
        return ["expected img_name the name of an image, got an empty field"]
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive or ".." in parts:
        return [f"expected img_name a path inside images/, got {name!r}"]
    return []


def _check_unit(path: Path, boxes: list[Box]) -> None:
    if boxes and all(0 <= value <= 1 for box in boxes for value in box.corners):
        raise ValueError(
            f"BananaDataset: expected corners in pixels in {path}, got values from 0 to 1 in all "
            f"{len(boxes)} rows: they look normalised; multiply xmin and xmax by the width of the "
            "image, ymin and ymax by its height"
        )


def _is_reversed(box: Box) -> bool:
    x1, y1, x2, y2 = box.corners
    return x2 < x1 or y2 < y1


def _check_sides(boxes: list[Box]) -> list[tuple[int, str]]:
    problems = []
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        if _is_reversed(box):
            problems.append(
                (box.line, f"expected xmin < xmax and ymin < ymax, got {_show(box)} in {box.name}")
            )
        elif x1 == x2 or y1 == y2:
            problems.append(
                (box.line, f"expected a box with an area, got {_show(box)} in {box.name}")
            )
    return problems


def _xywh_hint(boxes: list[Box]) -> str:
    reversed_boxes = sum(_is_reversed(box) for box in boxes)
    if reversed_boxes < max(2, _XYWH_SHARE * len(boxes)):
        return ""
    return (
        f"\n  {reversed_boxes} of {len(boxes)} rows have xmax < xmin or ymax < ymin: they look "
        "like x, y, width, height; add xmin to the third number and ymin to the fourth"
    )


def _check_duplicates(boxes: list[Box]) -> list[tuple[int, str]]:
    first: dict[tuple[object, ...], int] = {}
    problems = []
    for box in boxes:
        line = first.setdefault((box.name, box.label, box.corners), box.line)
        if line != box.line:
            problems.append((box.line, f"expected each object once, got line {line} again"))
    return problems


def _check_images(boxes: list[Box], images: Path, files: set[str]) -> list[tuple[int, str]]:
    """Check that the images are there and the boxes inside of them."""
    spellings = {name.lower(): name for name in files}
    sizes: dict[str, tuple[int, int] | str] = {}
    problems = []
    for box in boxes:
        if box.name not in sizes:
            sizes[box.name] = _image_size(box.name, images, spellings)
        size = sizes[box.name]
        if isinstance(size, str):
            problems.append((box.line, size))
            continue
        height, width = size
        x1, y1, x2, y2 = box.corners
        if min(x1, y1, x2, y2) < 0 or max(x1, x2) > width or max(y1, y2) > height:
            problems.append(
                (
                    box.line,
                    f"expected a box inside {box.name} of width {width} and height {height}, got "
                    f"{_show(box)}",
                )
            )
    return problems


def _image_size(name: str, images: Path, spellings: dict[str, str]) -> tuple[int, int] | str:
    """Give (height, width) of an image, or what is wrong with it."""
    try:
        return read_image_size(images / name)
    except FileNotFoundError:
        other = spellings.get(name.lower())
        hint = f" (there is {other})" if other else ""
        return f"expected an image {name} in images/, got no such file{hint}"
    except (OSError, ValueError) as error:
        return f"expected an image {name} in images/, got: {error}"


def _show(box: Box) -> str:
    numbers = ", ".join(f"{value:g}" for value in box.corners)
    return f"(xmin, ymin, xmax, ymax) = ({numbers})"


def _report(path: Path, problems: list[tuple[int, str]], hint: str) -> str:
    problems = sorted(problems, key=lambda problem: problem[0])
    count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
    shown = f"; the first {_SHOWN}" if len(problems) > _SHOWN else ""
    lines = "".join(f"\n  line {line}: {text}" for line, text in problems[:_SHOWN])
    return f"BananaDataset: expected correct rows, got {count} in {path}{shown}:{lines}{hint}"


SPLITS = ("train", "val")


def read_bananas(root: Path, split: str, classes: Sequence[str]) -> LabelTable:
    """Reads a split; what is wrong becomes findings, as in other layouts.

    Args:
        root: Folder of both splits, or one of them.
        split: ``"train"`` or ``"val"``.
        classes: Names; label i in the file is ``classes[i]``.

    Returns:
        The labels. Images that the file does not name come last, without objects.
    """
    folder = find_split(root, split)
    path, images = folder / "label.csv", folder / "images"
    table = read_csv(path, images, classes=classes)
    unlabelled = sorted(list_images(images) - set(table.images), key=natural_order)
    names = [*table.images, *unlabelled]
    warning = Finding(
        "warning",
        "unlabelled-image",
        f"expected a row for every image, got none for {len(unlabelled)} "
        f"({name_some(unlabelled)}); they count as images without objects",
        file=str(path),
        fix="label them, or remove them",
    )
    return replace(
        table,
        layout="banana layout",
        images=PackedList(names),
        image_ids=np.array(number_images(names), dtype=np.int64),
        sizes=np.pad(table.sizes, ((0, len(unlabelled)), (0, 0)), constant_values=-1),
        starts=np.pad(table.starts, (0, len(unlabelled)), "edge"),
        findings=(*table.findings, *([warning] if unlabelled else [])),
    )


def find_split(root: Path, split: str) -> Path:
    """Finds ``bananas_{split}`` in a folder, in one of its folders, or beside it.

    Raises:
        FileNotFoundError: It is not there, or several are.
    """
    name = f"bananas_{split}"
    if root.is_file():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got the file {root}; unpack it "
            "with cvlib.data.files.download.extract_zip"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got {root}, which does not "
            "exist; cvlib.data.fetch_bananas() downloads the set"
        )
    if (root / name).is_dir():
        return root / name
    if root.resolve().name in {f"bananas_{other}" for other in SPLITS}:
        sibling = root.resolve().parent / name
        if sibling.is_dir():
            return sibling
    inner = [path / name for path in sorted(root.iterdir()) if (path / name).is_dir()]
    if len(inner) == 1:
        return inner[0]
    found = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    detail = f" (and {len(inner)} folders that hold {name}/: pass one)" if inner else ""
    raise FileNotFoundError(
        f"BananaDataset: expected root a folder with {name}/, got {root} with {found}{detail}"
    )


def list_images(images: Path) -> set[str]:
    """Names of the images in a folder.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No image in it.
    """
    if not images.is_dir():
        found = ", ".join(sorted(path.name for path in images.parent.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"BananaDataset: expected a folder images/ in {images.parent}, got {found}"
        )
    files = {path.name for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    if not files:
        raise ValueError(
            f"BananaDataset: expected images ({', '.join(IMAGE_SUFFIXES)}) in {images}, got "
            f"none among {sum(1 for _ in images.iterdir())} files"
        )
    return files


def number_images(names: Sequence[str]) -> list[int]:
    """The numbers in the names where all are different numbers, else 0, 1, and so on."""
    stems = [Path(name).stem for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))
