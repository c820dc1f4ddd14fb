"""What the kinds of suppression check alike, and what their references share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cvlib._checks import (
    check_box_values,
    check_boxes,
    check_ids,
    check_integer,
    check_no_nan,
    check_same_kind,
    check_shape,
    check_tensor,
    is_value_error,
)


def check_scored_boxes(function: str, boxes: Tensor, scores: Tensor, shape: str = "(N, 4)") -> None:
    """Raises unless these are boxes of this shape and a score for each."""
    check_boxes(function, "boxes", boxes, shape)
    check_tensor(function, "scores", scores)
    check_shape(function, "scores", scores, "(N,)")
    if scores.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"{function}: expected scores of shape (N,) with N = {boxes.shape[0]} as in boxes, "
            f"got {tuple(scores.shape)}"
        )
    check_same_kind(function, "boxes", boxes, "scores", scores)


def check_count(function: str, argument: str, value: int, or_none: str = "") -> None:
    """Raises unless ``value`` is an integer (TypeError) of at least 0 (ValueError)."""
    check_integer(function, argument, value, or_none)
    if value < 0:
        raise ValueError(f"{function}: expected {argument} >= 0{or_none}, got {value}")


def as_limit(function: str, argument: str, value: int | None) -> int:
    """Gives what operators take for "at most this many": -1 for ``None``, which means all."""
    if value is None:
        return -1
    check_count(function, argument, value, " or None")
    return value


def check_groups(
    function: str, boxes: Tensor, labels: Tensor | None, image_ids: Tensor | None
) -> None:
    """Raises unless labels and image ids, where given, are one int64 number for each box."""
    for argument, ids in (("labels", labels), ("image_ids", image_ids)):
        if ids is not None:
            check_ids(function, argument, ids, boxes)


def check_method(function: str, argument: str, method: str) -> None:
    """Raises ValueError unless scores can be lowered in this way."""
    if method not in ("linear", "gaussian"):
        raise ValueError(
            f"{function}: expected {argument} to be 'linear' or 'gaussian', got {method!r}"
        )


def explain_scored_boxes(function: str, error: RuntimeError, boxes: Tensor, scores: Tensor) -> None:
    """Raises ValueError for the first bad value, if a kernel has signalled bad values."""
    if is_value_error(error):
        check_box_values(function, "boxes", boxes)
        check_no_nan(function, "scores", scores)


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


# Bits of the mantissa, bias of the exponent, terms of the series, lowest argument, ln 2 in two
# parts, the integer type of the same size: as in csrc/soft_nms/exponential.h.
_EXPONENTIAL = {
    torch.float32: (23, 127, 8, -87.0, 0.693359375, -2.12194440e-4, torch.int32),
    torch.float64: (
        52,
        1023,
        14,
        -708.0,
        6.93147180369123816490e-01,
        1.90821492927058770002e-10,
        torch.int64,
    ),
}


def exp_of_nonpositive(x: Tensor) -> Tensor:
    """The same bits as ``csrc/soft_nms/exponential.h``."""
    mantissa, bias, terms, lowest, ln2_high, ln2_low, integer = _EXPONENTIAL[x.dtype]
    rounding = 1.5 * 2.0**mantissa  # adding it rounds to an integer
    inside = x.clamp(min=lowest)
    shifted = inside * 1.44269504088896340736 + rounding
    k = shifted - rounding
    r = (inside - k * ln2_high) - k * ln2_low
    series = torch.ones_like(x)
    for i in range(terms - 1, 0, -1):
        series = series * r * (1 / i) + 1
    power = ((shifted.view(integer) + bias) << mantissa).view(x.dtype)
    return torch.where(x > lowest, series * power, torch.zeros_like(x))
