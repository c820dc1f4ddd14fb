"""Write a corrected copy of a detection dataset; the original is not changed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cvlib._files import save_json
from cvlib.data.check.doctor import check_table, open_path, unwrap
from cvlib.data.check.images import ImageFacts, is_labelled_as_stored
from cvlib.data.check.instance_masks import find_mask_faults
from cvlib.data.formats.coco_writer import write_coco
from cvlib.data.labels.duplicates import find_duplicates
from cvlib.data.labels.findings import Finding, counted, errors_of, limit_findings
from cvlib.data.labels.misread_layouts import find_misreading
from cvlib.data.labels.rules import SLACK, are_mostly_fractions, broken_rules, counts_from_one
from cvlib.data.labels.table import LabelTable, PackedList

Boxes = NDArray[np.float64]

# Share of its area that a box may lose by clipping; beyond, the result is another box.
_CLIPPED_SHARE = 0.2
# Only reported by the full check.
_LEFT_ALONE = ("duplicate-image", "similar-image", "mask-and-box-differ", "area-differs")


@dataclass(frozen=True)
class Change:
    """One correction.

    Attributes:
        action: What was done, as text.
        code: Code of the finding that was corrected.
        image: Path of the original image; empty if all images are concerned.
        file: Original label file.
        row: Position in the label file.
        before: Original value.
        after: New value; empty if removed.
    """

    action: str
    code: str
    image: str = ""
    file: str = ""
    row: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Changes:
    """Result of `fix_dataset`.

    Attributes:
        made: All corrections.
        left: Remaining findings, which only a person can resolve.
        label_files: COCO files that were written.
    """

    made: tuple[Change, ...]
    left: tuple[Finding, ...]
    label_files: tuple[Path, ...]

    def __str__(self) -> str:
        actions = Counter(change.action for change in self.made)
        lines = [counted(len(self.made), "change")]
        lines += [f"  {counted(n, 'time')}: {action}" for action, n in actions.items()]
        codes = Counter(finding.code for finding in self.left if finding.severity != "info")
        lines += [f"left alone: {code} ({counted(n, 'time')})" for code, n in codes.items()]
        return "\n".join(lines)


def fix_dataset(
    data: Any,
    out_folder: str | Path,
    *,
    images: Literal["link", "copy"] = "link",
    progress: bool = True,
) -> Changes:
    """Write a corrected copy of a detection dataset as COCO JSON.

    Corrected are unambiguous mistakes: boxes in another layout or unit, where statistics show
    which (see `check_dataset`), classes counted from 1, exchanged corners where the box then fits,
    boxes slightly outside (clipped), labels of stored pixels where an EXIF orientation turns the
    image, suffixes that do not match the format. Left out are other objects with errors, images
    that are missing, damaged or of another size than their labels, and validation images that are
    also in the training split. Everything else is left alone.

    Args:
        data: A path or a detection dataset, as for `check_dataset`.
        out_folder: New or empty folder for ``annotations/instances_{split}.json``,
            ``images/{split}/`` and ``changes.json``.
        images: ``"link"`` creates symbolic links to the images, ``"copy"`` copies them.
        progress: Whether to show progress bars.

    Returns:
        The corrections, and the findings that were left alone.

    Raises:
        FileExistsError: ``out_folder`` is not empty.
        TypeError: ``data`` is not a detection dataset with files.
        ValueError: Another value of ``images``, or no usable image.

    Note:
        Deterministic. The copy has no finding of severity ``"error"``.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from cvlib.data.formats.in_memory import read_lists
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30)).save(f"{folder}/a.png")
        ...     boxes = [[[5, 5, 20, 20], [8, 8, 8, 9]]]  # the second box has no width
        ...     labels = read_lists([f"{folder}/a.png"], boxes, [[0, 0]], ["cat"])
        ...     changes = fix_dataset(labels, f"{folder}/fixed", progress=False)
        >>> [change.code for change in changes.made]
        ['degenerate-box']
    """
    out = _check_arguments(out_folder, images)
    made: list[Change] = []
    left: list[Finding] = []
    written: list[Path] = []
    used: dict[bytes, Path] = {}
    for split, table in _open(data).items():
        fixed, facts = _without_leaks(*_fix_split(table, made, left, progress), used, made)
        file = out / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_coco(file, _place_images(fixed, facts, out / "images" / split, images, made))
        written.append(file)
    rows = {"made": [asdict(c) for c in made], "left": [f.as_dict() for f in left]}
    save_json(out / "changes.json", rows)
    return Changes(tuple(made), tuple(left), tuple(written))


def _check_arguments(out_folder: str | Path, images: str) -> Path:
    if images not in ("link", "copy"):
        raise ValueError(f"fix_dataset: expected `images` to be 'link' or 'copy', got {images!r}")
    out = Path(out_folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"fix_dataset: expected `out_folder` to be new or empty, got {out}, which is not; "
            "choose another folder, because nothing is overwritten"
        )
    return out


def _open(data: Any) -> dict[str, LabelTable]:
    """Return the label tables, keyed by split."""
    if isinstance(data, str | Path):
        opened, unread = open_path(data)
        if unread:
            raise ValueError(f"fix_dataset: expected readable labels, got {unread[0]}")
        return {split: _as_table(dataset) for split, dataset in opened.items()}
    return {"train": _as_table(data)}


def _as_table(data: Any) -> LabelTable:
    data, indices = unwrap(data)
    if not getattr(data, "upright", True):
        raise ValueError(
            "fix_dataset: expected labels of upright images, got labels of stored pixels "
            "(upright=False), which COCO JSON cannot express"
        )
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if not isinstance(table, LabelTable):
        raise TypeError(
            "fix_dataset: expected `data` to be a detection dataset with files, got "
            f"{type(data).__name__}; other datasets cannot be corrected automatically: fix or move "
            "the files listed by check_dataset, or by cvlib check DATA"
        )
    return table if indices is None else table.select(indices)


def _fix_split(
    table: LabelTable, made: list[Change], left: list[Finding], progress: bool
) -> tuple[LabelTable, dict[int, ImageFacts]]:
    """Return the usable images with corrected labels, and the properties of the images."""
    checked = check_table(table, model=None, fast=False, progress=progress)
    for finding in errors_of(table.findings):
        place = (finding.image, finding.file, finding.row)
        made.append(Change("left out unreadable labels", finding.code, *place, finding.message))
    faults = {i: _find_fault(table, i, checked.facts.get(i)) for i in range(table.num_images)}
    if table.masks is None:
        table = _turn_labels(table, checked.facts, faults, made)
    keep = [index for index, code in faults.items() if not code]
    for index, code in faults.items():
        if code:
            made.append(Change("left an image out", code, str(table.path(index))))
    facts = {place: checked.facts[index] for place, index in enumerate(keep)}
    kept = table.select(keep)
    sizes = np.array([image.upright_size for image in facts.values()], np.int64).reshape(-1, 2)
    fixed = _fix_labels(replace(kept, sizes=sizes, findings=()), made)
    again = check_table(fixed, model=None, fast=True, progress=False)
    remaining = [finding for finding in again.findings if finding.severity != "info"]
    remaining += [finding for finding in checked.findings if finding.code in _LEFT_ALONE]
    left += limit_findings(remaining)
    return fixed, facts


def _find_fault(table: LabelTable, index: int, image: ImageFacts | None) -> str:
    """Return the code of the fault that makes an image unusable; empty if it is usable."""
    if image is None:
        return "missing-image"
    if image.problem:
        return "unreadable-image"
    if is_labelled_as_stored(table, index, image):
        return "labels-not-turned"
    height, width = (int(side) for side in table.sizes[index])
    return "size-differs" if height >= 0 and (height, width) != image.upright_size else ""


def _turn_labels(
    table: LabelTable, facts: Mapping[int, ImageFacts], faults: dict[int, str], made: list[Change]
) -> LabelTable:
    """Turn boxes of stored pixels, and clear the faults of their images."""
    boxes = table.boxes.copy()
    for index, code in faults.items():
        if code == "labels-not-turned":
            image, objects = facts[index], table.objects(index)
            boxes[objects] = turn_boxes(boxes[objects], image.size, image.orientation)
            path = str(table.path(index))
            made.append(Change("turned boxes by the EXIF orientation", code, path))
            faults[index] = ""
    return replace(table, boxes=boxes)


def turn_boxes(boxes: Boxes, size: tuple[int, int], orientation: int) -> Boxes:
    """Convert boxes from stored pixels to the upright image.

    Args:
        boxes: Boxes in (x1, y1, x2, y2) format, shape (N, 4).
        size: (height, width) as stored.
        orientation: EXIF orientation 5 to 8, which exchanges width and height.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.T
    left, right = (height - y2, height - y1) if orientation in (6, 7) else (y1, y2)
    top, bottom = (width - x2, width - x1) if orientation in (7, 8) else (x1, x2)
    return np.stack([left, top, right, bottom], axis=1)


