"""IoU of paired boxes and its generalised, distance and complete variants, as losses use them."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_boxes,
    check_same_dtype_and_device,
    check_shape_matches,
    explain_boxes,
    signal_bad_values,
)
from cvlib._extension import define, vmap_by_batch
from cvlib.ops._similarity import (
    COMPLETE,
    DISTANCE,
    GENERALIZED,
    PLAIN,
    as_real,
    check_kind,
    empty_gradients,
    register_gradient,
    similarity,
    similarity_gradient,
)


def paired_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of each box with its partner; see `box_iou` for all pairs.

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [0, 1]; float32 for float16 and bfloat16 boxes, otherwise the dtype of the
        boxes.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Different shapes or devices; on the CPU also a NaN or a box with x2 < x1 or
            y2 < y1. On CUDA such a box has IoU 0.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 6.0, 6.0]])
        >>> paired_box_iou(a, b)
        tensor([0.5000, 0.0000])
    """
    return _paired("paired_box_iou", boxes1, boxes2, PLAIN)


def paired_generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalised IoU of each box with its partner, as `generalized_box_iou` defines it.

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [-1, 1]; dtype as in `paired_box_iou`. The loss is one minus this.

    Raises:
        TypeError: See `paired_box_iou`.
        ValueError: See `paired_box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]])
        >>> paired_generalized_box_iou(a, b)
        tensor([-0.5000])
    """
    return _paired("paired_generalized_box_iou", boxes1, boxes2, GENERALIZED)


def paired_distance_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the distance IoU of each box with its partner, as `distance_box_iou` defines it.

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [-1, 1]; dtype as in `paired_box_iou`. The loss is one minus this.

    Raises:
        TypeError: See `paired_box_iou`.
        ValueError: See `paired_box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Zheng et al., "Distance-IoU Loss" (2020), equations 6 and 7.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 2.0, 1.0]])
        >>> paired_distance_box_iou(a, b)
        tensor([-0.2000])
    """
    return _paired("paired_distance_box_iou", boxes1, boxes2, DISTANCE)


def paired_complete_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the complete IoU of each box with its partner, as `complete_box_iou` defines it.

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [-1.5, 1]; dtype as in `paired_box_iou`. The loss is one minus this.

    Raises:
        TypeError: See `paired_box_iou`.
        ValueError: See `paired_box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Zheng et al., "Distance-IoU Loss" (2020), equations 8 to 11.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
        >>> paired_complete_box_iou(a, b)
        tensor([0.4655])
    """
    return _paired("paired_complete_box_iou", boxes1, boxes2, COMPLETE)


def _paired(function: str, boxes1: Tensor, boxes2: Tensor, kind: int) -> Tensor:
    check_boxes(function, "boxes1", boxes1, "...", 4)
    check_boxes(function, "boxes2", boxes2, "...", 4)
    advice = f"for all pairs use {function.removeprefix('paired_')}"
    check_shape_matches(function, "boxes2", boxes2, boxes1.shape, "boxes1", advice)
    check_same_dtype_and_device(function, "boxes1", boxes1, "boxes2", boxes2)
    try:
        return torch.ops.cvlib.paired_iou(boxes1, boxes2, kind)
    except RuntimeError as error:
        explain_boxes(function, error, boxes1=boxes1, boxes2=boxes2)
        raise


def _paired_iou_reference(boxes1: Tensor, boxes2: Tensor, kind: int) -> Tensor:
    check_kind(kind)
    if boxes1.device.type == "cpu":
        signal_bad_values(are_ordered(boxes1), are_ordered(boxes2))
    return similarity(as_real(boxes1), as_real(boxes2), kind)


def _paired_iou_fake(boxes1: Tensor, boxes2: Tensor, kind: int) -> Tensor:
    return as_real(boxes1).new_empty(boxes1.shape[:-1])


def _paired_iou_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int
) -> tuple[Tensor, Tensor]:
    check_kind(kind)
    a, b, g = as_real(boxes1), as_real(boxes2), as_real(grad)
    return similarity_gradient(g, a, b, kind), similarity_gradient(g, b, a, kind)


define(
    "paired_iou(Tensor boxes1, Tensor boxes2, int kind) -> Tensor",
    _paired_iou_reference,
    _paired_iou_fake,
)
define(
    "paired_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2, int kind) -> (Tensor, Tensor)",
    _paired_iou_backward_reference,
    empty_gradients,
)
register_gradient("paired_iou")
for _name in ("paired_iou", "paired_iou_backward"):
    vmap_by_batch(_name)
