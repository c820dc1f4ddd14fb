"""Bilinear resizing of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvlib._checks import check_shape, check_tensor, is_integer, is_number, mismatch
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real

_NAME = "upsample_bilinear"


def upsample_bilinear(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    *,
    align_corners: bool = False,
) -> Tensor:
    """Resize images by bilinear interpolation like `torch.nn.functional.interpolate`.

    Equals ``interpolate(..., mode="bilinear", antialias=False)``, also for downsampling: every
    output pixel mixes only the (at most) four input pixels around its position.

    Args:
        input: Shape (N, C, H, W), floating point; N and C may be 0. Any strides.
        size: Height and width of the result in pixels, or one number for both.
        scale_factor: Alternative to ``size``: factors of height and width, or one for both; the
            size is ``int(factor * size of the input)``. Positions follow this factor, not the
            quotient of the rounded sizes.
        align_corners: Whether the centres of the corner pixels are aligned instead of the edges of
            the images.

    Returns:
        Shape (N, C, height, width), with dtype and memory format (contiguous or channels-last) of
        ``input``. Half types are computed in float32 and rounded once. An axis that keeps its
        length is not interpolated.

    Raises:
        TypeError: ``input`` is not a floating-point tensor; sizes that are not integers; factors
            that are not numbers.
        ValueError: Not four dimensions; both or neither of ``size`` and ``scale_factor``; more
            than two sizes or factors; an input or a result without pixels; factors that are not
            positive and finite.

    Note:
        Differentiable any number of times; forward and backward are each other's transposes.
        Deterministic, also on CUDA: the gradient is gathered, without atomic additions. Needs
        no memory besides the result, except for copies of images whose rows are not dense. Autocast
        on CUDA computes in float32, as for ``interpolate``.

    References:
        Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation"
        (2015), section 3.3.

    Example:
        >>> row = torch.tensor([[[[0.0, 4.0]]]])
        >>> upsample_bilinear(row, scale_factor=(1, 2))
        tensor([[[[0., 1., 3., 4.]]]])
        >>> upsample_bilinear(row, (1, 5), align_corners=True)
        tensor([[[[0., 1., 2., 3., 4.]]]])
    """
    check_tensor(_NAME, "input", input)
    check_shape(_NAME, "input", input, "N", "C", "H", "W")
    _, _, height, width = input.shape
    if height < 1 or width < 1:
        requirement = "have a height and width of at least 1"
        raise ValueError(mismatch(_NAME, "input", requirement, tuple(input.shape)))
    scale_y = scale_x = 0.0
    if scale_factor is None:
        height, width = _size_pair(size)
    elif size is None:
        scale_y, scale_x = _factor_pair(scale_factor)
        height, width = torch.sym_int(height * scale_y), torch.sym_int(width * scale_x)
    else:
        raise ValueError(mismatch(_NAME, "scale_factor", "be None if `size` is given", "both"))
    if height < 1 or width < 1:
        _refuse_size(height, width, input, scale_factor)
    arguments = input, height, width, scale_y, scale_x, align_corners
    # Compilers and torch.func.vmap need the operator with a registered gradient; a batched tensor
    # does not show that it requires one.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _forward(*arguments)
    if input.requires_grad and torch.is_grad_enabled():
        return _Differentiable.apply(*arguments)
    return _plain_forward(*arguments)


def _size_pair(size: Any) -> tuple[int, int]:
    if size is None:
        requirement = "be given if `scale_factor` is None"
        raise ValueError(mismatch(_NAME, "size", requirement, "neither"))
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2:
        raise ValueError(mismatch(_NAME, "size", "be one or two integers", pair))
    if not (is_integer(pair[0]) and is_integer(pair[1])):
        raise TypeError(mismatch(_NAME, "size", "be one or two integers", repr(size)))
    return pair


def _factor_pair(factor: Any) -> tuple[float, float]:
    pair = tuple(factor) if isinstance(factor, list | tuple) else (factor, factor)
    if len(pair) != 2:
        raise ValueError(mismatch(_NAME, "scale_factor", "be one or two numbers", pair))
    y, x = pair
    if not (is_number(y) and is_number(x)):
        raise TypeError(mismatch(_NAME, "scale_factor", "be one or two numbers", factor))
    if not (0 < y < float("inf") and 0 < x < float("inf")):
        raise ValueError(mismatch(_NAME, "scale_factor", "be positive and finite", factor))
    return y, x


def _refuse_size(height: int, width: int, input: Tensor, scale_factor: Any) -> None:
    """Raises for a result without pixels, naming the argument that determines its size."""
    if scale_factor is None:
        raise ValueError(mismatch(_NAME, "size", "be at least 1", f"({height}, {width})"))
    actual = f"{scale_factor} for {tuple(input.shape[2:])}, which gives ({height}, {width})"
    raise ValueError(mismatch(_NAME, "scale_factor", "give a size of at least 1", actual))


def _is_channels_last(images: Tensor) -> bool:
    """Whether results of these images are channels-last.

    True if strides increase in the order C, W, H, N and sizes of 1 do not make that ambiguous: the
    rule of PyTorch, and of ``csrc/upsample/image_layout.h``.
    """
    if images.stride(1) == 0:
        return False
    least = 0
    for d in (1, 3, 2, 0):
        size, stride = images.shape[d], images.stride(d)
        if size == 0 or stride < least or (d == 0 and least == images.stride(1)):
            return False
        least = stride * size if size > 1 else stride
    return True


def _fake(
    input: Tensor, height: int, width: int, scale_y: float, scale_x: float, align_corners: bool
) -> Tensor:
    layout = torch.channels_last if _is_channels_last(input) else torch.contiguous_format
    shape = (*input.shape[:2], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout)


def _step(size: int, out_size: int, scale_factor: float, align_corners: bool) -> tuple[Any, Any]:
    """Source pixels per output pixel, as numerator and denominator."""
    if align_corners:
        return (size - 1, out_size - 1) if out_size > 1 else (0, 1)
    return (1.0 / scale_factor, 1) if scale_factor > 0 else (size, out_size)


def _taps(
    size: int, out_size: int, scale_factor: float, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower pixel, the upper pixel and its weight per output pixel of an axis, on CPU.

    As ``tap_at`` in ``csrc/interp_math.h``. The product of two float32 is exact in float64, so this
    is a fused multiply-add.
    """
    outputs = torch.arange(out_size)
    if size == out_size:
        return outputs, outputs, torch.zeros(out_size, dtype=dtype)
    above, below = _step(size, out_size, scale_factor, align_corners)
    step = torch.tensor(above, dtype=dtype) / torch.tensor(below, dtype=dtype)
    if align_corners:
        position = step * outputs.to(dtype)
    else:
        position = (step.double() * (outputs.to(dtype) + 0.5).double() - 0.5).to(dtype)
    position = position.clamp(min=0)
    low = position.long().clamp(max=size - 1)
    weight = (position - low.to(dtype)).clamp(max=1)
    return low, (low + 1).clamp(max=size - 1), weight