def _fix_labels(table: LabelTable, made: list[Change]) -> LabelTable:
    """Correct unambiguous mistakes and drop objects that still break a rule.

    Args:
        table: Labels, with the sizes of all images.
        made: List to which corrections are appended.
    """
    table = _fix_masks(_fix_layout(table, made), made)
    table = _fix_boxes(table, made)
    return _drop_broken(table, made)


def _fix_layout(table: LabelTable, made: list[Change]) -> LabelTable:
    """Correct mistakes that statistics show in all labels."""
    if counts_from_one(table):
        made.append(Change("counted all classes from 0", "one-based-classes"))
        table = replace(table, labels=table.labels - 1)
    if are_mostly_fractions(table):
        fractions = np.nan_to_num(table.boxes, nan=2).max(1) <= 1
        boxes = np.where(fractions[:, None], table.boxes * _image_scales(table), table.boxes)
        made.append(Change("multiplied boxes by image sizes", "normalised-box"))
        return replace(table, boxes=boxes)
    misreading = find_misreading(table, SLACK)
    if misreading is None:
        return table
    boxes = table.boxes.copy()
    boxes[misreading.objects] = misreading.boxes
    made.append(Change(f"read all boxes as {misreading.meant}", misreading.code))
    return replace(table, boxes=boxes)


