"""Precision-recall curves of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import find_pairs, match
from cvlib.metrics._meters import DetectionMeter
from cvlib.metrics._packing import Array, Kind
from cvlib.metrics.coco import AREA_RANGES, count_objects, interpolate, sort_by_score


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of one class as the score threshold falls.

    Attributes:
        name: Name of the class.
        objects: Number of true objects, without crowds.
        score: Descending score thresholds, shape (N,), float64; detections at or above count.
        precision: Share of counted detections that are right, shape (N,).
        recall: Share of true objects that are detected, shape (N,); 0 without objects.
        ap: COCO average precision at this IoU; -1 without objects.
    """

    name: str
    objects: int
    score: Array
    precision: Array
    recall: Array
    ap: float

    def best_f1(self) -> tuple[float, float]:
        """Return the highest harmonic mean of precision and recall, and its score threshold.

        Returns:
            (F1, score threshold); (0, 1) without right detections.
        """
        total = self.precision + self.recall
        f1 = np.divide(
            2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0
        )
        if not len(f1) or f1.max() == 0:
            return 0.0, 1.0
        best = int(f1.argmax())
        return float(f1[best]), float(self.score[best])


class PrecisionRecallMeter(DetectionMeter):
    """Meter of the precision-recall curve of each class.

    Args:
        classes: Names of the K classes.
        kind: What is compared, ``"boxes"`` or ``"masks"``.
        iou_threshold: Minimum IoU of a right detection.

    Raises:
        ValueError: Threshold outside [0, 1].

    Note:
        Detections that COCO ignores (in crowds) count in neither. Among equal scores only the last
        point can be reached by a threshold.

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box, label = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0])
        >>> meter = PrecisionRecallMeter(("cat",))
        >>> detections = Detections(box, torch.tensor([0.5]), label, ("cat",))
        >>> meter.update([7], [GroundTruth(box, label, (64, 64))], [detections])
        >>> meter.compute()[0].best_f1()
        (1.0, 0.5)
    """

    def __init__(
        self, classes: Sequence[str], kind: Kind = "boxes", iou_threshold: float = 0.5
    ) -> None:
        super().__init__(classes, kind)
        check_fraction("PrecisionRecallMeter", "iou_threshold", iou_threshold)
        self.iou_threshold = iou_threshold

    def compute(self) -> tuple[PrecisionRecall, ...]:
        """Compute the curve of each class."""
        comparison = self._pack()
        pairs = find_pairs(comparison, self.iou_threshold)
        matches = match(comparison, pairs, np.array([self.iou_threshold]), AREA_RANGES[:1])
        objects = count_objects(comparison, AREA_RANGES[:1])
        precision = interpolate(comparison, matches, objects, 1)
        order = sort_by_score(comparison)
        order = order[matches.ignored[order] == 0]
        bounds = np.searchsorted(
            comparison.detections.label[order], np.arange(len(self.classes) + 1)
        )
        curves = []
        for k, name in enumerate(self.classes):
            rows = order[bounds[k] : bounds[k + 1]]
            right = np.cumsum(matches.hit[rows])
            curves.append(
                PrecisionRecall(
                    name=name,
                    objects=int(objects[0, k]),
                    score=comparison.detections.score[rows],
                    precision=right / np.arange(1, len(rows) + 1),
                    recall=right / max(int(objects[0, k]), 1),
                    ap=float(precision[0, :, k, 0].mean()),
                )
            )
        return tuple(curves)
