"""Argument checks and reference code shared by the kinds of suppression."""

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
    check_same_dtype_and_device,
    check_shape_matches,
    check_tensor,
    is_value_error,
)


def check_scored_boxes(function: str, boxes: Tensor, scores: Tensor, columns: int = 4) -> None:
    """Raises unless these are boxes with this number of columns and one score per box."""
    check_boxes(function, "boxes", boxes, "N", columns)
    check_tensor(function, "scores", scores)
    check_shape_matches(function, "scores", scores, boxes.shape[:1], "boxes")
    check_same_dtype_and_device(function, "boxes", boxes, "scores", scores)


METHODS = "linear", "gaussian"


def as_limit(function: str, argument: str, value: int | None) -> int:
    """Return the limit as operators take it: -1 for ``None``, which means no limit."""
    if value is None:
        return -1
    check_integer(function, argument, value, 0, allows_none=True)
    return value


def check_groups(
    function: str, boxes: Tensor, labels: Tensor | None, image_ids: Tensor | None
) -> None:
    """Raises unless ``labels`` and ``image_ids`` are None or have one int64 number per box."""
    for argument, ids in (("labels", labels), ("image_ids", image_ids)):
        if ids is not None:
            check_ids(function, argument, ids, boxes)


def explain_scored_boxes(function: str, error: RuntimeError, boxes: Tensor, scores: Tensor) -> None:
    """Raises ValueError for the first bad value if a kernel has signalled bad values."""
    if is_value_error(error):
        check_box_values(function, "boxes", boxes)
        check_no_nan(function, "scores", scores)


def best_first(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return indices by descending score, in input order at ties, without NaN."""
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
    """Visit boxes in order, keep each that is left and drop later ones that overlap it.

    Args:
        order: Indices of the boxes, in the order in which they are visited.
        iou_with_later: Returns the IoU of the box at this position of ``order`` with all later
            ones.
        labels: Boxes of different labels do not suppress each other; ``None``: one label.
        image_ids: Boxes of different images do not suppress each other; ``None``: one image.
        iou_threshold: A box is dropped if its IoU with a kept one is greater.
        max_output: Maximum number of kept boxes per image; negative: no limit.

    Returns:
        Indices of the kept boxes, in the order of ``order``.
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
    """exp(x) for x <= 0, equal bit by bit to ``csrc/soft_nms/exponential.h``."""
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
