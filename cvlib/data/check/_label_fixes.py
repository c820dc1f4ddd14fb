"""Corrections of labels that are sure, and objects left out that cannot be right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvlib.data._box_layouts import find_misreading
from cvlib.data._twins import find_duplicates
from cvlib.data.check._instance_masks import find_faults
from cvlib.data.label_rules import SLACK, are_mostly_fractions, broken_rules, count_from_one
from cvlib.data.table import LabelTable

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
        picture: Path of the picture, as it was; empty: all of them.
        file: The label file, as it was.
        row: Where in it.
        before: What was there.
        after: What is there now; empty: nothing.
    """

    action: str
    code: str
    picture: str = ""
    file: str = ""
    row: str = ""
    before: str = ""
    after: str = ""


def fix_labels(table: LabelTable, made: list[Change]) -> LabelTable:
    """Corrects what is sure and leaves out what cannot be right.

    Args:
        table: With the sizes of all pictures.
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
        made.append(Change("multiplied boxes by the sizes of pictures", "normalised-box"))
        return replace(table, boxes=boxes)
    misreading = find_misreading(table, SLACK)
    if misreading is None:
        return table
    boxes = table.boxes.copy()
    boxes[misreading.objects] = misreading.boxes
    made.append(Change(f"read all boxes as {misreading.meant}", misreading.code))
    return replace(table, boxes=boxes)


def _frames(table: LabelTable) -> Boxes:
    """(width, height, width, height) of each object's picture."""
    return table.sizes[table.picture_of_object()][:, [1, 0, 1, 0]].astype(np.float64)


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
    picture = int(np.searchsorted(table.starts, thing, side="right")) - 1
    return Change(
        action,
        code,
        picture=str(table.path(picture)),
        file=table.label_file(picture),
        row=table.row(thing),
        before=f"{_show(table.boxes[thing])} with label {table.labels[thing]}",
        after="" if after is None else _show(after),
    )


def _show(box: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def turn_boxes(boxes: Boxes, size: tuple[int, int], orientation: int) -> Boxes:
    """Boxes on stored pixels as boxes on the picture that EXIF turns.

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
