"""COCO average precision and recall of boxes and masks, equal to pycocotools.

The evaluator works on arrays of all images at once; the tests compare every metric with
pycocotools, which is the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from cvlib.metrics._matching import Matches, find_pairs, match
from cvlib.metrics._meters import MOST_DETECTIONS, DetectionMeter
from cvlib.metrics._packing import Array, Comparison, pack
from cvlib.metrics._summary import UNDEFINED, make_table, mean
from cvlib.structures import Detections, GroundTruth

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# All sizes, small, medium, large.
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
_RECALLED = (1, 10, MOST_DETECTIONS)


@dataclass(frozen=True)
class ClassMetrics:
    """COCO metrics of one class; -1 for a class without true objects.

    Attributes:
        name: Name of the class.
        objects: Number of true objects, without crowds.
        ap: Average precision over all ten IoU thresholds.
        ap50: Average precision at IoU .50.
        ap75: Average precision at IoU .75.
        ar100: Average recall with a hundred detections per image.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    ap75: float
    ar100: float


@dataclass(frozen=True)
class CocoMetrics:
    """COCO metrics, in [0, 1]; -1 without ground truth of that kind.

    Attributes:
        ap: Average precision over IoU .50, .55, ... .95, by which COCO ranks models.
        ap50: Average precision at IoU .50.
        ap75: Average precision at IoU .75.
        ap_small: Average precision of objects below 32 x 32 pixels.
        ap_medium: Average precision of objects between 32 x 32 and 96 x 96 pixels.
        ap_large: Average precision of objects above 96 x 96 pixels.
        ar1: Average recall with one detection of a class per image.
        ar10: Average recall with ten detections.
        ar100: Average recall with a hundred detections.
        ar_small: Average recall of small objects.
        ar_medium: Average recall of medium objects.
        ar_large: Average recall of large objects.
        classes: Metrics of each class; not part of `as_dict`.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    classes: tuple[ClassMetrics, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, float]:
        """Return the twelve metrics, keyed by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes"}

    def table(self) -> str:
        """Format the metrics as text, one line per class."""
        header = ("class", "objects", "AP", "AP50", "AP75", "AR100")
        return make_table(header, [astuple(row) for row in self.classes])


def evaluate_boxes(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Sequence[str]
) -> CocoMetrics:
    """Compute the COCO metrics of boxes.

    Args:
        truths: Ground truth of each image.
        detections: Detections of each image, in the same order, in pixels of the same image.
        classes: Names of the K classes.

    Returns:
        The twelve metrics, and those of each class.

    Raises:
        ValueError: Lists of different lengths, detections of other classes, labels out of range,
            NaN in boxes or scores.

    Note:
        Equal to pycocotools on the rows of `Detections.to_coco`, including crowds and areas. At
        most a hundred detections of a class count per image; equal scores keep the order of the
        images.

    References:
        Lin et al., "Microsoft COCO" (2014); https://cocodataset.org/#detection-eval.

    Example:
        >>> import torch
        >>> truth = GroundTruth(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), (64, 64))
        >>> box = torch.tensor([[0.0, 0, 40, 30]])
        >>> detections = Detections(box, torch.tensor([0.9]), torch.tensor([0]), ("cat",))
        >>> round(evaluate_boxes([truth], [detections], ("cat",)).ap, 3)
        0.6
    """
    comparison = pack("evaluate_boxes", truths, detections, classes, "boxes", MOST_DETECTIONS)
    return _evaluate(comparison, classes)


def evaluate_masks(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Sequence[str]
) -> CocoMetrics:
    """Compute the COCO metrics of masks.

    Args:
        truths: Ground truth of each image, with masks.
        detections: Detections of each image, in the same order, with masks of the same size.
        classes: Names of the K classes.

    Returns:
        The twelve metrics, and those of each class.

    Raises:
        ValueError: See `evaluate_boxes`; objects without masks.

    Note:
        See `evaluate_boxes`. The area of a detection is the area of its mask. (pycocotools takes
        the area of the box for result rows with ``bbox``: leave it out there.)

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> mask[:, 2:6, 2:6] = True
        >>> box, label = torch.tensor([[2.0, 2, 6, 6]]), torch.tensor([0])
        >>> truth = GroundTruth(box, label, (8, 8), masks=mask)
        >>> detections = Detections(box, torch.tensor([0.9]), label, ("cat",), mask)
        >>> round(evaluate_masks([truth], [detections], ("cat",)).ap, 3)
        1.0
    """
    comparison = pack("evaluate_masks", truths, detections, classes, "masks", MOST_DETECTIONS)
    return _evaluate(comparison, classes)


class CocoMeter(DetectionMeter):
    """Meter of `CocoMetrics`.

    Args:
        classes: Names of the K classes.
        kind: ``"boxes"`` or ``"masks"``.

    Example:
        >>> import torch
        >>> meter = CocoMeter(("cat",))
        >>> truth = GroundTruth(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), (64, 64))
        >>> meter.update([7], [truth], [Detections.empty(("cat",))])
        >>> meter.compute().ap
        0.0
    """

    def compute(self) -> CocoMetrics:
        """Compute the metrics over all images."""
        return _evaluate(self._pack(), self.classes)


