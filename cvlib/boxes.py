"""Box formats: conversion, area, clipping. Plain PyTorch, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import check_tensor

FORMATS = ("xyxy", "xywh", "cxcywh")


def _check_last_dimension(function: str, boxes: Tensor) -> None:
    check_tensor(function, "boxes", boxes)
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{function}: expected boxes of shape (..., 4), got {tuple(boxes.shape)}")


def box_convert(boxes: Tensor, from_format: str, to_format: str) -> Tensor:
    """Converts boxes from one format to another.

    Args:
        boxes: Shape (..., 4), floating point, any unit.
        from_format: ``"xyxy"`` (corners), ``"xywh"`` (top-left corner, width, height) or
            ``"cxcywh"`` (centre, width, height).
        to_format: One of the same three.

    Returns:
        Shape (..., 4); ``boxes`` itself when both formats are equal.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape or an unknown format.

    Example:
        >>> box_convert(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), "xywh", "xyxy")
        tensor([[10., 20., 40., 60.]])
    """
    _check_last_dimension("box_convert", boxes)
    for argument, value in (("from_format", from_format), ("to_format", to_format)):
        if value not in FORMATS:
            raise ValueError(
                f"box_convert: expected {argument} to be one of {', '.join(FORMATS)}, got {value!r}"
            )
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
    """Gives the area of boxes; a box with x2 < x1 or y2 < y1 is empty and has area 0.

    Args:
        boxes: Shape (..., 4), floating point, (x1, y1, x2, y2).

    Returns:
        Shape (...), in squared units of the boxes.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape.

    Example:
        >>> box_area(torch.tensor([0.0, 0.0, 3.0, 2.0]))
        tensor(6.)
    """
    _check_last_dimension("box_area", boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clips boxes to an image.

    Args:
        boxes: Shape (..., 4), floating point, (x1, y1, x2, y2) in pixels.
        size: Height and width of the image in pixels.

    Returns:
        Shape (..., 4): x in [0, width], y in [0, height].

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Wrong shape or a negative size.

    Example:
        >>> clip_boxes(torch.tensor([[-5.0, 2.0, 30.0, 12.0]]), (10, 20))
        tensor([[ 0.,  2., 20., 10.]])
    """
    _check_last_dimension("clip_boxes", boxes)
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"clip_boxes: expected size (height, width) >= 0, got {tuple(size)}")
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
