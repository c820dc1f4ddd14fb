"""Encoding of boxes as offsets from anchors, in differentiable plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cvlib._checks import (
    check_box_values,
    check_boxes,
    check_is_number,
    check_same_dtype_and_device,
    check_shape,
    check_tensor,
    mismatch,
)
from cvlib.boxes import box_convert

# Spread of centre and size offsets in SSD; dividing by it scales targets to about 1.
VARIANCES = (0.1, 0.1, 0.2, 0.2)
# kSmallestSideRatio in csrc/box_math.h: keeps the offset of a box without width finite.
SMALLEST_SIDE_RATIO = 1e-6


def encode_boxes(
    boxes: Tensor,
    anchors: Tensor,
    *,
    variances: tuple[float, float, float, float] = VARIANCES,
) -> Tensor:
    """Encode boxes as offsets from anchors, the targets of box regression.

    ``((cx - cx_a) / w_a / v_x, (cy - cy_a) / h_a / v_y, log(w / w_a) / v_w, log(h / h_a) / v_h)``,
    where the ratios of sides are clamped to 1e-6 so that an empty box gives a finite offset.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2).
        anchors: Shape (N, 4), same dtype, device and unit, with positive width and height.
        variances: Scales of the four offsets.

    Returns:
        Offsets (dx, dy, dw, dh), shape (N, 4).

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, variances that are not four positive numbers;
            on the CPU also boxes with a NaN or corners out of order.

    References:
        Girshick et al., "Rich feature hierarchies" (2014), appendix C; Liu et al., "SSD" (2016),
        equation 2 and its implementation.

    Example:
        >>> anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> encode_boxes(torch.tensor([[1.0, 0.0, 11.0, 10.0]]), anchor)
        tensor([[1., 0., 0., 0.]])
    """
    check_boxes("encode_boxes", "boxes", boxes)
    check_boxes("encode_boxes", "anchors", anchors)
    _check_pair("encode_boxes", "boxes", boxes, anchors)
    check_variances("encode_boxes", variances)
    if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        check_box_values("encode_boxes", "boxes", boxes)
    center, size = box_convert(boxes, "xyxy", "cxcywh").split(2, dim=-1)
    anchor_center, anchor_size = box_convert(anchors, "xyxy", "cxcywh").split(2, dim=-1)
    scale = boxes.new_tensor(variances)
    shift = (center - anchor_center) / anchor_size / scale[:2]
    ratio = (size / anchor_size).clamp(min=SMALLEST_SIDE_RATIO)
    return torch.cat([shift, ratio.log() / scale[2:]], dim=-1)


def decode_boxes(
    offsets: Tensor,
    anchors: Tensor,
    *,
    variances: tuple[float, float, float, float] = VARIANCES,
) -> Tensor:
    """Decode offsets from anchors into boxes, the inverse of `encode_boxes`.

    Args:
        offsets: Shape (..., N, 4), floating point, (dx, dy, dw, dh).
        anchors: Shape (N, 4), same dtype and device.
        variances: Scales of the four offsets, as passed to `encode_boxes`.

    Returns:
        Boxes (x1, y1, x2, y2) in the unit of the anchors, not clipped, shape (..., N, 4).

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, variances that are not four positive numbers.

    Example:
        >>> anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> decode_boxes(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), anchor)
        tensor([[ 1.,  0., 11., 10.]])
    """
    check_tensor("decode_boxes", "offsets", offsets)
    check_shape("decode_boxes", "offsets", offsets, "...", "N", 4)
    check_boxes("decode_boxes", "anchors", anchors)
    _check_pair("decode_boxes", "offsets", offsets, anchors)
    check_variances("decode_boxes", variances)
    anchor_center, anchor_size = box_convert(anchors, "xyxy", "cxcywh").split(2, dim=-1)
    shift, growth = (offsets * offsets.new_tensor(variances)).split(2, dim=-1)
    center = shift * anchor_size + anchor_center
    half = growth.exp() * anchor_size / 2
    return torch.cat([center - half, center + half], dim=-1)


def _check_pair(function: str, argument: str, value: Tensor, anchors: Tensor) -> None:
    check_same_dtype_and_device(function, argument, value, "anchors", anchors)
    if value.shape[-2] != len(anchors):
        requirement = f"have one row per row of `{argument}` ({value.shape[-2]})"
        raise ValueError(mismatch(function, "anchors", requirement, len(anchors)))


def check_variances(function: str, variances: tuple[float, ...]) -> None:
    """Raises unless this is a tuple (TypeError) of four positive, finite numbers (ValueError)."""
    if not isinstance(variances, tuple | list):
        raise TypeError(mismatch(function, "variances", "be a tuple", type(variances).__name__))
    for i, variance in enumerate(variances):
        check_is_number(function, f"variances[{i}]", variance)
    if len(variances) != 4 or not all(0 < v < math.inf for v in variances):
        requirement = "be four positive numbers"
        raise ValueError(mismatch(function, "variances", requirement, tuple(variances)))
