"""Rules that labels must keep, on a whole data set at once; images are not opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.duplicates import find_contradictions, find_duplicates
from cvlib.data.labels.findings import Finding, Severity
from cvlib.data.labels.misread_layouts import all_of_row, any_of_row, find_misreading
from cvlib.data.labels.table import LabelTable

# Files round: a box may lie so many pixels beyond the border.
SLACK = 1.0
# Told one by one; the rest of the same kind becomes one finding with a count.
MOST_OF_A_KIND = 1000
# No image is so large: such a number is a slip of the keyboard or another unit.
_LARGEST_COORDINATE = 1e6
_ADVICE_FRACTIONS = "multiply x by the image's width and y by its height"
# Findings about all labels of a set: leaving objects out would leave none, or hide the cause.
SET_CODES = frozenset(
    {
        "normalised-box",
        "percent-box",
        "per-mille-box",
        "pixels-as-fractions",
        "xywh-as-xyxy",
        "cxcywh-as-xyxy",
        "xyxy-as-xywh",
        "cxcywh-as-xywh",
        "xy-exchanged",
        "one-based-classes",
    }
)


@dataclass(frozen=True)
class Rule:
    """What every object must keep.

    Attributes:
        code: Of its findings.
        broken: Shape (T,): objects that do not keep it.
        expected: In words.
        fix: What to do.
    """

    code: str
    broken: NDArray[np.bool_]  # (T,)
    expected: str
    fix: str


def find_bad_labels(table: LabelTable) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Finds the labels that would train a model wrongly.

    An object is told once, by the first rule that it breaks. What statistics show to be wrong with
    the whole set, such as widths where far corners are expected, is one finding with a count.

    Args:
        table: Labels as the files say them.

    Returns:
        Errors, and shape (T,): the objects that they are about.

    Note:
        About a second for a million objects. Of a kind with more than 1000 objects the first 1000
        are told one by one, and the rest as one finding with their number.

    Example:
        >>> from pathlib import Path
        >>> from cvlib.data.labels.table import TableBuilder
        >>> builder = TableBuilder("list", Path("."), ["cat"])
        >>> builder.add_image("a.jpg", size=(480, 640))
        >>> builder.add_object((30, 40, 20, 60), label=0, row=2)
        >>> findings, bad = find_bad_labels(builder.build())
        >>> findings[0].code, bad.tolist()
        ('inverted-box', [True])
    """
    bad = np.zeros(table.num_objects, dtype=np.bool_)
    findings: list[Finding] = []
    for finding, explained in _find_set_faults(table):
        findings.append(finding)
        bad |= explained
    owners = table.image_of_object()
    for rule in broken_rules(table, skip=bad):
        findings += _tell(table, owners, rule, np.flatnonzero(rule.broken))
        bad |= rule.broken
    return findings, bad


def broken_rules(table: LabelTable, *, skip: NDArray[np.bool_]) -> Iterator[Rule]:
    """Gives the rules about single objects, each with the objects that break it and none before.

    Args:
        table: Labels.
        skip: Shape (T,): objects that are left out.
    """
    bad = skip.copy()
    for rule in _object_rules(table, table.image_of_object()):
        yield replace(rule, broken=rule.broken & ~bad)
        bad |= rule.broken


def find_doubtful_labels(table: LabelTable) -> list[Finding]:
    """Finds labels that may be right, but seldom are.

    Args:
        table: Labels as the files say them.

    Returns:
        Warnings: objects labelled twice, two classes for one box, one box for all objects, boxes
        around whole images.
    """
    owners = table.image_of_object()
    skip = ~all_of_row(np.isfinite(table.boxes))
    again, torn = np.zeros_like(skip), np.zeros_like(skip)
    again[find_duplicates(table, skip=skip)[:, 1]] = True
    torn[find_contradictions(table, skip=skip | again)[:, 1]] = True
    rules = (
        Rule("duplicate-box", again, "expected each object once", "remove the second one"),
        Rule(
            "two-classes-for-one-box",
            torn,
            "expected one class for one object, another class has nearly the same box",
            "remove the wrong one of the two",
        ),
    )
    findings = _find_constants(table, owners)
    for rule in rules:
        findings += _tell(table, owners, rule, np.flatnonzero(rule.broken), severity="warning")
    return findings


