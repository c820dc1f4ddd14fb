"""YOLO folders: a text file of boxes or polygons for each image, in fractions of its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from cvlib._files import read_text
from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import (
    has_file,
    is_image,
    list_files,
    name_some,
    shown,
    walk_files,
)
from cvlib.data.files.images import read_image_size
from cvlib.data.formats.label_files import Notes
from cvlib.data.formats.yolo_config import (
    YoloConfig,
    find_config,
    labels_folder,
    read_config,
    resolve_inside,
)
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable, TableBuilder

# Files round their fractions: a thousandth beyond the border is no mistake.
_SLACK = 1e-3
# From here on a number is no fraction that somebody drew over the border.
_PIXELS = 2.0
_SCALE = "divide x by the width of the image and y by its height"
# Beyond it a number is damage.
_MOST_CLASSES = 1e9


@dataclass
class _Line:
    number: int
    label: int
    values: list[float]


@dataclass
class _Labels:
    """What the label files of one split say, before sizes are known."""

    files: dict[Path, Path]  # of each image
    lines: dict[Path, list[_Line]] = field(default_factory=dict)
    missing: list[Path] = field(default_factory=list)
    in_pixels: int = 0
    total: int = 0


def read_yolo(
    path: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
) -> LabelTable:
    """Reads a data set in the layout of YOLO.

    Each line of a label file is ``class cx cy width height`` or ``class x1 y1 x2 y2 x3 y3 ...``, in
    fractions of the image as it is shown (turned as EXIF says). The label file of
    ``images/a/1.jpg`` is ``labels/a/1.txt``; without a folder ``images`` it lies beside the
    image. An image without one has no objects.

    Args:
        path: ``data.yaml``, or a folder with it, or with ``images`` and ``labels``.
        split: ``"train"``, ``"val"`` or ``"test"``; ``None`` where there is one only.
        classes: Names; by default those of ``data.yaml``, or of ``classes.txt``.
        root: Folder that no path may leave; by default the one of ``data.yaml``.

    Returns:
        The labels, with a finding for everything in the files that is not as expected. Where some
        objects have a polygon and others a box alone, all are read as boxes, and that is told.

    Raises:
        FileNotFoundError: A folder or a list is missing.
        ValueError: ``data.yaml`` is damaged, contradicts itself or names paths that leave the
            folder; the split must be named; there are no images, label files or class names.

    Note:
        Every label file and the header of every image is read.

    References:
        https://docs.ultralytics.com/datasets/detect
    """
    path = Path(path).expanduser()
    config = read_config(path, None if root is None else Path(root).expanduser())
    names = config.names if classes is None else check_classes("read_yolo", classes)
    if names is None:
        raise ValueError(
            f"read_yolo: expected class names in data.yaml or classes.txt in {shown(path)}, got "
            "none; pass classes=..."
        )
    findings = list(config.findings)
    names = check_classes("read_yolo", names)
    images = [
        image
        for place in _places(config, split, path)
        for image in _list_images(place, config.root, findings)
    ]
    images = list(dict.fromkeys(images))
    if not images:
        raise ValueError(f"read_yolo: expected images in {shown(path)}, got none")
    labels = _read_labels(config.root, images, findings)
    builder = TableBuilder("YOLO", config.root, names, row_word="line", findings=findings)
    _fill(builder, images, labels)
    return builder.build()


def find_yolo(path: Path) -> str | None:
    """What was found of a YOLO set at a path, in words."""
    try:
        file = find_config(path)
    except ValueError:
        return "several .yaml files"
    if file is not None:
        return file.name
    try:
        config = read_config(path)
    except (OSError, ValueError):
        return None
    return "images and labels" if _has_text(config) else None


def _has_text(config: YoloConfig) -> bool:
    folders = [labels_folder(place) for places in config.splits.values() for place in places]
    return any(has_file(folder, _is_text) for folder in folders)


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def list_yolo_splits(path: Path) -> list[str]:
    """Names of the splits."""
    return [split for split in read_config(path).splits if split]


def _places(config: YoloConfig, split: str | None, path: Path) -> list[Path]:
    known = list(config.splits)
    if split is None and len(known) == 1:
        return config.splits[known[0]]
    if split not in config.splits or not split:
        raise ValueError(
            f"read_yolo: expected split one of {', '.join(known) or 'none'} in {shown(path)}, got "
            f"{split!r}"
        )
    return config.splits[split]


def _list_images(place: Path, root: Path, findings: list[Finding]) -> list[Path]:
    """Of a folder, or of a list of paths."""
    if place.is_dir():
        names, loops = walk_files(place, is_image)
        findings.extend(
            Finding("warning", "link-loop", "a link to a folder above", file=shown(place / link))
            for link in loops
        )
        return [place / name for name in names]
    found = []
    text = read_text(place, "read_yolo", "a list of images")
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        source = f"{shown(place)}, line {number}"
        beside = resolve_inside(root, place.parent, name, source)
        found.append(beside if beside.exists() else resolve_inside(root, root, name, source))
    return found


def _read_labels(root: Path, images: list[Path], findings: list[Finding]) -> _Labels:
    """All label files of the images; files of labels without an image are told."""
    files = {image: _label_file(root, image) for image in images}
    if not any(file.is_file() for file in files.values()):
        beside = {image: image.with_suffix(".txt") for image in images}
        if not any(file.is_file() for file in beside.values()):
            first = files[images[0]]
            raise ValueError(
                f"read_yolo: expected label files such as {shown(first)}, got none for all of "
                f"{len(images)} images; an image without objects needs none, but all of them?"
            )
        files = beside
    labels = _Labels(files)
    folder = next(iter(files.values())).parent
    notes = Notes(folder)
    for image, file in tqdm(files.items(), "reading labels", disable=None, leave=False, delay=1):
        if not file.is_file():
            labels.missing.append(image)
        elif (lines := _read_file(file, labels, notes)) is not None:
            labels.lines[image] = lines
    _tell_pixels(labels, folder, findings)
    findings += notes.findings()
    _tell_missing(labels, findings)
    _tell_orphans(set(files.values()), findings)
    _tell_shared(files, findings)
    return labels


def _label_file(root: Path, image: Path) -> Path:
    return root / labels_folder(image.relative_to(root)).with_suffix(".txt")


def _read_file(file: Path, labels: _Labels, notes: Notes) -> list[_Line] | None:
    """The right lines of a file, or None where it cannot be read: it is not the same as empty."""
    try:
        text = read_text(file, "read_yolo", "a file of labels")
    except (OSError, ValueError) as error:
        notes.error("unreadable-labels", "", str(error), "restore the file", file=shown(file))
        return None
    lines = []
    for number, row in enumerate(text.splitlines(), 1):
        fields = row.split()
        if not fields:
            continue
        labels.total += 1
        try:
            lines.append(_parse(number, fields, labels))
        except _FractionError as error:
            labels.in_pixels += error.largest >= _PIXELS
            message = f"expected fractions of the image from 0 to 1, got {row.strip()[:80]}"
            notes.error("not-normalised", f"line {number}", message, _SCALE, file=shown(file))
        except ValueError as error:
            fix = "label the object again, or remove it"
            notes.error("bad-object", f"line {number}", str(error), fix, file=shown(file))
    return lines


class _FractionError(ValueError):
    """Numbers that are no fractions."""

    def __init__(self, largest: float) -> None:
        self.largest = largest
        super().__init__()


def _parse(number: int, fields: list[str], labels: _Labels) -> _Line:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        hint = " (a sixth is the confidence of a prediction)" if len(fields) == 6 else ""
        raise ValueError(
            "expected class, cx, cy, width, height, or class and three or more points, got "
            f"{len(fields)} fields{hint}"
        )
    label, *values = (_number(field) for field in fields)
    if not label.is_integer() or abs(label) >= _MOST_CLASSES:
        raise ValueError(f"expected the number of a class, got {fields[0][:40]!r}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected finite numbers, got {' '.join(fields)[:80]}")
    if min(values) < -_SLACK or max(values) > 1 + _SLACK:
        raise _FractionError(max(values))
    return _Line(number, int(label), values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected numbers, got {text[:40]!r}") from None


def _tell_missing(labels: _Labels, findings: list[Finding]) -> None:
    if labels.missing:
        names = name_some(image.name for image in labels.missing)
        findings.append(
            Finding(
                "info",
                "no-label-file",
                f"images without a label file count as images without objects: {names}",
                image=shown(labels.missing[0]),
                count=len(labels.missing),
            )
        )


def _tell_orphans(files: set[Path], findings: list[Finding]) -> None:
    """Label files in the same folders that no image has."""
    folders = {file.parent for file in files if file.parent.is_dir()}
    there = {folder / name for folder in folders for name in list_files(folder, _is_text)}
    findings.extend(
        Finding(
            "warning",
            "labels-without-image",
            "expected an image for every label file, got none",
            file=shown(file),
            fix="restore the image, or remove the labels",
        )
        for file in sorted(there - files)
        if file.name != "classes.txt"
    )


def _tell_shared(files: dict[Path, Path], findings: list[Finding]) -> None:
    first: dict[Path, Path] = {}
    for image, file in files.items():
        other = first.setdefault(file, image)
        if other != image and file.is_file():
            findings.append(
                Finding(
                    "error",
                    "ambiguous-image",
                    f"expected one image for each label file, got {shown(other.name)} as well",
                    file=shown(file),
                    image=shown(image),
                    fix="remove or rename one of the images",
                )
            )


def _tell_pixels(labels: _Labels, folder: Path, findings: list[Finding]) -> None:
    """One error for the whole set, before those of its lines."""
    if labels.in_pixels > labels.total / 2:
        message = (
            "expected fractions of the image from 0 to 1, got numbers beyond in "
            f"{labels.in_pixels} of {labels.total} lines: they look like pixels"
        )
        findings.append(Finding("error", "not-normalised", message, shown(folder), fix=_SCALE))


def _fill(builder: TableBuilder, images: list[Path], labels: _Labels) -> None:
    kinds = {len(line.values) > 4 for lines in labels.lines.values() for line in lines}
    if len(kinds) > 1:
        _tell_mixed(builder, labels)
    missing = set(labels.missing)
    for image in (one for one in images if one in labels.lines or one in missing):
        try:
            height, width = read_image_size(image)
        except (OSError, ValueError) as error:
            builder.findings.append(
                Finding("error", "unreadable-image", str(error), image=shown(image))
            )
            continue
        file = "" if image in missing else labels.files[image]
        relative = image.relative_to(builder.root)
        builder.add_image(relative, size=(height, width), label_file=file)
        for line in labels.lines.get(image, ()):
            box, polygon = _to_pixels(line.values, width, height)
            mask = [polygon] if polygon is not None and len(kinds) == 1 else None
            builder.add_object(box, line.label, line.number, mask=mask)


def _tell_mixed(builder: TableBuilder, labels: _Labels) -> None:
    boxes = sum(len(line.values) == 4 for lines in labels.lines.values() for line in lines)
    builder.findings.append(
        Finding(
            "warning",
            "mixed-labels",
            f"expected boxes alone or polygons alone, got {boxes} boxes among "
            f"{labels.total} objects: all are read as boxes, without masks",
            file=shown(builder.root),
            fix="draw the outlines of these objects too, or train on boxes",
        )
    )


def _to_pixels(
    values: list[float], width: int, height: int
) -> tuple[tuple[float, ...], list[float] | None]:
    """The box, and the polygon where there is one."""
    if len(values) == 4:
        cx, cy, w, h = values
        box = ((cx - w / 2) * width, (cy - h / 2) * height)
        return (*box, (cx + w / 2) * width, (cy + h / 2) * height), None
    polygon = [value * (height if i % 2 else width) for i, value in enumerate(values)]
    xs, ys = polygon[::2], polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys)), polygon
