"""Precision against recall, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import match
from cvlib.metrics._objects import Array, Kind, overlap
from cvlib.metrics.coco import AREA_RANGES, count_objects, interpolate, score_order
from cvlib.metrics.images import ImageMeter


@dataclass(frozen=True)
class PrecisionRecall:
    """What a detector gives for one class as its score threshold falls.

    Attributes:
        name: Of the class.
        objects: True objects, crowds left out.
        score: Shape (N,), float64, falling: detections at or above this score are counted.
        precision: Shape (N,): share of them that are right.
        recall: Shape (N,): share of the true objects that they find; 0 where there are none.
        ap: COCO's average precision at this IoU; -1 where there are no objects.
    """

    name: str
    objects: int
    score: Array
    precision: Array
    recall: Array
    ap: float

    def best_f1(self) -> tuple[float, float]:
        """The largest harmonic mean of precision and recall, and the score where it is reached.

        Returns:
            (F1, score threshold); (0, 1) without any right detection.
        """
        total = self.precision + self.recall
        f1 = np.divide(
            2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0
        )
        if not len(f1) or f1.max() == 0:
            return 0.0, 1.0
        best = int(f1.argmax())
        return float(f1[best]), float(self.score[best])


class PrecisionRecallMeter(ImageMeter):
    """Collects images and gives precision and recall of each class.

    Args:
        classes: Names of the K classes.
        kind: ``"boxes"`` or ``"masks"``.
        iou_threshold: Least IoU of a right detection.

    Raises:
        ValueError: A threshold outside of [0, 1].

    Note:
        Detections that COCO ignores (of crowds) are in neither number. Among equal scores only the
        last point can be reached by a threshold.

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box, label = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0])
        >>> meter = PrecisionRecallMeter(("cat",))
        >>> found = Detections(box, torch.tensor([0.5]), label, ("cat",))
        >>> meter.update([7], [GroundTruth(box, label, (64, 64))], [found])
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
        """Gives one curve for each class."""
        problem = self._pack()
        edges = overlap(problem, self.iou_threshold)
        matches = match(problem, edges, np.array([self.iou_threshold]), AREA_RANGES[:1])
        objects = count_objects(problem, AREA_RANGES[:1])
        precision = interpolate(problem, matches, objects, 1)
        order = score_order(problem)
        order = order[matches.ignored[order] == 0]
        bounds = np.searchsorted(problem.found.label[order], np.arange(len(self.classes) + 1))
        curves = []
        for k, name in enumerate(self.classes):
            mine = order[bounds[k] : bounds[k + 1]]
            right = np.cumsum(matches.hit[mine])
            curves.append(
                PrecisionRecall(
                    name=name,
                    objects=int(objects[0, k]),
                    score=problem.found.score[mine],
                    precision=right / np.arange(1, len(mine) + 1),
                    recall=right / max(int(objects[0, k]), 1),
                    ap=float(precision[0, :, k, 0].mean()),
                )
            )
        return tuple(curves)