def _object_rules(table: LabelTable, owners: NDArray[np.int64]) -> list[Rule]:
    boxes = table.boxes
    with np.errstate(invalid="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2]
        sizes = table.sizes[owners].astype(np.float64)
        beyond = np.maximum(boxes[:, 2] - sizes[:, 1], boxes[:, 3] - sizes[:, 0]) > SLACK
        outside = (sizes[:, 0] >= 0) & beyond | (boxes[:, :2].min(1, initial=np.inf) < -SLACK)
    return [
        Rule(
            "unknown-class",
            (table.labels < 0) | (table.labels >= len(table.classes)),
            f"expected a label in 0..{len(table.classes) - 1}",
            "correct the label, or add its class",
        ),
        Rule(
            "not-a-number",
            ~all_of_row(np.isfinite(boxes)),
            "expected four finite numbers",
            "draw the box again or remove it",
        ),
        Rule(
            "normalised-box",
            _are_fractions(boxes),
            "expected pixels, these are fractions",
            _ADVICE_FRACTIONS,
        ),
        Rule(
            "inverted-box",
            any_of_row(sides < 0),
            "expected x1 <= x2 and y1 <= y2",
            "exchange the corners; a file of x, y, width, height must be read as one",
        ),
        Rule(
            "degenerate-box",
            any_of_row(sides == 0),
            "expected positive width and height",
            "draw the box again or remove it",
        ),
        Rule(
            "too-large-box",
            any_of_row(np.abs(boxes) > _LARGEST_COORDINATE),
            f"expected coordinates up to {_LARGEST_COORDINATE:.0f}",
            "look for a missing decimal point",
        ),
        Rule(
            "box-outside",
            outside,
            "expected a box inside the image",
            "clip the box, or label the right image",
        ),
    ]


def _are_fractions(boxes: NDArray[np.float64], *, whole: bool = False) -> NDArray[np.bool_]:
    """Which boxes lie within 0..1; ``whole`` ones too, which may be a single pixel."""
    with np.errstate(invalid="ignore"):
        within = all_of_row((boxes >= 0) & (boxes <= 1))
        if whole:
            return within & all_of_row(boxes[:, 2:] > boxes[:, :2])
        return within & any_of_row((boxes > 0) & (boxes < 1))


def _find_set_faults(table: LabelTable) -> list[tuple[Finding, NDArray[np.bool_]]]:
    if not table.num_objects:
        return []
    faults = [_find_fractions(table), _find_one_based_classes(table)]
    if faults[0] is None:
        faults.append(_find_layout(table))
    return [fault for fault in faults if fault is not None]


def are_mostly_fractions(table: LabelTable) -> bool:
    """Whether the boxes of a set are given in fractions of the images."""
    count = int(_set_fractions(table).sum())
    return count >= 2 and 2 * count >= table.num_objects


def _set_fractions(table: LabelTable) -> NDArray[np.bool_]:
    return _are_fractions(table.boxes, whole=True) | _are_fractions(table.boxes)


def _find_fractions(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    if not are_mostly_fractions(table):
        return None
    fractions = _set_fractions(table)
    size = table.sizes[table.image_of_object()[int(np.argmax(fractions))]]
    factor = f", here {size[1]} and {size[0]}" if size[0] > 0 else ""
    count = int(fractions.sum())
    message = f"expected boxes in pixels, got numbers from 0 to 1 in {count} of {len(fractions)}"
    fix = _ADVICE_FRACTIONS + factor
    return _about_all(table, "normalised-box", message, fix, fractions), fractions


def count_from_one(table: LabelTable) -> bool:
    """Whether labels go from 1 to K where 0 to K - 1 are expected."""
    labels = table.labels
    return bool(len(labels) and labels.min() == 1 and labels.max() == len(table.classes))


def _find_one_based_classes(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    if not count_from_one(table):
        return None
    count = len(table.classes)
    message = f"expected labels from 0 to {count - 1}, got 1 to {count}"
    fix = "count classes from 0: subtract 1 from every label"
    every = np.ones(table.num_objects, dtype=np.bool_)
    return _about_all(table, "one-based-classes", message, fix, every), every


def _find_layout(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    misreading = find_misreading(table, SLACK)
    if misreading is None:
        return None
    message = (
        f"expected {misreading.expected}, got {misreading.wrong} of {misreading.seen} boxes that "
        f"are inverted or outside as they are read; {misreading.fitting} fit as {misreading.meant}"
    )
    return (
        _about_all(table, misreading.code, message, misreading.fix, misreading.objects),
        misreading.objects,
    )


def _about_all(
    table: LabelTable, code: str, message: str, fix: str, objects: NDArray[np.bool_]
) -> Finding:
    first = int(np.argmax(objects))
    image = int(np.searchsorted(table.starts, first, side="right")) - 1
    return Finding(
        severity="error",
        code=code,
        message=message,
        file=table.label_file(image) or str(table.root),
        image=str(table.path(image)),
        box=_box(table, first),
        fix=fix,
        count=int(objects.sum()),
    )


def _find_constants(table: LabelTable, owners: NDArray[np.int64]) -> list[Finding]:
    """Boxes that nobody can have drawn."""
    boxes, sizes = table.boxes, table.sizes[owners]
    if table.num_objects < 10 or len(np.unique(owners)) < 10:
        return []
    every = np.ones(len(boxes), dtype=np.bool_)
    whole = (np.abs(boxes - np.pad(sizes[:, ::-1], ((0, 0), (2, 0)))) <= SLACK).all(1)
    if whole.all():
        message = "expected boxes around objects, got the whole image in every one"
        finding = _about_all(table, "whole-image-boxes", message, "draw the boxes", every)
    elif (boxes == boxes[0]).all():
        message = "expected boxes around objects, got the same box in every image"
        finding = _about_all(table, "equal-boxes", message, "draw the boxes", every)
    else:
        return []
    return [replace(finding, severity="warning")]


def _tell(
    table: LabelTable,
    owners: NDArray[np.int64],
    rule: Rule,
    things: NDArray[np.int64],
    severity: Severity = "error",
) -> list[Finding]:
    findings = []
    for thing in things[:MOST_OF_A_KIND].tolist():
        image, box = int(owners[thing]), _box(table, thing)
        corners = ", ".join(f"{value:g}" for value in box)
        findings.append(
            Finding(
                severity=severity,
                code=rule.code,
                message=f"{rule.expected}, got box ({corners}) {_class(table, thing)}",
                file=table.label_file(image),
                row=table.row(thing),
                image=str(table.path(image)),
                box=box,
                fix=rule.fix,
            )
        )
    more = len(things) - MOST_OF_A_KIND
    if more > 0:
        findings.append(
            replace(
                findings[0],
                message=f"{rule.expected}, got {more} more like these",
                row="",
                image="",
                box=None,
                count=more,
            )
        )
    return findings


def _class(table: LabelTable, thing: int) -> str:
    label = int(table.labels[thing])
    name = f" ({table.classes[label]!r})" if 0 <= label < len(table.classes) else ""
    return f"with label {label}{name}"


def _box(table: LabelTable, thing: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 2) for value in table.boxes[thing])
    return x1, y1, x2, y2
