"""Intersection over union of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    check_boxes,
    check_same_kind,
    first_true,
    index_text,
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
    """Gives the intersection over union of every pair of rotated boxes.

    A box is (cx, cy, w, h, angle): its centre, its sides and the angle in degrees by which it is
    turned counter-clockwise about its centre, as one sees the image (y points down). At angle 0
    the width lies along x. At 30 the right end of the box points up: the middle of its right side
    is at cx + w / 2 cos 30, cy - w / 2 sin 30. At 90 the width stands upright and the right side
    is on top, so that (w, h, 90) is the same box as (h, w, 0). This is the format "cxcywhr" of
    torchvision.

    The IoU is computed in float64 from the values as given and rounded once, for all dtypes; it is
    exact to about 1e-15 times the ratio of the sides of a box. The IoU with an empty box is 0, and
    so is the IoU of boxes whose area overflows float64. Sides below 1e-140 count as 0.

    Args:
        boxes1: Shape (N, 5), floating point; lengths in any one unit, angles in degrees, any number
            of turns up to 1e9 degrees.
        boxes2: Shape (M, 5), same dtype, device and unit.

    Returns:
        Shape (N, M), in [0, 1]; float32 for float16 and bfloat16 boxes, else the dtype of the
        boxes. Equal to the last bit when the arguments are exchanged.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices; on the CPU also a NaN, a negative side or an angle
            beyond 1e9 degrees. On CUDA such a box has IoU 0 with every box.

    Note:
        Differentiable once, in both arguments; where edges coincide the IoU has a kink, and the
        gradient lies between those of both sides. Deterministic; CPU and CUDA give equal values.
        Memory is the result alone. Pairs whose upright boxes are disjoint cost next to nothing.

    References:
        Green, "An Essay on the Application of Mathematical Analysis" (1828): the area as an
        integral along the outline.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 2.0, 45.0], [1.0, 0.0, 2.0, 2.0, 90.0]])
        >>> box_iou_rotated(a, b)
        tensor([[0.7071, 0.3333]])
    """
    check_boxes("box_iou_rotated", "boxes1", boxes1, "(N, 5)")
    check_boxes("box_iou_rotated", "boxes2", boxes2, "(M, 5)")
    check_same_kind("box_iou_rotated", "boxes1", boxes1, "boxes2", boxes2)
    try:
        return torch.ops.cvlib.box_iou_rotated(boxes1, boxes2)
    except RuntimeError as error:
        _explain("box_iou_rotated", error, boxes1, boxes2)
        raise


def paired_box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Gives the intersection over union of each rotated box and its partner.

    Boxes and values are those of `box_iou_rotated`.

    Args:
        boxes1: Shape (..., 5), floating point.
        boxes2: Same shape, dtype, device and unit.

    Returns:
        Shape (...), in [0, 1]; float32 for float16 and bfloat16 boxes, else the dtype of the boxes.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Two shapes, two devices; on the CPU also a NaN, a negative side or an angle
            beyond 1e9 degrees. On CUDA such a box has IoU 0.

    Note:
        Differentiable once, in both arguments. Deterministic; CPU and CUDA give equal values.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0], [5.0, 5.0, 4.0, 2.0, 30.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 2.0, 45.0], [5.0, 5.0, 4.0, 2.0, 390.0]])
        >>> paired_box_iou_rotated(a, b)
        tensor([0.7071, 1.0000])
    """
    function = "paired_box_iou_rotated"
    check_boxes(function, "boxes1", boxes1, "(..., 5)")
    check_boxes(function, "boxes2", boxes2, "(..., 5)")
    check_same_kind(function, "boxes1", boxes1, "boxes2", boxes2)
    if boxes1.shape != boxes2.shape:
        raise ValueError(
            f"{function}: expected boxes2 of the shape of boxes1 {tuple(boxes1.shape)}, "
            f"got {tuple(boxes2.shape)}"
        )
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
    """Raises ValueError for the first box with a NaN, a negative side or an absurd angle."""
    index = first_true(~are_rotated_boxes(boxes.detach()))
    if index is None:
        return
    box = boxes[index].tolist()
    if any(value != value for value in box):
        wrong = "without NaN"
    elif not (box[2] >= 0 and box[3] >= 0):
        wrong = "with w >= 0 and h >= 0"
    else:
        wrong = f"with angles from {-LARGEST_ANGLE:g} to {LARGEST_ANGLE:g} degrees"
    actual = ", ".join(f"{value:g}" for value in box)
    raise ValueError(
        f"{function}: expected {argument} {wrong}, got {argument}{index_text(index)} = "
        f"({actual}); rotated boxes are (cx, cy, w, h, angle), the angle in degrees"
    )


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
