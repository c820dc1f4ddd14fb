"""Errors of a detector by kind, and the average precision that each kind costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cvlib._checks import check_fraction
from cvlib.metrics._matching import Matches, Pairs, find_pairs, match
from cvlib.metrics._meters import DetectionMeter
from cvlib.metrics._packing import Array, Comparison, Kind
from cvlib.metrics._summary import make_table, mean
from cvlib.metrics.coco import AREA_RANGES, count_objects, interpolate

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
# Detections that are right, or ignored as in COCO.
_NO_ERROR = -1


@dataclass(frozen=True)
class ImageErrors:
    """Errors in one image.

    Attributes:
        image_id: Id of the image.
        cost: Sum of the scores of wrong detections, plus 1 for each missed object.
        counts: Number of errors of each of `KINDS`.
    """

    image_id: int
    cost: float
    counts: dict[str, int]


@dataclass(frozen=True)
class ErrorSplit:
    """Errors of a detector by kind.

    Attributes:
        ap: COCO average precision at the IoU threshold; -1 without objects.
        counts: Number of errors of each of `KINDS`.
        delta_ap: Gain in ``ap`` if only the errors of one kind were fixed.
        delta_ap_false_positive: Gain in ``ap`` without wrong detections.
        delta_ap_false_negative: Gain in ``ap`` without objects lacking a detection.
        images: Images with errors, the worst first.
    """

    ap: float
    counts: dict[str, int]
    delta_ap: dict[str, float]
    delta_ap_false_positive: float
    delta_ap_false_negative: float
    images: tuple[ImageErrors, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, float]:
        """Return the gain of fixing each kind, keyed by name."""
        return {f"delta_ap_{kind}": value for kind, value in self.delta_ap.items()}

    def table(self) -> str:
        """Format the errors as text, one line per kind."""
        rows = [(kind, self.counts[kind], f"+{self.delta_ap[kind]:.3f}") for kind in KINDS]
        return make_table(("error", "count", "AP if fixed"), rows)


class ErrorMeter(DetectionMeter):
    """Meter of a detector's errors by kind, as in TIDE.

    A detection that is neither right nor ignored is, in this order: a **localisation** error if it
    overlaps an object of its class by at least ``background_threshold`` and at most
    ``iou_threshold``; a **classification** error if it overlaps an object of another class by at
    least ``iou_threshold``; a **duplicate** if the object of its class has a better detection;
    **background** if it overlaps no object by more than ``background_threshold``; otherwise
    **both** class and location are wrong. An object is **missed** if it has no detection and no
    error of the first two kinds that could be fixed.

    Fixing turns the best error of an object into a right detection and removes the others;
    duplicate, background and both are removed; missed objects are no longer counted.

    Args:
        classes: Names of the K classes.
        kind: What is compared, ``"boxes"`` or ``"masks"``.
        iou_threshold: Minimum IoU of a right detection.
        background_threshold: Detections with at most this IoU do not belong to an object.

    Raises:
        ValueError: Thresholds outside [0, 1], or ``background_threshold`` above
            ``iou_threshold``.

    Note:
        Detections are matched as in COCO, so ``ap`` is COCO's AP50 by default, and a class counts a
        hundred detections per image (TIDE: a hundred of all classes). Classes without objects are
        left out of the mean, as in COCO; TIDE counts them as 0 if they have detections.

    References:
        Bolya et al., "TIDE: a general toolbox for identifying object detection errors" (2020).

    Example:
        >>> import torch
        >>> from cvlib.structures import Detections, GroundTruth
        >>> box = torch.tensor([[0.0, 0, 40, 40]])
        >>> meter = ErrorMeter(("cat", "dog"))
        >>> detections = Detections(box, torch.tensor([0.9]), torch.tensor([1]), ("cat", "dog"))
        >>> meter.update([7], [GroundTruth(box, torch.tensor([0]), (64, 64))], [detections])
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
                "ErrorMeter: expected `background_threshold` above 0 and at most `iou_threshold` "
                f"{iou_threshold}, got {background_threshold}"
            )
        self.iou_threshold = iou_threshold
        self.background_threshold = background_threshold

    def compute(self) -> ErrorSplit:
        """Compute the errors over all images."""
        comparison = self._pack()
        pairs = find_pairs(comparison, self.background_threshold, same_class=False)
        labels, true_labels = comparison.detections.label, comparison.truths.label
        is_same = labels[pairs.detection] == true_labels[pairs.truth]
        near = pairs[is_same & (pairs.iou >= self.iou_threshold)]
        matches = match(comparison, near, np.array([self.iou_threshold]), AREA_RANGES[:1])
        is_counted = ~comparison.truths.crowd[pairs.truth]
        kinds, target = self._classify(comparison, matches, pairs[is_counted], is_same[is_counted])
        missed = (matches.matched == 0) & ~comparison.truths.crowd
        missed[target[target >= 0]] = False
        return self._split_errors(comparison, matches, kinds, target, missed)

    def _classify(
        self, comparison: Comparison, matches: Matches, pairs: Pairs, is_same: Array
    ) -> tuple[Array, Array]:
        """Return the kind of each detection's error, and the object a fix would detect, or -1."""
        size = len(comparison.detections)
        same, same_iou = _best_objects(pairs[is_same], size)
        other, other_iou = _best_objects(pairs[~is_same], size)
        conditions = [
            (matches.hit != 0) | (matches.ignored != 0),
            (self.background_threshold <= same_iou) & (same_iou <= self.iou_threshold),
            other_iou >= self.iou_threshold,
            same_iou >= self.iou_threshold,
            np.maximum(same_iou, other_iou) <= self.background_threshold,
        ]
        choices = [_NO_ERROR, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND]
        kinds = np.select(conditions, choices, BOTH)
        target = np.where(kinds == LOCALISATION, same, np.where(kinds == CLASSIFICATION, other, -1))
        if len(matches.matched):
            target = np.where((target >= 0) & (matches.matched[target] == 0), target, -1)
        return kinds, target

    def _split_errors(
        self, comparison: Comparison, matches: Matches, kinds: Array, target: Array, missed: Array
    ) -> ErrorSplit:
        truths = comparison.truths
        objects = count_objects(comparison, AREA_RANGES[:1])
        ap = _average_precision(comparison, matches, objects, objects)

        def gain(wrong: Array, fixed: Array, removed: Array) -> float:
            """Fix some wrong detections, remove the others, and do not count removed objects."""
            label = comparison.detections.label.copy()
            label[fixed] = truths.label[target[fixed]]
            changed = Matches(
                matches.hit | fixed, matches.ignored | (wrong & ~fixed), matches.matched
            )
            fewer = objects - np.bincount(truths.label[removed], minlength=comparison.num_classes)
            detections = replace(comparison.detections, label=label)
            relabelled = replace(comparison, detections=detections)
            return max(_average_precision(relabelled, changed, fewer, objects) - ap, 0.0)

        fixable = _choose_fixable(comparison, target)
        no_error, no_object = np.zeros(len(kinds), bool), np.zeros(len(missed), bool)
        is_kind = [kinds == number for number in range(MISSED)]
        gains = [gain(wrong, wrong & fixable, no_object) for wrong in is_kind]
        gains.append(gain(no_error, no_error, missed))
        counts = [int(wrong.sum()) for wrong in is_kind] + [int(missed.sum())]
        undetected = (matches.matched == 0) & ~truths.crowd
        return ErrorSplit(
            ap=ap,
            counts=dict(zip(KINDS, counts, strict=True)),
            delta_ap=dict(zip(KINDS, gains, strict=True)),
            delta_ap_false_positive=gain(kinds != _NO_ERROR, no_error, no_object),
            delta_ap_false_negative=gain(no_error, no_error, undetected),
            images=self._list_images(comparison, kinds, missed),
        )

    def _list_images(
        self, comparison: Comparison, kinds: Array, missed: Array
    ) -> tuple[ImageErrors, ...]:
        counts = np.zeros((comparison.num_images, len(KINDS)), np.int64)
        wrong = kinds != _NO_ERROR
        detections = comparison.detections[wrong]
        np.add.at(counts, (detections.image, kinds[wrong]), 1)
        missed_images = comparison.truths.image[missed]
        counts[:, MISSED] = np.bincount(missed_images, minlength=comparison.num_images)
        cost = np.bincount(detections.image, detections.score, minlength=comparison.num_images)
        cost += counts[:, MISSED]
        image_ids = self.image_ids
        return tuple(
            ImageErrors(
                image_ids[i], float(cost[i]), dict(zip(KINDS, counts[i].tolist(), strict=True))
            )
            for i in np.argsort(-cost, kind="stable")
            if counts[i].any()
        )


