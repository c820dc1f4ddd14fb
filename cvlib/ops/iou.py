"""Intersection over union of boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_box_values,
    check_boxes,
    check_same_kind,
    is_value_error,
    signal_bad_values,
)
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
        signal_bad_values(are_ordered(boxes1), are_ordered(boxes2))
    return _pairwise_iou(_as_real(boxes1), _as_real(boxes2))


def _box_iou_fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return _as_real(boxes1).new_empty(boxes1.shape[0], boxes2.shape[0])


def _box_iou_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    """The formula of ``csrc/box_iou/box_iou_gradient.h``: IoU = I / U with U = A + B - I."""
    a, b = _as_real(boxes1)[:, None], _as_real(boxes2)[None, :]  # (N, 1, 4), (1, M, 4)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    sides = sides.clamp(min=0)
    shared = sides.prod(-1)
    size_a, size_b = (boxes[..., 2:] - boxes[..., :2] for boxes in (a, b))
    total = size_a.clamp(min=0).prod(-1) + size_b.clamp(min=0).prod(-1)
    union = total - shared
    counts = (shared > 0) & (union > 0)
    scale = torch.where(counts, _as_real(grad) / torch.where(counts, union, 1) ** 2, 0)
    along = (scale * total)[..., None] * sides.flip(-1)  # per unit of the shared width and height
    area = -(scale * shared)[..., None]
    grad1 = _corner_gradient(a, b, along, area * size_a.flip(-1)).sum(1)
    grad2 = _corner_gradient(b, a, along, area * size_b.flip(-1)).sum(0)
    return grad1, grad2


def _corner_gradient(own: Tensor, other: Tensor, along: Tensor, side: Tensor) -> Tensor:
    """Gradient of the own corners: an edge counts where it bounds the intersection."""
    half = (own == other) * 0.5
    low = half[..., :2] + (own > other)[..., :2]
    high = half[..., 2:] + (own < other)[..., 2:]
    return torch.cat([-(along * low + side), along * high + side], dim=-1)


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
