"""What was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._objects import Array, Edges, Kind, Problem, overlap
from cvlib.metrics.images import ImageMeter

# Row of detections where nothing is, column of objects that nothing was found for.
BACKGROUND = "(background)"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often an object, a pixel or an image of one class was taken for one of another.

    Attributes:
        counts: Shape (R, C), int64: row is the truth, column what was predicted.
        rows: Names of the rows.
        columns: Names of the columns.
    """

    counts: Array
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def normalised(self) -> Array:
        """Shape (R, C), float64: each row as shares of its sum; 0 where there is nothing."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.divide(self.counts, totals, out=np.zeros(self.counts.shape), where=totals > 0)

    def worst(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The commonest confusions: (truth, predicted, how often), the most frequent first.

        Args:
            count: How many at most.
        """
        wrong = self.counts.copy()
        for row, name in enumerate(self.rows):
            wrong[row, [column for column, other in enumerate(self.columns) if other == name]] = 0
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        cells = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.rows[r], self.columns[c], int(wrong[r, c])) for r, c in cells if wrong[r, c]]


class DetectionConfusionMeter(ImageMeter):
    """Collects images and counts which objects were taken for which.

    Detections and objects are paired whatever their classes are, the pair that overlaps most first
    and each at most once; among equal overlaps the higher score comes first. What is left over
    stands in the row and the column of the background. A detection within a crowd of its class is
    not counted.

    Args:
        classes: Names of the K classes.
        kind: ``"boxes"`` or ``"masks"``.
        iou_threshold: Least IoU of a pair.
        score_threshold: Least score of a detection.

    Raises:
        ValueError: A threshold outside of [0, 1].

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box = torch.tensor([[0.0, 0, 40, 40]])
        >>> meter = DetectionConfusionMeter(("cat", "dog"))
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([1]), ("cat", "dog"))
        >>> meter.update([7], [GroundTruth(box, torch.tensor([0]), (64, 64))], [found])
        >>> meter.compute().worst()
        [('cat', 'dog', 1)]
    """

    def __init__(
        self,
        classes: Sequence[str],
        kind: Kind = "boxes",
        iou_threshold: float = 0.5,
        score_threshold: float = 0.25,
    ) -> None:
        super().__init__(classes, kind)
        check_fraction("DetectionConfusionMeter", "iou_threshold", iou_threshold)
        check_fraction("DetectionConfusionMeter", "score_threshold", score_threshold)
        self.iou_threshold = iou_threshold
        self.score_threshold = score_threshold

    def compute(self) -> ConfusionMatrix:
        """Gives the matrix, K + 1 by K + 1, over all images."""
        size = len(self.classes)
        problem = self._pack()
        kept = problem.found.score >= self.score_threshold
        problem = replace(problem, found=problem.found[kept], rank=problem.rank[kept])
        found, true = problem.found, problem.true
        edges = overlap(problem, self.iou_threshold, same_class=False)
        of_crowd = true.crowd[edges.true]
        pairs = pair_greedily(problem, edges[~of_crowd])
        crowded = edges[of_crowd & (found.label[edges.found] == true.label[edges.true])]
        taken = np.full(len(found), size)
        taken[crowded.found] = -1
        taken[pairs.found] = true.label[pairs.true]
        lost = np.setdiff1d(np.flatnonzero(~true.crowd), pairs.true)
        counts = np.zeros((size + 1, size + 1), np.int64)
        np.add.at(counts, (taken[taken >= 0], found.label[taken >= 0]), 1)
        np.add.at(counts, (true.label[lost], size), 1)
        names = (*self.classes, BACKGROUND)
        return ConfusionMatrix(counts, names, names)


def pair_greedily(problem: Problem, edges: Edges) -> Edges:
    """Takes the edge with the largest IoU, drops those of its two ends, and so on.

    An edge that is the best of both its ends is taken sooner or later, so all such edges of all
    images are taken at once, until none is left.
    """
    order = np.lexsort((edges.true, -problem.found.score[edges.found], -edges.iou))
    edges = edges[order]
    chosen = []
    while len(edges.iou):
        # Edges are sorted, so the first of each end is its best.
        first = [
            np.isin(np.arange(len(end)), np.unique(end, return_index=True)[1])
            for end in (edges.found, edges.true)
        ]
        best = edges[first[0] & first[1]]
        chosen.append(best)
        edges = edges[~np.isin(edges.found, best.found) & ~np.isin(edges.true, best.true)]
    return Edges(
        np.concatenate([np.zeros(0, np.int64), *(part.found for part in chosen)]),
        np.concatenate([np.zeros(0, np.int64), *(part.true for part in chosen)]),
        np.concatenate([np.zeros(0), *(part.iou for part in chosen)]),
    )
