"""Average precision as Pascal VOC's development kit computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._objects import Array, Problem, overlap
from cvlib.metrics._tables import NOTHING, mean
from cvlib.metrics.coco import score_order
from cvlib.metrics.images import ImageMeter

# As the kit writes 0:0.1:1; the fourth is a little above 0.3, as there.
_ELEVEN = np.arange(11) * 0.1


@dataclass(frozen=True)
class VocMetrics:
    """Average precision of Pascal VOC.

    Attributes:
        map: Mean over the classes that have objects; -1 without any.
        classes: Average precision by name of the class; -1 without objects.
        year: 2007: at eleven recalls; 2012: the area below the curve.
    """

    map: float
    classes: dict[str, float] = field(repr=False)
    year: int

    def as_dict(self) -> dict[str, float]:
        """The mean by name: ``voc07_map`` or ``voc12_map``."""
        return {f"voc{self.year % 100:02}_map": self.map}


class VocMeter(ImageMeter):
    """Collects images and gives `VocMetrics`.

    What VOC calls difficult are the objects with ``iscrowd``: they are not looked for, and what is
    found there is neither right nor wrong. A detection belongs to the object that it overlaps most,
    taken or not; so a second one there is wrong even if it overlaps another object enough.

    Args:
        classes: Names of the K classes.
        year: 2007 (and before 2010): precision at eleven recalls; 2012: the area below the curve.
        iou_threshold: Least IoU of a right detection.

    Raises:
        ValueError: Another year, or a threshold outside of [0, 1].

    Note:
        The kit counts pixels, so its boxes are one wider than the difference of their corners; here
        boxes are continuous, and a VOC data set has to make them so (x1 - 1, y1 - 1, x2, y2).

    References:
        Everingham et al., "The Pascal visual object classes (VOC) challenge" (2010); the kit's
        VOCevaldet.m.

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box, label = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0])
        >>> meter = VocMeter(("cat",), year=2007)
        >>> found = Detections(box, torch.tensor([0.9]), label, ("cat",))
        >>> meter.update([7], [GroundTruth(box, label, (64, 64))], [found])
        >>> round(meter.compute().map, 6)
        1.0
    """

    def __init__(
        self, classes: Sequence[str], year: int = 2012, iou_threshold: float = 0.5
    ) -> None:
        super().__init__(classes)
        if year not in (2007, 2012):
            raise ValueError(f"VocMeter: expected year 2007 or 2012, got {year}")
        check_fraction("VocMeter", "iou_threshold", iou_threshold)
        self.year = year
        self.iou_threshold = iou_threshold

    def compute(self) -> VocMetrics:
        """Gives the figures over all images."""
        # VOC has no limit of detections.
        most = max([1, *(len(found) for found in self.detections)])
        problem = self._pack(most)
        order = score_order(problem)
        right, ignored = self._judge(problem, order)
        order = order[~ignored[order]]
        bounds = np.searchsorted(problem.found.label[order], np.arange(len(self.classes) + 1))
        objects = np.bincount(problem.true.label[~problem.true.crowd], minlength=len(self.classes))
        average = _at_eleven_recalls if self.year == 2007 else _area
        values = []
        for k in range(len(self.classes)):
            hits = np.cumsum(right[order[bounds[k] : bounds[k + 1]]])
            precision = hits / np.arange(1, len(hits) + 1)
            recall = hits / max(objects[k], 1)
            values.append(average(recall, precision) if objects[k] else NOTHING)
        return VocMetrics(
            mean(np.array(values)), dict(zip(self.classes, values, strict=True)), self.year
        )

    def _judge(self, problem: Problem, order: Array) -> tuple[Array, Array]:
        """Which detections are right, and which belong to difficult objects; both (D,), bool."""
        difficult = problem.true.crowd
        # The plain IoU for difficult objects too: they are no crowds.
        plain = replace(problem, true=replace(problem.true, crowd=np.zeros_like(difficult)))
        edges = overlap(plain, self.iou_threshold)
        edges = edges[np.lexsort((edges.true, -edges.iou, edges.found))]
        edges = edges[np.diff(edges.found, prepend=-1) != 0]
        ignored = np.zeros(len(problem.found), bool)
        ignored[edges.found] = difficult[edges.true]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        edges = edges[np.argsort(place[edges.found])]
        _, first = np.unique(edges.true, return_index=True)
        right = np.zeros(len(problem.found), bool)
        right[edges.found[first]] = True
        return right & ~ignored, ignored


def _at_eleven_recalls(recall: Array, precision: Array) -> float:
    best = [precision[recall >= wanted].max(initial=0) for wanted in _ELEVEN]
    return float(np.sum(best) / len(_ELEVEN))


def _area(recall: Array, precision: Array) -> float:
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best[1:]))
