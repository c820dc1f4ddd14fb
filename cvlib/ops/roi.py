"""RoI align: bilinear averages of a feature map in a grid over each box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    check_box_values,
    check_boxes,
    check_entries,
    check_integer,
    check_positive,
    check_same_dtype_and_device,
    check_shape,
    check_tensor,
    is_integer,
    is_value_error,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real
from cvlib.ops.roi_reference import (
    LARGEST_COORDINATE,
    align_regions,
    are_regions,
    sample_weights,
    spread_regions,
)

Boxes = Tensor | Sequence[Tensor]


def roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average bilinear samples of a feature map in a grid of bins over each box.

    A box is divided into ``output_size`` bins of equal size. Each bin is the mean of
    ``sampling_ratio`` x ``sampling_ratio`` evenly spaced samples, read from the map by bilinear
    interpolation. Samples more than one pixel outside the map count as 0, others are clamped to its
    border.

    Args:
        input: Feature maps, shape (N, C, H, W), floating point, contiguous or channels-last.
        boxes: Shape (K, 5), (image, x1, y1, x2, y2), where image is an index in [0, N), or a list
            of N tensors of shape (L, 4), (x1, y1, x2, y2), one per image. Dtype (under autocast:
            any floating-point dtype) and device of ``input``.
        output_size: Bins as (height, width); one number for both.
        spatial_scale: Factor from the coordinates of the boxes to pixels of ``input``; positive.
        sampling_ratio: Samples per bin along each axis; 0 or less: the height or width of the bin
            in pixels, rounded up.
        aligned: Whether the centre of the first pixel is at 0.5 (True) or at 0 (False; then boxes
            are also enlarged to at least one pixel of width and height).

    Returns:
        Shape (K, C, height, width), contiguous, in the dtype of ``input``; computed in float32 for
        float16 and bfloat16.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, an output size or a scale that is not positive;
            on the CPU also NaN, coordinates beyond 2**30 pixels of ``input``, corners out of order,
            and image indices out of range. On CUDA such a box gives zeros.
        RuntimeError: Boxes that require a gradient, which does not exist.

    Note:
        Differentiable any number of times in ``input``; its gradient is channels-last where
        ``input`` is. Deterministic, forward and backward. Samples outside the map cost nothing,
        however large a box is. Needs a few megabytes per thread in addition to the result.

    References:
        He et al., "Mask R-CNN" (2017).

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> roi_align(image, [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 2, sampling_ratio=1)
        tensor([[[[2.5000, 3.5000],
                  [6.5000, 7.5000]]]])
    """
    regions = _as_regions("roi_align", input, boxes)
    height, width = _as_pair("roi_align", output_size)
    check_positive("roi_align", "spatial_scale", spatial_scale)
    check_integer("roi_align", "sampling_ratio", sampling_ratio)
    try:
        return torch.ops.cvlib.roi_align(
            input, regions, height, width, spatial_scale, sampling_ratio, aligned
        )
    except RuntimeError as error:
        if is_value_error(error):
            _explain_regions("roi_align", boxes, input.shape[0], spatial_scale)
        raise


def _as_regions(function: str, input: Tensor, boxes: Boxes) -> Tensor:
    """Return the boxes as one tensor (K, 5) with the image index first."""
    check_tensor(function, "input", input)
    check_shape(function, "input", input, "N", "C", "H", "W")
    if isinstance(boxes, Tensor):
        check_boxes(function, "boxes", boxes, "K", 5)
        check_same_dtype_and_device(function, "input", input, "boxes", boxes)
        regions = boxes
    else:
        regions = _concatenate(function, input, boxes)
    if regions.requires_grad and torch.is_grad_enabled():
        requirement, advice = "not require a gradient", "there is none: detach them"
        raise RuntimeError(mismatch(function, "boxes", requirement, "requires_grad=True", advice))
    return regions


