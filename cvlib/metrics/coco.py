"""COCO's average precision and recall, for boxes and masks: the digits of pycocotools.

The evaluator is our own, on arrays of all images at once; pycocotools is the definition, and the
tests compare every figure with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from cvlib.metrics._matching import Matches, match
from cvlib.metrics._objects import Array, Problem, overlap, pack
from cvlib.metrics._tables import NOTHING, make_table, mean
from cvlib.metrics.images import MOST_DETECTIONS, ImageMeter
from cvlib.structures import Detections, GroundTruth

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# All sizes, small, medium, large.
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
_RECALLED = (1, 10, MOST_DETECTIONS)


@dataclass(frozen=True)
class ClassMetrics:
    """COCO's figures of one class; -1 where it has no true object.

    Attributes:
        name: Of the class.
        objects: True objects, crowds left out.
        ap: Average precision over all ten IoU thresholds.
        ap50: At IoU .50.
        ap75: At IoU .75.
        ar100: Average recall with a hundred detections for each image.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    ap75: float
    ar100: float


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's figures, in [0, 1]; -1 where there is no ground truth of that kind.

    Attributes:
        ap: Average precision over IoU .50, .55, ... .95, the figure that COCO ranks by.
        ap50: At IoU .50.
        ap75: At IoU .75.
        ap_small: Over objects below 32 x 32 pixels.
        ap_medium: Between 32 x 32 and 96 x 96.
        ap_large: Above 96 x 96.
        ar1: Average recall with one detection of a class for each image.
        ar10: With ten.
        ar100: With a hundred.
        ar_small: Average recall of small objects, and so on.
        ar_medium: See above.
        ar_large: See above.
        classes: The same for each class; not part of `as_dict`.
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
        """The twelve figures by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes"}

    def table(self) -> str:
        """A line for each class, as text."""
        header = ("class", "objects", "AP", "AP50", "AP75", "AR100")
        return make_table(header, [astuple(one) for one in self.classes])


def evaluate_boxes(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Sequence[str]
) -> CocoMetrics:
    """Computes COCO's metrics of boxes.

    Args:
        truths: One for each image.
        detections: One for each image, in the same order, boxes in pixels of the same image.
        classes: Names of the K classes.

    Returns:
        The twelve figures, and those of each class.

    Raises:
        ValueError: Lists of different lengths, detections of other classes, labels that are no
            class, NaN in boxes or scores.

    Note:
        Equal to pycocotools on the rows of `Detections.to_coco`: crowds and areas are handled as
        there, a class counts a hundred detections in one image at most, and among equal scores
        the order of the images decides.

    References:
        Lin et al., "Microsoft COCO" (2014); https://cocodataset.org/#detection-eval.

    Example:
        >>> import torch
        >>> truth = GroundTruth(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), (64, 64))
        >>> box = torch.tensor([[0.0, 0, 40, 30]])
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([0]), ("cat",))
        >>> round(evaluate_boxes([truth], [found], ("cat",)).ap, 3)
        0.6
    """
    problem = pack("evaluate_boxes", truths, detections, classes, "boxes", MOST_DETECTIONS)
    return _evaluate(problem, classes)


def evaluate_masks(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Sequence[str]
) -> CocoMetrics:
    """Computes COCO's metrics of masks.

    Args:
        truths: One for each image, with masks.
        detections: One for each image, in the same order, with masks of the same size.
        classes: Names of the K classes.

    Returns:
        The twelve figures, and those of each class.

    Raises:
        ValueError: As `evaluate_boxes`, or objects without masks.

    Note:
        As `evaluate_boxes`. The area of a detection is that of its mask. (pycocotools takes the
        area of the box instead for result rows that hold one as well: leave ``bbox`` out there.)

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> mask[:, 2:6, 2:6] = True
        >>> box, label = torch.tensor([[2.0, 2, 6, 6]]), torch.tensor([0])
        >>> truth = GroundTruth(box, label, (8, 8), masks=mask)
        >>> found = Detections(box, torch.tensor([0.9]), label, ("cat",), mask)
        >>> round(evaluate_masks([truth], [found], ("cat",)).ap, 3)
        1.0
    """
    problem = pack("evaluate_masks", truths, detections, classes, "masks", MOST_DETECTIONS)
    return _evaluate(problem, classes)


class CocoMeter(ImageMeter):
    """Collects images and gives `CocoMetrics`.

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
        """Gives the figures over all images."""
        return _evaluate(self._pack(), self.classes)


