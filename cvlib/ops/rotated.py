"""Intersection over union of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    check_boxes,
    check_entries,
    check_same_dtype_and_device,
    check_shape_matches,
    is_value_error,
    signal_bad_values,
)
from cvlib._extension import define, vmap_by_batch, vmap_by_loop
from cvlib.ops._rotated_reference import (
    LARGEST_ANGLE,
    are_rotated_boxes,
    read_rotated_boxes,
    rotated_iou,
    rotated_iou_gradient,
)
from cvlib.ops._similarity import as_real, empty_gradients, register_gradient


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the intersection over union of every pair of rotated boxes.

    A box is (cx, cy, w, h, angle): its centre, its sides, and the angle in degrees by which it is
    rotated counter-clockwise about its centre in the displayed image (y points down). At angle 0
    the width lies along x. At 30 the right end of the box points up: the middle of its right side
    is at cx + w / 2 cos 30, cy - w / 2 sin 30. At 90 the width is vertical and the right side is on
    top, so that (w, h, 90) and (h, w, 0) are equal boxes. This is torchvision's "cxcywhr" format.

    The IoU is computed in float64 and rounded once, for all dtypes; it is exact to about 1e-15
    times the ratio of the sides of a box. The IoU with an empty box is 0, and so is the IoU of
    boxes whose area overflows float64. Sides below 1e-140 count as 0.

    Args:
        boxes1: Shape (N, 5), floating point; lengths in any unit, angles in degrees, any number
            of turns up to 1e9 degrees.
        boxes2: Shape (M, 5), same dtype, device and unit.

    Returns:
        Shape (N, M), in [0, 1]; float32 for float16 and bfloat16 boxes, otherwise the dtype of the
        boxes. Bit-identical if the arguments are exchanged.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices; on the CPU also a NaN, a negative side or an
            angle beyond 1e9 degrees. On CUDA such a box has IoU 0 with every box.

    Note:
        Differentiable once, in both arguments; where edges coincide the IoU has a kink, and the
        gradient lies between those of both sides. Deterministic; CPU and CUDA return equal values.
        Needs no memory besides the result. Pairs whose bounding boxes are disjoint are cheap.

    References:
        Green, "An Essay on the Application of Mathematical Analysis" (1828): the area as an
        integral along the outline.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 2.0, 45.0], [1.0, 0.0, 2.0, 2.0, 90.0]])
        >>> box_iou_rotated(a, b)
        tensor([[0.7071, 0.3333]])
    """
    check_boxes("box_iou_rotated", "boxes1", boxes1, "N", 5)
    check_boxes("box_iou_rotated", "boxes2", boxes2, "M", 5)
    check_same_dtype_and_device("box_iou_rotated", "boxes1", boxes1, "boxes2", boxes2)
    try:
        return torch.ops.cvlib.box_iou_rotated(boxes1, boxes2)
    except RuntimeError as error:
        _explain("box_iou_rotated", error, boxes1, boxes2)
        raise


