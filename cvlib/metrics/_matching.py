"""Pairs of overlapping detections and true objects, and COCO's matching of them.

All images and thresholds are processed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cvlib.metrics._packing import Array, Comparison, Objects

# Pairs compared at once: some hundred megabytes of coordinates.
_CHUNK = 2**20
# Usable bits of an int64, without the sign.
_MOST_CASES = 62


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs of a detection and a true object.

    Attributes:
        detection: Index of the detection, shape (E,), int64.
        truth: Index of the true object, shape (E,), int64.
        iou: Intersection over union, shape (E,), float64; over the area of the detection for a
            crowd.
    """

    detection: Array
    truth: Array
    iou: Array

    def __getitem__(self, index: Array) -> Pairs:
        return Pairs(self.detection[index], self.truth[index], self.iou[index])

    def best_per_detection(self) -> Pairs:
        """Keep the pair of each detection with the highest IoU, the first object among equals."""
        pairs = self[np.lexsort((self.truth, -self.iou, self.detection))]
        return pairs[np.diff(pairs.detection, prepend=-1) != 0]


def join_pairs(chunks: Sequence[Pairs]) -> Pairs:
    """Concatenate pairs."""
    return Pairs(
        np.concatenate([np.zeros(0, np.int64), *(chunk.detection for chunk in chunks)]),
        np.concatenate([np.zeros(0, np.int64), *(chunk.truth for chunk in chunks)]),
        np.concatenate([np.zeros(0), *(chunk.iou for chunk in chunks)]),
    )


