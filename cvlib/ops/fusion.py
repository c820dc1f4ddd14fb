"""Weighted boxes fusion: the predictions of several models as one."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_box_values,
    check_boxes,
    check_fraction,
    check_ids,
    check_no_nan,
    check_number,
    check_same_kind,
    check_shape,
    check_tensor,
    is_value_error,
    signal_bad_values,
)
from cvlib._extension import define, refuse_gradient
from cvlib.ops._similarity import as_real, pairwise_iou

_NAME = "weighted_boxes_fusion"
# In the order of csrc/box_fusion/cluster.h; models are the bits of a 64-bit number there.
_CONFIDENCES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")
_MOST_MODELS = 64


def weighted_boxes_fusion(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    score_threshold: float = 0.0,
    conf_type: str = "avg",
    allows_overflow: bool = False,
    image_ids: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Fuses the boxes that several models predict for the same objects.

    Boxes of all models, in the order of score times weight of the model (equal: input order, model
    by model), join clusters: each the cluster of its label and image whose fused box it overlaps
    most (equal: the oldest), if that IoU is greater than ``iou_threshold``; else it starts one. The
    fused box is the average of the cluster's boxes, weighted by their weighted scores. With n boxes
    of weighted scores s in a cluster, M models and weights w, the fused score is

    - ``"avg"``: ``mean(s) * min(n, M) / sum(w)``, with ``allows_overflow`` n instead of the
      minimum;
    - ``"max"``: ``max(s) / max(w)``;
    - ``"box_and_model_avg"``: ``sum(s) / (sum of w over the boxes)`` times the share of ``sum(w)``
      that the models of the cluster have;
    - ``"absent_model_aware_avg"``: ``sum(s)`` divided by the sum of w over the boxes and over the
      models that have no box in the cluster.

    Args:
        boxes: For each of M models (at most 64) a tensor (N_m, 4), floating point, (x1, y1, x2, y2)
            in any one unit.
        scores: For each model a tensor (N_m,), same dtype and device.
        labels: For each model a tensor (N_m,), int64, any values.
        weights: A positive number for each model; ``None``: all 1.
        iou_threshold: In [0, 1].
        score_threshold: At least 0; boxes with a lower score (without weight) are left out.
        conf_type: How scores are fused, see above.
        allows_overflow: Of ``"avg"``: several boxes of one model may raise the score above 1.
        image_ids: For each model a tensor (N_m,), int64, any values: boxes of different images are
            never fused; ``None``: all boxes of one image.

    Returns:
        A tuple of boxes (K, 4), scores (K,) and labels (K,), float32 for half types, best first
        (equal scores: the cluster whose first box came first); with ``image_ids`` also those (K,).

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes; ids that are not int64.
        ValueError: Lists of different lengths or without models, wrong shapes, two devices, numbers
            out of range, an unknown ``conf_type``; on the CPU also a NaN or corners out of order.
            On CUDA a box with a NaN coordinate or score is left out.
        RuntimeError: On backward; fusion is not differentiable.

    Note:
        Deterministic, and the same on CPU and CUDA: sums and IoUs are float64, whatever the dtype.
        Boxes without area overlap nothing and stay as they are. Memory is linear in the number of
        boxes.

    References:
        Solovyev et al., "Weighted boxes fusion: Ensembling boxes from different object detection
        models" (2021).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.0, 0.0, 4.0, 5.0]])
        >>> scores, labels = (torch.tensor([0.5]),) * 2, (torch.tensor([7]),) * 2
        >>> weighted_boxes_fusion(boxes, scores, labels)
        (tensor([[0.0000, 0.0000, 4.0000, 4.5000]]), tensor([0.5000]), tensor([7]))
    """
    _check_lists(boxes, scores, labels, image_ids)
    factors = _check_weights(weights, len(boxes))
    check_fraction(_NAME, "iou_threshold", iou_threshold)
    check_number(_NAME, "score_threshold", score_threshold, 0)
    if conf_type not in _CONFIDENCES:
        raise ValueError(
            f"{_NAME}: expected conf_type to be one of {_CONFIDENCES}, got {conf_type!r}"
        )
    device = boxes[0].device
    models = [
        torch.full((one.shape[0],), m, dtype=torch.int64, device=device)
        for m, one in enumerate(boxes)
    ]
    try:
        fused = torch.ops.cvlib.weighted_boxes_fusion(
            torch.cat(tuple(boxes)),
            torch.cat(tuple(scores)),
            torch.cat(tuple(labels)),
            torch.cat(models),
            torch.tensor(factors, dtype=torch.float64, device=device),
            None if image_ids is None else torch.cat(tuple(image_ids)),
            iou_threshold,
            score_threshold,
            _CONFIDENCES.index(conf_type),
            allows_overflow,
        )
    except RuntimeError as error:
        if is_value_error(error):
            for m, (one, score) in enumerate(zip(boxes, scores, strict=True)):
                check_box_values(_NAME, f"boxes[{m}]", one)
                check_no_nan(_NAME, f"scores[{m}]", score)
        raise
    return fused if image_ids is not None else fused[:3]