def _evaluate(problem: Problem, classes: Sequence[str]) -> CocoMetrics:
    edges = overlap(problem, IOU_THRESHOLDS[0])
    matches = match(problem, edges, IOU_THRESHOLDS, AREA_RANGES)
    objects = count_objects(problem)
    precision = interpolate(problem, matches, objects, len(IOU_THRESHOLDS))
    recall = _recall(problem, matches, objects)
    whole = precision[..., 0]
    rows = tuple(
        ClassMetrics(
            name,
            int(objects[0, k]),
            mean(whole[:, :, k]),
            mean(whole[0, :, k]),
            mean(whole[5, :, k]),
            mean(recall[:, k, 0, 2]),
        )
        for k, name in enumerate(classes)
    )
    return CocoMetrics(
        ap=mean(whole),
        ap50=mean(whole[0]),
        ap75=mean(whole[5]),
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


def count_objects(problem: Problem, ranges: Array = AREA_RANGES) -> Array:
    """Counts the true objects of each area range and class that are no crowds; shape (A, K)."""
    true = problem.true
    inside = (true.area[None] >= ranges[:, :1]) & (true.area[None] <= ranges[:, 1:]) & ~true.crowd
    return np.stack([np.bincount(true.label[row], minlength=problem.classes) for row in inside])


def interpolate(problem: Problem, matches: Matches, objects: Array, steps: int) -> Array:
    """Reads precision off at COCO's 101 recalls.

    Only true positives are looked at: between two of them precision falls, so the best precision
    at or beyond a recall is always that of one of them.

    Args:
        problem: Of `pack`.
        matches: Of `match`.
        objects: Of `count_objects`.
        steps: Number of IoU thresholds.

    Returns:
        Shape (T, 101, K, A), float64; -1 where a class has no object in the area range.
    """
    areas, classes = objects.shape
    result = np.full((steps, len(RECALL_THRESHOLDS), classes, areas), NOTHING)
    result.transpose(3, 2, 0, 1)[objects > 0] = 0
    order = score_order(problem)
    hit, counted = matches.hit[order], ~matches.ignored[order]
    starts = np.searchsorted(problem.found.label[order], np.arange(classes + 1))
    needed = {int(n): _needed_hits(int(n)) for n in np.unique(objects)}
    for case in range(steps * areas):
        area, step = divmod(case, steps)
        right = np.flatnonzero(hit >> case & 1)
        seen = np.concatenate([[0], np.cumsum(counted >> case & 1)])
        bounds = np.searchsorted(right, starts)
        for k in np.flatnonzero(np.diff(bounds) * objects[area]):
            mine = right[bounds[k] : bounds[k + 1]]
            number = np.arange(1, len(mine) + 1)
            precision = number / (seen[mine + 1] - seen[starts[k]] + np.spacing(1))
            best = np.maximum.accumulate(precision[::-1])[::-1]
            wanted = needed[int(objects[area, k])]
            wanted = wanted[: np.searchsorted(wanted, len(mine))]
            result[step, : len(wanted), k, area] = best[wanted]
    return result


def score_order(problem: Problem) -> Array:
    """Detections by class, the best first; equal scores by image, then as they were given."""
    best_first = np.lexsort((problem.found.image, -problem.found.score))
    return best_first[np.argsort(problem.found.label[best_first], kind="stable")]


def _needed_hits(objects: int) -> Array:
    """Index of the first true positive at which each recall threshold is reached."""
    return np.searchsorted(np.arange(1, objects + 1) / max(objects, 1), RECALL_THRESHOLDS)


def _recall(problem: Problem, matches: Matches, objects: Array) -> Array:
    """Share of the objects that were found; shape (T, K, A, M), -1 where there are none."""
    steps, (areas, classes) = len(IOU_THRESHOLDS), objects.shape
    result = np.full((steps, classes, areas, len(_RECALLED)), NOTHING)
    some = objects > 0
    for m, most in enumerate(_RECALLED):
        among = np.flatnonzero((problem.rank < most) & (matches.hit != 0))
        hit, label = matches.hit[among], problem.found.label[among]
        for case in range(steps * areas):
            area, step = divmod(case, steps)
            right = np.bincount(label[(hit >> case & 1) > 0], minlength=classes)
            result[step, some[area], area, m] = right[some[area]] / objects[area, some[area]]
    return result
