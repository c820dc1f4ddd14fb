"""Detect boxes that were read in another layout than they were written in, by statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.table import LabelTable

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Minimum share of invalid boxes before the layout itself is questioned.
_WRONG_SHARE = 0.1
# Minimum share of boxes that must fit in the other layout.
_FITTING_SHARE = 0.98
# Maximum share of inverted boxes, due to other faults, in layouts that cannot invert a box.
_MAX_INVERTED_SHARE = 0.02
# With fewer boxes, a wrong layout could fit by chance.
_MIN_BOXES = 5
# For scales of 100 and 1000: minimum number of boxes, and how near to the end they must come.
_MIN_BOXES_OF_A_SCALE = 20
_NEAR_END = 0.9
# Corners this many image sizes away are no slips: they were multiplied by the size.
_FAR_OUT = 4.0
# Images of unknown size are taken to reach this far beyond the farthest corner of the dataset.
_UNKNOWN_SIZE_MARGIN = 1.1


def all_of_row(flags: Flags) -> Flags:
    """``flags.all(1)`` as an array for the type checker."""
    return np.asarray(np.logical_and.reduce(flags, axis=1))


def any_of_row(flags: Flags) -> Flags:
    """``flags.any(1)`` as an array for the type checker."""
    return np.asarray(np.logical_or.reduce(flags, axis=1))


@dataclass(frozen=True)
class Misreading:
    """A dataset whose boxes make sense only in another layout.

    Attributes:
        code: Code of the finding.
        expected: Layout in which the boxes were read.
        meant: Layout in which they fit.
        fix: What to do.
        checked: Number of checked boxes.
        wrong: Number of these that are inverted or outside as read.
        fitting: Number of these that fit in the other layout.
        objects: Shape (T,), True for objects whose boxes must be converted.
        boxes: Converted boxes of these objects, shape (N, 4).
    """

    code: str
    expected: str
    meant: str
    fix: str
    checked: int
    wrong: int
    fitting: int
    objects: Flags
    boxes: Boxes


@dataclass(frozen=True)
class _Evidence:
    """Finite boxes of a dataset.

    Attributes:
        boxes: Boxes as read, shape (N, 4).
        frames: (width, height, width, height) of their images, shape (N, 4).
        has_sizes: Whether all ``frames`` are known sizes rather than estimates.
        inverted: Shape (N,), True for inverted boxes.
        outside: Shape (N,), True for other boxes that leave the frame.
    """

    boxes: Boxes
    frames: Boxes
    has_sizes: bool
    inverted: Flags
    outside: Flags

    def is_often_inverted(self) -> bool:
        return _is_many(self.inverted)

    def is_often_outside(self) -> bool:
        return _is_many(self.outside) and self.inverted.mean() <= _MAX_INVERTED_SHARE


@dataclass(frozen=True)
class _Reading:
    """Another way to read boxes.

    Attributes:
        code: See `Misreading`.
        expected: See `Misreading`.
        meant: See `Misreading`.
        fix: See `Misreading`.
        convert: Function of boxes and frames that returns the boxes in this reading.
        is_likely: Whether the evidence suggests this reading at all.
    """

    code: str
    expected: str
    meant: str
    fix: str
    convert: Callable[[Boxes, Boxes], Boxes]
    is_likely: Callable[[_Evidence], bool]


def find_misreading(table: LabelTable, slack: float) -> Misreading | None:
    """Find the layout that boxes were written in, if they were read in another one.

    In a wrong layout many boxes are inverted or leave their images, and in the right one they
    fit. Both must hold. If several layouts qualify, the one in which most boxes fit is returned.

    Args:
        table: Unchecked labels.
        slack: Pixels that a box may lie beyond the border.

    Returns:
        The best other reading, or None if the boxes are in order or no reading explains them.
    """
    objects = all_of_row(np.isfinite(table.boxes))
    if objects.sum() < _MIN_BOXES:
        return None
    evidence = _gather(table, objects, slack)
    best: tuple[int, _Reading] | None = None
    for reading in _READINGS:
        if not reading.is_likely(evidence):
            continue
        boxes = reading.convert(evidence.boxes, evidence.frames)
        fitting = int(_fit(boxes, evidence.frames, slack).sum())
        if fitting >= _FITTING_SHARE * len(boxes) and (best is None or fitting > best[0]):
            best = fitting, reading
    if best is None:
        return None
    fitting, reading = best
    return Misreading(
        code=reading.code,
        expected=reading.expected,
        meant=reading.meant,
        fix=reading.fix,
        checked=len(evidence.boxes),
        wrong=int((evidence.inverted | evidence.outside).sum()),
        fitting=fitting,
        objects=objects,
        boxes=reading.convert(evidence.boxes, evidence.frames),
    )


def _gather(table: LabelTable, objects: Flags, slack: float) -> _Evidence:
    boxes = table.boxes[objects]
    sizes = table.sizes[table.image_of_object()[objects]].astype(np.float64)
    frames = sizes[:, [1, 0, 1, 0]]
    unknown = frames[:, 0] < 0
    extent = np.maximum(boxes[:, :2], boxes[:, 2:]).max(0) * _UNKNOWN_SIZE_MARGIN
    frames[unknown] = np.tile(extent, 2)
    inverted = any_of_row(boxes[:, 2:] < boxes[:, :2])
    return _Evidence(
        boxes=boxes,
        frames=frames,
        has_sizes=not unknown.any(),
        inverted=inverted,
        outside=~inverted & ~_fit(boxes, frames, slack),
    )


def _fit(boxes: Boxes, frames: Boxes, slack: float) -> Flags:
    """Mask of boxes that are not inverted and lie within the frame."""
    near, far = boxes[:, :2], boxes[:, 2:]
    within = all_of_row(near >= -slack) & all_of_row(far <= frames[:, 2:] + slack)
    return within & all_of_row(far >= near)


def _is_many(flags: Flags) -> bool:
    return bool(flags.sum() >= 2 and flags.mean() >= _WRONG_SHARE)


def _ends_far_out(evidence: _Evidence) -> bool:
    with np.errstate(divide="ignore", invalid="ignore"):
        return bool(np.median((evidence.boxes / evidence.frames).max(1)) > _FAR_OUT)


def _is_scale(scale: float) -> Callable[[_Evidence], bool]:
    def is_likely(evidence: _Evidence) -> bool:
        boxes, frames = evidence.boxes, evidence.frames
        fills = len(boxes) >= _MIN_BOXES_OF_A_SCALE and boxes.min() >= 0 and boxes.max() <= scale
        if not fills or not evidence.has_sizes or boxes[:, 2:].max(0).min() < _NEAR_END * scale:
            return False
        return bool(frames.min() >= 2 * scale) or evidence.is_often_outside()

    return is_likely


def _from_xywh(boxes: Boxes, frames: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_cxcywh(boxes: Boxes, frames: Boxes) -> Boxes:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _to_xywh(boxes: Boxes, frames: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _centre_to_corner(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes - np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)


def _exchange_xy(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes[:, [1, 0, 3, 2]]


def _to_fractions(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes / np.maximum(frames, 1)


_READINGS = (
    _Reading(
        "pixels-as-fractions",
        "fractions of the image",
        "pixels",
        "divide x by the image's width and y by its height, or read the file as one of pixels",
        _to_fractions,
        _ends_far_out,
    ),
    _Reading(
        "percent-box",
        "boxes in pixels, none of them beyond 100 in large images",
        "percent",
        "multiply x by width / 100 and y by height / 100",
        lambda boxes, frames: boxes * frames / 100,
        _is_scale(100),
    ),
    _Reading(
        "per-mille-box",
        "boxes in pixels, none of them beyond 1000",
        "thousandths of the image",
        "multiply x by width / 1000 and y by height / 1000",
        lambda boxes, frames: boxes * frames / 1000,
        _is_scale(1000),
    ),
    _Reading(
        "xywh-as-xyxy",
        "corners x1, y1, x2, y2",
        "x, y, width, height",
        'read the file as "xywh", or use box_convert(boxes, "xywh", "xyxy")',
        _from_xywh,
        _Evidence.is_often_inverted,
    ),
    _Reading(
        "cxcywh-as-xyxy",
        "corners x1, y1, x2, y2",
        "centre x, centre y, width, height",
        'read the file as "cxcywh", or use box_convert(boxes, "cxcywh", "xyxy")',
        _from_cxcywh,
        _Evidence.is_often_inverted,
    ),
    _Reading(
        "xyxy-as-xywh",
        "x, y, width, height",
        "corners x1, y1, x2, y2",
        'the file has corners: read it as "xyxy"',
        _to_xywh,
        _Evidence.is_often_outside,
    ),
    _Reading(
        "cxcywh-as-xywh",
        "the upper left corner, width and height",
        "centre x, centre y, width, height",
        'the file has centres: read it as "cxcywh"',
        _centre_to_corner,
        _Evidence.is_often_outside,
    ),
    _Reading(
        "xy-exchanged",
        "x before y",
        "y1, x1, y2, x2",
        "exchange x and y",
        _exchange_xy,
        _Evidence.is_often_outside,
    ),
)
