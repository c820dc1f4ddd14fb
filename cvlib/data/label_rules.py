"""Rules that labels must keep, on a whole data set at once; pictures are not opened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvlib.data.findings import Finding
from cvlib.data.table import LabelTable

# Files round: a box may lie so many pixels beyond the border.
SLACK = 1.0


def find_bad_labels(table: LabelTable) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Finds the labels that would train a model wrongly.

    Args:
        table: Labels as the files say them.

    Returns:
        An error for each object that cannot be right, and shape (T,): which objects those are.
    """
    boxes, owners = table.boxes, table.picture_of_object()
    sides = boxes[:, 2:] - boxes[:, :2]
    sizes = table.sizes[owners].astype(np.float64)
    known = sizes[:, 0] >= 0
    beyond = np.maximum(boxes[:, 2] - sizes[:, 1], boxes[:, 3] - sizes[:, 0]) > SLACK
    rules = {
        "unknown-class": (
            (table.labels < 0) | (table.labels >= len(table.classes)),
            f"expected a label in 0..{len(table.classes) - 1}",
            "correct the label, or add its class",
        ),
        "not-a-number": (
            ~np.isfinite(boxes).all(1),
            "expected four finite numbers",
            "draw the box again or remove it",
        ),
        "inverted-box": (
            (sides < 0).any(1),
            "expected x1 <= x2 and y1 <= y2",
            "exchange the corners; a file of x, y, width, height must be read as one",
        ),
        "degenerate-box": (
            (sides == 0).any(1),
            "expected positive width and height",
            "draw the box again or remove it",
        ),
        "box-outside": (
            known & (beyond | (boxes[:, :2].min(1, initial=np.inf) < -SLACK)),
            "expected a box inside the picture",
            "clip the box, or label the right picture",
        ),
    }
    findings: list[Finding] = []
    bad = np.zeros(table.num_objects, dtype=np.bool_)
    for code, (broken, expected, fix) in rules.items():
        for thing in np.flatnonzero(broken & ~bad):
            findings.append(_finding(table, code, int(thing), int(owners[thing]), expected, fix))
        bad |= broken
    return findings, bad


def _finding(
    table: LabelTable, code: str, thing: int, picture: int, expected: str, fix: str
) -> Finding:
    x1, y1, x2, y2 = (round(float(value), 2) for value in table.boxes[thing])
    return Finding(
        severity="error",
        code=code,
        message=f"{expected}, got box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) with label "
        f"{table.labels[thing]}",
        file=table.label_file(picture),
        row=table.row(thing),
        picture=str(table.path(picture)),
        box=(x1, y1, x2, y2),
        fix=fix,
    )
