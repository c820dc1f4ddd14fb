"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_box_values,
    check_boxes,
    check_fraction,
    check_ids,
    check_no_nan,
    check_same_kind,
    check_shape,
    check_tensor,
    is_value_error,
    signal_bad_values,
)
from cvlib._extension import define
from cvlib.ops._similarity import as_real, pairwise_iou


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_output: int | None = None
) -> Tensor:
    """Keeps the best-scoring boxes and drops those that overlap a better one.

    Boxes are visited best score first (equal scores: input order). A box is kept unless its IoU,
    computed in the dtype of the boxes, with a box kept before is strictly greater than
    ``iou_threshold`` as given. Boxes without area overlap nothing.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any one unit.
        scores: Shape (N,), same dtype and device; higher is better.
        iou_threshold: In [0, 1].
        max_output: Stop after this many kept boxes; ``None`` keeps all. Much faster than slicing
            the result.

    Returns:
        Shape (K,), int64: indices of the kept boxes, best score first.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices, a threshold outside [0, 1], a negative
            ``max_output``; on the CPU also a NaN or corners out of order. On CUDA a box with a NaN
            coordinate or score is never kept and suppresses nothing.

    Note:
        Deterministic; CPU and CUDA keep the same boxes. Memory is linear in N. The CPU compares
        boxes with near ones only, so boxes of similar size cost about O(N log N).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8], [3.0, 3.0, 4.0, 4.0]])
        >>> nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
        tensor([0, 2])
    """
    _check_arguments("nms", boxes, scores, iou_threshold, max_output)
    return _call("nms", boxes, scores, None, None, iou_threshold, max_output)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    *,
    image_ids: Tensor | None = None,
    max_output: int | None = None,
) -> Tensor:
    """Runs `nms` for each class, and each image, on its own, in one call.

    Boxes suppress each other only when both their label and their image are equal. Labels are
    compared, never turned into coordinate offsets, so negative coordinates, large ids and ties are
    exact.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any one unit.
        scores: Shape (N,), same dtype and device; higher is better.
        labels: Shape (N,), int64, any values; ``None``: all boxes of one class.
        iou_threshold: In [0, 1].
        image_ids: Shape (N,), int64, any values; ``None``: all boxes of one image.
        max_output: At most this many boxes of each image, best first; ``None`` keeps all.

    Returns:
        Shape (K,), int64: indices of the kept boxes of all images, best score first (equal scores:
        input order).

    Raises:
        TypeError: As `nms`; labels or image ids that are not int64.
        ValueError: As `nms`; labels or image ids of another length or device.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8], [0.0, 0.0, 2.0, 1.9]])
        >>> scores, labels = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([0, 1, 0])
        >>> batched_nms(boxes, scores, labels, 0.5)
        tensor([2, 1])
    """
    _check_arguments("batched_nms", boxes, scores, iou_threshold, max_output)
    if labels is not None:
        check_ids("batched_nms", "labels", labels, boxes)
    if image_ids is not None:
        check_ids("batched_nms", "image_ids", image_ids, boxes)
    return _call("batched_nms", boxes, scores, labels, image_ids, iou_threshold, max_output)


def _check_arguments(
    function: str,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int | None,
    shape: str = "(N, 4)",
) -> None:
    check_boxes(function, "boxes", boxes, shape)
    check_tensor(function, "scores", scores)
    check_shape(function, "scores", scores, "(N,)")
    if scores.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"{function}: expected scores of shape (N,) with N = {boxes.shape[0]} as in boxes, "
            f"got {tuple(scores.shape)}"
        )
    check_same_kind(function, "boxes", boxes, "scores", scores)
    check_fraction(function, "iou_threshold", iou_threshold)
    if max_output is not None and not isinstance(max_output, int | torch.SymInt):
        raise TypeError(
            f"{function}: expected max_output to be an int or None, got {type(max_output).__name__}"
        )
    if max_output is not None and max_output < 0:
        raise ValueError(f"{function}: expected max_output >= 0 or None, got {max_output}")


def _call(
    function: str,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int | None,
) -> Tensor:
    limit = -1 if max_output is None else max_output
    try:
        return torch.ops.cvlib.nms(boxes, scores, labels, image_ids, iou_threshold, limit)
    except RuntimeError as error:
        if is_value_error(error):
            check_box_values(function, "boxes", boxes)
            check_no_nan(function, "scores", scores)
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


def best_first(boxes: Tensor, scores: Tensor) -> Tensor:
    """Gives the order of a walk: best score first, equal scores as they come, without NaN."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[~(boxes.isnan().any(1) | scores.isnan())[order]]


def keep_greedily(
    order: Tensor,
    iou_with_later: Callable[[int], Tensor],
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int,
) -> Tensor:
    """Suppresses for references: keeps a box and drops what overlaps it, one after the other.

    Args:
        order: Indices of the boxes, in the order in which they are visited.
        iou_with_later: Gives the IoU of the box at this place of ``order`` with those behind it.
        labels: Only boxes of equal labels are rivals; ``None``: all are.
        image_ids: Only boxes of equal images are rivals; ``None``: all are.
        iou_threshold: A rival whose IoU is greater is dropped.
        max_output: At most this many boxes of each image; below 0: all.

    Returns:
        The indices that are kept, in the order of ``order``.
    """
    label = torch.zeros_like(order) if labels is None else labels[order]
    image = torch.zeros_like(order) if image_ids is None else image_ids[order]
    left: dict[int, int] = {}
    alive = torch.ones(len(order), dtype=torch.bool, device=order.device)
    kept = []
    for i, image_id in enumerate(image.tolist()):
        if not alive[i] or (max_output >= 0 and left.setdefault(image_id, max_output) == 0):
            continue
        if max_output >= 0:
            left[image_id] -= 1
        kept.append(i)
        rivals = (label[i + 1 :] == label[i]) & (image[i + 1 :] == image[i])
        alive[i + 1 :] &= ~(rivals & (iou_with_later(i).double() > iou_threshold))
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def _nms_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    max_output: int,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


define(
    "nms(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, float iou_threshold, "
    "int max_output) -> Tensor",
    _nms_reference,
    _nms_fake,
)
