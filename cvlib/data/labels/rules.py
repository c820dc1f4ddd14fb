"""Rules for labels, checked on a whole dataset at once without opening images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.duplicates import find_contradictions, find_duplicates
from cvlib.data.labels.findings import (
    MAX_FINDINGS_PER_CODE,
    Finding,
    Severity,
    limit_findings,
)
from cvlib.data.labels.misread_layouts import all_of_row, any_of_row, find_misreading
from cvlib.data.labels.table import LabelTable

# Pixels that a box may lie beyond the border, because files round.
SLACK = 1.0
# No image is this large: a larger number is a typing error or another unit.
_LARGEST_COORDINATE = 1e6
_ADVICE_FRACTIONS = "multiply x by the image's width and y by its height"
# Findings about all labels of a dataset: dropping objects would leave none, or hide the cause.
DATASET_CODES = frozenset(
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
    """A condition on single objects, and the objects that violate it.

    Attributes:
        code: Code of its findings.
        broken: Shape (T,), True for objects that violate the rule.
        expected: The condition in words.
        fix: What to do.
    """

    code: str
    broken: NDArray[np.bool_]
    expected: str
    fix: str


def find_bad_labels(table: LabelTable) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Find labels that would train a model wrongly.

    An object is reported once, by the first rule that it violates. A fault of the whole dataset
    that statistics reveal, such as widths where far corners are expected, is one finding with a
    count.

    Args:
        table: Unchecked labels.

    Returns:
        Errors, and a mask of shape (T,) that is True for the affected objects.

    Note:
        About a second for a million objects. See `limit_findings` for how many are listed.

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
    for finding, explained in _find_dataset_faults(table):
        findings.append(finding)
        bad |= explained
    owners = table.image_of_object()
    for rule in broken_rules(table, skip=bad):
        findings += _list_findings(table, owners, rule)
        bad |= rule.broken
    return findings, bad


def broken_rules(table: LabelTable, *, skip: NDArray[np.bool_]) -> Iterator[Rule]:
    """Yield the rules for single objects; each object counts for the first rule it violates.

    Args:
        table: Labels.
        skip: Shape (T,), True for objects to ignore.
    """
    bad = skip.copy()
    for rule in _object_rules(table, table.image_of_object()):
        yield replace(rule, broken=rule.broken & ~bad)
        bad |= rule.broken


def find_doubtful_labels(table: LabelTable) -> list[Finding]:
    """Find labels that may be right, but seldom are.

    Args:
        table: Unchecked labels.

    Returns:
        Warnings: objects labelled twice, two classes for one box, one box for all objects, boxes
        around whole images.
    """
    owners = table.image_of_object()
    skip = ~all_of_row(np.isfinite(table.boxes))
    repeated, contradicted = np.zeros_like(skip), np.zeros_like(skip)
    repeated[find_duplicates(table, skip=skip)[:, 1]] = True
    contradicted[find_contradictions(table, skip=skip | repeated)[:, 1]] = True
    rules = (
        Rule("duplicate-box", repeated, "expected each object once", "remove the second one"),
        Rule(
            "two-classes-for-one-box",
            contradicted,
            "expected one class for one object, another class has nearly the same box",
            "remove the wrong one of the two",
        ),
    )
    findings = _find_constants(table, owners)
    for rule in rules:
        findings += _list_findings(table, owners, rule, "warning")
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
            "exchange the corners, or read the file as x, y, width, height",
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


def _are_fractions(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of boxes within 0..1 that are not in whole pixels."""
    with np.errstate(invalid="ignore"):
        within = all_of_row((boxes >= 0) & (boxes <= 1))
        return within & any_of_row((boxes > 0) & (boxes < 1))


def _find_dataset_faults(table: LabelTable) -> list[tuple[Finding, NDArray[np.bool_]]]:
    if not table.num_objects:
        return []
    faults = [_find_fractions(table), _find_one_based_classes(table)]
    if faults[0] is None:
        faults.append(_find_layout(table))
    return [fault for fault in faults if fault is not None]


def are_mostly_fractions(table: LabelTable) -> bool:
    """Whether the boxes of a dataset are in fractions of the image size."""
    count = int(_possible_fractions(table).sum())
    return count >= 2 and 2 * count >= table.num_objects