def _evaluate(comparison: Comparison, classes: Sequence[str]) -> CocoMetrics:
    pairs = find_pairs(comparison, IOU_THRESHOLDS[0])
    matches = match(comparison, pairs, IOU_THRESHOLDS, AREA_RANGES)
    objects = count_objects(comparison)
    precision = interpolate(comparison, matches, objects, len(IOU_THRESHOLDS))
    recall = _recall(comparison, matches, objects)
    all_sizes = precision[..., 0]
    rows = tuple(
        ClassMetrics(
            name,
            int(objects[0, k]),
            mean(all_sizes[:, :, k]),
            mean(all_sizes[0, :, k]),
            mean(all_sizes[5, :, k]),
            mean(recall[:, k, 0, 2]),
        )
        for k, name in enumerate(classes)
    )
    return CocoMetrics(
        ap=mean(all_sizes),
        ap50=mean(all_sizes[0]),
        ap75=mean(all_sizes[5]),
        ap_small=mean(precision[..., 1]),
        ap_medium=mean(precision[..., 2]),
        ap_large=mean(precision[..., 3]),
        ar1=mean(recall[..., 0, 0]),
        ar10=mean(recall[..., 0, 1]),
        ar100=mean(recall[..., 0, 2]),
        ar_small=mean(recall[..., 1, 2]),
        ar_medium=mean(recall[..., 2, 2]),
        ar_large=mean(recall[..., 3, 2]),
        classes=rows,
    )


def count_objects(comparison: Comparison, ranges: Array = AREA_RANGES) -> Array:
    """Count the true objects of each area range and class, without crowds; shape (A, K)."""
    truths = comparison.truths
    inside = (truths.area[None] >= ranges[:, :1]) & (truths.area[None] <= ranges[:, 1:])
    inside &= ~truths.crowd
    return np.stack(
        [np.bincount(truths.label[row], minlength=comparison.num_classes) for row in inside]
    )


def interpolate(comparison: Comparison, matches: Matches, objects: Array, steps: int) -> Array:
    """Interpolate precision at COCO's 101 recalls.

    Only true positives matter: between two of them precision falls, so the best precision at or
    beyond a recall is always reached at one of them.

    Args:
        comparison: Objects from `pack`.
        matches: Matches from `match`.
        objects: Counts from `count_objects`.
        steps: Number of IoU thresholds.

    Returns:
        Precision, shape (T, 101, K, A), float64; -1 for classes without objects in the area range.
    """
    areas, classes = objects.shape
    result = np.full((steps, len(RECALL_THRESHOLDS), classes, areas), UNDEFINED)
    result.transpose(3, 2, 0, 1)[objects > 0] = 0
    order = sort_by_score(comparison)
    hit, counted = matches.hit[order], ~matches.ignored[order]
    starts = np.searchsorted(comparison.detections.label[order], np.arange(classes + 1))
    needed = {int(n): _needed_hits(int(n)) for n in np.unique(objects)}
    for case in range(steps * areas):
        area, step = divmod(case, steps)
        right = np.flatnonzero(hit >> case & 1)
        totals = np.concatenate([[0], np.cumsum(counted >> case & 1)])
        bounds = np.searchsorted(right, starts)
        for k in np.flatnonzero(np.diff(bounds) * objects[area]):
            hits_of_class = right[bounds[k] : bounds[k + 1]]
            number = np.arange(1, len(hits_of_class) + 1)
            precision = number / (totals[hits_of_class + 1] - totals[starts[k]] + np.spacing(1))
            best = np.maximum.accumulate(precision[::-1])[::-1]
            wanted = needed[int(objects[area, k])]
            wanted = wanted[: np.searchsorted(wanted, len(hits_of_class))]
            result[step, : len(wanted), k, area] = best[wanted]
    return result


def sort_by_score(comparison: Comparison) -> Array:
    """Return the order of detections by class, best first; equal scores by image."""
    best_first = np.lexsort((comparison.detections.image, -comparison.detections.score))
    return best_first[np.argsort(comparison.detections.label[best_first], kind="stable")]


def _needed_hits(objects: int) -> Array:
    """Return the first true positive at which each recall threshold is reached."""
    return np.searchsorted(np.arange(1, objects + 1) / max(objects, 1), RECALL_THRESHOLDS)


def _recall(comparison: Comparison, matches: Matches, objects: Array) -> Array:
    """Return the share of detected objects, shape (T, K, A, M); -1 without objects."""
    steps, (areas, classes) = len(IOU_THRESHOLDS), objects.shape
    result = np.full((steps, classes, areas, len(_RECALLED)), UNDEFINED)
    present = objects > 0
    for m, most in enumerate(_RECALLED):
        among = np.flatnonzero((comparison.rank < most) & (matches.hit != 0))
        hit, label = matches.hit[among], comparison.detections.label[among]
        for case in range(steps * areas):
            area, step = divmod(case, steps)
            right = np.bincount(label[(hit >> case & 1) > 0], minlength=classes)
            rows = present[area]
            result[step, rows, area, m] = right[rows] / objects[area, rows]
    return result
