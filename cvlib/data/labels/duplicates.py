"""Objects of one image with the same box, or nearly the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvlib.data.labels.table import LabelTable

# From this IoU on two boxes of different classes are thought to mean one object.
NEAR_IOU = 0.95
# A box is compared with so many that begin right of it; more begin there only in crowds.
_MOST_NEIGHBOURS = 100
# Odd, with bits all over: the golden ratio.
_MIXER = np.uint64(0x9E3779B97F4A7C15)


def find_duplicates(table: LabelTable, *, skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Finds objects that are labelled twice: same box and class, and mask where there is one.

    Args:
        table: Labels.
        skip: Shape (T,): objects to leave out, of which all with a NaN must be some. Crowds are
            left out as well.

    Returns:
        Shape (D, 2), int64: each object that repeats others, after the first of them.
    """
    things, owners, boxes, labels = _choose(table, skip)
    pairs = things[_equal_pairs(owners, boxes, labels)]
    is_real = [_have_same_mask(table, first, second) for first, second in pairs.tolist()]
    return pairs[np.array(is_real, dtype=np.bool_)]


def find_contradictions(table: LabelTable, *, skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Finds objects of two classes with nearly the same box.

    Args:
        table: Labels.
        skip: As for `find_duplicates`.

    Returns:
        Shape (C, 2), int64: pairs, the earlier object first.
    """
    things, owners, boxes, labels = _choose(table, skip)
    return np.sort(things[_near_pairs(owners, boxes, labels)], axis=1)


def _choose(
    table: LabelTable, skip: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Positions, images, boxes and labels of the objects that are looked at."""
    things = np.flatnonzero(~skip & ~table.iscrowd)
    owners = table.image_of_object()[things]
    return things, owners, table.boxes[things], table.labels[things]


def _equal_pairs(
    owners: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Shape (D, 2): each object that repeats others, after the first of them."""
    columns = [owners, labels, *(boxes + 0.0).T.copy().view(np.int64)]  # -0 becomes 0
    digest = np.zeros(len(owners), dtype=np.uint64)
    for column in columns:
        digest = (digest ^ column.view(np.uint64)) * _MIXER
        digest ^= digest >> np.uint64(29)
    order = np.argsort(digest, kind="stable")
    equal = digest[order[1:]] == digest[order[:-1]]
    for column in columns:  # digests may be equal by chance
        equal[equal] = (column[order[1:]] == column[order[:-1]])[equal]
    equal = np.concatenate([np.zeros(min(1, len(order)), dtype=np.bool_), equal])
    firsts = np.maximum.accumulate(np.where(equal, 0, np.arange(len(order))))
    return np.stack([order[firsts], order], axis=1)[equal]


def _have_same_mask(table: LabelTable, first: int, second: int) -> bool:
    return table.masks is None or bool(table.masks[first] == table.masks[second])


def _near_pairs(
    owners: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Shape (C, 2): positions of boxes of two classes with a high IoU.

    An IoU above t bounds how far the right box of a pair may begin from the left one, by (1 - t)
    of its width, so that in the order of left edges few neighbours need a look.
    """
    order = np.lexsort([boxes[:, 0], owners])
    owners, boxes, labels = owners[order], boxes[order], labels[order]
    starts = boxes[:, 0]
    reach = starts + (1 - NEAR_IOU) * (boxes[:, 2] - starts)
    left = np.arange(len(boxes))
    found = [np.zeros((0, 2), dtype=np.int64)]
    for distance in range(1, _MOST_NEIGHBOURS + 1):
        left = left[left + distance < len(boxes)]
        right = left + distance
        left = left[(owners[left] == owners[right]) & (starts[right] <= reach[left])]
        right = left + distance
        hit = (labels[left] != labels[right]) & (_iou(boxes[left], boxes[right]) >= NEAR_IOU)
        found.append(order[np.stack([left[hit], right[hit]], axis=1)])
    return np.concatenate(found)


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pair by pair; 0 without a union."""
    near = np.maximum(first[:, :2], second[:, :2])
    far = np.minimum(first[:, 2:], second[:, 2:])
    shared = np.clip(far - near, 0, None).prod(1)
    areas = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1)
    return np.divide(shared, areas - shared, out=np.zeros_like(shared), where=areas > shared)
