"""RoI pool: maxima of a feature map in a grid over each box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import check_positive, is_value_error
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real
from cvlib.ops.roi import (
    Boxes,
    _as_pair,
    _as_regions,
    _check_regions,
    _explain_regions,
    empty_map,
    is_channels_last,
)
from cvlib.ops.roi_reference import pool_regions


def roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Take the maximum of a feature map in a grid of bins over each box.

    Corners are rounded to integer pixels, and both ends belong to the box. Neighbouring bins share
    a pixel where the box cannot be divided evenly. A bin outside the map is 0.

    Args:
        input: Feature maps, shape (N, C, H, W), floating point, contiguous or channels-last.
        boxes: Shape (K, 5), (image, x1, y1, x2, y2), where image is an index in [0, N), or a list
            of N tensors of shape (L, 4), (x1, y1, x2, y2), one per image. Dtype (under autocast:
            any floating-point dtype) and device of ``input``.
        output_size: Bins as (height, width); one number for both.
        spatial_scale: Factor from the coordinates of the boxes to pixels of ``input``; positive.

    Returns:
        Shape (K, C, height, width), contiguous, in the dtype of ``input``. NaN where a bin holds
        one, as in `torch.nn.functional.max_pool2d`; torchvision ignores it.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, an output size or a scale that is not positive;
            on the CPU also NaN, coordinates beyond 2**30 pixels of ``input``, corners out of order,
            and image indices out of range. On CUDA such a box gives zeros.
        RuntimeError: Boxes that require a gradient, which does not exist.

    Note:
        Differentiable any number of times in ``input``; the gradient goes to the first of equal
        values, and is channels-last where ``input`` is. Deterministic, forward and backward.

    References:
        Girshick, "Fast R-CNN" (2015).

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> roi_pool(image, [torch.tensor([[0.0, 0.0, 2.0, 3.0]])], 2)
        tensor([[[[ 5.,  6.],
                  [13., 14.]]]])
    """
    regions = _as_regions("roi_pool", input, boxes)
    height, width = _as_pair("roi_pool", output_size)
    check_positive("roi_pool", "spatial_scale", spatial_scale)
    # argmax is as large as the result, and only a gradient needs it; in torch.func.vmap a batched
    # tensor does not show that it requires one.
    with_argmax = torch.is_grad_enabled() and (
        input.requires_grad or torch._C._are_functorch_transforms_active()
    )
    try:
        pooled, _ = torch.ops.cvlib.roi_pool(
            input, regions, height, width, spatial_scale, with_argmax
        )
    except RuntimeError as error:
        if is_value_error(error):
            _explain_regions("roi_pool", boxes, input.shape[0], spatial_scale)
        raise
    return pooled


def _roi_pool_reference(
    input: Tensor,
    regions: Tensor,
    bins_y: int,
    bins_x: int,
    spatial_scale: float,
    with_argmax: bool,
) -> tuple[Tensor, Tensor]:
    maps = as_real(input)
    rows = regions.to(maps.dtype)
    valid = _check_regions(rows, len(maps), spatial_scale)
    pooled, places = pool_regions(maps, rows, (bins_y, bins_x), spatial_scale, valid)
    return pooled.to(input.dtype), places if with_argmax else places.new_empty(0)


def _roi_pool_fake(
    input: Tensor,
    regions: Tensor,
    bins_y: int,
    bins_x: int,
    spatial_scale: float,
    with_argmax: bool,
) -> tuple[Tensor, Tensor]:
    pooled = input.new_empty(regions.shape[0], input.shape[1], bins_y, bins_x)
    shape = pooled.shape if with_argmax else (0,)
    return pooled, pooled.new_empty(shape, dtype=torch.int32)


def _roi_pool_backward_reference(
    grad: Tensor,
    argmax: Tensor,
    regions: Tensor,
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    channels_last: bool,
) -> Tensor:
    shape = batch, grad.shape[1], height, width
    result = as_real(grad).new_zeros(batch, grad.shape[1], height * width)
    images = regions[:, 0].long()
    inside = ((images >= 0) & (images < batch))[:, None, None] & (argmax.flatten(2) >= 0)
    values = torch.where(inside, as_real(grad).flatten(2), 0)
    places = torch.where(inside, argmax.flatten(2), 0).long()
    for k in range(len(grad) if batch else 0):
        # One bin at a time: additions in a fixed order, on every device.
        image = images[k : k + 1].clamp(0, batch - 1)
        plane = result.index_select(0, image)[0]
        for i in range(values.shape[2]):
            plane.scatter_add_(1, places[k, :, i : i + 1], values[k, :, i : i + 1])
        result.index_copy_(0, image, plane[None])
    return empty_map(grad, shape, channels_last).copy_(result.view(shape))


def _roi_pool_backward_fake(
    grad: Tensor,
    argmax: Tensor,
    regions: Tensor,
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    channels_last: bool,
) -> Tensor:
    return empty_map(grad, (batch, grad.shape[1], height, width), channels_last)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, regions, *_, ctx.spatial_scale, ctx.with_argmax = inputs
    ctx.save_for_backward(output[1], regions)
    ctx.batch, _, ctx.height, ctx.width = input.shape
    ctx.channels_last = is_channels_last(input)


def _pool_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    if not ctx.with_argmax:
        raise RuntimeError("roi_pool: expected with_argmax=True for a gradient, got False")
    argmax, regions = ctx.saved_tensors
    size = ctx.batch, ctx.height, ctx.width
    result = torch.ops.cvlib.roi_pool_backward(
        grad, argmax, regions, *size, ctx.spatial_scale, ctx.channels_last
    )
    return result, *[None] * 5


def _save_pool_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _pool_backward_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Gather from where the backward scatters, in plain PyTorch and differentiable again."""
    argmax, regions = ctx.saved_tensors
    if not grad.shape[0]:
        return grad.new_zeros(argmax.shape), *[None] * 7
    images = regions[:, 0].nan_to_num(-1).clamp(0, grad.shape[0] - 1).long()[:, None, None]
    channels = torch.arange(grad.shape[1], device=grad.device)[:, None]
    values = grad.flatten(2)[images, channels, argmax.flatten(2).clamp(min=0).long()]
    return torch.where(argmax >= 0, values.view(argmax.shape), 0), *[None] * 7


define(
    "roi_pool(Tensor input, Tensor regions, SymInt bins_y, SymInt bins_x, float spatial_scale, "
    "bool with_argmax) -> (Tensor, Tensor)",
    _roi_pool_reference,
    _roi_pool_fake,
    autocast=None,
)
define(
    "roi_pool_backward(Tensor grad, Tensor argmax, Tensor regions, SymInt batch, SymInt height, "
    "SymInt width, float spatial_scale, bool channels_last) -> Tensor",
    _roi_pool_backward_reference,
    _roi_pool_backward_fake,
    autocast=None,
)
torch.library.register_autograd(
    "cvlib::roi_pool", _pool_gradient, setup_context=_save_pool, lib=library
)
torch.library.register_autograd(
    "cvlib::roi_pool_backward",
    _pool_backward_gradient,
    setup_context=_save_pool_backward,
    lib=library,
)