def _concatenate(function: str, input: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    if not isinstance(boxes, list | tuple):
        requirement = "be a torch.Tensor of shape (K, 5) or a list of tensors of shape (L, 4)"
        raise TypeError(mismatch(function, "boxes", requirement, type(boxes).__name__))
    if len(boxes) != input.shape[0]:
        requirement = f"be a list of N = {input.shape[0]} tensors, one per image of `input`"
        raise ValueError(mismatch(function, "boxes", requirement, len(boxes)))
    for image, corners in enumerate(boxes):
        check_boxes(function, f"boxes[{image}]", corners, "L", 4)
        check_same_dtype_and_device(function, "input", input, f"boxes[{image}]", corners)
    if not boxes:
        return input.new_empty(0, 5)
    # Half types cannot represent every image index.
    pad = torch.nn.functional.pad
    rows = [pad(as_real(corners), (1, 0), value=i) for i, corners in enumerate(boxes)]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def _as_pair(function: str, output_size: int | Sequence[int]) -> tuple[int, int]:
    pair = (output_size, output_size) if not isinstance(output_size, list | tuple) else output_size
    if len(pair) != 2 or not all(map(is_integer, pair)):
        requirement, actual = "be an int or a pair of ints", repr(output_size)
        raise TypeError(mismatch(function, "output_size", requirement, actual))
    height, width = pair
    if height < 1 or width < 1:
        raise ValueError(mismatch(function, "output_size", "be at least 1", repr(output_size)))
    return height, width


def _explain_regions(function: str, boxes: Boxes, num_images: int, spatial_scale: float) -> None:
    """Raises ValueError for the first box that a CPU kernel has refused."""
    if isinstance(boxes, Tensor):
        images = boxes.detach()[:, 0]
        is_image = (images >= 0) & (images < num_images)
        requirement = f"be image indices in [0, {num_images})"
        check_entries(function, "boxes[:, 0]", images, is_image, requirement)
        named = {"boxes": boxes[:, 1:]}
    else:
        named = {f"boxes[{image}]": corners for image, corners in enumerate(boxes)}
    for argument, corners in named.items():
        check_box_values(function, argument, corners)
        pixels = as_real(corners.detach()) * spatial_scale
        is_near = (pixels.abs() <= LARGEST_COORDINATE).all(1)
        requirement = "have coordinates of at most 2**30 pixels of the feature map"
        check_entries(function, argument, corners, is_near, requirement)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the gradient of this tensor is channels-last."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def empty_map(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """Allocate the gradient of feature maps."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _weights(
    regions: Tensor,
    size: tuple[int, int],
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    valid: Tensor,
) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = torch.where(valid[:, None], regions[:, 1:], 0).unbind(1)
    rule = spatial_scale, sampling_ratio, aligned
    return (
        sample_weights(y1, y2, size[0], bins[0], *rule),
        sample_weights(x1, x2, size[1], bins[1], *rule),
    )


def _check_regions(regions: Tensor, num_images: int, spatial_scale: float) -> Tensor:
    valid = are_regions(regions, num_images, spatial_scale)
    if regions.device.type == "cpu":
        signal_bad_values(valid)
    return valid


def _roi_align_reference(
    input: Tensor,
    regions: Tensor,
    bins_y: int,
    bins_x: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    maps = as_real(input)
    rows = regions.to(maps.dtype)
    valid = _check_regions(rows, len(maps), spatial_scale)
    rule = spatial_scale, sampling_ratio, aligned
    weights = _weights(rows, maps.shape[2:], (bins_y, bins_x), *rule, valid)  # type: ignore[arg-type]
    return align_regions(maps, rows, weights, valid).to(input.dtype)


def _roi_align_fake(input: Tensor, regions: Tensor, bins_y: int, bins_x: int, *_: object) -> Tensor:
    return input.new_empty(regions.shape[0], input.shape[1], bins_y, bins_x)


def _roi_align_backward_reference(
    grad: Tensor,
    regions: Tensor,
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    pooled = as_real(grad)
    rows = regions.to(pooled.dtype)
    valid = _check_regions(rows, batch, spatial_scale)
    rule = spatial_scale, sampling_ratio, aligned
    weights = _weights(rows, (height, width), pooled.shape[2:], *rule, valid)  # type: ignore[arg-type]
    shape = batch, pooled.shape[1], height, width
    result = spread_regions(pooled, rows, weights, valid, shape)
    return empty_map(grad, shape, channels_last).copy_(result)


def _roi_align_backward_fake(
    grad: Tensor,
    regions: Tensor,
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    return empty_map(grad, (batch, grad.shape[1], height, width), channels_last)


def _save_align(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, regions, _, _, *ctx.rule = inputs
    ctx.save_for_backward(regions)
    ctx.batch, _, ctx.height, ctx.width = input.shape
    ctx.channels_last = is_channels_last(input)


def _align_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (regions,) = ctx.saved_tensors
    size = ctx.batch, ctx.height, ctx.width
    result = torch.ops.cvlib.roi_align_backward(grad, regions, *size, *ctx.rule, ctx.channels_last)
    return result, *[None] * 6


def _save_align_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, regions, _, _, _, *ctx.rule, _ = inputs
    ctx.save_for_backward(regions)
    ctx.bins_y, ctx.bins_x = grad.shape[2:]


def _align_backward_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    # The backward is linear in grad, and its transpose is roi_align itself.
    (regions,) = ctx.saved_tensors
    result = torch.ops.cvlib.roi_align(grad, regions, ctx.bins_y, ctx.bins_x, *ctx.rule)
    return result, *[None] * 8


define(
    "roi_align(Tensor input, Tensor regions, SymInt bins_y, SymInt bins_x, float spatial_scale, "
    "int sampling_ratio, bool aligned) -> Tensor",
    _roi_align_reference,
    _roi_align_fake,
    autocast=None,
)
define(
    "roi_align_backward(Tensor grad, Tensor regions, SymInt batch, SymInt height, SymInt width, "
    "float spatial_scale, int sampling_ratio, bool aligned, bool channels_last) -> Tensor",
    _roi_align_backward_reference,
    _roi_align_backward_fake,
    autocast=None,
)
torch.library.register_autograd(
    "cvlib::roi_align", _align_gradient, setup_context=_save_align, lib=library
)
torch.library.register_autograd(
    "cvlib::roi_align_backward",
    _align_backward_gradient,
    setup_context=_save_align_backward,
    lib=library,
)
