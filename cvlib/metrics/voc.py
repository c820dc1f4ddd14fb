"""Average precision as in the development kit of Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import find_pairs
from cvlib.metrics._meters import DetectionMeter
from cvlib.metrics._packing import Array, Comparison
from cvlib.metrics._summary import UNDEFINED, mean
from cvlib.metrics.coco import sort_by_score

# As 0:0.1:1 in the kit, where the fourth is also slightly above 0.3.
_ELEVEN = np.arange(11) * 0.1


@dataclass(frozen=True)
class VocMetrics:
    """Average precision of Pascal VOC.

    Attributes:
        map: Mean over the classes with objects; -1 without any.
        classes: Average precision of each class, keyed by name; -1 without objects.
        year: 2007: precision at eleven recalls; 2012: area below the curve.
    """

    map: float
    classes: dict[str, float] = field(repr=False)
    year: int

    def as_dict(self) -> dict[str, float]:
        """Return the mean, keyed ``voc07_map`` or ``voc12_map``."""
        return {f"voc{self.year % 100:02}_map": self.map}


class VocMeter(DetectionMeter):
    """Meter of `VocMetrics`.

    Objects with ``iscrowd`` are VOC's difficult objects: they are not counted, and detections of
    them are neither right nor wrong. A detection belongs to the object that it overlaps most, even
    if that object already has one, so a repeated detection is wrong although it may overlap
    another object enough.

    Args:
        classes: Names of the K classes.
        year: 2007 (used before 2010): precision at eleven recalls; 2012: area below the curve.
        iou_threshold: Minimum IoU of a right detection.

    Raises:
        ValueError: Another year, or a threshold outside [0, 1].

    Note:
        The kit counts pixels, so its boxes are one wider than the difference of their corners. Here
        boxes are continuous: convert those of VOC files to (x1 - 1, y1 - 1, x2, y2).

    References:
        Everingham et al., "The Pascal visual object classes (VOC) challenge" (2010); the kit's
        VOCevaldet.m.

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box, label = torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0])
        >>> meter = VocMeter(("cat",), year=2007)
        >>> detections = Detections(box, torch.tensor([0.9]), label, ("cat",))
        >>> meter.update([7], [GroundTruth(box, label, (64, 64))], [detections])
        >>> round(meter.compute().map, 6)
        1.0
    """

    def __init__(
        self, classes: Sequence[str], year: int = 2012, iou_threshold: float = 0.5
    ) -> None:
        super().__init__(classes)
        if year not in (2007, 2012):
            raise ValueError(f"VocMeter: expected `year` to be 2007 or 2012, got {year}")
        check_fraction("VocMeter", "iou_threshold", iou_threshold)
        self.year = year
        self.iou_threshold = iou_threshold

    def compute(self) -> VocMetrics:
        """Compute the metrics over all images."""
        # VOC does not limit the number of detections.
        most = max([1, *(len(detections) for detections in self.detections)])
        comparison = self._pack(most)
        order = sort_by_score(comparison)
        right, ignored = self._match(comparison, order)
        order = order[~ignored[order]]
        bounds = np.searchsorted(
            comparison.detections.label[order], np.arange(len(self.classes) + 1)
        )
        objects = np.bincount(
            comparison.truths.label[~comparison.truths.crowd], minlength=len(self.classes)
        )
        average = _at_eleven_recalls if self.year == 2007 else _area
        values = []
        for k in range(len(self.classes)):
            hits = np.cumsum(right[order[bounds[k] : bounds[k + 1]]])
            precision = hits / np.arange(1, len(hits) + 1)
            recall = hits / max(objects[k], 1)
            values.append(average(recall, precision) if objects[k] else UNDEFINED)
        return VocMetrics(
            mean(np.array(values)), dict(zip(self.classes, values, strict=True)), self.year
        )

    def _match(self, comparison: Comparison, order: Array) -> tuple[Array, Array]:
        """Return which detections are right, and which match difficult objects; both (D,), bool."""
        difficult = comparison.truths.crowd
        # IoU, not the crowd overlap, for difficult objects too.
        truths = replace(comparison.truths, crowd=np.zeros_like(difficult))
        pairs = find_pairs(replace(comparison, truths=truths), self.iou_threshold)
        pairs = pairs.best_per_detection()
        ignored = np.zeros(len(comparison.detections), bool)
        ignored[pairs.detection] = difficult[pairs.truth]
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        pairs = pairs[np.argsort(rank[pairs.detection])]
        _, first = np.unique(pairs.truth, return_index=True)
        right = np.zeros(len(comparison.detections), bool)
        right[pairs.detection[first]] = True
        return right & ~ignored, ignored


def _at_eleven_recalls(recall: Array, precision: Array) -> float:
    best = [precision[recall >= wanted].max(initial=0) for wanted in _ELEVEN]
    return float(np.sum(best) / len(_ELEVEN))


def _area(recall: Array, precision: Array) -> float:
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best[1:]))