def _image_scales(table: LabelTable) -> Boxes:
    """Return (width, height, width, height) of the image of each object."""
    return table.sizes[table.image_of_object()][:, [1, 0, 1, 0]].astype(np.float64)


def _fix_masks(table: LabelTable, made: list[Change]) -> LabelTable:
    """Drop objects with a mask that is certainly wrong."""
    bad = np.zeros(table.num_objects, dtype=np.bool_)
    for obj, fault in find_mask_faults(table, table.sizes, progress=False).items():
        if fault.severity == "error":
            bad[obj] = True
            made.append(_object_change(table, obj, "left an object out", fault.code))
    return table.without_objects(bad)


def _fix_boxes(table: LabelTable, made: list[Change]) -> LabelTable:
    """Exchange corners and clip, where the result is unambiguous."""
    boxes, scales = table.boxes, _image_scales(table)
    skip = np.zeros(table.num_objects, dtype=np.bool_)
    broken = {rule.code: rule.broken for rule in broken_rules(table, skip=skip)}
    ordered = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1
    )
    exchanged = broken["inverted-box"] & _are_inside(ordered, scales)
    clipped_boxes = np.clip(boxes, 0, scales)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = _areas(clipped_boxes) / _areas(boxes)
    clipped = broken["box-outside"] & (kept >= 1 - _CLIPPED_SHARE)
    result = boxes.copy()
    for chosen, values, action, code in (
        (exchanged, ordered, "exchanged corners", "inverted-box"),
        (clipped, clipped_boxes, "clipped a box", "box-outside"),
    ):
        result[chosen] = values[chosen]
        for obj in np.flatnonzero(chosen).tolist():
            made.append(_object_change(table, obj, action, code, values[obj]))
    return replace(table, boxes=result)


