"""Soft non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import are_ordered, check_choice, check_fraction, check_number, signal_bad_values
from cvlib._extension import define, refuse_gradient
from cvlib.ops._similarity import as_real, pairwise_iou
from cvlib.ops._suppression import (
    METHODS,
    as_limit,
    check_groups,
    check_scored_boxes,
    exp_of_nonpositive,
    explain_scored_boxes,
)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    max_output: int | None = None,
    labels: Tensor | None = None,
    image_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Select boxes best score first, each lowering the scores of the boxes that it overlaps.

    The box with the highest score (equal scores: lowest index) is selected, and the scores s of the
    remaining boxes become, with their IoU o with it,

    - linear: ``s * (1 - o)`` where ``o >= iou_threshold``;
    - gaussian: ``s * exp(-o**2 / sigma)``.

    This repeats until no box with a score of at least ``score_threshold`` remains.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        scores: Shape (N,), same dtype and device; higher is better.
        method: ``"linear"`` or ``"gaussian"``.
        iou_threshold: In [0, 1]; used by the linear method.
        sigma: In [1e-6, 1e6]; used by the gaussian method. Smaller suppresses more.
        score_threshold: At least 0; a box whose score falls below it is dropped.
        max_output: Maximum number of boxes per image, best first; ``None``: no limit.
        labels: Shape (N,), int64, any values; boxes of different labels ignore each other.
            ``None``: one class.
        image_ids: Shape (N,), int64, any values; see ``labels``. ``None``: one image.

    Returns:
        A tuple of indices (K,), int64, in the order of selection, and the scores (K,) with which
        the boxes were selected, descending; float32 for half types. Boxes of several labels or
        images are sorted together (equal scores: lowest index).

    Raises:
        TypeError: Not tensors, not floating point, different dtypes; ids that are not int64.
        ValueError: Wrong shapes, different devices, numbers out of range; on the CPU also a NaN or
            corners out of order. On CUDA a box with a NaN coordinate or score is never selected.
        RuntimeError: On backward; soft_nms is not differentiable.

    Note:
        Deterministic; CPU and CUDA select the same boxes with bit-identical scores: scores
        are multiplied in the dtype of the boxes in the order of selection, and ``exp`` is a
        custom one (within 2 units in the last place). Memory is linear in N. The CPU compares boxes
        with nearby ones only; on CUDA one block handles each group.

    References:
        Bodla et al., "Soft-NMS - Improving Object Detection With One Line of Code" (2017).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [3.0, 3.0, 4.0, 4.0]])
        >>> soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]))
        (tensor([0, 2, 1]), tensor([0.9000, 0.7000, 0.4000]))
    """
    check_scored_boxes("soft_nms", boxes, scores)
    check_fraction("soft_nms", "iou_threshold", iou_threshold)
    limit = as_limit("soft_nms", "max_output", max_output)
    check_choice("soft_nms", "method", method, METHODS)
    check_number("soft_nms", "sigma", sigma, 1e-6, 1e6)
    check_number("soft_nms", "score_threshold", score_threshold, 0)
    check_groups("soft_nms", boxes, labels, image_ids)
    try:
        return torch.ops.cvlib.soft_nms(
            boxes,
            scores,
            labels,
            image_ids,
            method == "gaussian",
            iou_threshold,
            sigma,
            score_threshold,
            limit,
        )
    except RuntimeError as error:
        explain_scored_boxes("soft_nms", error, boxes, scores)
        raise


def _soft_nms_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    gaussian: bool,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_output: int,
) -> tuple[Tensor, Tensor]:
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~scores.isnan())
    boxes, scores = as_real(boxes), as_real(scores) + 0.0  # -0 becomes 0
    scores = torch.where(boxes.isnan().any(1), torch.nan, scores)
    label = torch.zeros_like(scores, dtype=torch.int64) if labels is None else labels
    image = torch.zeros_like(label) if image_ids is None else image_ids
    left: dict[int, int] = {}
    keep, kept_scores = [], []
    while True:
        scores = torch.where(scores.double() >= score_threshold, scores, -1)
        if not len(scores) or float(best := scores.max()) < 0:
            break
        i = int((scores == best).nonzero()[0])
        image_id = int(image[i])
        if max_output >= 0 and left.setdefault(image_id, max_output) == 0:
            scores = torch.where(image == image_id, -1, scores)
            continue
        left[image_id] = left.get(image_id, 0) - 1
        keep.append(i)
        kept_scores.append(best)
        iou = pairwise_iou(boxes[i : i + 1], boxes)[0]
        if gaussian:
            lowered = scores * exp_of_nonpositive(iou * iou * (-1 / sigma))
        else:
            lowered = torch.where(iou.double() >= iou_threshold, scores * (1 - iou), scores)
        rivals = (label == label[i]) & (image == image[i]) & (scores >= 0)
        scores = torch.where(rivals, lowered, scores)
        scores[i] = -1
    indices = torch.tensor(keep, dtype=torch.int64, device=boxes.device)
    return indices, torch.stack(kept_scores) if keep else scores.new_empty(0)


def _soft_nms_fake(boxes: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64), as_real(boxes).new_empty(kept)


define(
    "soft_nms(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, bool gaussian, "
    "float iou_threshold, float sigma, float score_threshold, int max_output) -> (Tensor, Tensor)",
    _soft_nms_reference,
    _soft_nms_fake,
)
refuse_gradient("soft_nms")
