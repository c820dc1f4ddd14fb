"""COCO's assignment of detections to true objects, for all images and thresholds at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvlib.metrics._objects import Array, Edges, Problem

# Bits of an int64 that are used: the sign stays 0.
_MOST_CASES = 62


@dataclass(frozen=True)
class Matches:
    """Who was matched in which case; bit ``a * T + t`` is area range a at IoU threshold t.

    Attributes:
        hit: Shape (D,), int64: detections matched to a true object that counts.
        ignored: Shape (D,), int64: detections that are neither right nor wrong.
        taken: Shape (G,), int64: true objects that a detection was matched to.
    """

    hit: Array
    ignored: Array
    taken: Array


def match(
    problem: Problem,
    edges: Edges,
    thresholds: Array,
    ranges: Array,
) -> Matches:
    """Assigns detections, best first, each to the free true object that it overlaps most.

    An object that does not count (a crowd, or one outside of the area range) is taken only where
    no other one can be had; a crowd can be taken any number of times. Among equal overlaps the
    last object wins, as in pycocotools.

    Args:
        problem: Of `pack`.
        edges: Pairs of one class that overlap at least as the smallest threshold says.
        thresholds: Shape (T,): least IoU of a match.
        ranges: Shape (A, 2): smallest and largest area; T * A is at most 62.

    Note:
        One bit for each case, so that 40 assignments cost what one does. An image's detections
        have to wait for each other, so it goes in rounds: the first detection of every image and
        class, then every second, ...; only those with an edge take part.
    """
    steps, areas = len(thresholds), len(ranges)
    if steps * areas > _MOST_CASES:
        raise ValueError(f"match: expected at most {_MOST_CASES} cases, got {steps * areas}")
    one_range = (1 << steps) - 1
    shifts = [a * steps for a in range(areas)]
    every = sum(one_range << shift for shift in shifts)
    out_of_range = [
        (side.area[None] < ranges[:, :1]) | (side.area[None] > ranges[:, 1:])
        for side in (problem.found, problem.true)
    ]
    passive = _bits([one_range << shift for shift in shifts], out_of_range[1] | problem.true.crowd)
    crowd = np.where(problem.true.crowd, every, 0)
    # The best edge of a detection first; among equals the last object.
    edges = edges[np.lexsort((-edges.true, -edges.iou, edges.found))]
    reached = [edges.iou >= min(threshold, 1 - 1e-10) for threshold in thresholds]
    passes = _bits([sum(1 << (t + s) for s in shifts) for t in range(steps)], np.array(reached))
    hit, lost, taken = _take(problem, edges, passes, passive, crowd)
    outside = _bits([one_range << shift for shift in shifts], out_of_range[0])
    return Matches(hit, lost | (outside & ~hit), taken)


def _bits(values: list[int], where: Array) -> Array:
    """Adds up values[i] where where[i] holds; shape (len(values), N) to (N,)."""
    total = np.zeros(where.shape[1:], np.int64)
    for value, chosen in zip(values, where, strict=True):
        total |= np.where(chosen, np.int64(value), np.int64(0))
    return total


def _take(
    problem: Problem, edges: Edges, passes: Array, passive: Array, crowd: Array
) -> tuple[Array, Array, Array]:
    """Goes through the rounds; gives hits, matches that do not count, and who was taken."""
    hit, lost = (np.zeros(len(problem.found), np.int64) for _ in range(2))
    taken = np.zeros(len(problem.true), np.int64)
    first = np.flatnonzero(np.diff(edges.found, prepend=-1))
    count = np.diff(first, append=len(edges.found))
    members = edges.found[first]
    group = problem.found.label[members] * problem.images + problem.found.image[members]
    turn = np.arange(len(group)) - np.searchsorted(group, group)
    order = np.argsort(turn, kind="stable")
    for one in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(order) else ():
        mine = np.zeros(len(one), np.int64)  # cases in which this detection has found its object
        for place in range(int(count[one].max())):
            active = np.flatnonzero(count[one] > place)
            edge = first[one[active]] + place
            true = edges.true[edge]
            new = passes[edge] & ~passive[true] & ~mine[active] & ~taken[true]
            mine[active] |= new
            taken[true] |= new
        hit[members[one]] = mine
        for place in range(int(count[one].max())):
            active = np.flatnonzero(count[one] > place)
            edge = first[one[active]] + place
            true = edges.true[edge]
            new = passes[edge] & passive[true] & ~mine[active] & (~taken[true] | crowd[true])
            mine[active] |= new
            taken[true] |= new
        lost[members[one]] = mine & ~hit[members[one]]
    return hit, lost, taken
