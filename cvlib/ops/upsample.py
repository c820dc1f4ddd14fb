"""Bilinear interpolation of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvlib._checks import check_shape, check_tensor, is_integer, is_number
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
    """Resizes images by bilinear interpolation, as `torch.nn.functional.interpolate` does.

    It gives what ``interpolate(..., mode="bilinear", antialias=False)`` gives, also where images
    shrink: every output pixel mixes the (at most) four input pixels around its position, and the
    others count for nothing.

    Args:
        input: Shape (N, C, H, W), floating point; N and C may be 0. Any strides.
        size: Height and width of the result in pixels, or one number for both.
        scale_factor: Instead of ``size``: factors of height and width, or one for both; the size is
            ``int(factor * size of the input)``. Positions follow the factor as given, not the
            quotient of the rounded sizes.
        align_corners: The centres of the corner pixels keep their values, instead of the edges of
            the images coinciding.

    Returns:
        Shape (N, C, height, width), with dtype and memory format (contiguous or channels-last) of
        ``input``. Half types are computed in float32 and rounded once. An axis that keeps its
        length is not interpolated.

    Raises:
        TypeError: ``input`` is no floating-point tensor; sizes that are no integers; factors that
            are no numbers.
        ValueError: Not four dimensions; both or neither of ``size`` and ``scale_factor``; not one
            or two of them; an input or a result without pixels; factors that are not positive and
            finite.

    Note:
        Differentiable any number of times; forward and backward are each other's transposes.
        Deterministic, on CUDA too: the gradient is gathered, without atomic additions. Memory is
        the result alone; images whose rows are not dense are copied first. Autocast on CUDA
        computes in float32, as for ``interpolate``.

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
    if input.dim() != 4:
        check_shape(_NAME, "input", input, "(N, C, H, W)")
    _, _, height, width = input.shape
    if height < 1 or width < 1:
        raise ValueError(
            f"{_NAME}: expected input with height and width of at least 1, got {tuple(input.shape)}"
        )
    scale_y = scale_x = 0.0
    if scale_factor is None:
        height, width = _size_pair(size)
    elif size is None:
        scale_y, scale_x = _factor_pair(scale_factor)
        height, width = torch.sym_int(height * scale_y), torch.sym_int(width * scale_x)
    else:
        raise ValueError(f"{_NAME}: expected one of size and scale_factor, got both")
    if height < 1 or width < 1:
        _refuse_size(height, width, input, scale_factor)
    arguments = input, height, width, scale_y, scale_x, align_corners
    # Compilers and torch.func.vmap need to see the gradient; a batched tensor hides its own wish.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _forward(*arguments)
    if input.requires_grad and torch.is_grad_enabled():
        return _Differentiable.apply(*arguments)
    return _plain_forward(*arguments)


def _size_pair(size: Any) -> tuple[int, int]:
    if size is None:
        raise ValueError(f"{_NAME}: expected one of size and scale_factor, got neither")
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"{_NAME}: expected size to be one or two integers, got {pair}")
    if not (is_integer(pair[0]) and is_integer(pair[1])):
        raise TypeError(f"{_NAME}: expected size to be one or two integers, got {size!r}")
    return pair


def _factor_pair(factor: Any) -> tuple[float, float]:
    pair = tuple(factor) if isinstance(factor, list | tuple) else (factor, factor)
    if len(pair) != 2:
        raise ValueError(f"{_NAME}: expected scale_factor to be one or two numbers, got {pair}")
    y, x = pair
    if not (is_number(y) and is_number(x)):
        raise TypeError(f"{_NAME}: expected scale_factor to be one or two numbers, got {factor}")
    if not (0 < y < float("inf") and 0 < x < float("inf")):
        raise ValueError(f"{_NAME}: expected scale_factor to be positive and finite, got {factor}")
    return y, x


def _refuse_size(height: int, width: int, input: Tensor, scale_factor: Any) -> None:
    """Raises for a result without pixels, in the terms of the argument that it comes from."""
    if scale_factor is None:
        raise ValueError(f"{_NAME}: expected size of at least 1, got ({height}, {width})")
    raise ValueError(
        f"{_NAME}: expected scale_factor that gives a size of at least 1, got {scale_factor} for "
        f"{tuple(input.shape[2:])}, which gives ({height}, {width})"
    )


def _is_channels_last(images: Tensor) -> bool:
    """Says whether results of these images are channels-last.

    They are when strides rise in the order C, W, H, N, and sizes of 1 leave it open to neither: the
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
    """Source pixels for each output pixel, as a quotient."""
    if align_corners:
        return (size - 1, out_size - 1) if out_size > 1 else (0, 1)
    return (1.0 / scale_factor, 1) if scale_factor > 0 else (size, out_size)


def _taps(
    size: int, out_size: int, scale_factor: float, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Where an axis reads: the lower pixel, the upper one and its weight, on the CPU.

    As ``tap_at`` in ``csrc/interp_math.h``; a product of two float32 is exact in float64, which
    makes this a fused multiply-add.
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
        low, high, weight = (one.to(input.device) for one in taps)
        weight = weight.view(-1, 1) if dim == 2 else weight
        mixed = mixed.index_select(dim, low) * (1 - weight) + mixed.index_select(dim, high) * weight
    return _fake(input, height, width, scale_y, scale_x, align_corners).copy_(mixed)


def _readers(
    size: int, out_size: int, scale_factor: float, align_corners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """For every input pixel the outputs that read it and their shares: (size, K), padded with 0."""
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
        readers, share = (one.to(grad.device) for one in pair)
        share = share if dim == 3 else share[..., None]
        read = gathered.index_select(dim, readers.flatten()).unflatten(dim, readers.shape)
        # A share of 0 is padding, and must not turn an infinite gradient into NaN.
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
    """The rule of ``torch.func.vmap``: one more batch dimension joins the images."""

    def rule(_: Any, in_dims: tuple[Any, ...], images: Tensor, *arguments: Any) -> Any:
        batched = images.movedim(in_dims[0], 0)
        return operator(batched.flatten(0, 1), *arguments).unflatten(0, batched.shape[:2]), 0

    return rule


# An operator with a gradient registered from Python costs several times what the plain one costs,
# also where no gradient is asked for, and an image of a few pixels takes less time than that. So
# each is defined twice, and `upsample_bilinear` calls the one with a gradient only where it must.
_ARGUMENTS = "SymInt height, SymInt width, float scale_y, float scale_x, bool align_corners"
for _suffix in ("", "_plain"):
    define(f"{_NAME}{_suffix}(Tensor input, {_ARGUMENTS}) -> Tensor", _reference, _fake, None)
    define(
        f"{_NAME}_backward{_suffix}(Tensor grad, {_ARGUMENTS}) -> Tensor",
        _backward_reference,
        _fake,
        None,
    )
    # As PyTorch: its autocast lists have upsample_bilinear2d under float32 on CUDA, and not at all
    # on the CPU.
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
    """The plain operator with its gradient: quicker to call than the registered one."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        _save_arguments(ctx, arguments, arguments[0])
        return _plain_forward(*arguments)

    backward = staticmethod(_gradient)
