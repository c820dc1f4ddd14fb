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

from cvlib._files import save_json
from cvlib.data.check._detection import check_table
from cvlib.data.check._label_fixes import Change, fix_labels, turn_boxes
from cvlib.data.check._picture_rules import is_labelled_as_stored
from cvlib.data.check._pictures import Facts
from cvlib.data.check._sources import open_path, unwrap
from cvlib.data.findings import Finding, counted, errors_of
from cvlib.data.formats.coco import write_coco
from cvlib.data.table import LabelTable, PackedList

# Told by the full form alone.
_LEFT_ALONE = ("duplicate-picture", "similar-picture", "mask-and-box-differ", "area-differs")


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
    pictures: Literal["link", "copy"] = "link",
    progress: bool = True,
) -> Changes:
    """Writes a corrected copy of a detection set, as COCO json.

    Corrected is what is sure: boxes in another layout or unit, where statistics show which (see
    `check_dataset`), classes counted from 1, corners in the wrong order where the box then fits,
    boxes slightly outside (clipped), labels of stored pixels of a picture that EXIF turns, names
    that do not say what a file is. Left out is what cannot be right: other objects that the check
    calls an error, pictures that are missing or damaged, or whose size is not that of their labels,
    and pictures of the validation set that the training set has. The rest is left alone.

    Args:
        data: A path or a detection set, as for `check_dataset`.
        out_folder: New or empty. It gets ``annotations/instances_{split}.json``,
            ``images/{split}/`` and ``changes.json``.
        pictures: ``"link"`` makes symbolic links to the pictures, ``"copy"`` copies them.
        progress: Show bars.

    Returns:
        What was done, and what was left alone.

    Raises:
        FileExistsError: ``out_folder`` has something in it.
        TypeError: ``data`` is no detection set with files.
        ValueError: ``pictures`` is neither, or nothing would be left.

    Note:
        Deterministic. What is written has no finding of severity ``"error"``.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from cvlib.data.formats.lists import read_lists
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30)).save(f"{folder}/a.png")
        ...     boxes = [[[5, 5, 20, 20], [8, 8, 8, 9]]]  # the second one has no width
        ...     labels = read_lists([f"{folder}/a.png"], boxes, [[0, 0]], ["cat"])
        ...     changes = fix_dataset(labels, f"{folder}/fixed", progress=False)
        >>> [change.code for change in changes.made]
        ['degenerate-box']
    """
    if pictures not in ("link", "copy"):
        raise ValueError(f"fix_dataset: expected pictures 'link' or 'copy', got {pictures!r}")
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
        placed = _place_pictures(fixed, facts, out / "images" / split, pictures, made)
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
            "fix_dataset: expected labels of pictures as they are seen, got those of stored "
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
    """Pictures that can be used, with labels in order."""
    checked = check_table(table, model=None, fast=False, progress=progress)
    for finding in errors_of(table.findings):
        place = (finding.picture, finding.file, finding.row)
        made.append(Change("left out what cannot be read", finding.code, *place, finding.message))
    faults = {i: _find_fault(table, i, checked.facts.get(i)) for i in range(table.num_pictures)}
    if table.masks is None:
        table = _turn_labels(table, checked.facts, faults, made)
    keep = [index for index, code in faults.items() if not code]
    for index, code in faults.items():
        if code:
            made.append(Change("left a picture out", code, str(table.path(index))))
    facts = {place: checked.facts[index] for place, index in enumerate(keep)}
    kept = table.select(keep)
    sizes = np.array([one.upright_size for one in facts.values()], np.int64).reshape(-1, 2)
    fixed = fix_labels(replace(kept, sizes=sizes, findings=()), made)
    again = check_table(fixed, model=None, fast=True, progress=False)
    left += [finding for finding in again.findings if finding.severity != "info"]
    left += [finding for finding in checked.findings if finding.code in _LEFT_ALONE]
    return fixed, facts


def _find_fault(table: LabelTable, index: int, known: Facts | None) -> str:
    """What makes a picture useless as long as nobody restores or finds it; empty: nothing."""
    if known is None:
        return "missing-picture"
    if known.problem:
        return "unreadable-picture"
    if is_labelled_as_stored(table, index, known):
        return "labels-not-turned"
    height, width = (int(side) for side in table.sizes[index])
    return "size-differs" if height >= 0 and (height, width) != known.upright_size else ""


def _turn_labels(
    table: LabelTable, facts: Mapping[int, Facts], faults: dict[int, str], made: list[Change]
) -> LabelTable:
    """Turns boxes of stored pixels, and strikes their pictures from the faults."""
    boxes = table.boxes.copy()
    for index, code in faults.items():
        if code == "labels-not-turned":
            known, things = facts[index], table.objects(index)
            boxes[things] = turn_boxes(boxes[things], known.size, known.orientation)
            path = str(table.path(index))
            made.append(Change("turned boxes as EXIF turns the picture", code, path))
            faults[index] = ""
    return replace(table, boxes=boxes)


def _without_leaks(
    table: LabelTable, facts: dict[int, Facts], seen: dict[bytes, Path], made: list[Change]
) -> tuple[LabelTable, dict[int, Facts]]:
    """Leaves out pictures that an earlier split has."""
    keep = []
    for index, known in facts.items():
        if known.digest in seen:
            path = str(table.path(index))
            other = str(seen[known.digest])
            made.append(Change("left a picture out", "leaked-picture", path, before=other))
        else:
            keep.append(index)
    for index in keep:
        seen[facts[index].digest] = table.path(index)
    if not keep:
        raise ValueError(
            f"fix_dataset: expected pictures that can be used in {table.root}, got none"
        )
    return table.select(keep), {place: facts[index] for place, index in enumerate(keep)}


def _place_pictures(
    table: LabelTable,
    facts: Mapping[int, Facts],
    folder: Path,
    pictures: Literal["link", "copy"],
    made: list[Change],
) -> LabelTable:
    """Links or copies the pictures, and gives the table with their new names."""
    names: dict[str, None] = {}
    for index, known in facts.items():
        source = table.path(index)
        name = _new_name(Path(str(table.pictures[index])), known, names)
        names[name.as_posix()] = None
        if name.suffix != source.suffix:
            made.append(Change("renamed", "wrong-suffix", str(source), after=name.as_posix()))
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if pictures == "link":
            target.symlink_to(os.path.realpath(source))
        else:
            shutil.copyfile(source, target)
    return replace(table, root=folder, pictures=PackedList(names))


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
