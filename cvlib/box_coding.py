"""Boxes as offsets from anchors, and back. Plain PyTorch, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    check_box_values,
    check_boxes,
    check_same_kind,
    check_shape,
    check_tensor,
    check_variances,
)
from cvlib.boxes import box_convert

# The spread of centre and size offsets in SSD; dividing by it brings the targets near unit scale.
VARIANCES = (0.1, 0.1, 0.2, 0.2)
# As kSmallestSideRatio in csrc/box_math.h: a box without width gets a finite offset.
SMALLEST_SIDE_RATIO = 1e-6


def encode_boxes(
    boxes: Tensor,
    anchors: Tensor,
    *,
    variances: tuple[float, float, float, float] = VARIANCES,
) -> Tensor:
    """Expresses boxes as offsets from anchors, the targets of box regression.

    ``((cx - cx_a) / w_a / v_x, (cy - cy_a) / h_a / v_y, log(w / w_a) / v_w, log(h / h_a) / v_h)``,
    where the ratios of sides are held above 1e-6 so that an empty box gives a finite offset.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2).
        anchors: Shape (N, 4), same dtype, device and unit, with positive width and height.
        variances: Scales of the four offsets.

    Returns:
        Shape (N, 4): (dx, dy, dw, dh).

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices, variances that are not four positive numbers; on the
            CPU also boxes with a NaN or corners out of order.

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
    """Turns offsets from anchors back into boxes: the inverse of `encode_boxes`.

    Args:
        offsets: Shape (..., N, 4), floating point, (dx, dy, dw, dh).
        anchors: Shape (N, 4), same dtype and device.
        variances: Scales of the four offsets, as given to `encode_boxes`.

    Returns:
        Shape (..., N, 4): (x1, y1, x2, y2) in the unit of the anchors, not clipped.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices, variances that are not four positive numbers.

    Example:
        >>> anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> decode_boxes(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), anchor)
        tensor([[ 1.,  0., 11., 10.]])
    """
    check_tensor("decode_boxes", "offsets", offsets)
    check_shape("decode_boxes", "offsets", offsets, "(" + "B, " * (offsets.dim() - 2) + "N, 4)")
    check_boxes("decode_boxes", "anchors", anchors)
    _check_pair("decode_boxes", "offsets", offsets, anchors)
    check_variances("decode_boxes", variances)
    anchor_center, anchor_size = box_convert(anchors, "xyxy", "cxcywh").split(2, dim=-1)
    shift, growth = (offsets * offsets.new_tensor(variances)).split(2, dim=-1)
    center = shift * anchor_size + anchor_center
    half = growth.exp() * anchor_size / 2
    return torch.cat([center - half, center + half], dim=-1)


def _check_pair(function: str, argument: str, value: Tensor, anchors: Tensor) -> None:
    check_same_kind(function, argument, value, "anchors", anchors)
    if value.shape[-2] != anchors.shape[0]:
        raise ValueError(
            f"{function}: expected as many anchors as {argument} ({value.shape[-2]}), "
            f"got {anchors.shape[0]}"
        )
