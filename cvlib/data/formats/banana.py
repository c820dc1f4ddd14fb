"""Banana layout of *Dive into Deep Learning*: ``bananas_{split}/label.csv`` next to ``images/``."""

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

SPLITS = ("train", "val")
_COLUMNS = ("img_name", "label", "xmin", "ymin", "xmax", "ymax")
_SIDES = _COLUMNS[2:]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NUM_LISTED_PROBLEMS = 20
# Minimum share of inverted boxes before the format itself is questioned.
_XYWH_SHARE = 0.1


@dataclass(frozen=True)
class Box:
    """One row of ``label.csv``.

    Attributes:
        line: Line number in the file, from 1.
        name: Path of the image relative to ``images/``.
        label: Class index.
        corners: (x1, y1, x2, y2) in pixels.
    """

    line: int
    name: str
    label: int
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Problem:
    line: int
    message: str


def recognise_bananas(path: Path) -> str | None:
    """Return the label files at a path, or None."""
    return name_some(f"bananas_{split}/label.csv" for split in list_banana_splits(path)) or None


def list_banana_splits(path: Path) -> list[str]:
    """List the splits in a folder, or those next to one of them."""
    roots = [path, path.parent] if path.name.startswith("bananas_") else [path]
    return [
        split
        for split in SPLITS
        for root in roots
        if (root / f"bananas_{split}" / "label.csv").is_file()
    ]


def read_bananas(
    root: Path, split: str | None, *, classes: Sequence[str] | None = None
) -> LabelTable:
    """Read a split, turning invalid rows into findings.

    Args:
        root: Folder of both splits, or of one of them.
        split: ``"train"`` or ``"val"``. Default: ``"train"``.
        classes: Class names; label i in the file is ``classes[i]``. Default: ``("banana",)``.

    Returns:
        The labels; images without a row come last, without objects.
    """
    folder = find_split(root, split or "train")
    path, images = folder / "label.csv", folder / "images"
    table = read_csv(path, images, classes=classes or ("banana",))
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
    """Find ``bananas_{split}`` in a folder, in one of its subfolders, or next to it.

    Raises:
        FileNotFoundError: There is no such folder, or several.
    """
    name = f"bananas_{split}"
    expected = f"BananaDataset: expected `root` to be a folder with {name}/"
    if root.is_file():
        raise FileNotFoundError(
            f"{expected}, got the file {root}; unpack it with cvlib.data.files.download.extract_zip"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"{expected}, got {root}, which does not exist; cvlib.data.fetch_bananas() downloads "
            "the dataset"
        )
    if (root / name).is_dir():
        return root / name
    if root.resolve().name in {f"bananas_{other}" for other in SPLITS}:
        sibling = root.resolve().parent / name
        if sibling.is_dir():
            return sibling
    nested = [path / name for path in sorted(root.iterdir()) if (path / name).is_dir()]
    if len(nested) == 1:
        return nested[0]
    detail = f" (and {len(nested)} folders that hold {name}/: pass one)" if nested else ""
    raise FileNotFoundError(f"{expected}, got {root} with {_name_entries(root)}{detail}")


