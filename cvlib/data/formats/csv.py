"""Tables of boxes as CSV: one row for each object, columns found by their names."""

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
from cvlib.data.formats.label_files import Notes, find_images_folder, show
from cvlib.data.labels.table import LabelTable, TableBuilder

# Usual names of columns, in lower case without spaces, "_", "-" and ".".
_NAMES = {
    "image": ("image", "img", "filename", "file", "imgname", "imagename", "imagepath", "filepath",
                "path", "image", "imagefile"),
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
_LONG = 300_000


def read_csv(
    csv_path: str | Path,
    images_folder: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> LabelTable:
    """Reads a table with a header and one row for each object.

    The columns are found by usual names (``image``, ``filename``, ``img_name``; ``class``,
    ``label``; ``xmin, ymin, xmax, ymax``, ``x1, y1, x2, y2``, ``x, y, w, h`` or ``cx, cy, w, h``),
    the separator (comma, semicolon, tab, bar) by the header. A row without a label and a box says
    that its image has no objects.

    Args:
        csv_path: Of the file.
        images_folder: Folder of the images; by default looked for beside the file.
        classes: Names. By default the labels' own, in alphabetical order; whole numbers are put in
            order and keep their value in ``category_ids``.
        columns: Which column is what, for those that the names leave open: keys ``image``,
            ``label``, ``x1 y1 x2 y2``, ``x y width height``, ``cx cy width height``,
            ``image_width``, ``image_height``.

    Returns:
        The labels; ``rows`` are lines of the file.

    Raises:
        FileNotFoundError: There is no such file, or no folder with the images beside it.
        TypeError: ``classes`` is a string.
        ValueError: Not CSV, without a header, or with columns that might mean two things.

    Note:
        About 6 microseconds for each row.
    """
    if classes is not None:
        classes = check_classes("read_csv", classes)
    path = Path(csv_path).expanduser()
    text = read_text(path, "read_csv", "a CSV file")
    separator, header = _read_header(path, text)
    places, ignored = _find_columns(path, header, dict(columns or {}))
    reader = _Reader(path, Notes(path), places, header)
    reader.read(text, separator)
    if ignored:
        reader.notes.info("ignored-columns", f"columns without a meaning: {', '.join(ignored)}")
    return reader.table(images_folder, classes)


def _read_header(path: Path, text: str) -> tuple[str, list[str]]:
    """The separator that gives most of the known columns, and the names of all."""
    # Not splitlines(), which breaks lines at characters that CSV does not.
    lines = io.StringIO(text, newline="")
    line = next((line for line in lines if line.strip(" ,;|\t\r\n")), "")
    if not line:
        raise ValueError(f"read_csv: expected rows in {path}, got an empty file")
    known = {name for names in _NAMES.values() for name in names}
    tries = []
    for separator in _SEPARATORS:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
        tries.append((sum(_plain(cell) in known for cell in cells), separator, cells))
    _, separator, header = max(tries, key=lambda one: (one[0], len(one[2])))
    if any(_number(cell) is not None for cell in header):
        raise ValueError(
            f"read_csv: expected the first line of {path} to name the columns, got numbers in "
            f"{show(line)}; write one such as image,label,xmin,ymin,xmax,ymax"
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(
            f"read_csv: expected each column of {path} once, got {', '.join(twice)} twice"
        )
    return separator, header


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.lower())


def _find_columns(
    path: Path, header: list[str], given: dict[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Gives the place of each role's column, and the names of columns that have none."""
    for role, name in given.items():
        if role not in _NAMES or name not in header:
            known = ", ".join(_NAMES if role not in _NAMES else header)
            raise ValueError(
                f"read_csv: expected columns= to map one of {known}, got {role!r}: {name!r}"
            )
    found = {role: _columns_of(role, header, given) for role in _NAMES}
    layouts = [roles for roles in _BOXES if all(found[role] for role in roles)]
    # A column "width" is that of the image where other columns give the whole box.
    if _BOXES[0] in layouts and not {"x", "cx"} & {_role_of_own(n) for n in header}:
        layouts = [_BOXES[0]]
    if len(layouts) > 1 and any(set(given) & set(roles) for roles in layouts):
        layouts = [max(layouts, key=lambda roles: len(set(given) & set(roles)))]
    wanted = ["image", "label", *(layouts[0] if layouts else ())]
    missing = [role for role in ("image", "label") if not found[role]]
    if missing or not layouts:
        raise ValueError(
            f"read_csv: expected columns for the image, the label and a box (such as image, "
            f"label, xmin, ymin, xmax, ymax) in {path}, got {', '.join(header)}: missing "
            f"{', '.join(missing + ([] if layouts else ['a box']))}; pass columns="
        )
    unclear = [role for role in wanted if len(found[role]) > 1]
    if unclear or len(layouts) > 1:
        roles = unclear or [role for layout in layouts for role in layout]
        names = dict.fromkeys(name for role in roles for name in found[role])
        raise ValueError(
            f"read_csv: expected one column for each of {', '.join(dict.fromkeys(roles))} in "
            f"{path}, got {', '.join(names)}; pass columns=, such as "
            f"columns={{{roles[0]!r}: {found[roles[0]][0]!r}}}"
        )
    chosen = {role: found[role][0] for role in wanted}
    for role in ("image_width", "image_height"):
        free = [name for name in found[role] if name not in chosen.values()]
        if len(free) == 1:
            chosen[role] = free[0]
    ignored = [name for name in header if name and name not in chosen.values()]
    return {role: header.index(name) for role, name in chosen.items()}, ignored


def _columns_of(role: str, header: list[str], given: dict[str, str]) -> list[str]:
    """The columns that may have a role; of several names for a side the most telling wins."""
    if role in given:
        return [given[role]]
    free = [name for name in header if name not in given.values()]
    fitting = [name for name in free if _plain(name) in _NAMES[role]]
    own = [name for name in fitting if _plain(name) not in ("width", "height")]
    return own if own and role.endswith(("width", "height")) else fitting


def _role_of_own(name: str) -> str:
    """``"x"`` or ``"cx"`` where a column can mean nothing else."""
    plain = _plain(name)
    return "cx" if plain in _NAMES["cx"] else "x" if plain in ("x", "bboxx") else ""


@dataclass
class _Reader:
    """Collects the rows of a file."""

    path: Path
    notes: Notes
    places: dict[str, int]
    header: list[str]
    # Of each image its rows: label, box, line.
    images: dict[str, list[tuple[str, tuple[float, ...], int]]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fitting = (roles for roles in _BOXES if all(role in self.places for role in roles))
        self._box_roles = next(fitting)

    def read(self, text: str, separator: str) -> None:
        """Reads all lines behind the header."""
        count = text.count("\n")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = tqdm(self._lines(rows), "read_csv", count, disable=None if count > _LONG else True)
        for line, cells in lines:
            if len(cells) == len(self.header):
                self._read_row(line, cells)
            else:
                self.notes.error(
                    "bad-row",
                    f"line {line}",
                    f"expected {len(self.header)} fields, got {len(cells)}",
                )
        if not self.images and not self.notes.findings():
            raise ValueError(f"read_csv: expected rows in {self.path}, got the header alone")

    def _lines(self, rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
        is_header = True
        try:
            for cells in rows:
                # The first cell of most rows has something in it.
                if cells and (cells[0].strip() or any(cell.strip() for cell in cells)):
                    if not is_header:
                        yield rows.line_num, cells  # type: ignore[attr-defined]
                    is_header = False
        except csv.Error as error:
            raise ValueError(
                f"read_csv: expected a CSV file, got {self.path}, which cannot be read as one: "
                f"{error} in line {rows.line_num}"  # type: ignore[attr-defined]
            ) from error

    def _read_row(self, line: int, cells: list[str]) -> None:
        name, label = cells[self.places["image"]].strip(), cells[self.places["label"]].strip()
        texts = [cells[self.places[role]] for role in self._box_roles]
        if not name:
            self._refuse(line, "expected the path of an image, got an empty field")
            return
        things = self.images.get(name)
        if things is None:
            things = self.images[name] = []
            self._read_size(name, cells)
        if not label and not any(text.strip() for text in texts):
            return
        numbers = [_number(text) for text in texts]
        if None in numbers:
            place = numbers.index(None)
            name = self.header[self.places[self._box_roles[place]]]
            self._refuse(line, f"expected {name} a number, got {show(texts[place].strip())}")
        elif not label:
            self._refuse(line, "expected a label, got an empty field")
        else:
            things.append((label, _corners(self._box_roles, numbers), line))  # type: ignore[arg-type]

    def _refuse(self, line: int, message: str) -> None:
        self.notes.error("bad-row", f"line {line}", message, "correct or remove the row")

    def _read_size(self, name: str, cells: list[str]) -> None:
        if not {"image_width", "image_height"} <= self.places.keys():
            return
        height, width = (_number(cells[self.places[f"image_{s}"]]) for s in ("height", "width"))
        if height and width and height > 0 and width > 0 and math.isfinite(height * width):
            self.sizes[name] = round(height), round(width)

    def table(self, images_folder: str | Path | None, classes: Sequence[str] | None) -> LabelTable:
        """All of it as arrays."""
        folder = find_images_folder("read_csv", self.path, images_folder, iter(self.images))
        names, label_of, ids = self._classes(classes)
        builder = TableBuilder("CSV", folder, names, "line", ids)
        for path, things in self._paths(folder).items():
            builder.add_image(path, size=self.sizes.get(path), label_file=self.path)
            for label, box, line in things:
                if label in label_of:
                    builder.add_object(box, label_of[label], line)
                else:
                    self.notes.error(
                        "unknown-class",
                        f"line {line}",
                        f"expected a label among {', '.join(names[:20])}, got {show(label)}",
                        "correct it, or pass classes= with its name",
                        str(folder / path),
                    )
        builder.findings = self.notes.findings()
        return builder.build()

    def _paths(self, folder: Path) -> dict[str, list[tuple[str, tuple[float, ...], int]]]:
        """The rows of each image by its path; ``a.png`` and ``./a.png`` are one."""
        paths: dict[str, list[tuple[str, tuple[float, ...], int]]] = {}
        for name, things in self.images.items():
            try:
                path = inside(folder, name).relative_to(folder).as_posix()
            except ValueError as error:
                lines = f"line {things[0][2]}" if things else ""
                self.notes.error("bad-path", lines, str(error))
                continue
            paths.setdefault(path, []).extend(things)
            if name in self.sizes:
                self.sizes[path] = self.sizes[name]
        return paths

    def _classes(
        self, given: Sequence[str] | None
    ) -> tuple[list[str], dict[str, int], list[int] | None]:
        """Names, the number of each label as it is written, and the files' own numbers."""
        labels = {label for things in self.images.values() for label, _, _ in things}
        if all(re.fullmatch(r"[+-]?[0-9]{1,9}", label, re.ASCII) for label in labels):
            values = {label: int(label) for label in labels}
            if given is not None:
                fitting = {k: v for k, v in values.items() if 0 <= v < len(given)}
                return list(given), fitting, None
            ids = sorted(set(values.values()))
            self.notes.info(
                "numbered-classes",
                f"classes without names: {', '.join(map(str, ids[:20]))}",
                "pass classes= with a name for every label, counted from 0",
            )
            return [str(k) for k in ids], {k: ids.index(v) for k, v in values.items()}, ids
        names = sorted(labels) if given is None else list(given)
        if given is None:
            self.notes.info(
                "classes-from-labels",
                f"classes in alphabetical order of the labels: {', '.join(names[:20])}",
                "pass classes= so that other files of the set count them alike",
            )
        return names, {name: number for number, name in enumerate(names)}, None


def _corners(roles: tuple[str, ...], numbers: list[float]) -> tuple[float, float, float, float]:
    a, b, c, d = numbers
    if roles[0] == "x1":
        return a, b, c, d
    if roles[0] == "cx":
        a, b = a - c / 2, b - d / 2
    return a, b, a + c, b + d


def _number(text: str) -> float | None:
    """A number as people write it; Python would take "1_000", too."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
