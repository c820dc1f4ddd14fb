"""A corrected copy of a detection set; the set itself stays as it is."""

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
from cvlib.data.check.images import Facts, is_labelled_as_stored
from cvlib.data.check.instance_masks import find_faults
from cvlib.data.formats.coco_writer import write_coco
from cvlib.data.labels.duplicates import find_duplicates
from cvlib.data.labels.findings import Finding, counted, errors_of
from cvlib.data.labels.misread_layouts import find_misreading
from cvlib.data.labels.rules import SLACK, are_mostly_fractions, broken_rules, count_from_one
from cvlib.data.labels.table import LabelTable, PackedList

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]

# A box may lose so much of its area when it is clipped; with more, it is another box.
_CLIPPED_SHARE = 0.2


@dataclass(frozen=True)
class Change:
    """One thing that was changed.

    Attributes:
        action: What was done, in words.
        code: Of the finding that called for it.
        image: Path of the image, as it was; empty: all of them.
        file: The label file, as it was.
        row: Where in it.
        before: What was there.
        after: What is there now; empty: nothing.
    """

    action: str
    code: str
    image: str = ""
    file: str = ""
    row: str = ""
    before: str = ""
    after: str = ""


def fix_labels(table: LabelTable, made: list[Change]) -> LabelTable:
    """Corrects what is sure and leaves out what cannot be right.

    Args:
        table: With the sizes of all images.
        made: Gets what was done.

    Returns:
        Labels that break no rule.
    """
    table = _fix_masks(_fix_all(table, made), made)
    table = _fix_boxes(table, made)
    return _drop_broken(table, made)


def _fix_all(table: LabelTable, made: list[Change]) -> LabelTable:
    """What statistics show to be wrong with the whole set."""
    if count_from_one(table):
        made.append(Change("counted all classes from 0", "one-based-classes"))
        table = replace(table, labels=table.labels - 1)
    if are_mostly_fractions(table):
        frames = _frames(table)
        fractions = np.nan_to_num(table.boxes, nan=2).max(1) <= 1
        boxes = np.where(fractions[:, None], table.boxes * frames, table.boxes)
        made.append(Change("multiplied boxes by the sizes of images", "normalised-box"))
        return replace(table, boxes=boxes)
    misreading = find_misreading(table, SLACK)
    if misreading is None:
        return table
    boxes = table.boxes.copy()
    boxes[misreading.objects] = misreading.boxes
    made.append(Change(f"read all boxes as {misreading.meant}", misreading.code))
    return replace(table, boxes=boxes)


def _frames(table: LabelTable) -> Boxes:
    """(width, height, width, height) of each object's image."""
    return table.sizes[table.image_of_object()][:, [1, 0, 1, 0]].astype(np.float64)


def _fix_masks(table: LabelTable, made: list[Change]) -> LabelTable:
    """Leaves out objects whose mask cannot be right."""
    bad = _nothing(table)
    for thing, fault in find_faults(table, table.sizes, progress=False).items():
        if fault.severity == "error":
            bad[thing] = True
            made.append(_change(table, thing, "left an object out", fault.code))
    return table.without_objects(bad)


def _fix_boxes(table: LabelTable, made: list[Change]) -> LabelTable:
    """Exchanges corners and clips, where the result is sure to be meant."""
    boxes, frames = table.boxes, _frames(table)
    rules = {rule.code: rule.broken for rule in broken_rules(table, skip=_nothing(table))}
    ordered = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1
    )
    exchanged = rules["inverted-box"] & _is_inside(ordered, frames)
    clipped_boxes = np.clip(boxes, 0, frames)
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = _areas(clipped_boxes) / _areas(boxes)
    clipped = rules["box-outside"] & (kept >= 1 - _CLIPPED_SHARE)
    result = boxes.copy()
    for chosen, values, action, code in (
        (exchanged, ordered, "exchanged corners", "inverted-box"),
        (clipped, clipped_boxes, "clipped a box", "box-outside"),
    ):
        result[chosen] = values[chosen]
        for thing in np.flatnonzero(chosen).tolist():
            made.append(_change(table, thing, action, code, values[thing]))
    return replace(table, boxes=result)


def _nothing(table: LabelTable) -> Flags:
    return np.zeros(table.num_objects, dtype=np.bool_)


def _is_inside(boxes: Boxes, frames: Boxes) -> Flags:
    far = boxes[:, 2:] <= frames[:, 2:] + SLACK
    inside = np.logical_and.reduce((boxes[:, :2] >= -SLACK) & far, axis=1)
    return np.asarray(inside & (_areas(boxes) > 0))


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _drop_broken(table: LabelTable, made: list[Change]) -> LabelTable:
    """Leaves out objects that still break a rule, and those labelled twice."""
    bad = _nothing(table)
    for rule in broken_rules(table, skip=bad):
        for thing in np.flatnonzero(rule.broken).tolist():
            made.append(_change(table, thing, "left an object out", rule.code))
        bad |= rule.broken
    for _, thing in find_duplicates(table, skip=bad).tolist():
        made.append(_change(table, thing, "left an object out", "duplicate-box"))
        bad[thing] = True
    return table.without_objects(bad)


