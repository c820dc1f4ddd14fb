"""CSV tables of boxes: one row per object, columns identified by their names."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from cvlib._files import inside, read_text
from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import describe_folder, list_files, name_some
from cvlib.data.formats.label_files import FindingCollector, find_images_folder, short_repr
from cvlib.data.labels.table import LabelTable, TableBuilder

# Usual names of columns, in lower case without spaces, "_", "-" and ".".
_NAMES = {
    "image": ("image", "img", "picture", "filename", "file", "imgname", "imagename", "imagepath",
              "filepath", "path", "imagefile"),
    "label": ("class", "label", "classname", "labelname", "category", "categoryname", "classid",
              "labelid", "categoryid"),
    "x1": ("xmin", "x1", "left", "bboxxmin", "xtl"),
    "y1": ("ymin", "y1", "top", "bboxymin", "ytl"),
    "x2": ("xmax", "x2", "right", "bboxxmax", "xbr"),
    "y2": ("ymax", "y2", "bottom", "bboxymax", "ybr"),
    "x": ("x", "bboxx", "left", "xmin"),
    "y": ("y", "bboxy", "top", "ymin"),
    "cx": ("cx", "xcenter", "centerx", "xcentre", "centrex"),
    "cy": ("cy", "ycenter", "centery", "ycentre", "centrey"),
    "width": ("w", "bboxwidth", "boxwidth", "bboxw", "width"),
    "height": ("h", "bboxheight", "boxheight", "bboxh", "height"),
    "image_width": ("imagewidth", "imgwidth", "imgw", "width"),
    "image_height": ("imageheight", "imgheight", "imgh", "height"),
}  # fmt: skip
_BOXES = (("x1", "y1", "x2", "y2"), ("x", "y", "width", "height"), ("cx", "cy", "width", "height"))
_SEPARATORS = (",", ";", "\t", "|")
_NUM_LISTED_CLASSES = 20
# More rows than this take longer than a second or two: show a progress bar.
_MANY = 300_000

# Label as written, box and line of a row.
_Row = tuple[str, tuple[float, ...], int]


def read_csv(
    csv_path: str | Path,
    images_folder: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> LabelTable:
    """Read a table with a header and one row per object.

    Columns are identified by usual names (``image``, ``filename``, ``img_name``; ``class``,
    ``label``; ``xmin, ymin, xmax, ymax``, ``x1, y1, x2, y2``, ``x, y, w, h`` or ``cx, cy, w, h``),
    the separator (comma, semicolon, tab, bar) by the header. A row without a label and a box
    means an image without objects.

    Args:
        csv_path: The file.
        images_folder: Folder of the images. Default: the folder near the file that has them.
        classes: Class names in label order. Default: the labels in the file, sorted
            alphabetically; integer labels are sorted and keep their value in ``category_ids``.
        columns: Column names for roles that usual names leave open. Keys: ``image``, ``label``,
            ``x1 y1 x2 y2``, ``x y width height``, ``cx cy width height``, ``image_width``,
            ``image_height``.

    Returns:
        The labels; ``rows`` are line numbers.

    Raises:
        FileNotFoundError: The file does not exist, or no folder near it has the images.
        TypeError: ``classes`` is a string.
        ValueError: The file is not CSV, has no header or has ambiguous columns.

    Note:
        Takes about 6 microseconds per row.
    """
    if classes is not None:
        classes = check_classes("read_csv", classes)
    path = Path(csv_path).expanduser()
    text = read_text(path, "read_csv", "a CSV file")
    separator, header = _read_header(path, text)
    places, ignored = _find_columns(path, header, dict(columns or {}))
    reader = _Reader(path, FindingCollector(path), places, header)
    reader.read(text, separator)
    if ignored:
        reader.findings.info("ignored-columns", f"columns without a role: {', '.join(ignored)}")
    return reader.build(images_folder, classes)


def _read_header(path: Path, text: str) -> tuple[str, list[str]]:
    """Return the separator that yields most known columns, and the names of all columns."""
    # Not splitlines(), which also breaks at characters that do not end a line of CSV.
    lines = io.StringIO(text, newline="")
    line = next((line for line in lines if line.strip(" ,;|\t\r\n")), "")
    if not line:
        raise ValueError(f"read_csv: expected rows in {path}, got an empty file")
    known = {name for names in _NAMES.values() for name in names}
    candidates = []
    for separator in _SEPARATORS:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
        num_known = sum(_normalise(cell) in known for cell in cells)
        candidates.append((num_known, len(cells), separator, cells))
    _, _, separator, header = max(candidates, key=lambda candidate: candidate[:2])
    if any(_parse_number(cell) is not None for cell in header):
        raise ValueError(
            f"read_csv: expected the first line of {path} to name the columns, got numbers in "
            f"{short_repr(line)}; insert a header such as image,label,xmin,ymin,xmax,ymax"
        )
    duplicates = sorted({name for name in header if name and header.count(name) > 1})
    if duplicates:
        raise ValueError(
            f"read_csv: expected unique columns in {path}, got {', '.join(duplicates)} twice"
        )
    return separator, header


def _normalise(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.lower())


def _find_columns(
    path: Path, header: list[str], columns: dict[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Return the column index of each role, and the names of columns without a role."""
    for role, name in columns.items():
        if role not in _NAMES or name not in header:
            kind, known = ("keys", _NAMES) if role not in _NAMES else ("values", header)
            raise ValueError(
                f"read_csv: expected the {kind} of `columns` to be among {', '.join(known)}, got "
                f"{role!r}: {name!r}"
            )
    fitting = {role: _columns_of(role, header, columns) for role in _NAMES}
    boxes = [roles for roles in _BOXES if all(fitting[role] for role in roles)]
    # With a box in other columns, "width" is the width of the image.
    if _BOXES[0] in boxes and not any(_is_unambiguous(name) for name in header):
        boxes = [_BOXES[0]]
    if len(boxes) > 1 and any(set(columns) & set(roles) for roles in boxes):
        boxes = [max(boxes, key=lambda roles: len(set(columns) & set(roles)))]
    missing = [role for role in ("image", "label") if not fitting[role]]
    if missing or not boxes:
        raise ValueError(
            f"read_csv: expected columns for the image, the label and a box (such as image, "
            f"label, xmin, ymin, xmax, ymax) in {path}, got {', '.join(header)}: missing "
            f"{', '.join(missing + ([] if boxes else ['a box']))}; pass columns="
        )
    wanted = ["image", "label", *boxes[0]]
    ambiguous = [role for role in wanted if len(fitting[role]) > 1]
    if ambiguous or len(boxes) > 1:
        roles = list(dict.fromkeys(ambiguous or [role for box in boxes for role in box]))
        names = dict.fromkeys(name for role in roles for name in fitting[role])
        raise ValueError(
            f"read_csv: expected one column for each of {', '.join(roles)} in {path}, got "
            f"{', '.join(names)}; pass columns=, such as "
            f"columns={{{roles[0]!r}: {fitting[roles[0]][0]!r}}}"
        )
    chosen = {role: fitting[role][0] for role in wanted}
    for role in ("image_width", "image_height"):
        free = [name for name in fitting[role] if name not in chosen.values()]
        if len(free) == 1:
            chosen[role] = free[0]
    ignored = [name for name in header if name and name not in chosen.values()]
    return {role: header.index(name) for role, name in chosen.items()}, ignored


