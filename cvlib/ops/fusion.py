"""Weighted boxes fusion of the predictions of several models."""

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
    check_choice,
    check_fraction,
    check_ids,
    check_no_nan,
    check_number,
    check_same_dtype_and_device,
    check_shape_matches,
    check_tensor,
    is_value_error,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define, refuse_gradient
from cvlib.ops._similarity import as_real, pairwise_iou

_NAME = "weighted_boxes_fusion"
# In the order of csrc/box_fusion/cluster.h, where the models are the bits of a 64-bit number.
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
    """Fuse the boxes that several models predict for the same objects.

    Boxes of all models are visited by descending score times weight of the model (ties: input
    order, model by model). Each joins the cluster of its label and image whose fused box it
    overlaps most (ties: the oldest) if that IoU is greater than ``iou_threshold``, and otherwise
    starts a new cluster. The fused box is the average of the boxes of the cluster, weighted by
    their weighted scores. With n boxes of weighted scores s in a cluster, M models and weights w,
    the fused score is

    - ``"avg"``: ``mean(s) * min(n, M) / sum(w)``, with ``allows_overflow`` n instead of the
      minimum;
    - ``"max"``: ``max(s) / max(w)``;
    - ``"box_and_model_avg"``: ``sum(s) / (sum of w over the boxes)`` times the share of ``sum(w)``
      that the models of the cluster have;
    - ``"absent_model_aware_avg"``: ``sum(s)`` divided by the sum of w over the boxes and over the
      models that have no box in the cluster.

    Args:
        boxes: One tensor (N_m, 4) per model (at most 64), floating point, (x1, y1, x2, y2) in any
            unit.
        scores: One tensor (N_m,) per model, same dtype and device.
        labels: One tensor (N_m,) per model, int64, any values.
        weights: One positive number per model; ``None``: all 1.
        iou_threshold: In [0, 1].
        score_threshold: At least 0; boxes with a lower (unweighted) score are ignored.
        conf_type: Formula of the fused score, see above.
        allows_overflow: Whether several boxes of one model may raise an ``"avg"`` score above 1.
        image_ids: One tensor (N_m,) per model, int64, any values; boxes of different images are
            never fused. ``None``: one image.

    Returns:
        A tuple of boxes (K, 4), scores (K,) and labels (K,), float32 for half types, best first
        (ties: the cluster whose first box came first); with ``image_ids`` also image ids (K,).

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes; ids that are not int64.
        ValueError: Lists of different lengths or without models, wrong shapes, different devices,
            numbers out of range, an unknown ``conf_type``; on the CPU also a NaN or corners out of
            order. On CUDA a box with a NaN coordinate or score is ignored.
        RuntimeError: On backward; fusion is not differentiable.

    Note:
        Deterministic, and equal on CPU and CUDA: sums and IoUs are computed in float64 for every
        dtype. Boxes without area overlap nothing and are not changed. Memory is linear in the
        number of boxes.

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
    check_choice(_NAME, "conf_type", conf_type, _CONFIDENCES)
    device = boxes[0].device
    models = [
        torch.full((model_boxes.shape[0],), m, dtype=torch.int64, device=device)
        for m, model_boxes in enumerate(boxes)
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
            for m, model_boxes in enumerate(boxes):
                check_box_values(_NAME, f"boxes[{m}]", model_boxes)
                check_no_nan(_NAME, f"scores[{m}]", scores[m])
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
            requirement, actual = "be a list with one tensor per model", type(values).__name__
            raise TypeError(mismatch(_NAME, argument, requirement, actual))
    if not 0 < len(boxes) <= _MOST_MODELS:
        raise ValueError(mismatch(_NAME, "boxes", "hold 1 to 64 models", len(boxes)))
    for argument, values in lists.items():
        if len(values) != len(boxes):
            requirement = f"hold {len(boxes)} models to match `boxes`"
            raise ValueError(mismatch(_NAME, argument, requirement, len(values)))
    for m, model_boxes in enumerate(boxes):
        name = f"boxes[{m}]"
        check_boxes(_NAME, name, model_boxes)
        check_same_dtype_and_device(_NAME, "boxes[0]", boxes[0], name, model_boxes)
        check_tensor(_NAME, f"scores[{m}]", scores[m])
        check_same_dtype_and_device(_NAME, "boxes[0]", boxes[0], f"scores[{m}]", scores[m])
        check_shape_matches(_NAME, f"scores[{m}]", scores[m], model_boxes.shape[:1], name)
        check_ids(_NAME, f"labels[{m}]", labels[m], model_boxes, name)
        if image_ids is not None:
            check_ids(_NAME, f"image_ids[{m}]", image_ids[m], model_boxes, name)


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        requirement, actual = "be a list with one number per model", type(weights).__name__
        raise TypeError(mismatch(_NAME, "weights", requirement, actual))
    factors = [float(weight) for weight in weights]
    if len(factors) != count or not all(0 < factor < math.inf for factor in factors):
        requirement = f"be {count} positive numbers, one per model"
        raise ValueError(mismatch(_NAME, "weights", requirement, factors))
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
    first = torch.tensor(
        [index for index, _, _ in clusters], dtype=torch.int64, device=boxes.device
    )
    fused = torch.stack([box for _, box, _ in clusters]) if clusters else boxes.new_empty(0, 4)
    fused_scores = boxes.new_tensor([score for _, _, score in clusters])
    fused_images = labels.new_empty(0) if image_ids is None else image_ids[first]
    return fused.to(dtype), fused_scores.to(dtype), labels[first], fused_images


def _add_up(values: Iterable[float]) -> float:
    """Sum sequentially, as the kernels do; since Python 3.12 ``sum`` compensates for rounding."""
    return functools.reduce(operator.add, values, 0.0)


def _cluster(
    boxes: Tensor, weighted: Tensor, members: list[int], iou_threshold: float
) -> list[tuple[list[int], Tensor]]:
    """Return the clusters of one group: the indices of their boxes, and the fused box."""
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