def _are_inside(boxes: Boxes, scales: Boxes) -> NDArray[np.bool_]:
    far = boxes[:, 2:] <= scales[:, 2:] + SLACK
    inside = np.logical_and.reduce((boxes[:, :2] >= -SLACK) & far, axis=1)
    return np.asarray(inside & (_areas(boxes) > 0))


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _drop_broken(table: LabelTable, made: list[Change]) -> LabelTable:
    """Drop objects that still break a rule, and those labelled twice."""
    bad = np.zeros(table.num_objects, dtype=np.bool_)
    for rule in broken_rules(table, skip=bad):
        for obj in np.flatnonzero(rule.broken).tolist():
            made.append(_object_change(table, obj, "left an object out", rule.code))
        bad |= rule.broken
    for _, obj in find_duplicates(table, skip=bad).tolist():
        made.append(_object_change(table, obj, "left an object out", "duplicate-box"))
        bad[obj] = True
    return table.without_objects(bad)


def _object_change(
    table: LabelTable, obj: int, action: str, code: str, after: NDArray[np.float64] | None = None
) -> Change:
    image = int(np.searchsorted(table.starts, obj, side="right")) - 1
    return Change(
        action,
        code,
        image=str(table.path(image)),
        file=table.label_file(image),
        row=table.row(obj),
        before=f"{_format(table.boxes[obj])} with label {table.labels[obj]}",
        after="" if after is None else _format(after),
    )


def _format(box: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def _without_leaks(
    table: LabelTable,
    facts: Mapping[int, ImageFacts],
    used: dict[bytes, Path],
    made: list[Change],
) -> tuple[LabelTable, dict[int, ImageFacts]]:
    """Drop images of earlier splits, and remember the others in ``used``."""
    keep = []
    for index, image in facts.items():
        if image.digest in used:
            path, other = str(table.path(index)), str(used[image.digest])
            made.append(Change("left an image out", "leaked-image", path, before=other))
        else:
            keep.append(index)
    for index in keep:
        used[facts[index].digest] = table.path(index)
    if not keep:
        raise ValueError(f"fix_dataset: expected usable images in {table.root}, got none")
    return table.select(keep), {place: facts[index] for place, index in enumerate(keep)}


def _place_images(
    table: LabelTable,
    facts: Mapping[int, ImageFacts],
    folder: Path,
    images: Literal["link", "copy"],
    made: list[Change],
) -> LabelTable:
    """Link or copy the images, and return the table with their new names."""
    names: dict[str, None] = {}
    for index, image in facts.items():
        source = table.path(index)
        name = _new_name(Path(str(table.images[index])), image, names)
        names[name.as_posix()] = None
        if name.suffix != source.suffix:
            made.append(Change("renamed", "wrong-suffix", str(source), after=name.as_posix()))
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if images == "link":
            target.symlink_to(os.path.realpath(source))
        else:
            shutil.copyfile(source, target)
    return replace(table, root=folder, images=PackedList(names))


def _new_name(name: Path, image: ImageFacts, names: Container[str]) -> Path:
    """Return a name inside the new folder, with the right suffix, that is not in ``names``."""
    if name.is_absolute() or ".." in name.parts:
        name = Path(name.name)
    if not image.has_right_suffix(name):
        name = name.with_suffix(image.usual_suffix)
    candidate, number = name, 1
    while candidate.as_posix() in names:
        number += 1
        candidate = name.with_name(f"{name.stem}_{number}{name.suffix}")
    return candidate
