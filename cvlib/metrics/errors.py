"""What keeps a detector from the full score: its errors by kind, and what each kind costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import Matches, match
from cvlib.metrics._objects import Array, Edges, Kind, Problem, overlap
from cvlib.metrics._tables import make_table, mean
from cvlib.metrics.coco import AREA_RANGES, count_objects, interpolate
from cvlib.metrics.images import ImageMeter

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
# What is no error: right, or ignored as COCO does.
_NO_ERROR = -1


@dataclass(frozen=True)
class ImageErrors:
    """The errors in one image.

    Attributes:
        image_id: Its number.
        cost: Sum of the scores of wrong detections, and 1 for each missed object.
        counts: How many of each of `KINDS`.
    """

    image_id: int
    cost: float
    counts: dict[str, int]


@dataclass(frozen=True)
class ErrorSplit:
    """The errors of a detector by kind.

    Attributes:
        ap: Average precision at the IoU threshold, as COCO computes it; -1 without objects.
        counts: How many errors of each of `KINDS`.
        delta_ap: How much ``ap`` rises if only the errors of this kind are mended.
        delta_ap_false_positive: If no detection were wrong.
        delta_ap_false_negative: If no object were left without a detection.
        images: The images with errors, the worst first.
    """

    ap: float
    counts: dict[str, int]
    delta_ap: dict[str, float]
    delta_ap_false_positive: float
    delta_ap_false_negative: float
    images: tuple[ImageErrors, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, float]:
        """What each kind costs, by name."""
        return {f"delta_ap_{kind}": value for kind, value in self.delta_ap.items()}

    def table(self) -> str:
        """A line for each kind, as text."""
        rows = [(kind, self.counts[kind], f"+{self.delta_ap[kind]:.3f}") for kind in KINDS]
        return make_table(("error", "count", "AP if mended"), rows)


class ErrorMeter(ImageMeter):
    """Collects images and splits a detector's errors into kinds, as TIDE does.

    A detection that is neither right nor ignored is, in this order: a **localisation** error where
    it overlaps an object of its class by at least ``background_threshold`` and at most
    ``iou_threshold``; a **classification** error where it overlaps an object of another class by at
    least ``iou_threshold``; a **duplicate** where the object of its class has a better detection;
    **background** where it overlaps nothing by more than ``background_threshold``; else **both**
    place and class are wrong. An object is **missed** when it has no detection, and no error of the
    first two kinds that only had to be mended.

    Mending turns the best error of an object into a right detection and removes the others;
    duplicates, background and both are removed; missed objects are no longer looked for.

    Args:
        classes: Names of the K classes.
        kind: ``"boxes"`` or ``"masks"``.
        iou_threshold: Least IoU of a right detection.
        background_threshold: Up to this IoU a detection has nothing to do with an object.

    Raises:
        ValueError: Thresholds outside of [0, 1], or the second above the first.

    Note:
        Detections are matched as COCO does, so ``ap`` is COCO's AP50 by default, and a class counts
        a hundred detections in an image (TIDE: a hundred of all classes). Classes without objects
        are left out of the mean, as COCO does; TIDE counts them as 0 where they have detections.

    References:
        Bolya et al., "TIDE: a general toolbox for identifying object detection errors" (2020).

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box = torch.tensor([[0.0, 0, 40, 40]])
        >>> meter = ErrorMeter(("cat", "dog"))
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([1]), ("cat", "dog"))
        >>> meter.update([7], [GroundTruth(box, torch.tensor([0]), (64, 64))], [found])
        >>> split = meter.compute()
        >>> split.ap, split.counts["classification"], round(split.delta_ap["classification"], 6)
        (0.0, 1, 1.0)
    """

    def __init__(
        self,
        classes: Sequence[str],
        kind: Kind = "boxes",
        iou_threshold: float = 0.5,
        background_threshold: float = 0.1,
    ) -> None:
        super().__init__(classes, kind)
        check_fraction("ErrorMeter", "iou_threshold", iou_threshold)
        if not 0 < background_threshold <= iou_threshold:
            raise ValueError(
                f"ErrorMeter: expected background_threshold above 0 and at most iou_threshold "
                f"{iou_threshold}, got {background_threshold}"
            )
        self.iou_threshold = iou_threshold
        self.background_threshold = background_threshold

    def compute(self) -> ErrorSplit:
        """Gives the errors over all images."""
        problem = self._pack()
        edges = overlap(problem, self.background_threshold, same_class=False)
        is_same = problem.found.label[edges.found] == problem.true.label[edges.true]
        near = edges[is_same & (edges.iou >= self.iou_threshold)]
        thresholds = np.array([self.iou_threshold])
        matches = match(problem, near, thresholds, AREA_RANGES[:1])
        real = ~problem.true.crowd[edges.true]
        kinds, target = self._sort_out(problem, matches, edges[real], is_same[real])
        missed = (matches.taken == 0) & ~problem.true.crowd
        missed[target[target >= 0]] = False
        return self._weigh(problem, matches, kinds, target, missed)

    def _sort_out(
        self, problem: Problem, matches: Matches, edges: Edges, is_same: Array
    ) -> tuple[Array, Array]:
        """The kind of each detection's error, and the object that mending it would find or -1."""
        size = len(problem.found)
        own, own_iou = _best(edges[is_same], size)
        other, other_iou = _best(edges[~is_same], size)
        largest = np.maximum(own_iou, other_iou)
        tests = [
            (matches.hit != 0) | (matches.ignored != 0),
            (self.background_threshold <= own_iou) & (own_iou <= self.iou_threshold),
            other_iou >= self.iou_threshold,
            own_iou >= self.iou_threshold,
            largest <= self.background_threshold,
        ]
        answers = [_NO_ERROR, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND]
        kinds = np.select(tests, answers, BOTH)
        target = np.where(kinds == LOCALISATION, own, np.where(kinds == CLASSIFICATION, other, -1))
        if len(matches.taken):
            target = np.where((target >= 0) & (matches.taken[target] == 0), target, -1)
        return kinds, target

    def _weigh(
        self, problem: Problem, matches: Matches, kinds: Array, target: Array, missed: Array
    ) -> ErrorSplit:
        objects = count_objects(problem, AREA_RANGES[:1])
        plain = _average_precision(problem, matches, objects, objects)

        def gain(wrong: Array, mended: Array, lost: Array) -> float:
            """Mends some wrong detections, removes the other ones, forgets the lost objects."""
            label = problem.found.label.copy()
            label[mended] = problem.true.label[target[mended]]
            changed = Matches(
                matches.hit | mended, matches.ignored | (wrong & ~mended), matches.taken
            )
            fewer = objects - np.bincount(problem.true.label[lost], minlength=problem.classes)
            relabelled = replace(problem, found=replace(problem.found, label=label))
            return max(_average_precision(relabelled, changed, fewer, objects) - plain, 0.0)

        best = _choose_mended(problem, target)
        none, all_found = np.zeros(len(kinds), bool), np.zeros(len(missed), bool)
        is_kind = [kinds == number for number in range(MISSED)]
        gains = [gain(wrong, wrong & best, all_found) for wrong in is_kind]
        gains.append(gain(none, none, missed))
        counts = [int(wrong.sum()) for wrong in is_kind] + [int(missed.sum())]
        unfound = (matches.taken == 0) & ~problem.true.crowd
        return ErrorSplit(
            ap=plain,
            counts=dict(zip(KINDS, counts, strict=True)),
            delta_ap=dict(zip(KINDS, gains, strict=True)),
            delta_ap_false_positive=gain(kinds != _NO_ERROR, none, all_found),
            delta_ap_false_negative=gain(none, none, unfound),
            images=self._list_images(problem, kinds, missed),
        )

    def _list_images(
        self, problem: Problem, kinds: Array, missed: Array
    ) -> tuple[ImageErrors, ...]:
        counts = np.zeros((problem.images, len(KINDS)), np.int64)
        wrong = kinds != _NO_ERROR
        np.add.at(counts, (problem.found.image[wrong], kinds[wrong]), 1)
        counts[:, MISSED] = np.bincount(problem.true.image[missed], minlength=problem.images)
        cost = counts[:, MISSED] + np.bincount(
            problem.found.image[wrong], problem.found.score[wrong], minlength=problem.images
        )
        numbers = self.image_ids
        return tuple(
            ImageErrors(
                numbers[i], float(cost[i]), dict(zip(KINDS, counts[i].tolist(), strict=True))
            )
            for i in np.argsort(-cost, kind="stable")
            if counts[i].any()
        )