def _best_objects(pairs: Pairs, size: int) -> tuple[Array, Array]:
    """Return the object that each detection overlaps most, or -1, and the IoU."""
    objects, iou = np.full(size, -1), np.zeros(size)
    best = pairs.best_per_detection()
    objects[best.detection], iou[best.detection] = best.truth, best.iou
    return objects, iou


def _choose_fixable(comparison: Comparison, target: Array) -> Array:
    """Choose the error with the highest score of each object that fixes could detect."""
    claims = np.flatnonzero(target >= 0)
    claims = claims[np.argsort(-comparison.detections.score[claims], kind="stable")]
    _, first = np.unique(target[claims], return_index=True)
    fixable = np.zeros(len(target), bool)
    fixable[claims[first]] = True
    return fixable


def _average_precision(
    comparison: Comparison, matches: Matches, objects: Array, all_objects: Array
) -> float:
    """Mean over the original classes; 0 for one with detections but no objects any more."""
    precision = interpolate(comparison, matches, objects, 1)[0, :, :, 0].mean(axis=0)
    counted = np.bincount(
        comparison.detections.label[matches.ignored == 0], minlength=comparison.num_classes
    )
    precision = np.where((objects[0] == 0) & (counted > 0), 0, precision)
    return mean(precision[all_objects[0] > 0])
