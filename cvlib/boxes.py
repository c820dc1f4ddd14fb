"""Box formats, area and clipping, in differentiable plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import check_boxes, check_choice, mismatch

FORMATS = ("xyxy", "xywh", "cxcywh")


def box_convert(boxes: Tensor, from_format: str, to_format: str) -> Tensor:
    """Convert boxes from one format to another.

    Args:
        boxes: Shape (..., 4), floating point, any unit.
        from_format: ``"xyxy"`` (corners), ``"xywh"`` (top-left corner, width, height) or
            ``"cxcywh"`` (centre, width, height).
        to_format: See ``from_format``.

    Returns:
        Converted boxes, shape (..., 4); ``boxes`` itself if both formats are equal.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape or an unknown format.

    Example:
        >>> box_convert(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), "xywh", "xyxy")
        tensor([[10., 20., 40., 60.]])
    """
    check_boxes("box_convert", "boxes", boxes, "...", 4)
    check_choice("box_convert", "from_format", from_format, FORMATS)
    check_choice("box_convert", "to_format", to_format, FORMATS)
    if from_format == to_format:
        return boxes
    low, high = boxes[..., :2], boxes[..., 2:]
    if from_format == "xywh":
        high = low + high
    elif from_format == "cxcywh":
        low, high = low - high / 2, low + high / 2
    if to_format == "xywh":
        return torch.cat([low, high - low], dim=-1)
    if to_format == "cxcywh":
        return torch.cat([(low + high) / 2, high - low], dim=-1)
    return torch.cat([low, high], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of boxes, which is 0 if x2 < x1 or y2 < y1.

    Args:
        boxes: Shape (..., 4), floating point, (x1, y1, x2, y2).

    Returns:
        Areas in squared units of the boxes, shape (...).

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape.

    Example:
        >>> box_area(torch.tensor([0.0, 0.0, 3.0, 2.0]))
        tensor(6.)
    """
    check_boxes("box_area", "boxes", boxes, "...", 4)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes to an image.

    Args:
        boxes: Shape (..., 4), floating point, (x1, y1, x2, y2) in pixels.
        size: Height and width of the image in pixels.

    Returns:
        Boxes with x in [0, width] and y in [0, height], shape (..., 4).

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape or a negative size.

    Example:
        >>> clip_boxes(torch.tensor([[-5.0, 2.0, 30.0, 12.0]]), (10, 20))
        tensor([[ 0.,  2., 20., 10.]])
    """
    check_boxes("clip_boxes", "boxes", boxes, "...", 4)
    if len(size) != 2 or min(size) < 0:
        requirement = "be (height, width) of at least 0"
        raise ValueError(mismatch("clip_boxes", "size", requirement, tuple(size)))
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
