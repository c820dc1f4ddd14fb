"""Bounding boxes and intersection over union of masks."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    check_dtype,
    check_is_tensor,
    check_same_device,
    check_shape,
    check_shape_matches,
    mismatch,
)
from cvlib._extension import define, refuse_gradient


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the smallest box around the pixels of each mask.

    **Boxes are continuous**, as everywhere in cvlib: x2 and y2 are the far edges of the last
    pixels. A mask that covers the columns 3 to 5 has x1 = 3 and x2 = 6, and the box of a single
    pixel has area 1. torchvision returns x2 = 5, the index of the last column, so its boxes are
    one pixel too small.

    Args:
        masks: Shape (N, H, W), bool, integer or floating point; nonzero pixels belong to the mask
            (NaN does, -0.0 does not).

    Returns:
        Shape (N, 4), float32: (x1, y1, x2, y2) in pixels. The box of an empty mask is (0, 0, 0, 0),
        without area.

    Raises:
        TypeError: Not a tensor, or complex.
        ValueError: Not of shape (N, H, W).

    Note:
        Not differentiable. Deterministic; CPU and CUDA return equal boxes. Coordinates are exact
        up to 2^24. Masks that are expanded or selected from a larger stack are read in place. The
        CPU does not read the inside of the boxes.

    Example:
        >>> mask = torch.zeros(1, 6, 8, dtype=torch.bool)
        >>> mask[0, 1:3, 3:6] = True
        >>> masks_to_boxes(mask)
        tensor([[3., 1., 6., 3.]])
    """
    name = "masks_to_boxes"
    check_is_tensor(name, "masks", masks)
    check_shape(name, "masks", masks, "N", "H", "W")
    if masks.is_complex():
        raise TypeError(mismatch(name, "masks", "have a real dtype", masks.dtype, "compare first"))
    return torch.ops.cvlib.masks_to_boxes(masks)


def mask_iou(masks1: Tensor, masks2: Tensor, *, is_crowd: Tensor | None = None) -> Tensor:
    """Return the intersection over union of every pair of masks.

    Pixels are counted exactly, in 64-bit integers, one bit of memory per pixel.

    Args:
        masks1: Shape (N, H, W), bool or uint8; nonzero pixels belong to the mask.
        masks2: Shape (M, H, W), bool or uint8, same device.
        is_crowd: Shape (M,), bool, same device: whether each mask of ``masks2`` is a crowd. For
            these the intersection is divided by the area of the first mask alone, as in COCO's
            evaluation of detections (``masks1``) against ground truths (``masks2``).

    Returns:
        Shape (N, M), float32, in [0, 1]; 0 with an empty mask.

    Raises:
        TypeError: Not tensors, or of another dtype.
        ValueError: Wrong or different shapes, or different devices.

    Note:
        Deterministic; CPU and CUDA return equal values. Needs an eighth of the memory of the masks
        in addition to the result. Disjoint masks are cheap on the CPU. If both arguments are the
        same tensor it is read once.

    References:
        Lin et al., "Microsoft COCO: Common Objects in Context" (2014), for crowds.

    Example:
        >>> left = torch.tensor([[[1, 1, 0, 0]]], dtype=torch.bool)
        >>> right = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 1]]], dtype=torch.bool)
        >>> mask_iou(left, right)
        tensor([[0.3333, 0.0000]])
        >>> mask_iou(left, right, is_crowd=torch.tensor([True, False]))
        tensor([[0.5000, 0.0000]])
    """
    check_binary_masks("mask_iou", "masks1", masks1)
    check_binary_masks("mask_iou", "masks2", masks2, "M")
    check_shape_matches("mask_iou", "masks2", masks2, (len(masks2), *masks1.shape[1:]), "masks1")
    check_same_device("mask_iou", "masks1", masks1, "masks2", masks2)
    if is_crowd is not None:
        check_dtype("mask_iou", "is_crowd", is_crowd, torch.bool)
        check_shape_matches("mask_iou", "is_crowd", is_crowd, masks2.shape[:1], "masks2")
        check_same_device("mask_iou", "masks2", masks2, "is_crowd", is_crowd)
    return torch.ops.cvlib.mask_iou(masks1, masks2, is_crowd)


def check_binary_masks(function: str, argument: str, masks: Tensor, count: str = "N") -> None:
    """Raises unless these are masks of shape (``count``, H, W) with one bit per pixel."""
    check_is_tensor(function, argument, masks)
    check_shape(function, argument, masks, count, "H", "W")
    advice = f"for probabilities compare first, as in {argument} >= 0.5"
    check_dtype(function, argument, masks, torch.bool, torch.uint8, advice=advice)


def _masks_to_boxes_reference(masks: Tensor) -> Tensor:
    edges = []
    for other, size in ((1, masks.shape[2]), (2, masks.shape[1])):
        is_used = (masks != 0).any(other)  # (N, W), then (N, H)
        index = torch.arange(size, device=masks.device)
        low = torch.where(is_used, index, size).amin(1) if size else is_used.sum(1)
        high = torch.where(is_used, index + 1, 0).amax(1) if size else is_used.sum(1)
        edges.append((torch.minimum(low, high), high))
    (x1, x2), (y1, y2) = edges
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def _masks_to_boxes_fake(masks: Tensor) -> Tensor:
    return masks.new_empty(masks.shape[0], 4, dtype=torch.float32)


def _mask_iou_reference(masks1: Tensor, masks2: Tensor, is_crowd: Tensor | None) -> Tensor:
    first, second = (masks.flatten(1) != 0 for masks in (masks1, masks2))
    area1, area2 = first.sum(1), second.sum(1)
    shared = area1.new_zeros(len(first), len(second))
    for row, mask in zip(shared, first, strict=True):
        row.copy_((second & mask).sum(1))
    joined = area1[:, None] + area2[None, :] - shared
    if is_crowd is not None:
        joined = torch.where(is_crowd[None, :], area1[:, None], joined)
    return (shared.double() / joined.clamp(min=1).double()).float()


def _mask_iou_fake(masks1: Tensor, masks2: Tensor, is_crowd: Tensor | None) -> Tensor:
    return masks1.new_empty(masks1.shape[0], masks2.shape[0], dtype=torch.float32)


define(
    "masks_to_boxes(Tensor masks) -> Tensor",
    _masks_to_boxes_reference,
    _masks_to_boxes_fake,
    autocast=None,
)
define(
    "mask_iou(Tensor masks1, Tensor masks2, Tensor? is_crowd) -> Tensor",
    _mask_iou_reference,
    _mask_iou_fake,
    autocast=None,
)
refuse_gradient("masks_to_boxes")
