"""Non-maximum suppression of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import check_fraction, check_no_nan, is_value_error, signal_bad_values
from cvlib._extension import define
from cvlib.ops._rotated_reference import are_rotated_boxes, read_rotated_boxes, rotated_iou
from cvlib.ops._similarity import as_real
from cvlib.ops._suppression import (
    as_limit,
    best_first,
    check_groups,
    check_scored_boxes,
    keep_greedily,
)
from cvlib.ops.nms import _nms_fake
from cvlib.ops.rotated import check_rotated_values


def nms_rotated(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_output: int | None = None
) -> Tensor:
    """Keep the best-scoring rotated boxes and drop those that overlap a better one.

    Boxes are visited best score first (equal scores: input order). A box is kept unless its
    `box_iou_rotated` with a box kept before is strictly greater than ``iou_threshold`` as given.
    Boxes without area overlap nothing.

    Args:
        boxes: Shape (N, 5), floating point, (cx, cy, w, h, angle) as in `box_iou_rotated`: lengths
            in any unit, angles in degrees, counter-clockwise.
        scores: Shape (N,), same dtype and device; higher is better.
        iou_threshold: In [0, 1].
        max_output: Maximum number of kept boxes; ``None``: no limit. Much faster than slicing the
            result.

    Returns:
        Shape (K,), int64: indices of the kept boxes, best score first.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, a threshold outside [0, 1], a negative
            ``max_output``; on the CPU also a NaN, a negative side or an angle beyond 1e9 degrees.
            On CUDA a box with a NaN or with a NaN score is never kept and suppresses nothing;
            negative sides and too large angles overlap nothing.

    Note:
        Deterministic; CPU and CUDA keep the same boxes. Memory is linear in N. The CPU compares
        boxes with nearby ones only, so boxes that rarely overlap cost about O(N log N).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [0.0, 0.0, 4.0, 2.0, 10.0]])
        >>> nms_rotated(boxes, torch.tensor([0.9, 0.8]), 0.5)
        tensor([0])
        >>> boxes[1, 4] = 90.0
        >>> nms_rotated(boxes, torch.tensor([0.9, 0.8]), 0.5)
        tensor([0, 1])
    """
    return _suppress("nms_rotated", boxes, scores, None, None, iou_threshold, max_output)


def batched_nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    image_ids: Tensor | None = None,
    max_output: int | None = None,
) -> Tensor:
    """Run `nms_rotated` separately for each class and each image, in one call.

    Boxes suppress each other only when both their label and their image are equal. Labels are
    compared, never turned into coordinate offsets, so large ids and ties are exact.

    Args:
        boxes: Shape (N, 5), floating point, (cx, cy, w, h, angle) as in `box_iou_rotated`.
        scores: Shape (N,), same dtype and device; higher is better.
        labels: Shape (N,), int64, any values; ``None``: one class.
        iou_threshold: In [0, 1].
        image_ids: Shape (N,), int64, any values; ``None``: one image.
        max_output: Maximum number of boxes per image, best first; ``None``: no limit.

    Returns:
        Shape (K,), int64: indices of the kept boxes of all images, best score first (equal scores:
        input order).

    Raises:
        TypeError: See `nms_rotated`; also labels or image ids that are not int64.
        ValueError: See `nms_rotated`; also labels or image ids of another length or device.

    Note:
        Deterministic; CPU and CUDA keep the same boxes. Memory is linear in N. On the CPU groups
        run on several threads.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0]]).repeat(3, 1)
        >>> scores, labels = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0, 1, 0])
        >>> batched_nms_rotated(boxes, scores, labels, 0.5)
        tensor([2, 1])
    """
    return _suppress(
        "batched_nms_rotated", boxes, scores, labels, image_ids, iou_threshold, max_output
    )


def _suppress(
    function: str,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int | None,
) -> Tensor:
    check_scored_boxes(function, boxes, scores, 5)
    check_fraction(function, "iou_threshold", iou_threshold)
    limit = as_limit(function, "max_output", max_output)
    check_groups(function, boxes, labels, image_ids)
    try:
        return torch.ops.cvlib.nms_rotated(boxes, scores, labels, image_ids, iou_threshold, limit)
    except RuntimeError as error:
        if is_value_error(error):
            check_rotated_values(function, "boxes", boxes)
            check_no_nan(function, "scores", scores)
        raise


def _nms_rotated_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int,
) -> Tensor:
    if boxes.device.type == "cpu":
        signal_bad_values(are_rotated_boxes(boxes), ~scores.isnan())
    boxes, scores = as_real(boxes), as_real(scores)
    order = best_first(boxes, scores)
    ordered = read_rotated_boxes(boxes[order])

    def iou_with_later(i: int) -> Tensor:
        box, later = ordered.select(slice(i, i + 1)), ordered.select(slice(i + 1, None))
        return rotated_iou(box, later).to(boxes.dtype)

    return keep_greedily(order, iou_with_later, labels, image_ids, iou_threshold, max_output)


define(
    "nms_rotated(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, "
    "float iou_threshold, int max_output) -> Tensor",
    _nms_rotated_reference,
    _nms_fake,
)