def _columns_of(role: str, header: list[str], columns: dict[str, str]) -> list[str]:
    """Return the columns that may have a role, preferring specific names of a side."""
    if role in columns:
        return [columns[role]]
    free = [name for name in header if name not in columns.values()]
    fitting = [name for name in free if _normalise(name) in _NAMES[role]]
    specific = [name for name in fitting if _normalise(name) not in ("width", "height")]
    return specific if specific and role.endswith(("width", "height")) else fitting


def _is_unambiguous(name: str) -> bool:
    """Whether a column can only be the x or the centre of a box with width and height."""
    return _normalise(name) in ("x", "bboxx", *_NAMES["cx"])


@dataclass
class _Reader:
    """Collects the rows of a file."""

    path: Path
    findings: FindingCollector
    places: dict[str, int]
    header: list[str]
    rows: dict[str, list[_Row]] = field(default_factory=dict)  # by image
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fitting = (roles for roles in _BOXES if all(role in self.places for role in roles))
        self._box_roles = next(fitting)

    def read(self, text: str, separator: str) -> None:
        """Read all lines after the header."""
        count = text.count("\n")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = tqdm(self._lines(rows), "read_csv", count, disable=None if count > _MANY else True)
        for line, cells in lines:
            if len(cells) == len(self.header):
                self._read_row(line, cells)
            else:
                self.findings.error(
                    "bad-row",
                    f"line {line}",
                    f"expected {len(self.header)} fields, got {len(cells)}",
                )
        if not self.rows and not self.findings.findings():
            raise ValueError(f"read_csv: expected rows in {self.path}, got the header alone")

    def _lines(self, rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
        is_header = True
        try:
            for cells in rows:
                # The first test is enough for most rows.
                if cells and (cells[0].strip() or any(cell.strip() for cell in cells)):
                    if not is_header:
                        yield rows.line_num, cells  # type: ignore[attr-defined]
                    is_header = False
        except csv.Error as error:
            raise ValueError(
                f"read_csv: expected a CSV file, got {self.path}, which cannot be parsed: "
                f"{error} in line {rows.line_num}"  # type: ignore[attr-defined]
            ) from error

    def _read_row(self, line: int, cells: list[str]) -> None:
        image, label = cells[self.places["image"]].strip(), cells[self.places["label"]].strip()
        texts = [cells[self.places[role]] for role in self._box_roles]
        if not image:
            self._reject(line, "expected the path of an image, got an empty field")
            return
        rows = self.rows.get(image)
        if rows is None:
            rows = self.rows[image] = []
            self._read_size(image, cells)
        if not label and not any(text.strip() for text in texts):
            return
        numbers = [_parse_number(text) for text in texts]
        if None in numbers:
            index = numbers.index(None)
            column = self.header[self.places[self._box_roles[index]]]
            self._reject(
                line, f"expected {column} to be a number, got {short_repr(texts[index].strip())}"
            )
        elif not label:
            self._reject(line, "expected a label, got an empty field")
        else:
            rows.append((label, _to_corners(self._box_roles, numbers), line))  # type: ignore[arg-type]

    def _reject(self, line: int, message: str) -> None:
        self.findings.error("bad-row", f"line {line}", message, "correct or remove the row")

    def _read_size(self, image: str, cells: list[str]) -> None:
        if not {"image_width", "image_height"} <= self.places.keys():
            return
        height, width = (
            _parse_number(cells[self.places[role]]) for role in ("image_height", "image_width")
        )
        if height and width and height > 0 and width > 0 and math.isfinite(height * width):
            self.sizes[image] = round(height), round(width)

    def build(self, images_folder: str | Path | None, classes: Sequence[str] | None) -> LabelTable:
        """Return all rows as a table."""
        folder = find_images_folder("read_csv", self.path, images_folder, iter(self.rows))
        names, label_of, ids = self._number_classes(classes)
        builder = TableBuilder("CSV", folder, names, "line", ids)
        for path, rows in self._rows_by_path(folder).items():
            builder.add_image(path, size=self.sizes.get(path), label_file=self.path)
            for label, box, line in rows:
                if label in label_of:
                    builder.add_object(box, label_of[label], line)
                else:
                    self.findings.error(
                        "unknown-class",
                        f"line {line}",
                        "expected a label among "
                        f"{', '.join(names[:_NUM_LISTED_CLASSES])}, got {short_repr(label)}",
                        "correct it, or pass classes= with its name",
                        str(folder / path),
                    )
        builder.findings = self.findings.findings()
        return builder.build()

    def _rows_by_path(self, folder: Path) -> dict[str, list[_Row]]:
        """Return the rows of each image by its normalised path: ``./a.png`` is ``a.png``."""
        by_path: dict[str, list[_Row]] = {}
        for image, rows in self.rows.items():
            try:
                path = inside(folder, image).relative_to(folder).as_posix()
            except ValueError as error:
                self.findings.error("bad-path", f"line {rows[0][2]}" if rows else "", str(error))
                continue
            by_path.setdefault(path, []).extend(rows)
            if image in self.sizes:
                self.sizes[path] = self.sizes[image]
        return by_path

    def _number_classes(
        self, classes: Sequence[str] | None
    ) -> tuple[list[str], dict[str, int], list[int] | None]:
        """Return the class names, the class index of each label as written, and category ids."""
        labels = {label for rows in self.rows.values() for label, _, _ in rows}
        if all(re.fullmatch(r"[+-]?[0-9]{1,9}", label, re.ASCII) for label in labels):
            values = {label: int(label) for label in labels}
            if classes is not None:
                valid = {k: v for k, v in values.items() if 0 <= v < len(classes)}
                return list(classes), valid, None
            ids = sorted(set(values.values()))
            self.findings.info(
                "numbered-classes",
                f"classes without names: {', '.join(map(str, ids[:_NUM_LISTED_CLASSES]))}",
                "pass classes= with a name for every label, counted from 0",
            )
            return [str(k) for k in ids], {k: ids.index(v) for k, v in values.items()}, ids
        names = sorted(labels) if classes is None else list(classes)
        if classes is None:
            self.findings.info(
                "classes-from-labels",
                "classes in alphabetical order of the labels: "
                f"{', '.join(names[:_NUM_LISTED_CLASSES])}",
                "pass classes= so that other files of the dataset number them alike",
            )
        return names, {name: number for number, name in enumerate(names)}, None


def _to_corners(roles: tuple[str, ...], numbers: list[float]) -> tuple[float, float, float, float]:
    a, b, c, d = numbers
    if roles[0] == "x1":
        return a, b, c, d
    if roles[0] == "cx":
        a, b = a - c / 2, b - d / 2
    return a, b, a + c, b + d


def _parse_number(text: str) -> float | None:
    """Parse a number, or return None; rejects "1_000", which Python accepts."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def read_csv_split(
    path: Path, split: str | None, *, classes: Sequence[str] | None = None
) -> LabelTable:
    """Read a split of a folder with CSV files, by default the first."""
    files = _find_csv_files(path)
    if not files and not path.is_file():
        raise FileNotFoundError(f"read_csv: expected CSV files, got {describe_folder(path)}")
    return read_csv(files[split] if split else next(iter(files.values()), path), classes=classes)


def list_csv_splits(path: Path) -> list[str]:
    """List the splits by the names of their files."""
    return list(_find_csv_files(path))


def recognise_csv(path: Path) -> str | None:
    """Return the names of the CSV files at a path, or None."""
    return name_some(file.name for file in _find_csv_files(path).values()) or None


def _find_csv_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path} if path.suffix == ".csv" else {}
    if not path.is_dir():
        return {}
    names = list_files(path, lambda name: name.endswith(".csv"))
    return {Path(name).stem: path / name for name in names}