def _best(edges: Edges, size: int) -> tuple[Array, Array]:
    """Of each detection the object that it overlaps most (the first of equals) and the IoU."""
    best, iou = np.full(size, -1), np.zeros(size)
    edges = edges[np.lexsort((edges.true, -edges.iou, edges.found))]
    edges = edges[np.diff(edges.found, prepend=-1) != 0]
    best[edges.found], iou[edges.found] = edges.true, edges.iou
    return best, iou


def _choose_mended(problem: Problem, target: Array) -> Array:
    """The best-scored error of each object that mending could find; shape (D,), bool."""
    claims = np.flatnonzero(target >= 0)
    claims = claims[np.argsort(-problem.found.score[claims], kind="stable")]
    _, first = np.unique(target[claims], return_index=True)
    mended = np.zeros(len(target), bool)
    mended[claims[first]] = True
    return mended


def _average_precision(
    problem: Problem, matches: Matches, objects: Array, all_objects: Array
) -> float:
    """Mean over the classes that had objects; 0 for one that has lost them, but has detections."""
    precision = interpolate(problem, matches, objects, 1)[0, :, :, 0].mean(axis=0)
    counted = np.bincount(problem.found.label[matches.ignored == 0], minlength=problem.classes)
    precision = np.where((objects[0] == 0) & (counted > 0), 0, precision)
    return mean(precision[all_objects[0] > 0])