def _possible_fractions(table: LabelTable) -> NDArray[np.bool_]:
    """Mask of boxes within 0..1; (0, 0, 1, 1) may be a single pixel or the whole image."""
    boxes = table.boxes
    with np.errstate(invalid="ignore"):
        within = all_of_row((boxes >= 0) & (boxes <= 1))
        return _are_fractions(boxes) | (within & all_of_row(boxes[:, 2:] > boxes[:, :2]))


def _find_fractions(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    if not are_mostly_fractions(table):
        return None
    fractions = _possible_fractions(table)
    size = table.sizes[table.image_of_object()[int(np.argmax(fractions))]]
    factor = f", here {size[1]} and {size[0]}" if size[0] > 0 else ""
    count = int(fractions.sum())
    message = f"expected boxes in pixels, got numbers from 0 to 1 in {count} of {len(fractions)}"
    fix = _ADVICE_FRACTIONS + factor
    return _summarise(table, "normalised-box", message, fix, fractions), fractions


def counts_from_one(table: LabelTable) -> bool:
    """Whether labels run from 1 to K instead of from 0 to K - 1."""
    labels = table.labels
    return bool(len(labels) and labels.min() == 1 and labels.max() == len(table.classes))


def _find_one_based_classes(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    if not counts_from_one(table):
        return None
    count = len(table.classes)
    message = f"expected labels from 0 to {count - 1}, got 1 to {count}"
    fix = "count classes from 0: subtract 1 from every label"
    affected = np.ones(table.num_objects, dtype=np.bool_)
    return _summarise(table, "one-based-classes", message, fix, affected), affected


def _find_layout(table: LabelTable) -> tuple[Finding, NDArray[np.bool_]] | None:
    misreading = find_misreading(table, SLACK)
    if misreading is None:
        return None
    message = (
        f"expected {misreading.expected}, got {misreading.wrong} of {misreading.checked} boxes "
        f"inverted or outside; read as {misreading.meant}, {misreading.fitting} fit"
    )
    objects = misreading.objects
    return _summarise(table, misreading.code, message, misreading.fix, objects), objects


def _summarise(
    table: LabelTable, code: str, message: str, fix: str, objects: NDArray[np.bool_]
) -> Finding:
    """One error that counts all affected objects and shows the first."""
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
    """Find datasets in which every box is the same or the whole image."""
    boxes, sizes = table.boxes, table.sizes[owners]
    if table.num_objects < 10 or len(np.unique(owners)) < 10:
        return []
    affected = np.ones(len(boxes), dtype=np.bool_)
    fills_image = (np.abs(boxes - np.pad(sizes[:, ::-1], ((0, 0), (2, 0)))) <= SLACK).all(1)
    if fills_image.all():
        message = "expected boxes around objects, got the whole image in every one"
        finding = _summarise(table, "whole-image-boxes", message, "draw the boxes", affected)
    elif (boxes == boxes[0]).all():
        message = "expected boxes around objects, got the same box in every image"
        finding = _summarise(table, "equal-boxes", message, "draw the boxes", affected)
    else:
        return []
    return [replace(finding, severity="warning")]


def _list_findings(
    table: LabelTable,
    owners: NDArray[np.int64],
    rule: Rule,
    severity: Severity = "error",
) -> list[Finding]:
    broken = np.flatnonzero(rule.broken)
    findings = []
    for index in broken[:MAX_FINDINGS_PER_CODE].tolist():
        image, box = int(owners[index]), _box(table, index)
        corners = ", ".join(f"{value:g}" for value in box)
        findings.append(
            Finding(
                severity=severity,
                code=rule.code,
                message=f"{rule.expected}, got box ({corners}) {_describe_class(table, index)}",
                file=table.label_file(image),
                row=table.row(index),
                image=str(table.path(image)),
                box=box,
                fix=rule.fix,
            )
        )
    return limit_findings(findings, {rule.code: len(broken)})


def _describe_class(table: LabelTable, index: int) -> str:
    label = int(table.labels[index])
    name = f" ({table.classes[label]!r})" if 0 <= label < len(table.classes) else ""
    return f"with label {label}{name}"


def _box(table: LabelTable, index: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 2) for value in table.boxes[index])
    return x1, y1, x2, y2