def _reference(
    input: Tensor, height: int, width: int, scale_y: float, scale_x: float, align_corners: bool
) -> Tensor:
    mixed = as_real(input)
    for dim, size, scale in ((2, height, scale_y), (3, width, scale_x)):
        if mixed.shape[dim] == size:
            continue
        taps = _taps(mixed.shape[dim], size, scale, align_corners, mixed.dtype)
        low, high, weight = (tap.to(input.device) for tap in taps)
        weight = weight.view(-1, 1) if dim == 2 else weight
        mixed = mixed.index_select(dim, low) * (1 - weight) + mixed.index_select(dim, high) * weight
    return _fake(input, height, width, scale_y, scale_x, align_corners).copy_(mixed)


def _readers(
    size: int, out_size: int, scale_factor: float, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the outputs that read each input pixel and their shares, (size, K), padded with 0."""
    low, high, weight = _taps(size, out_size, scale_factor, align_corners, dtype)
    share = torch.zeros(size, out_size, dtype=dtype)
    outputs = torch.arange(out_size)
    share[low, outputs] = 1 - weight
    share[high, outputs] += weight
    most = max(1, int((share != 0).sum(1).max()))
    order = (share != 0).byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, share.gather(1, order)


def _backward_reference(
    grad: Tensor, height: int, width: int, scale_y: float, scale_x: float, align_corners: bool
) -> Tensor:
    gathered = as_real(grad)
    for dim, size, scale in ((2, height, scale_y), (3, width, scale_x)):
        if gathered.shape[dim] == size:
            continue
        pair = _readers(size, gathered.shape[dim], scale, align_corners, gathered.dtype)
        readers, share = (part.to(grad.device) for part in pair)
        share = share if dim == 3 else share[..., None]
        read = gathered.index_select(dim, readers.flatten()).unflatten(dim, readers.shape)
        # A share of 0 is padding and must not turn an infinite gradient into NaN.
        gathered = torch.where(share != 0, read * share, 0).sum(dim + 1)
    return _fake(grad, height, width, scale_y, scale_x, align_corners).copy_(gathered)


def _save_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, _, _, *ctx.scales = inputs
    _, _, ctx.height, ctx.width = input.shape


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
    backward = _backward if grad.requires_grad and torch.is_grad_enabled() else _plain_backward
    return backward(grad, ctx.height, ctx.width, *ctx.scales), None, None, None, None, None


def _second_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
    forward = _forward if grad.requires_grad and torch.is_grad_enabled() else _plain_forward
    return forward(grad, ctx.height, ctx.width, *ctx.scales), None, None, None, None, None


def _fold_batch(operator: Any) -> Any:
    """Rule of ``torch.func.vmap`` that flattens the mapped dimension into the batch."""

    def rule(_: Any, in_dims: tuple[Any, ...], images: Tensor, *arguments: Any) -> Any:
        batched = images.movedim(in_dims[0], 0)
        return operator(batched.flatten(0, 1), *arguments).unflatten(0, batched.shape[:2]), 0

    return rule


# Calling an operator with a gradient registered from Python costs several times as much as calling
# one without, even if no gradient is needed, which dominates for small images. So each operator is
# defined twice, and `upsample_bilinear` calls the one with a gradient only if necessary.
_ARGUMENTS = "SymInt height, SymInt width, float scale_y, float scale_x, bool align_corners"
for _suffix in ("", "_plain"):
    define(f"{_NAME}{_suffix}(Tensor input, {_ARGUMENTS}) -> Tensor", _reference, _fake, None)
    define(
        f"{_NAME}_backward{_suffix}(Tensor grad, {_ARGUMENTS}) -> Tensor",
        _backward_reference,
        _fake,
        None,
    )
    # As in PyTorch, whose autocast casts upsample_bilinear2d to float32 on CUDA only.
    torch.library.register_autocast(f"cvlib::{_NAME}{_suffix}", "cuda", torch.float32, lib=library)
_forward = torch.ops.cvlib.upsample_bilinear.default
_backward = torch.ops.cvlib.upsample_bilinear_backward.default
_plain_forward = torch.ops.cvlib.upsample_bilinear_plain.default
_plain_backward = torch.ops.cvlib.upsample_bilinear_backward_plain.default
for _operator, _formula in ((_forward, _gradient), (_backward, _second_gradient)):
    torch.library.register_autograd(_operator, _formula, setup_context=_save_arguments, lib=library)
for _operator in (_forward, _backward, _plain_forward, _plain_backward):
    torch.library.register_vmap(_operator, _fold_batch(_operator), lib=library)


class _Differentiable(torch.autograd.Function):
    """The plain operator with its gradient: faster to call than the registered one."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        _save_arguments(ctx, arguments, arguments[0])
        return _plain_forward(*arguments)

    backward = staticmethod(_gradient)
