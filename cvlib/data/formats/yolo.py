"""YOLO folders: a text file of boxes or polygons per image, in fractions of its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from cvlib._files import read_text
from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import (
    escape,
    has_file,
    is_image,
    list_files,
    name_some,
    walk_files,
)
from cvlib.data.files.images import read_image_size
from cvlib.data.formats.label_files import FindingCollector
from cvlib.data.formats.yolo_config import (
    YoloConfig,
    find_config,
    labels_folder,
    read_config,
    resolve_inside,
)
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable, TableBuilder

# Files round their fractions: a thousandth beyond the border is accepted.
_TOLERANCE = 1e-3
# Larger values are pixels, not fractions of a box drawn across the border.
_MIN_PIXELS = 2.0
_FIX_PIXELS = "divide x by the width of the image and y by its height"
# Larger class indices are damage.
_MAX_CLASSES = 1e9


@dataclass
class _Line:
    number: int
    label: int
    values: list[float]


@dataclass
class _Labels:
    """Contents of the label files of a split, before image sizes are known."""

    files: dict[Path, Path]  # by image
    lines: dict[Path, list[_Line]] = field(default_factory=dict)  # by image
    unlabelled: list[Path] = field(default_factory=list)
    num_lines: int = 0
    num_in_pixels: int = 0


def read_yolo(
    path: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
) -> LabelTable:
    """Read a dataset in the layout of YOLO.

    Each line of a label file is ``class cx cy width height`` or ``class x1 y1 x2 y2 x3 y3 ...``, in
    fractions of the image after its EXIF rotation. The label file of ``images/a/1.jpg`` is
    ``labels/a/1.txt``, or next to the image if there is no folder ``images``. An image without a
    label file has no objects.

    Args:
        path: ``data.yaml``, or a folder with it, or with ``images`` and ``labels``.
        split: ``"train"``, ``"val"`` or ``"test"``. Optional if there is only one split.
        classes: Class names. Default: the names in ``data.yaml`` or ``classes.txt``.
        root: Folder that paths must not leave. Default: the folder of ``data.yaml``.

    Returns:
        The labels, with a finding for each irregularity in the files. If only some objects have a
        polygon, all are read as boxes, with a finding.

    Raises:
        FileNotFoundError: A folder or a list does not exist.
        ValueError: ``data.yaml`` is malformed, inconsistent or names paths outside the folder;
            the split is required; or there are no images, label files or class names.

    Note:
        Reads every label file and the header of every image.

    References:
        https://docs.ultralytics.com/datasets/detect
    """
    path = Path(path).expanduser()
    config = read_config(path, None if root is None else Path(root).expanduser())
    names = config.names if classes is None else classes
    if names is None:
        raise ValueError(
            f"read_yolo: expected class names in data.yaml or classes.txt in {escape(path)}, got "
            "none; pass classes=..."
        )
    names = check_classes("read_yolo", names)
    findings = list(config.findings)
    sources = _choose_split(config, split, path)
    images = [img for src in sources for img in _list_images(src, config.root, findings)]
    images = list(dict.fromkeys(images))
    if not images:
        raise ValueError(f"read_yolo: expected images in {escape(path)}, got none")
    labels = _read_labels(config.root, images, findings)
    builder = TableBuilder("YOLO", config.root, names, row_word="line", findings=findings)
    _add_images(builder, images, labels)
    return builder.build()


def recognise_yolo(path: Path) -> str | None:
    """Return the configuration file or the folders at a path, or None."""
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
    folders = [labels_folder(source) for sources in config.splits.values() for source in sources]
    return "images and labels" if any(has_file(f, _is_text) for f in folders) else None


def list_yolo_splits(path: Path) -> list[str]:
    """List the names of the splits."""
    return [split for split in read_config(path).splits if split]


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def _choose_split(config: YoloConfig, split: str | None, path: Path) -> list[Path]:
    known = list(config.splits)
    if split is None and len(known) == 1:
        return config.splits[known[0]]
    if split not in config.splits or not split:
        raise ValueError(
            f"read_yolo: expected `split` to be one of {', '.join(known) or 'none'} in "
            f"{escape(path)}, got {split!r}"
        )
    return config.splits[split]


def _list_images(source: Path, root: Path, findings: list[Finding]) -> list[Path]:
    """Return the images in a folder, or in a list of paths."""
    if source.is_dir():
        names, loops = walk_files(source, is_image)
        findings.extend(
            Finding(
                "warning",
                "link-loop",
                "expected a subfolder, got a link to a parent folder",
                file=escape(source / link),
            )
            for link in loops
        )
        return [source / name for name in names]
    images = []
    text = read_text(source, "read_yolo", "a list of images")
    for number, line in enumerate(text.splitlines(), 1):
        if name := line.strip():
            place = f"{escape(source)}, line {number}"
            image = resolve_inside(root, source.parent, name, place)
            images.append(image if image.exists() else resolve_inside(root, root, name, place))
    return images


def _read_labels(root: Path, images: list[Path], findings: list[Finding]) -> _Labels:
    """Read the label files of the images, with findings about files that do not fit."""
    files = {image: _label_file(root, image) for image in images}
    if not any(file.is_file() for file in files.values()):
        first = files[images[0]]
        files = {image: image.with_suffix(".txt") for image in images}
        if not any(file.is_file() for file in files.values()):
            raise ValueError(
                f"read_yolo: expected label files such as {escape(first)}, got none for all of "
                f"{len(images)} images; only images without objects may lack one"
            )
    labels = _Labels(files)
    folder = next(iter(files.values())).parent
    line_findings = FindingCollector(folder)
    for image, file in tqdm(files.items(), "reading labels", disable=None, leave=False, delay=1):
        if not file.is_file():
            labels.unlabelled.append(image)
        elif (lines := _read_file(file, labels, line_findings)) is not None:
            labels.lines[image] = lines
    if labels.num_in_pixels > labels.num_lines / 2:
        message = (
            "expected fractions of the image from 0 to 1, got larger numbers in "
            f"{labels.num_in_pixels} of {labels.num_lines} lines: they look like pixels"
        )
        findings.append(
            Finding("error", "not-normalised", message, escape(folder), fix=_FIX_PIXELS)
        )
    findings += line_findings.findings()
    findings += _find_unlabelled(labels.unlabelled)
    findings += _find_orphans(set(files.values()))
    findings += _find_shared(files)
    return labels


def _label_file(root: Path, image: Path) -> Path:
    return root / labels_folder(image.relative_to(root)).with_suffix(".txt")


def _read_file(file: Path, labels: _Labels, findings: FindingCollector) -> list[_Line] | None:
    """Return the valid lines, or None if the file cannot be read, which differs from empty."""
    try:
        text = read_text(file, "read_yolo", "a label file")
    except (OSError, ValueError) as error:
        findings.error("unreadable-labels", "", str(error), "restore the file", file=escape(file))
        return None
    lines = []
    for number, row in enumerate(text.splitlines(), 1):
        fields = row.split()
        if not fields:
            continue
        labels.num_lines += 1
        try:
            line = _parse_line(number, fields)
        except ValueError as error:
            fix = "label the object again, or remove it"
            findings.error("bad-object", f"line {number}", str(error), fix, file=escape(file))
            continue
        if min(line.values) >= -_TOLERANCE and max(line.values) <= 1 + _TOLERANCE:
            lines.append(line)
        else:
            labels.num_in_pixels += max(line.values) >= _MIN_PIXELS
            message = f"expected fractions of the image from 0 to 1, got {row.strip()[:80]}"
            findings.error(
                "not-normalised", f"line {number}", message, _FIX_PIXELS, file=escape(file)
            )
    return lines


def _parse_line(number: int, fields: list[str]) -> _Line:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        hint = " (a sixth is the confidence of a prediction)" if len(fields) == 6 else ""
        raise ValueError(
            "expected class, cx, cy, width, height, or class and three or more points, got "
            f"{len(fields)} fields{hint}"
        )
    label, *values = (_parse_number(field) for field in fields)
    if not label.is_integer() or abs(label) >= _MAX_CLASSES:
        raise ValueError(f"expected a class index, got {fields[0][:40]!r}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected finite numbers, got {' '.join(fields)[:80]}")
    return _Line(number, int(label), values)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected numbers, got {text[:40]!r}") from None


def _find_unlabelled(images: list[Path]) -> list[Finding]:
    if not images:
        return []
    names = name_some(image.name for image in images)
    return [
        Finding(
            "info",
            "no-label-file",
            f"images without a label file count as images without objects: {names}",
            image=escape(images[0]),
            count=len(images),
        )
    ]


def _find_orphans(files: set[Path]) -> list[Finding]:
    """Find label files of no image, in the folders of the others."""
    folders = {file.parent for file in files if file.parent.is_dir()}
    existing = {folder / name for folder in folders for name in list_files(folder, _is_text)}
    return [
        Finding(
            "warning",
            "labels-without-image",
            "expected an image for every label file, got none",
            file=escape(file),
            fix="restore the image, or remove the labels",
        )
        for file in sorted(existing - files)
        if file.name != "classes.txt"
    ]


def _find_shared(files: dict[Path, Path]) -> list[Finding]:
    """Find images that share a label file."""
    findings = []
    first: dict[Path, Path] = {}
    for image, file in files.items():
        other = first.setdefault(file, image)
        if other != image and file.is_file():
            findings.append(
                Finding(
                    "error",
                    "ambiguous-image",
                    f"expected one image for each label file, got {escape(other.name)} as well",
                    file=escape(file),
                    image=escape(image),
                    fix="remove or rename one of the images",
                )
            )
    return findings


def _add_images(builder: TableBuilder, images: list[Path], labels: _Labels) -> None:
    lines = [line for lines in labels.lines.values() for line in lines]
    num_boxes = sum(len(line.values) == 4 for line in lines)
    is_mixed = 0 < num_boxes < len(lines)
    if is_mixed:
        builder.findings.append(
            Finding(
                "warning",
                "mixed-labels",
                f"expected only boxes or only polygons, got {num_boxes} boxes among "
                f"{labels.num_lines} objects: all are read as boxes, without masks",
                file=escape(builder.root),
                fix="draw the outlines of these objects too, or train on boxes",
            )
        )
    unlabelled = set(labels.unlabelled)
    for image in images:
        if image not in labels.lines and image not in unlabelled:
            continue
        try:
            height, width = read_image_size(image)
        except (OSError, ValueError) as error:
            builder.findings.append(
                Finding("error", "unreadable-image", str(error), image=escape(image))
            )
            continue
        file = "" if image in unlabelled else labels.files[image]
        builder.add_image(image.relative_to(builder.root), size=(height, width), label_file=file)
        for line in labels.lines.get(image, ()):
            box, polygon = _to_pixels(line.values, width, height)
            mask = None if polygon is None or is_mixed else [polygon]
            builder.add_object(box, line.label, line.number, mask=mask)


def _to_pixels(
    values: list[float], width: int, height: int
) -> tuple[tuple[float, ...], list[float] | None]:
    """Return the box of a line in pixels, and its polygon if it has one."""
    if len(values) == 4:
        cx, cy, w, h = values
        box = ((cx - w / 2) * width, (cy - h / 2) * height)
        return (*box, (cx + w / 2) * width, (cy + h / 2) * height), None
    polygon = [value * (height if i % 2 else width) for i, value in enumerate(values)]
    xs, ys = polygon[::2], polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys)), polygon