def _check_lists(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    labels: Sequence[Tensor],
    image_ids: Sequence[Tensor] | None,
) -> None:
    lists = {"boxes": boxes, "scores": scores, "labels": labels}
    if image_ids is not None:
        lists["image_ids"] = image_ids
    for argument, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(
                f"{_NAME}: expected {argument} to be a list with a tensor for each model, got "
                f"{type(values).__name__}"
            )
    if not 0 < len(boxes) <= _MOST_MODELS:
        raise ValueError(f"{_NAME}: expected boxes of 1 to 64 models, got {len(boxes)}")
    for argument, values in lists.items():
        if len(values) != len(boxes):
            raise ValueError(
                f"{_NAME}: expected {argument} of {len(boxes)} models as in boxes, got "
                f"{len(values)}"
            )
    for m, one in enumerate(boxes):
        check_boxes(_NAME, f"boxes[{m}]", one)
        check_same_kind(_NAME, "boxes[0]", boxes[0], f"boxes[{m}]", one)
        check_tensor(_NAME, f"scores[{m}]", scores[m])
        check_same_kind(_NAME, "boxes[0]", boxes[0], f"scores[{m}]", scores[m])
        check_shape(_NAME, f"scores[{m}]", scores[m], "(N,)")
        if scores[m].shape[0] != one.shape[0]:
            raise ValueError(
                f"{_NAME}: expected scores[{m}] of shape (N,) with N = {one.shape[0]} as in "
                f"boxes[{m}], got {tuple(scores[m].shape)}"
            )
        check_ids(_NAME, f"labels[{m}]", labels[m], one)
        if image_ids is not None:
            check_ids(_NAME, f"image_ids[{m}]", image_ids[m], one)


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        raise TypeError(
            f"{_NAME}: expected weights to be a list with a number for each model, got "
            f"{type(weights).__name__}"
        )
    factors = [float(weight) for weight in weights]
    if len(factors) != count or not all(0 < factor < math.inf for factor in factors):
        raise ValueError(
            f"{_NAME}: expected weights to be {count} positive numbers, one for each model, got "
            f"{factors}"
        )
    return factors