def find_pairs(comparison: Comparison, min_iou: float, *, same_class: bool = True) -> Pairs:
    """Find all overlapping pairs within an image, sorted by detection.

    Args:
        comparison: Objects from `pack`.
        min_iou: Minimum IoU of a pair; objects that do not overlap are never paired, even at 0.
        same_class: Whether to pair only objects of one class.
    """
    detections, truths = comparison.detections, comparison.truths
    min_iou = max(min_iou, np.finfo(float).tiny)
    keys, true_keys = (
        objects.image + objects.label * comparison.num_images * same_class
        for objects in (detections, truths)
    )
    order = np.argsort(true_keys, kind="stable")
    sorted_keys = true_keys[order]
    first = np.searchsorted(sorted_keys, keys, side="left")
    count = np.searchsorted(sorted_keys, keys, side="right") - first
    measure = (_BoxIou if comparison.kind == "boxes" else _MaskIou)(detections, truths)
    chunks = []
    for rows in _chunk_rows(count):
        left = np.repeat(rows, count[rows])
        offset = np.arange(len(left)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        right = order[np.repeat(first[rows], count[rows]) + offset]
        iou = measure(left, right)
        near = np.flatnonzero(iou >= min_iou)
        chunks.append(Pairs(left[near], right[near], iou[near]))
    return join_pairs(chunks)


def _chunk_rows(count: Array) -> list[Array]:
    """Split the detections so that the pairs of each chunk fit into memory."""
    rows = np.flatnonzero(count)
    ends = np.cumsum(count[rows])
    if not len(rows):
        return []
    limits = np.arange(_CHUNK, ends[-1], _CHUNK)
    chunks = np.split(rows, np.searchsorted(ends, limits, "right"))
    return [chunk for chunk in chunks if len(chunk)]


class _BoxIou:
    """IoU of boxes, in the order of operations of pycocotools: equal to the last bit."""

    def __init__(self, detections: Objects, truths: Objects) -> None:
        self._detections, self._truths = self._columns(detections), self._columns(truths)
        self._crowd = truths.crowd if truths.crowd.any() else None

    @staticmethod
    def _columns(objects: Objects) -> list[Array]:
        x, y, width, height = (np.ascontiguousarray(column) for column in objects.box.T)
        return [x, y, x + width, y + height, width * height]

    def __call__(self, left: Array, right: Array) -> Array:
        x1, y1, x2, y2, area = (column[left] for column in self._detections)
        other = [column[right] for column in self._truths]
        width = np.minimum(x2, other[2]) - np.maximum(x1, other[0])
        height = np.minimum(y2, other[3]) - np.maximum(y1, other[1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = area + other[4] - shared
        if self._crowd is not None:
            union = np.where(self._crowd[right], area, union)
        return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


class _MaskIou:
    """IoU of masks from their run lengths, by pycocotools, in double precision."""

    def __init__(self, detections: Objects, truths: Objects) -> None:
        self._detections, self._truths = detections, truths
        from pycocotools import mask

        self._iou: Callable[..., Array] = mask.iou

    def __call__(self, left: Array, right: Array) -> Array:
        result = np.zeros(len(left))
        for pairs in self._blocks(left, right):
            rows, columns = np.unique(left[pairs]), right[pairs][left[pairs] == left[pairs[0]]]
            result[pairs] = self._iou(
                [self._detections.masks[i] for i in rows],
                [self._truths.masks[i] for i in columns],
                self._truths.crowd[columns].tolist(),
            ).ravel()
        return result

    def _blocks(self, left: Array, right: Array) -> list[Array]:
        """Split the pairs into groups with the same true objects, compared in one call."""
        starts = np.flatnonzero(np.diff(left, prepend=-1))
        same = (np.diff(right[starts], prepend=-1) == 0) & (
            np.diff(np.diff(starts, append=len(left)), prepend=-1) == 0
        )
        return np.split(np.arange(len(left)), starts[~same][1:])


@dataclass(frozen=True)
class Matches:
    """Result of matching, where bit ``a * T + t`` is area range a at IoU threshold t.

    Attributes:
        hit: Detections matched to a counted object, shape (D,), int64.
        ignored: Detections that are neither right nor wrong, shape (D,), int64.
        matched: True objects matched by a detection, shape (G,), int64.
    """

    hit: Array
    ignored: Array
    matched: Array


def match(comparison: Comparison, pairs: Pairs, thresholds: Array, ranges: Array) -> Matches:
    """Match detections, best first, each to the free true object that it overlaps most.

    An object that is not counted (a crowd, or one outside the area range) is matched only if no
    counted one is free; a crowd can be matched repeatedly. Among equal overlaps the last object is
    matched, as in pycocotools.

    Args:
        comparison: Objects from `pack`.
        pairs: Pairs of one class with at least the smallest threshold as IoU.
        thresholds: Minimum IoU of a match, shape (T,).
        ranges: Smallest and largest area, shape (A, 2); T * A is at most 62.

    Note:
        With one bit per case, 40 matchings cost as much as one. Detections of an image depend on
        each other, so they are processed in rounds: the first detection of every image and class,
        then every second, ...; only those with a pair take part.
    """
    steps, areas = len(thresholds), len(ranges)
    if steps * areas > _MOST_CASES:
        raise ValueError(f"match: expected at most {_MOST_CASES} cases, got {steps * areas}")
    truths = comparison.truths
    one_range = (1 << steps) - 1
    shifts = [a * steps for a in range(areas)]
    range_bits = [one_range << shift for shift in shifts]
    is_outside = [
        (objects.area[None] < ranges[:, :1]) | (objects.area[None] > ranges[:, 1:])
        for objects in (comparison.detections, truths)
    ]
    uncounted = _sum_bits(range_bits, is_outside[1] | truths.crowd)
    crowd = np.where(truths.crowd, sum(range_bits), 0)
    # The best pair of a detection first; among equals the last object.
    pairs = pairs[np.lexsort((-pairs.truth, -pairs.iou, pairs.detection))]
    reached = [pairs.iou >= min(threshold, 1 - 1e-10) for threshold in thresholds]
    passes = _sum_bits([sum(1 << (t + s) for s in shifts) for t in range(steps)], np.array(reached))
    hit, ignored, matched = _match_in_rounds(comparison, pairs, passes, uncounted, crowd)
    outside = _sum_bits(range_bits, is_outside[0])
    return Matches(hit, ignored | (outside & ~hit), matched)


def _sum_bits(values: list[int], where: Array) -> Array:
    """Add values[i] where where[i] is true; shape (len(values), N) to (N,)."""
    total = np.zeros(where.shape[1:], np.int64)
    for value, chosen in zip(values, where, strict=True):
        total |= np.where(chosen, np.int64(value), np.int64(0))
    return total


def _match_in_rounds(
    comparison: Comparison, pairs: Pairs, passes: Array, uncounted: Array, crowd: Array
) -> tuple[Array, Array, Array]:
    """Return the bits of hits, of matches that are not counted, and of matched objects."""
    detections = comparison.detections
    hit, ignored = (np.zeros(len(detections), np.int64) for _ in range(2))
    matched = np.zeros(len(comparison.truths), np.int64)
    first = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
    count = np.diff(first, append=len(pairs.detection))
    members = pairs.detection[first]
    group = detections.label[members] * comparison.num_images + detections.image[members]
    turn = np.arange(len(group)) - np.searchsorted(group, group)
    order = np.argsort(turn, kind="stable")
    rounds = np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(order) else []
    for members_of_round in rounds:
        places = range(int(count[members_of_round].max()))
        done = np.zeros(len(members_of_round), np.int64)  # cases with a match
        for counted in (True, False):
            for place in places:
                active = np.flatnonzero(count[members_of_round] > place)
                pair = first[members_of_round[active]] + place
                truth = pairs.truth[pair]
                free = ~matched[truth]
                if counted:
                    eligible = ~uncounted[truth] & free
                else:
                    eligible = uncounted[truth] & (free | crowd[truth])
                new = passes[pair] & eligible & ~done[active]
                done[active] |= new
                matched[truth] |= new
            if counted:
                hit[members[members_of_round]] = done
        ignored[members[members_of_round]] = done & ~hit[members[members_of_round]]
    return hit, ignored, matched
