"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import Pairs, find_pairs, join_pairs
from cvlib.metrics._meters import DetectionMeter
from cvlib.metrics._packing import Array, Comparison, Kind

# Row of detections without an object, and column of objects without a detection.
BACKGROUND = "(background)"


@dataclass(frozen=True)
class ConfusionMatrix:
    """Number of objects, pixels or images of each class by predicted class.

    Attributes:
        counts: Counts by true (row) and predicted class (column), shape (R, C), int64.
        rows: Names of the rows.
        columns: Names of the columns.
    """

    counts: Array
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def normalised(self) -> Array:
        """Return each row divided by its sum, shape (R, C), float64; 0 for empty rows."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.divide(self.counts, totals, out=np.zeros(self.counts.shape), where=totals > 0)

    def worst(self, count: int = 10) -> list[tuple[str, str, int]]:
        """Return the most frequent confusions as (true class, predicted class, count).

        Args:
            count: Maximum number of confusions.
        """
        wrong = self.counts.copy()
        for row, name in enumerate(self.rows):
            wrong[row, [column for column, other in enumerate(self.columns) if other == name]] = 0
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        cells = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.rows[r], self.columns[c], int(wrong[r, c])) for r, c in cells if wrong[r, c]]


class DetectionConfusionMeter(DetectionMeter):
    """Meter of the confusion matrix of a detector.

    Detections and objects are paired regardless of class, the pair with the highest IoU first and
    each at most once; among equal IoUs the higher score comes first. The remaining ones are counted
    in the row and the column of the background. A detection within a crowd of its class is not
    counted.

    Args:
        classes: Names of the K classes.
        kind: What is compared, ``"boxes"`` or ``"masks"``.
        iou_threshold: Minimum IoU of a pair.
        score_threshold: Minimum score of a detection.

    Raises:
        ValueError: Threshold outside [0, 1].

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box = torch.tensor([[0.0, 0, 40, 40]])
        >>> meter = DetectionConfusionMeter(("cat", "dog"))
        >>> detections = Detections(box, torch.tensor([0.9]), torch.tensor([1]), ("cat", "dog"))
        >>> meter.update([7], [GroundTruth(box, torch.tensor([0]), (64, 64))], [detections])
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
        """Compute the matrix over all images, shape (K + 1, K + 1)."""
        size = len(self.classes)
        comparison = self._pack()
        kept = comparison.detections.score >= self.score_threshold
        detections, truths = comparison.detections[kept], comparison.truths
        comparison = replace(comparison, detections=detections, rank=comparison.rank[kept])
        pairs = find_pairs(comparison, self.iou_threshold, same_class=False)
        is_crowd = truths.crowd[pairs.truth]
        chosen = _pair_greedily(comparison, pairs[~is_crowd])
        is_same = detections.label[pairs.detection] == truths.label[pairs.truth]
        true_class = np.full(len(detections), size)
        true_class[pairs[is_crowd & is_same].detection] = -1  # not counted
        true_class[chosen.detection] = truths.label[chosen.truth]
        missed = np.setdiff1d(np.flatnonzero(~truths.crowd), chosen.truth)
        counted = true_class >= 0
        counts = np.zeros((size + 1, size + 1), np.int64)
        np.add.at(counts, (true_class[counted], detections.label[counted]), 1)
        np.add.at(counts, (truths.label[missed], size), 1)
        names = (*self.classes, BACKGROUND)
        return ConfusionMatrix(counts, names, names)


def _pair_greedily(comparison: Comparison, pairs: Pairs) -> Pairs:
    """Choose the pair with the highest IoU, drop other pairs of its objects, and repeat.

    A pair that is the best of both its objects is chosen sooner or later, so all such pairs of all
    images are chosen at once, until none remains.
    """
    scores = comparison.detections.score[pairs.detection]
    pairs = pairs[np.lexsort((pairs.truth, -scores, -pairs.iou))]
    chosen = []
    while len(pairs.iou):
        # Pairs are sorted, so the first pair of each object is its best.
        is_best = [
            np.isin(np.arange(len(objects)), np.unique(objects, return_index=True)[1])
            for objects in (pairs.detection, pairs.truth)
        ]
        best = pairs[is_best[0] & is_best[1]]
        chosen.append(best)
        is_free = ~np.isin(pairs.detection, best.detection) & ~np.isin(pairs.truth, best.truth)
        pairs = pairs[is_free]
    return join_pairs(chosen)