def paired_box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the intersection over union of each rotated box and its partner.

    See `box_iou_rotated` for the box format.

    Args:
        boxes1: Shape (..., 5), floating point.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [0, 1]; float32 for float16 and bfloat16 boxes, otherwise the dtype of the
        boxes.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Different shapes or devices; on the CPU also a NaN, a negative side or an angle
            beyond 1e9 degrees. On CUDA such a box has IoU 0.

    Note:
        Differentiable once, in both arguments. Deterministic; CPU and CUDA return equal values.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0], [5.0, 5.0, 4.0, 2.0, 30.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 2.0, 45.0], [5.0, 5.0, 4.0, 2.0, 390.0]])
        >>> paired_box_iou_rotated(a, b)
        tensor([0.7071, 1.0000])
    """
    function = "paired_box_iou_rotated"
    check_boxes(function, "boxes1", boxes1, "...", 5)
    check_boxes(function, "boxes2", boxes2, "...", 5)
    check_same_dtype_and_device(function, "boxes1", boxes1, "boxes2", boxes2)
    check_shape_matches(function, "boxes2", boxes2, boxes1.shape, "boxes1")
    try:
        return torch.ops.cvlib.paired_box_iou_rotated(boxes1, boxes2)
    except RuntimeError as error:
        _explain(function, error, boxes1, boxes2)
        raise


def _explain(function: str, error: RuntimeError, boxes1: Tensor, boxes2: Tensor) -> None:
    if is_value_error(error):
        check_rotated_values(function, "boxes1", boxes1)
        check_rotated_values(function, "boxes2", boxes2)


def check_rotated_values(function: str, argument: str, boxes: Tensor) -> None:
    """Raises ValueError for the first box with a NaN, a negative side or a too large angle."""
    angle = f"have angles from {-LARGEST_ANGLE:g} to {LARGEST_ANGLE:g} degrees"
    advice = "rotated boxes are (cx, cy, w, h, angle), the angle in degrees"
    for requirement, is_good in (
        ("be without NaN", ~boxes.isnan().any(-1)),
        ("have w >= 0 and h >= 0", (boxes[..., 2:4] >= 0).all(-1)),
        (angle, boxes[..., 4].abs() <= LARGEST_ANGLE),
    ):
        check_entries(function, argument, boxes, is_good, requirement, advice)


def _signal_bad_boxes(*boxes: Tensor) -> None:
    if boxes[0].device.type == "cpu":
        signal_bad_values(*map(are_rotated_boxes, boxes))


def _box_iou_rotated_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    _signal_bad_boxes(boxes1, boxes2)
    a, b = read_rotated_boxes(boxes1[:, None]), read_rotated_boxes(boxes2[None])
    return rotated_iou(a, b).to(as_real(boxes1).dtype)


def _paired_box_iou_rotated_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    _signal_bad_boxes(boxes1, boxes2)
    iou = rotated_iou(read_rotated_boxes(boxes1), read_rotated_boxes(boxes2))
    return iou.to(as_real(boxes1).dtype)


def _box_iou_rotated_fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return as_real(boxes1).new_empty(boxes1.shape[0], boxes2.shape[0])


def _paired_box_iou_rotated_fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return as_real(boxes1).new_empty(boxes1.shape[:-1])


def _box_iou_rotated_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    a, b = read_rotated_boxes(boxes1[:, None]), read_rotated_boxes(boxes2[None])
    weight, dtype = grad.double()[..., None], as_real(boxes1).dtype
    grad1 = (weight * rotated_iou_gradient(a, b)).sum(1)
    grad2 = (weight * rotated_iou_gradient(b, a)).sum(0)
    return grad1.to(dtype), grad2.to(dtype)


def _paired_box_iou_rotated_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    a, b = read_rotated_boxes(boxes1), read_rotated_boxes(boxes2)
    weight, dtype = grad.double()[..., None], as_real(boxes1).dtype
    grad1, grad2 = weight * rotated_iou_gradient(a, b), weight * rotated_iou_gradient(b, a)
    return grad1.to(dtype), grad2.to(dtype)


define(
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    _box_iou_rotated_reference,
    _box_iou_rotated_fake,
)
define(
    "box_iou_rotated_backward(Tensor grad, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)",
    _box_iou_rotated_backward_reference,
    empty_gradients,
)
define(
    "paired_box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    _paired_box_iou_rotated_reference,
    _paired_box_iou_rotated_fake,
)
define(
    "paired_box_iou_rotated_backward(Tensor grad, Tensor boxes1, Tensor boxes2) "
    "-> (Tensor, Tensor)",
    _paired_box_iou_rotated_backward_reference,
    empty_gradients,
)
register_gradient("box_iou_rotated")
register_gradient("paired_box_iou_rotated")
for _name in ("box_iou_rotated", "box_iou_rotated_backward"):
    vmap_by_loop(_name)
for _name in ("paired_box_iou_rotated", "paired_box_iou_rotated_backward"):
    vmap_by_batch(_name)
