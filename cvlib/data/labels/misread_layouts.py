"""Boxes that were read in another layout than they were written in, found by statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.table import LabelTable

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Of the boxes: so many must be wrong before a whole set is doubted, so many fit when read anew.
_WRONG_SHARE = 0.1
_FITTING_SHARE = 0.98
# A layout that never turns a corner round leaves at most this share inverted, by other faults.
_FEW_SHARE = 0.02
# Below, chance could make a wrong reading fit.
_FEWEST = 5
# For scales of 100 and 1000: so many boxes, which come so near to the scale's end.
_FEWEST_OF_A_SCALE = 20
_NEAR_END = 0.9
# A far corner so many times the image's size is no slip: it was multiplied by the size.
_FAR_OUT = 4.0
# Without sizes, the farthest corner of the set stands for the image's; objects may end beyond.
_UNSEEN_MARGIN = 1.1


def all_of_row(flags: Flags) -> Flags:
    """Which rows are true throughout."""
    return np.asarray(np.logical_and.reduce(flags, axis=1))


def any_of_row(flags: Flags) -> Flags:
    """Which rows are true somewhere."""
    return np.asarray(np.logical_or.reduce(flags, axis=1))


@dataclass(frozen=True)
class Misreading:
    """A set whose boxes make sense only in another layout.

    Attributes:
        code: Of the finding.
        expected: The layout in which the boxes were read.
        meant: The one in which they fit.
        fix: What to do.
        seen: Number of boxes that were looked at.
        wrong: Of these, how many are inverted or outside as they are read.
        fitting: How many fit in the other layout.
        objects: Shape (T,): all that must be read anew.
        boxes: Shape (N, 4): of these, as they were meant.
    """

    code: str
    expected: str
    meant: str
    fix: str
    seen: int
    wrong: int
    fitting: int
    objects: Flags
    boxes: Boxes


@dataclass(frozen=True)
class _Evidence:
    """Finite boxes of a set, (N, 4).

    Attributes:
        boxes: As they were read.
        frames: (width, height, width, height) of their images.
        has_sizes: Whether ``frames`` are the images' sizes, and no estimate.
        inverted: Shape (N,).
        outside: Shape (N,): not inverted, but beyond the frame.
    """

    boxes: Boxes
    frames: Boxes
    has_sizes: bool
    inverted: Flags
    outside: Flags

    def is_often_inverted(self) -> bool:
        return _is_many(self.inverted)

    def is_often_outside(self) -> bool:
        return _is_many(self.outside) and self.inverted.mean() <= _FEW_SHARE


@dataclass(frozen=True)
class _Reading:
    """Another way to read boxes.

    Attributes:
        convert: From boxes as they were read, and frames, to boxes as they were perhaps meant.
        is_likely: Whether the set looks like it at all.
    """

    code: str
    expected: str
    meant: str
    fix: str
    convert: Callable[[Boxes, Boxes], Boxes]
    is_likely: Callable[[_Evidence], bool]


def find_misreading(table: LabelTable, slack: float) -> Misreading | None:
    """Finds the layout that boxes were written in, where it is not the one they were read in.

    In a wrong layout many boxes of a set are inverted or leave their images, and in the right one
    they fit. Both must hold. Where more than one layout fits, that of most boxes is told.

    Args:
        table: Labels as the files say them.
        slack: So many pixels beyond the border a box still fits.

    Returns:
        The best other reading, or None where the boxes are in order or nothing explains them.
    """
    objects = all_of_row(np.isfinite(table.boxes))
    if objects.sum() < _FEWEST:
        return None
    evidence = _gather(table, objects, slack)
    best: tuple[int, _Reading] | None = None
    for reading in _READINGS:
        if not reading.is_likely(evidence):
            continue
        meant = reading.convert(evidence.boxes, evidence.frames)
        fitting = int(_fit(meant, evidence.frames, slack).sum())
        if fitting >= _FITTING_SHARE * len(meant) and (best is None or fitting > best[0]):
            best = fitting, reading
    if best is None:
        return None
    fitting, reading = best
    return Misreading(
        code=reading.code,
        expected=reading.expected,
        meant=reading.meant,
        fix=reading.fix,
        seen=len(evidence.boxes),
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
    extent = np.maximum(boxes[:, :2], boxes[:, 2:]).max(0) * _UNSEEN_MARGIN
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
    """Not inverted and within the frame."""
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
        fills = len(boxes) >= _FEWEST_OF_A_SCALE and boxes.min() >= 0 and boxes.max() <= scale
        if not fills or not evidence.has_sizes or boxes[:, 2:].max(0).min() < _NEAR_END * scale:
            return False
        return bool(frames.min() >= 2 * scale) or evidence.is_often_outside()

    return is_likely


def _from_xywh(boxes: Boxes, frames: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_cxcywh(boxes: Boxes, frames: Boxes) -> Boxes:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _corners_again(boxes: Boxes, frames: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _shifted_by_half(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes - np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2)


def _exchanged(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes[:, [1, 0, 3, 2]]


def _divided(boxes: Boxes, frames: Boxes) -> Boxes:
    return boxes / np.maximum(frames, 1)


_READINGS = (
    _Reading(
        "pixels-as-fractions",
        "fractions of the image",
        "pixels",
        "divide x by the image's width and y by its height, or read the file as one of pixels",
        _divided,
        _ends_far_out,
    ),
    _Reading(
        "percent-box",
        "boxes in pixels, none of them beyond 100 in large images",
        "per cent",
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
        _corners_again,
        _Evidence.is_often_outside,
    ),
    _Reading(
        "cxcywh-as-xywh",
        "the upper left corner, width and height",
        "centre x, centre y, width, height",
        'the file has centres: read it as "cxcywh"',
        _shifted_by_half,
        _Evidence.is_often_outside,
    ),
    _Reading(
        "xy-exchanged",
        "x before y",
        "y1, x1, y2, x2",
        "exchange x and y",
        _exchanged,
        _Evidence.is_often_outside,
    ),
)