def list_images(images: Path) -> set[str]:
    """Return the names of the images in a folder.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It has no images.
    """
    if not images.is_dir():
        raise FileNotFoundError(
            f"BananaDataset: expected a folder images/ in {images.parent}, got "
            f"{_name_entries(images.parent)}"
        )
    names = {path.name for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    if not names:
        raise ValueError(
            f"BananaDataset: expected images ({', '.join(IMAGE_SUFFIXES)}) in {images}, got "
            f"none among {sum(1 for _ in images.iterdir())} files"
        )
    return names


def _name_entries(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"


def number_images(names: Sequence[str]) -> list[int]:
    """Return the numbers in the file names if they are unique, otherwise 0, 1, ..."""
    stems = [Path(name).stem for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))


def read_labels(
    path: Path, images: Path, names: set[str], num_classes: int
) -> dict[str, list[Box]]:
    """Read ``label.csv``, rejecting it if any row is invalid.

    Args:
        path: The file.
        images: Folder of the images.
        names: File names of the images in it.
        num_classes: Number of classes; labels are below it.

    Returns:
        The boxes of each image that has any, in the order of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Columns are missing, or rows are invalid; the message lists the first 20.
    """
    problems: list[_Problem] = []
    boxes: list[Box] = []
    for line, row in _read_rows(path):
        _parse_row(line, row, num_classes, boxes, problems)
    _check_unit(path, boxes)
    problems += _find_inverted(boxes) + _find_duplicates(boxes)
    problems += _find_outside(boxes, images, names)
    if problems:
        raise _invalid_rows(path, problems, _xywh_hint(boxes))
    by_image: dict[str, list[Box]] = {}
    for box in boxes:
        by_image.setdefault(box.name, []).append(box)
    return by_image


def _invalid_rows(path: Path, problems: list[_Problem], hint: str = "") -> ValueError:
    problems = sorted(problems, key=lambda problem: problem.line)
    count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
    cut = f"; the first {_NUM_LISTED_PROBLEMS}" if len(problems) > _NUM_LISTED_PROBLEMS else ""
    lines = "".join(
        f"\n  line {problem.line}: {problem.message}" for problem in problems[:_NUM_LISTED_PROBLEMS]
    )
    return ValueError(
        f"BananaDataset: expected valid rows, got {count} in {path}{cut}:{lines}{hint}"
    )


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the line number and the stripped fields of each row."""
    if not path.is_file():
        raise FileNotFoundError(
            f"BananaDataset: expected {path.name} in {path.parent}, got only "
            f"{_name_entries(path.parent)}"
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"BananaDataset: expected a CSV file in UTF-8, got {path}, which cannot be parsed: "
            f"{error}; save it again as CSV UTF-8"
        ) from error
    table = [(line, row) for line, row in table if any(row)]
    if not table:
        raise ValueError(f"BananaDataset: expected rows in {path}, got an empty file")
    (_, header), rows = table[0], table[1:]
    _check_header(path, header)
    if not rows:
        raise ValueError(f"BananaDataset: expected rows in {path}, got the header alone")
    wrong = [
        _Problem(line, f"expected {len(header)} fields, got {len(row)}")
        for line, row in rows
        if len(row) != len(header)
    ]
    if wrong:
        raise _invalid_rows(path, wrong)
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows]


def _check_header(path: Path, header: list[str]) -> None:
    duplicates = sorted({column for column in header if header.count(column) > 1})
    if duplicates:
        raise ValueError(
            f"BananaDataset: expected unique columns in {path}, got {', '.join(duplicates)} twice"
        )
    missing = [column for column in _COLUMNS if column not in header]
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


def _parse_row(
    line: int, row: dict[str, str], num_classes: int, boxes: list[Box], problems: list[_Problem]
) -> None:
    """Append a row to the boxes, or all its problems to the problems."""
    messages: list[str] = []
    label = _parse_label(row["label"], num_classes, messages)
    x1, y1, x2, y2 = (_parse_side(column, row[column], messages) for column in _SIDES)
    _check_name(row["img_name"], messages)
    if messages:
        problems += [_Problem(line, message) for message in messages]
    else:
        name = posixpath.normpath(row["img_name"])
        boxes.append(Box(line, name, label, (x1, y1, x2, y2)))


def _parse_label(text: str, num_classes: int, messages: list[str]) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        messages.append(f"expected label to be an integer, got {text!r}")
        return 0
    label = int(text)
    if not 0 <= label < num_classes:
        classes = f"{num_classes} classes" if num_classes > 1 else "1 class"
        messages.append(
            f"expected label from 0 to {num_classes - 1} ({classes}), got {label}; pass "
            "classes=... with a name for every label, counted from 0"
        )
    return label


def _parse_side(column: str, text: str, messages: list[str]) -> float:
    is_number = _NUMBER.fullmatch(text) is not None
    if is_number and math.isfinite(number := float(text)):
        return number
    if is_number or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        messages.append(f"expected {column} to be a finite number, got {text}")
    else:
        messages.append(f"expected {column} to be a number, got {text!r}")
    return 0.0


def _check_name(name: str, messages: list[str]) -> None:
    folders = name.replace("\\", "/").split("/")
    if not name:
        messages.append("expected img_name to be the name of an image, got an empty field")
    elif name.startswith(("/", "\\")) or PureWindowsPath(name).drive or ".." in folders:
        messages.append(f"expected img_name to be a path inside images/, got {name!r}")


def _check_unit(path: Path, boxes: list[Box]) -> None:
    if boxes and all(0 <= value <= 1 for box in boxes for value in box.corners):
        raise ValueError(
            f"BananaDataset: expected corners in pixels in {path}, got values from 0 to 1 in all "
            f"{len(boxes)} rows: they look normalised; multiply xmin and xmax by the width of the "
            "image, ymin and ymax by its height"
        )


def _find_inverted(boxes: list[Box]) -> list[_Problem]:
    problems = []
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        if _is_inverted(box):
            requirement = "xmin < xmax and ymin < ymax"
        elif x1 == x2 or y1 == y2:
            requirement = "a box with an area"
        else:
            continue
        problems.append(
            _Problem(box.line, f"expected {requirement}, got {_describe(box)} in {box.name}")
        )
    return problems


def _is_inverted(box: Box) -> bool:
    x1, y1, x2, y2 = box.corners
    return x2 < x1 or y2 < y1


def _describe(box: Box) -> str:
    numbers = ", ".join(f"{value:g}" for value in box.corners)
    return f"(xmin, ymin, xmax, ymax) = ({numbers})"


def _xywh_hint(boxes: list[Box]) -> str:
    num_inverted = sum(map(_is_inverted, boxes))
    if num_inverted < max(2, _XYWH_SHARE * len(boxes)):
        return ""
    return (
        f"\n  {num_inverted} of {len(boxes)} rows have xmax < xmin or ymax < ymin: they look "
        "like x, y, width, height; add xmin to the third number and ymin to the fourth"
    )


def _find_duplicates(boxes: list[Box]) -> list[_Problem]:
    first: dict[tuple[object, ...], int] = {}
    problems = []
    for box in boxes:
        line = first.setdefault((box.name, box.label, box.corners), box.line)
        if line != box.line:
            problems.append(_Problem(box.line, f"expected each object once, got line {line} again"))
    return problems


def _find_outside(boxes: list[Box], images: Path, names: set[str]) -> list[_Problem]:
    """Find boxes that extend beyond their image, or whose image cannot be read."""
    spellings = {name.lower(): name for name in names}
    sizes: dict[str, tuple[int, int] | str] = {}
    problems = []
    for box in boxes:
        if box.name not in sizes:
            sizes[box.name] = _image_size(box.name, images, spellings)
        size = sizes[box.name]
        if isinstance(size, str):
            problems.append(_Problem(box.line, size))
            continue
        height, width = size
        x1, y1, x2, y2 = box.corners
        if min(x1, y1, x2, y2) < 0 or max(x1, x2) > width or max(y1, y2) > height:
            message = (
                f"expected a box inside {box.name} of width {width} and height {height}, got "
                f"{_describe(box)}"
            )
            problems.append(_Problem(box.line, message))
    return problems


def _image_size(name: str, images: Path, spellings: dict[str, str]) -> tuple[int, int] | str:
    """Return (height, width) of an image, or the message of its problem."""
    try:
        return read_image_size(images / name)
    except FileNotFoundError:
        other = spellings.get(name.lower())
        hint = f" (there is {other})" if other else ""
        return f"expected an image {name} in images/, got no such file{hint}"
    except (OSError, ValueError) as error:
        return f"expected an image {name} in images/, got: {error}"