def _fusion_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    models: Tensor,
    weights: Tensor,
    image_ids: Tensor | None,
    iou_threshold: float,
    score_threshold: float,
    confidence: int,
    allows_overflow: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~scores.isnan())
    dtype = as_real(boxes).dtype
    boxes, scores = boxes.double(), scores.double()
    counts = (scores >= score_threshold) & ~boxes.isnan().any(1)
    weighted = scores * weights[models]
    order = torch.sort(weighted, descending=True, stable=True).indices
    groups: dict[tuple[int, int], list[int]] = {}
    images = torch.zeros_like(labels) if image_ids is None else image_ids
    for i in order[counts[order]].tolist():
        groups.setdefault((int(images[i]), int(labels[i])), []).append(i)
    clusters: list[tuple[int, Tensor, float]] = []  # index of the first box, fused box, score
    for members in groups.values():
        for joined, box in _cluster(boxes, weighted, members, iou_threshold):
            score = _fused_score(weighted, models, weights, joined, confidence, allows_overflow)
            clusters.append((joined[0], box, score))
    clusters.sort(key=lambda cluster: (-cluster[2], cluster[0]))
    first = torch.tensor([one[0] for one in clusters], dtype=torch.int64, device=boxes.device)
    fused = torch.stack([one[1] for one in clusters]) if clusters else boxes.new_empty(0, 4)
    fused_scores = boxes.new_tensor([one[2] for one in clusters])
    found_in = labels.new_empty(0) if image_ids is None else image_ids[first]
    return fused.to(dtype), fused_scores.to(dtype), labels[first], found_in


def _add_up(values: Iterable[float]) -> float:
    """As the kernels, one after the other; from Python 3.12 on ``sum`` makes up for rounding."""
    return functools.reduce(operator.add, values, 0.0)


def _cluster(
    boxes: Tensor, weighted: Tensor, members: list[int], iou_threshold: float
) -> list[tuple[list[int], Tensor]]:
    """Clusters of one group: the indices of their boxes, and the fused box."""
    joined: list[list[int]] = []
    sums: list[Tensor] = []
    fused = boxes.new_empty(0, 4)
    for i in members:
        iou = pairwise_iou(boxes[i : i + 1], fused)[0]
        most = float(iou.max()) if len(fused) else 0.0
        if not most > iou_threshold:
            joined.append([i])
            sums.append(boxes[i] * weighted[i])
            fused = torch.cat([fused, boxes[i : i + 1]])
            continue
        at = int((iou == most).nonzero()[0])
        joined[at].append(i)
        sums[at] = sums[at] + boxes[i] * weighted[i]
        total = _add_up(weighted[joined[at]].tolist())
        if total > 0:
            fused[at] = sums[at] / total
    return list(zip(joined, fused, strict=True))


def _fused_score(
    weighted: Tensor,
    models: Tensor,
    weights: Tensor,
    joined: list[int],
    confidence: int,
    allows_overflow: bool,
) -> float:
    count = len(joined)
    scores, factors = weighted[joined].tolist(), weights.tolist()
    box_models = models[joined].tolist()
    average = _add_up(scores) / count
    weight = _add_up(factors[m] for m in box_models)
    model_weight = _add_up(factors[m] for m in dict.fromkeys(box_models))
    if _CONFIDENCES[confidence] == "max":
        return float(max(scores) / max(factors))
    if _CONFIDENCES[confidence] == "box_and_model_avg":
        return float(average * count / weight * model_weight / _add_up(factors))
    if _CONFIDENCES[confidence] == "absent_model_aware_avg":
        return float(average * count / (weight + (_add_up(factors) - model_weight)))
    return float(
        average * (count if allows_overflow else min(len(factors), count)) / _add_up(factors)
    )


def _fusion_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    models: Tensor,
    weights: Tensor,
    image_ids: Tensor | None,
    iou_threshold: float,
    score_threshold: float,
    confidence: int,
    allows_overflow: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    real = as_real(boxes)
    return (
        real.new_empty(count, 4),
        real.new_empty(count),
        labels.new_empty(count),
        labels.new_empty(0 if image_ids is None else count),
    )


define(
    "weighted_boxes_fusion(Tensor boxes, Tensor scores, Tensor labels, Tensor models, "
    "Tensor weights, Tensor? image_ids, float iou_threshold, float score_threshold, "
    "int confidence, bool allows_overflow) -> (Tensor, Tensor, Tensor, Tensor)",
    _fusion_reference,
    _fusion_fake,
)
refuse_gradient(_NAME)
