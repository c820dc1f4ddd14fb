"""Pasting of box masks into an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_box_values,
    check_boxes,
    check_fraction,
    check_no_nan,
    check_same_device,
    check_shape,
    check_shape_matches,
    check_tensor,
    is_integer,
    is_value_error,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real


def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    threshold: float | None = 0.5,
) -> Tensor:
    """Paste small masks, as predicted by Mask R-CNN, into their boxes in an image.

    A mask of h x w cells is stretched over its box. Pixel (x, y) has its centre at
    (x + 0.5, y + 0.5). There the mask is interpolated bilinearly between the centres of its cells,
    at column (x + 0.5 - x1) / (x2 - x1) * w - 0.5 and correspondingly for rows, with zeros around
    the mask. Pixels whose centres are outside the box are 0.

    At thresholds of at least 0.5 this is the rule of detectron2, which below 0.5 extends masks by
    half a cell. torchvision rounds the corners of boxes to integers and includes the pixel at x2,
    so its masks are up to one pixel off at every edge.

    Args:
        masks: Shape (N, h, w) or (N, 1, h, w), floating point: probabilities.
        boxes: Shape (N, 4), any floating-point dtype, (x1, y1, x2, y2) in pixels, also outside the
            image. float16 is too coarse for pixels; keep boxes in float32.
        image_size: (height, width) of the image.
        threshold: In [0, 1]; minimum probability of a pixel of the mask. ``None`` returns the
            probabilities.

    Returns:
        Shape (N, H, W): bool, or with ``threshold=None`` float32 for float16 and bfloat16 masks and
        otherwise the dtype of the masks. Boxes without area, or with an infinite side, give 0.

    Raises:
        TypeError: Not tensors, not floating point; a size or threshold that is not a number.
        ValueError: Wrong shapes, different devices, a negative size, a threshold outside [0, 1]; on
            the CPU also a NaN or a box with x2 < x1 or y2 < y1. On CUDA such a box gives 0, and
            pixels interpolated from a NaN are NaN or False.
        RuntimeError: On backward, when boxes require a gradient.

    Note:
        With ``threshold=None`` differentiable in masks, any number of times. Deterministic; CPU and
        CUDA take the same decisions. Needs no memory besides the result. The CPU computes pixels
        inside boxes only, and results of at least 32 MB occupy memory only there until they are
        read.

    References:
        He et al., "Mask R-CNN" (2017).

    Example:
        >>> masks = torch.ones(1, 2, 2)
        >>> paste_masks(masks, torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    masks, height, width = _check_arguments("paste_masks", masks, boxes, image_size)
    try:
        if threshold is None:
            return torch.ops.cvlib.paste_mask_values(masks, boxes, height, width)
        check_fraction("paste_masks", "threshold", threshold)
        return torch.ops.cvlib.paste_masks(masks, boxes, height, width, threshold)
    except RuntimeError as error:
        if is_value_error(error):
            check_box_values("paste_masks", "boxes", boxes)
            check_no_nan("paste_masks", "masks", masks)
        raise


def _check_arguments(
    function: str, masks: Tensor, boxes: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, int, int]:
    check_tensor(function, "masks", masks)
    check_boxes(function, "boxes", boxes)
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    check_shape(function, "masks", masks, "N", "h", "w")
    check_shape_matches(function, "masks", masks, (len(boxes), *masks.shape[1:]), "boxes")
    if masks.shape[0] and not (masks.shape[1] and masks.shape[2]):
        raise ValueError(mismatch(function, "masks", "have at least one cell", tuple(masks.shape)))
    check_same_device(function, "masks", masks, "boxes", boxes)
    return masks, *check_image_size(function, image_size)


def check_image_size(function: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """Raises unless ``image_size`` is two integers (TypeError) of at least 0 (ValueError)."""
    is_pair = isinstance(image_size, tuple | list) and len(image_size) == 2
    if not is_pair or not all(is_integer(side) for side in image_size):
        requirement = "be two integers (height, width)"
        raise TypeError(mismatch(function, "image_size", requirement, repr(image_size)))
    height, width = image_size
    if height < 0 or width < 0:
        raise ValueError(mismatch(function, "image_size", "be at least (0, 0)", (height, width)))
    return height, width


def _locate(
    low: Tensor, high: Tensor, size: int, cells: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """``locate`` and ``pixels_in`` of ``csrc/masks/paste.h`` for all pixels along one axis.

    Returns:
        For each box and pixel, (N, size): whether it is inside, its lower cell in a mask padded
        with one cell on each side, and its distance from there in cells.
    """
    centers = torch.arange(size, dtype=torch.float64, device=low.device) + 0.5
    side = (high - low)[:, None]
    inside = (centers >= low[:, None]) & (centers <= high[:, None])
    inside &= (side > 0) & side.isfinite()
    position = (centers - low[:, None]) / side * cells - 0.5
    position = torch.where(inside, position, 0)
    cell = position.floor()
    return inside, cell.long() + 1, (position - cell).to(dtype)


def _axes(
    boxes: Tensor, height: int, width: int, cells: tuple[int, int], dtype: torch.dtype
) -> zip[Any]:
    """Iterate over boxes: results of `_locate` along y and along x."""
    corners = boxes.double()
    rows = _locate(corners[:, 1], corners[:, 3], height, cells[0], dtype)
    columns = _locate(corners[:, 0], corners[:, 2], width, cells[1], dtype)
    return zip(zip(*rows, strict=True), zip(*columns, strict=True), strict=True)


def _paste_each(
    masks: Tensor, boxes: Tensor, height: int, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pasted values of each mask and which pixels are inside its box.

    Follows the kernels' order of operations. One canvas at a time, to save memory.
    """
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~masks.isnan())
    masks = as_real(masks)
    axes = _axes(boxes, height, width, (masks.shape[1], masks.shape[2]), masks.dtype)
    for mask, ((is_row, y, along_y), (is_column, x, along_x)) in zip(masks, axes, strict=True):
        padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
        left, right = padded[:, x], padded[:, x + 1]
        stretched = left + (right - left) * along_x  # (h + 2, W)
        upper, lower = stretched[y], stretched[y + 1]
        yield upper + (lower - upper) * along_y[:, None], is_row[:, None] & is_column


def _paste_masks_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    out = _paste_masks_fake(masks, boxes, height, width, threshold)
    pasted = _paste_each(masks, boxes, height, width)
    for canvas, (values, counts) in zip(out, pasted, strict=True):
        torch.logical_and(values.double() >= threshold, counts, out=canvas)
    return out


def _paste_masks_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Tensor:
    return masks.new_empty(masks.shape[0], height, width, dtype=torch.bool)


def _paste_mask_values_reference(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    out = _paste_mask_values_fake(masks, boxes, height, width)
    pasted = _paste_each(masks, boxes, height, width)
    for canvas, (values, counts) in zip(out, pasted, strict=True):
        canvas.copy_(torch.where(counts, values, 0))
    return out


def _paste_mask_values_fake(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    return as_real(masks).new_empty(masks.shape[0], height, width)


def _spread(axis: tuple[Tensor, Tensor, Tensor], cells: int) -> Tensor:
    """Interpolation weights (size, cells + 2) of the pixels of an axis and the padded cells."""
    _, cell, along = axis
    weights = along.new_zeros(len(cell), cells + 2)
    weights.scatter_(1, cell[:, None], (1 - along)[:, None])
    return weights.scatter_(1, cell[:, None] + 1, along[:, None])


def _paste_mask_values_backward_reference(
    grad: Tensor, boxes: Tensor, mask_height: int, mask_width: int
) -> Tensor:
    out = _paste_mask_values_backward_fake(grad, boxes, mask_height, mask_width)
    grad = as_real(grad)
    cells = (mask_height, mask_width)
    axes = _axes(boxes, grad.shape[1], grad.shape[2], cells, grad.dtype)
    for mask, canvas, (rows, columns) in zip(out, grad, axes, strict=True):
        counts = rows[0][:, None] & columns[0]
        by_row = _spread(rows, mask_height).t() @ torch.where(counts, canvas, 0)
        mask.copy_((by_row @ _spread(columns, mask_width))[1:-1, 1:-1])
    return out


def _paste_mask_values_backward_fake(
    grad: Tensor, boxes: Tensor, mask_height: int, mask_width: int
) -> Tensor:
    return as_real(grad).new_empty(grad.shape[0], mask_height, mask_width)


def _save_for_masks(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    masks, boxes, _, _ = inputs
    ctx.save_for_backward(boxes)
    ctx.mask_size, ctx.dtype = masks.shape[1:], masks.dtype


def _masks_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    _refuse_boxes_gradient(ctx)
    (boxes,) = ctx.saved_tensors
    grad_masks = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, *ctx.mask_size)
    return grad_masks.to(ctx.dtype), None, None, None


def _save_for_grad(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    grad, boxes, _, _ = inputs
    ctx.save_for_backward(boxes)
    ctx.canvas, ctx.dtype = grad.shape[1:], grad.dtype


def _grad_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    """Pasting is linear in the masks, so the gradient of its backward is pasting itself."""
    _refuse_boxes_gradient(ctx)
    (boxes,) = ctx.saved_tensors
    return (
        torch.ops.cvlib.paste_mask_values(grad, boxes, *ctx.canvas).to(ctx.dtype),
        None,
        None,
        None,
    )


def _refuse_boxes_gradient(ctx: Any) -> None:
    if ctx.needs_input_grad[1]:
        raise RuntimeError(
            "paste_masks is not differentiable in boxes; pass boxes.detach() for the gradient of "
            "masks alone"
        )


define(
    "paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> "
    "Tensor",
    _paste_masks_reference,
    _paste_masks_fake,
)
define(
    "paste_mask_values(Tensor masks, Tensor boxes, SymInt height, SymInt width) -> Tensor",
    _paste_mask_values_reference,
    _paste_mask_values_fake,
)
define(
    "paste_mask_values_backward(Tensor grad, Tensor boxes, SymInt mask_height, SymInt mask_width)"
    " -> Tensor",
    _paste_mask_values_backward_reference,
    _paste_mask_values_backward_fake,
)
torch.library.register_autograd(
    "cvlib::paste_mask_values", _masks_gradient, setup_context=_save_for_masks, lib=library
)
torch.library.register_autograd(
    "cvlib::paste_mask_values_backward", _grad_gradient, setup_context=_save_for_grad, lib=library
)
