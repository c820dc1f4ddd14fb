"""Intersection over union of boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import check_box_values, check_boxes, check_same_kind, is_value_error
from cvlib._extension import define, library, refuse_gradient


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Gives the intersection over union of every pair of boxes.

    The IoU with an empty box is 0 (torchvision gives NaN for two empty boxes), and so is the IoU of
    boxes whose area overflows the dtype.

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any one unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Shape (N, M), in [0, 1]; float32 for float16 and bfloat16 boxes, else the dtype of the
        boxes.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices; on the CPU also a NaN or a box with x2 < x1 or
            y2 < y1. On CUDA such a box has IoU 0 with every box.

    Note:
        Differentiable once, in both arguments. Deterministic. Memory is the result alone.

    References:
        Jaccard, "The distribution of the flora in the alpine zone" (1912).

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> box_iou(a, b)
        tensor([[0.3333, 0.0000]])
    """
    check_boxes("box_iou", "boxes1", boxes1)
    check_boxes("box_iou", "boxes2", boxes2, "(M, 4)")
    check_same_kind("box_iou", "boxes1", boxes1, "boxes2", boxes2)
    try:
        return torch.ops.cvlib.box_iou(boxes1, boxes2)
    except RuntimeError as error:
        if is_value_error(error):
            check_box_values("box_iou", "boxes1", boxes1)
            check_box_values("box_iou", "boxes2", boxes2)
        raise


def _as_real(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """The IoU matrix, in the same order of operations as ``csrc/box_math.h``."""
    a, b = a[:, None], b[None, :]  # (N, 1, 4), (1, M, 4)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(-1)  # (N, M)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    iou = shared / (area_a + area_b - shared)
    return torch.where(iou > 0, iou, torch.zeros_like(iou))


def _box_iou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    if boxes1.device.type == "cpu":
        check_box_values("box_iou", "boxes1", boxes1)
        check_box_values("box_iou", "boxes2", boxes2)
    return _pairwise_iou(_as_real(boxes1), _as_real(boxes2))


def _box_iou_fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return _as_real(boxes1).new_empty(boxes1.shape[0], boxes2.shape[0])


def _box_iou_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        a = _as_real(boxes1.detach()).clone().requires_grad_()
        b = _as_real(boxes2.detach()).clone().requires_grad_()
        shared = _shared_area(a, b)
        union = _area(a)[:, None] + _area(b)[None, :] - shared
        counts = (shared > 0) & (union > 0)
        iou = torch.where(counts, shared / torch.where(counts, union, 1), 0)
        grad1, grad2 = torch.autograd.grad(iou, (a, b), grad.to(iou.dtype))
    return grad1, grad2


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = high - torch.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clamp(min=0).prod(-1)


def _box_iou_backward_fake(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    return _as_real(boxes1).new_empty(boxes1.shape), _as_real(boxes2).new_empty(boxes2.shape)


def _save_boxes(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _box_iou_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    boxes1, boxes2 = ctx.saved_tensors
    grad1, grad2 = torch.ops.cvlib.box_iou_backward(grad, boxes1, boxes2)
    return grad1.to(boxes1.dtype), grad2.to(boxes2.dtype)


define("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor", _box_iou_reference, _box_iou_fake)
define(
    "box_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)",
    _box_iou_backward_reference,
    _box_iou_backward_fake,
)
torch.library.register_autograd(
    "cvlib::box_iou", _box_iou_gradient, setup_context=_save_boxes, lib=library
)
refuse_gradient("box_iou_backward")
