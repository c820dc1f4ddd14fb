"""Objects of one image whose boxes are equal or nearly equal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cvlib.data.labels.table import LabelTable
from cvlib.ops import paired_box_iou

# Two boxes of different classes with at least this IoU are taken for one object.
NEAR_IOU = 0.95
# Boxes that begin right of a box and are compared with it; only crowds have more.
_MAX_NEIGHBOURS = 100
# The golden ratio as a 64-bit fraction: odd, with bits set all over.
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def find_duplicates(table: LabelTable, *, skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find objects that are labelled twice: equal box and class, and equal mask if any.

    Args:
        table: Labels.
        skip: Shape (T,), True for objects to ignore, which must include all with NaN. Crowds are
            always ignored.

    Returns:
        Shape (D, 2), int64: pairs of an object and one that repeats it.
    """
    objects, owners, boxes, labels = _select_objects(table, skip)
    pairs = objects[_equal_pairs(owners, boxes, labels)]
    is_duplicate = [_have_equal_masks(table, first, second) for first, second in pairs.tolist()]
    return pairs[np.array(is_duplicate, dtype=np.bool_)]


def find_contradictions(table: LabelTable, *, skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find objects of two classes with nearly the same box.

    Args:
        table: Labels.
        skip: See `find_duplicates`.

    Returns:
        Shape (C, 2), int64: pairs, the earlier object first.
    """
    with np.errstate(invalid="ignore"):
        is_inverted = np.logical_or.reduce(table.boxes[:, 2:] < table.boxes[:, :2], axis=1)
    objects, owners, boxes, labels = _select_objects(table, skip | is_inverted)
    return np.sort(objects[_near_pairs(owners, boxes, labels)], axis=1)


def _select_objects(
    table: LabelTable, skip: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return indices, images, boxes and labels of the objects to compare."""
    objects = np.flatnonzero(~skip & ~table.iscrowd)
    owners = table.image_of_object()[objects]
    return objects, owners, table.boxes[objects], table.labels[objects]


def _equal_pairs(
    owners: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return pairs of an object and one that repeats it, shape (D, 2)."""
    columns = [owners, labels, *(boxes + 0.0).T.copy().view(np.int64)]  # -0 becomes 0
    digest = np.zeros(len(owners), dtype=np.uint64)
    for column in columns:
        digest = (digest ^ column.view(np.uint64)) * _HASH_MULTIPLIER
        digest ^= digest >> np.uint64(29)
    order = np.argsort(digest, kind="stable")
    equal = digest[order[1:]] == digest[order[:-1]]
    for column in columns:  # digests may be equal by chance
        equal[equal] = (column[order[1:]] == column[order[:-1]])[equal]
    equal = np.concatenate([np.zeros(min(1, len(order)), dtype=np.bool_), equal])
    firsts = np.maximum.accumulate(np.where(equal, 0, np.arange(len(order))))
    return np.stack([order[firsts], order], axis=1)[equal]


def _have_equal_masks(table: LabelTable, first: int, second: int) -> bool:
    return table.masks is None or bool(table.masks[first] == table.masks[second])


def _near_pairs(
    owners: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return pairs of boxes of two classes with a high IoU, shape (C, 2).

    With an IoU above t, the left edges of two boxes differ by at most (1 - t) of the left box's
    width, so few neighbours in the order of left edges need to be compared.
    """
    order = np.lexsort([boxes[:, 0], owners])
    owners, boxes, labels = owners[order], boxes[order], labels[order]
    starts = boxes[:, 0]
    reach = starts + (1 - NEAR_IOU) * (boxes[:, 2] - starts)
    left = np.arange(len(boxes))
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for distance in range(1, _MAX_NEIGHBOURS + 1):
        left = left[left + distance < len(boxes)]
        right = left + distance
        left = left[(owners[left] == owners[right]) & (starts[right] <= reach[left])]
        right = left + distance
        pair = np.stack([left, right], axis=1)[labels[left] != labels[right]]
        first, second = (torch.from_numpy(boxes[side]) for side in pair.T)
        is_near = paired_box_iou(first, second).numpy() >= NEAR_IOU
        pairs.append(order[pair[is_near]])
    return np.concatenate(pairs)