def _change(
    table: LabelTable, thing: int, action: str, code: str, after: NDArray[np.float64] | None = None
) -> Change:
    image = int(np.searchsorted(table.starts, thing, side="right")) - 1
    return Change(
        action,
        code,
        image=str(table.path(image)),
        file=table.label_file(image),
        row=table.row(thing),
        before=f"{_show(table.boxes[thing])} with label {table.labels[thing]}",
        after="" if after is None else _show(after),
    )


def _show(box: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def turn_boxes(boxes: Boxes, size: tuple[int, int], orientation: int) -> Boxes:
    """Boxes on stored pixels as boxes on the image that EXIF turns.

    Args:
        boxes: Shape (N, 4), xyxy.
        size: (height, width) as stored.
        orientation: EXIF's, 5 to 8: those that exchange width and height.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.T
    left, right = (height - y2, height - y1) if orientation in (6, 7) else (y1, y2)
    top, bottom = (width - x2, width - x1) if orientation in (7, 8) else (x1, x2)
    return np.stack([left, top, right, bottom], axis=1)


# Told by the full form alone.
_LEFT_ALONE = ("duplicate-image", "similar-image", "mask-and-box-differ", "area-differs")


@dataclass(frozen=True)
class Changes:
    """What `fix_dataset` did.

    Attributes:
        made: Every change.
        left: Findings that remain: what only a person can decide.
        label_files: The COCO files that were written.
    """

    made: tuple[Change, ...]
    left: tuple[Finding, ...]
    label_files: tuple[Path, ...]

    def __str__(self) -> str:
        done = Counter(change.action for change in self.made)
        lines = [counted(len(self.made), "change")]
        lines += [f"  {counted(count, 'time')}: {action}" for action, count in done.items()]
        rest = Counter(finding.code for finding in self.left if finding.severity != "info")
        lines += [f"left alone: {code} ({counted(n, 'time')})" for code, n in rest.items()]
        return "\n".join(lines)


def fix_dataset(
    data: Any,
    out_folder: str | Path,
    *,
    images: Literal["link", "copy"] = "link",
    progress: bool = True,
) -> Changes:
    """Writes a corrected copy of a detection set, as COCO json.

    Corrected is what is sure: boxes in another layout or unit, where statistics show which (see
    `check_dataset`), classes counted from 1, corners in the wrong order where the box then fits,
    boxes slightly outside (clipped), labels of stored pixels of an image that EXIF turns, names
    that do not say what a file is. Left out is what cannot be right: other objects that the check
    calls an error, images that are missing or damaged, or whose size is not that of their labels,
    and images of the validation set that the training set has. The rest is left alone.

    Args:
        data: A path or a detection set, as for `check_dataset`.
        out_folder: New or empty. It gets ``annotations/instances_{split}.json``,
            ``images/{split}/`` and ``changes.json``.
        images: ``"link"`` makes symbolic links to the images, ``"copy"`` copies them.
        progress: Show bars.

    Returns:
        What was done, and what was left alone.

    Raises:
        FileExistsError: ``out_folder`` has something in it.
        TypeError: ``data`` is no detection set with files.
        ValueError: ``images`` is neither, or nothing would be left.

    Note:
        Deterministic. What is written has no finding of severity ``"error"``.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from cvlib.data.formats.in_memory import read_lists
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30)).save(f"{folder}/a.png")
        ...     boxes = [[[5, 5, 20, 20], [8, 8, 8, 9]]]  # the second one has no width
        ...     labels = read_lists([f"{folder}/a.png"], boxes, [[0, 0]], ["cat"])
        ...     changes = fix_dataset(labels, f"{folder}/fixed", progress=False)
        >>> [change.code for change in changes.made]
        ['degenerate-box']
    """
    if images not in ("link", "copy"):
        raise ValueError(f"fix_dataset: expected images 'link' or 'copy', got {images!r}")
    out = Path(out_folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"fix_dataset: expected out_folder to be new or empty, got {out} with files in it; "
            "nothing is overwritten: name another folder"
        )
    made: list[Change] = []
    left: list[Finding] = []
    written: list[Path] = []
    seen: dict[bytes, Path] = {}
    for split, table in _open(data).items():
        fixed, facts = _without_leaks(*_fix(table, made, left, progress), seen, made)
        placed = _place_images(fixed, facts, out / "images" / split, images, made)
        file = out / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_coco(file, placed)
        written.append(file)
    changes = Changes(tuple(made), tuple(left), tuple(written))
    save_json(
        out / "changes.json",
        {
            "made": [asdict(change) for change in made],
            "left": [finding.as_dict() for finding in left],
        },
    )
    return changes


def _open(data: Any) -> dict[str, LabelTable]:
    """Tables by the names of their splits."""
    if isinstance(data, str | Path):
        opened, unread = open_path(data)
        if unread:
            raise ValueError(f"fix_dataset: expected labels that can be read, got {unread[0]}")
        return {split: _table(one) for split, one in opened.items()}
    return {"train": _table(data)}


def _table(data: Any) -> LabelTable:
    data, indices = unwrap(data)
    if not getattr(data, "upright", True):
        raise ValueError(
            "fix_dataset: expected labels of images as they are seen, got those of stored "
            "pixels (upright=False), which COCO json has no word for"
        )
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if not isinstance(table, LabelTable):
        raise TypeError(
            f"fix_dataset: expected data a detection set with files, got {type(data).__name__}; "
            "of others nothing can be corrected for sure: mend or move the files that "
            "check_dataset, or cvlib check DATA, names"
        )
    return table if indices is None else table.select(indices)


def _fix(
    table: LabelTable, made: list[Change], left: list[Finding], progress: bool
) -> tuple[LabelTable, dict[int, Facts]]:
    """Images that can be used, with labels in order."""
    checked = check_table(table, model=None, fast=False, progress=progress)
    for finding in errors_of(table.findings):
        place = (finding.image, finding.file, finding.row)
        made.append(Change("left out what cannot be read", finding.code, *place, finding.message))
    faults = {i: _find_fault(table, i, checked.facts.get(i)) for i in range(table.num_images)}
    if table.masks is None:
        table = _turn_labels(table, checked.facts, faults, made)
    keep = [index for index, code in faults.items() if not code]
    for index, code in faults.items():
        if code:
            made.append(Change("left an image out", code, str(table.path(index))))
    facts = {place: checked.facts[index] for place, index in enumerate(keep)}
    kept = table.select(keep)
    sizes = np.array([one.upright_size for one in facts.values()], np.int64).reshape(-1, 2)
    fixed = fix_labels(replace(kept, sizes=sizes, findings=()), made)
    again = check_table(fixed, model=None, fast=True, progress=False)
    left += [finding for finding in again.findings if finding.severity != "info"]
    left += [finding for finding in checked.findings if finding.code in _LEFT_ALONE]
    return fixed, facts


def _find_fault(table: LabelTable, index: int, known: Facts | None) -> str:
    """What makes an image useless as long as nobody restores or finds it; empty: nothing."""
    if known is None:
        return "missing-image"
    if known.problem:
        return "unreadable-image"
    if is_labelled_as_stored(table, index, known):
        return "labels-not-turned"
    height, width = (int(side) for side in table.sizes[index])
    return "size-differs" if height >= 0 and (height, width) != known.upright_size else ""


def _turn_labels(
    table: LabelTable, facts: Mapping[int, Facts], faults: dict[int, str], made: list[Change]
) -> LabelTable:
    """Turns boxes of stored pixels, and strikes their images from the faults."""
    boxes = table.boxes.copy()
    for index, code in faults.items():
        if code == "labels-not-turned":
            known, things = facts[index], table.objects(index)
            boxes[things] = turn_boxes(boxes[things], known.size, known.orientation)
            path = str(table.path(index))
            made.append(Change("turned boxes as EXIF turns the image", code, path))
            faults[index] = ""
    return replace(table, boxes=boxes)


def _without_leaks(
    table: LabelTable, facts: dict[int, Facts], seen: dict[bytes, Path], made: list[Change]
) -> tuple[LabelTable, dict[int, Facts]]:
    """Leaves out images that an earlier split has."""
    keep = []
    for index, known in facts.items():
        if known.digest in seen:
            path = str(table.path(index))
            other = str(seen[known.digest])
            made.append(Change("left an image out", "leaked-image", path, before=other))
        else:
            keep.append(index)
    for index in keep:
        seen[facts[index].digest] = table.path(index)
    if not keep:
        raise ValueError(f"fix_dataset: expected images that can be used in {table.root}, got none")
    return table.select(keep), {place: facts[index] for place, index in enumerate(keep)}


def _place_images(
    table: LabelTable,
    facts: Mapping[int, Facts],
    folder: Path,
    images: Literal["link", "copy"],
    made: list[Change],
) -> LabelTable:
    """Links or copies the images, and gives the table with their new names."""
    names: dict[str, None] = {}
    for index, known in facts.items():
        source = table.path(index)
        name = _new_name(Path(str(table.images[index])), known, names)
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


def _new_name(name: Path, known: Facts, taken: Container[str]) -> Path:
    """Inside of the new folder, with the right suffix, and unlike all others."""
    if name.is_absolute() or ".." in name.parts:
        name = Path(name.name)
    if not known.has_right_suffix(name):
        name = name.with_suffix(known.usual_suffix)
    candidate, number = name, 1
    while candidate.as_posix() in taken:
        number += 1
        candidate = name.with_name(f"{name.stem}_{number}{name.suffix}")
    return candidate
