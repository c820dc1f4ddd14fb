"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import are_ordered, check_fraction, signal_bad_values
from cvlib._extension import define
from cvlib.ops._similarity import as_real, pairwise_iou
from cvlib.ops._suppression import (
    as_limit,
    best_first,
    check_groups,
    check_scored_boxes,
    explain_scored_boxes,
    keep_greedily,
)


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_output: int | None = None
) -> Tensor:
    """Keep the best-scoring boxes and drop those that overlap a better one.

    Boxes are visited best score first (equal scores: input order). A box is kept unless its IoU,
    computed in the dtype of the boxes, with a box kept before is strictly greater than
    ``iou_threshold`` as given. Boxes without area overlap nothing.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        scores: Shape (N,), same dtype and device; higher is better.
        iou_threshold: In [0, 1].
        max_output: Maximum number of kept boxes; ``None``: no limit. Much faster than slicing the
            result.

    Returns:
        Shape (K,), int64: indices of the kept boxes, best score first.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, a threshold outside [0, 1], a negative
            ``max_output``; on the CPU also a NaN or corners out of order. On CUDA a box with a NaN
            coordinate or score is never kept and suppresses nothing.

    Note:
        Deterministic; CPU and CUDA keep the same boxes. Memory is linear in N. The CPU compares
        boxes with nearby ones only, so boxes of similar size cost about O(N log N).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8], [3.0, 3.0, 4.0, 4.0]])
        >>> nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
        tensor([0, 2])
    """
    return _suppress("nms", boxes, scores, None, None, iou_threshold, max_output)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    image_ids: Tensor | None = None,
    max_output: int | None = None,
) -> Tensor:
    """Run `nms` separately for each class and each image, in one call.

    Boxes suppress each other only when both their label and their image are equal. Labels are
    compared, never turned into coordinate offsets, so negative coordinates, large ids and ties are
    exact.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        scores: Shape (N,), same dtype and device; higher is better.
        labels: Shape (N,), int64, any values; ``None``: one class.
        iou_threshold: In [0, 1].
        image_ids: Shape (N,), int64, any values; ``None``: one image.
        max_output: Maximum number of boxes per image, best first; ``None``: no limit.

    Returns:
        Shape (K,), int64: indices of the kept boxes of all images, best score first (equal scores:
        input order).

    Raises:
        TypeError: See `nms`; also labels or image ids that are not int64.
        ValueError: See `nms`; also labels or image ids of another length or device.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8], [0.0, 0.0, 2.0, 1.9]])
        >>> scores, labels = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0, 1, 0])
        >>> batched_nms(boxes, scores, labels, 0.5)
        tensor([2, 1])
    """
    return _suppress("batched_nms", boxes, scores, labels, image_ids, iou_threshold, max_output)


def _suppress(
    function: str,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int | None,
) -> Tensor:
    check_scored_boxes(function, boxes, scores)
    check_fraction(function, "iou_threshold", iou_threshold)
    limit = as_limit(function, "max_output", max_output)
    check_groups(function, boxes, labels, image_ids)
    try:
        return torch.ops.cvlib.nms(boxes, scores, labels, image_ids, iou_threshold, limit)
    except RuntimeError as error:
        explain_scored_boxes(function, error, boxes, scores)
        raise


def _nms_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int,
) -> Tensor:
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~scores.isnan())
    boxes, scores = as_real(boxes), as_real(scores)
    order = best_first(boxes, scores)
    ordered = boxes[order]

    def iou_with_later(i: int) -> Tensor:
        return pairwise_iou(ordered[i : i + 1], ordered[i + 1 :])[0]

    return keep_greedily(order, iou_with_later, labels, image_ids, iou_threshold, max_output)


def _nms_fake(boxes: Tensor, *_: object) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


define(
    "nms(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, float iou_threshold, "
    "int max_output) -> Tensor",
    _nms_reference,
    _nms_fake,
)
