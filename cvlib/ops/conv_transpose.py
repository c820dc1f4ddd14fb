"""Transposed convolution with faster kernels for large strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cvlib._checks import (
    check_integer,
    check_same_dtype_and_device,
    check_shape,
    check_shape_matches,
    check_tensor,
    is_integer,
    mismatch,
)
from cvlib._extension import define, has_kernels, library, vmap_by_loop

Pair = tuple[int, int]


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Apply a 2D transposed convolution like ``torch.nn.functional.conv_transpose2d``.

    Signature, values and gradients are those of PyTorch. Large kernels with large strides, which
    fully convolutional networks upsample with, run on cvlib's kernels without column buffers;
    everything else is passed on to PyTorch (see ``_has_kernels_for`` in the source).
    ``conv_transpose2d_by_definition`` and ``conv_transpose2d_by_matrix`` are slow, readable
    versions that explain the result.

    Args:
        input: Shape (N, C, H, W) or (C, H, W), floating point.
        weight: Shape (C, O / groups, K, L), same dtype and device.
        bias: Shape (O,), same dtype and device.
        stride: Output pixels from one kernel to the next, at least 1; like the other geometry
            arguments one number or (y, x).
        padding: Output pixels to crop from every side, at least 0.
        output_padding: Output pixels to add below and to the right, less than the stride or the
            dilation.
        groups: Number of independent blocks of channels; divides C.
        dilation: Output pixels between the taps of a kernel, at least 1.

    Returns:
        Shape (N, O, H', W') or (O, H', W') with H' = (H - 1) * stride - 2 * padding + dilation *
        (K - 1) + output_padding + 1, in the dtype of the input. Under autocast in the lower
        precision, as in PyTorch.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, numbers out of range, different devices, or an output without
            pixels.

    Note:
        Differentiable any number of times. Deterministic on cvlib's kernels, on the CPU for any
        number of threads. These read zeros around the input, so an infinite or NaN weight also
        reaches pixels of the border that its kernel does not touch. They need a copy of the input
        with that border in addition to the result; in the backward a copy of the input, and a
        vector register for each of its elements in 16 rows.

    References:
        Zeiler et al., "Deconvolutional networks" (2010). Long et al., "Fully convolutional networks
        for semantic segmentation" (2015).

    Example:
        >>> image, kernel = torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 1, 1, 3)
        >>> conv_transpose2d(image, kernel, stride=(1, 2))
        tensor([[[1., 1., 3., 2., 2.]]])
    """
    name = "conv_transpose2d"
    stride, padding, output_padding, dilation = as_pairs(
        name, stride, padding, output_padding, dilation
    )
    check_conv_transpose(
        name, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    if not _has_kernels_for(input, weight, stride, dilation, groups):
        return functional.conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    batch = input if input.dim() == 4 else input[None]
    output = torch.ops.cvlib.conv_transpose2d(
        batch, weight, bias, *stride, *padding, *output_padding, groups
    )
    return output if input.dim() == 4 else output[0]


# Milliseconds of forward and both gradients with PyTorch 2.14 and cvlib, 2 threads of an AMD EPYC
# of family 26 with AVX-512, float32, one image, measured by
# `python tools/bench_ops.py --only "conv_transpose2d kernels"`:
#
#   kernel, stride, channels, input        PyTorch  cvlib
#   64, 32, 21 -> 21, 10 x 15                 64.9    9.7
#   32, 16, 21 -> 21, 20 x 30                 51.5    8.3
#   32, 32, 21 -> 21, 10 x 15                 16.2    2.9
#   16,  8, 21 -> 21, 40 x 60                 41.1    8.0
#   16,  8, 256 -> 256, 16 x 16              211.6  130.6
#   16,  4, 21 -> 21, 30 x 30                  7.3    2.6
#   12,  6, 21 -> 21, 32 x 32                  5.4    2.5
#    8,  8, 64 -> 64, 20 x 20                  6.1    6.0
#    8,  4, 64 -> 64, 32 x 32                  7.0   12.7
#    4,  2, 21 -> 21, 64 x 64                  2.6    3.3
#    8,  4, 21, one per group, 40 x 60         2.6    0.9
#    4,  2, 21, one per group, 64 x 64         1.3    1.1
#
# A small kernel leaves most of a vector register empty in the gradients. On CUDA, where speed was
# not measured, cvlib's kernel serves only the upsampling of FCN, for determinism.
_MIN_KERNEL, _MIN_KERNEL_DEPTHWISE, _MIN_STRIDE = 16, 8, 4
_MIN_STRIDE_CUDA = 8


def _has_kernels_for(
    input: Tensor, weight: Tensor, stride: Pair, dilation: Pair, groups: int
) -> bool:
    """Whether cvlib has kernels for these arguments that are faster than PyTorch's."""
    kernel = weight.shape[2:]
    if dilation != (1, 1) or min(stride) < _MIN_STRIDE or min(kernel) < _MIN_KERNEL_DEPTHWISE:
        return False
    device = input.device.type
    if input.dtype not in (torch.float32, torch.float64) or not has_kernels(device):
        return False
    if torch.is_autocast_enabled(device):
        return False
    if device == "cuda":
        return min(stride) >= _MIN_STRIDE_CUDA and all(
            k == 2 * s for k, s in zip(kernel, stride, strict=True)
        )
    is_depthwise = groups == weight.shape[0] and weight.shape[1] == 1
    return is_depthwise or min(kernel) >= _MIN_KERNEL


def as_pair(function: str, argument: str, value: int | Sequence[int], least: int) -> Pair:
    """Return (y, x) from one or two integers."""
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    pair = numbers * 2 if len(numbers) == 1 else numbers
    requirement = "be one or two integers"
    if not all(is_integer(number) for number in pair):
        raise TypeError(mismatch(function, argument, requirement, repr(value)))
    if len(pair) != 2 or pair[0] < least or pair[1] < least:
        raise ValueError(mismatch(function, argument, f"{requirement} of at least {least}", value))
    return pair


def as_pairs(
    function: str,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> tuple[Pair, Pair, Pair, Pair]:
    """Return each of these as (y, x)."""
    return (
        as_pair(function, "stride", stride, 1),
        as_pair(function, "padding", padding, 0),
        as_pair(function, "output_padding", output_padding, 0),
        as_pair(function, "dilation", dilation, 1),
    )


def output_length(
    size: int, kernel: int, stride: int, padding: int, output_padding: int = 0, dilation: int = 1
) -> int:
    """Return the number of output pixels along one axis."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding


def check_conv_transpose(
    function: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> None:
    """Raises unless these are valid arguments of a transposed convolution."""
    check_tensor(function, "input", input)
    check_tensor(function, "weight", weight)
    check_same_dtype_and_device(function, "input", input, "weight", weight)
    if input.dim() not in (3, 4):
        requirement = "have shape (N, C, H, W) or (C, H, W)"
        raise ValueError(mismatch(function, "input", requirement, tuple(input.shape)))
    check_shape(function, "weight", weight, "C", "O / groups", "K", "L")
    channels = input.shape[-3]
    if weight.shape[0] != channels:
        requirement = f"have one row per channel of `input` ({channels})"
        advice = "a transposed convolution's weight is (in, out / groups, K, L)"
        actual = f"shape {tuple(weight.shape)}"
        raise ValueError(mismatch(function, "weight", requirement, actual, advice))
    check_groups(function, groups, channels, "channels of `input`")
    if bias is not None:
        check_tensor(function, "bias", bias)
        check_same_dtype_and_device(function, "input", input, "bias", bias)
        check_shape_matches(function, "bias", bias, (weight.shape[1] * groups,), "weight")
    _check_output_size(function, input, weight, stride, padding, output_padding, dilation)


def check_groups(function: str, groups: int, count: int, unit: str) -> None:
    """Raises unless ``groups`` is an integer (TypeError) that divides ``count`` (ValueError)."""
    check_integer(function, "groups", groups)
    if groups < 1 or count % groups:
        raise ValueError(mismatch(function, "groups", f"divide the {count} {unit}", groups))


def _check_output_size(
    function: str,
    input: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
) -> None:
    for axis in range(2):
        if output_padding[axis] >= max(stride[axis], dilation[axis]):
            requirement = f"be less than `stride` {stride} or `dilation` {dilation}"
            raise ValueError(mismatch(function, "output_padding", requirement, output_padding))
        size, kernel = input.shape[axis - 2], weight.shape[axis + 2]
        length = output_length(
            size, kernel, stride[axis], padding[axis], output_padding[axis], dilation[axis]
        )
        if size < 1 or kernel < 1 or length < 1:
            actual = (
                f"shape {tuple(input.shape)}, with weight {tuple(weight.shape)}, stride {stride} "
                f"and padding {padding}"
            )
            raise ValueError(mismatch(function, "input", "give an output with pixels", actual))


def _reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    output_padding_h: int,
    output_padding_w: int,
    groups: int,
) -> Tensor:
    return functional.conv_transpose2d(
        input,
        weight,
        bias,
        (stride_h, stride_w),
        (padding_h, padding_w),
        (output_padding_h, output_padding_w),
        groups,
    ).contiguous()


def _fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    output_padding_h: int,
    output_padding_w: int,
    groups: int,
) -> Tensor:
    sizes, kernel = input.shape[2:], weight.shape[2:]
    height = output_length(sizes[0], kernel[0], stride_h, padding_h, output_padding_h)
    width = output_length(sizes[1], kernel[1], stride_w, padding_w, output_padding_w)
    return input.new_empty(input.shape[0], weight.shape[1] * groups, height, width)


def _output_padding(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """Return the output padding from the sizes of gradient, input and weight."""
    return [
        grad.shape[d + 2]
        - output_length(input.shape[d + 2], weight.shape[d + 2], stride[d], padding[d])
        for d in range(2)
    ]


def _backward_reference(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    groups: int,
    need_input: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    stride, padding = (stride_h, stride_w), (padding_h, padding_w)
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        stride,
        padding,
        (1, 1),
        True,
        _output_padding(grad, input, weight, stride, padding),
        groups,
        (need_input, need_weight, False),
    )
    return (
        grad_input.contiguous() if need_input else input.new_empty(0),
        grad_weight.contiguous() if need_weight else weight.new_empty(0),
    )


def _backward_fake(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride_h: int,
    stride_w: int,
    padding_h: int,
    padding_w: int,
    groups: int,
    need_input: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        input.new_empty(input.shape if need_input else 0),
        weight.new_empty(weight.shape if need_weight else 0),
    )


define(
    "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int stride_h, int stride_w, "
    "int padding_h, int padding_w, int output_padding_h, int output_padding_w, int groups) "
    "-> Tensor",
    _reference,
    _fake,
    autocast=None,
)
define(
    "conv_transpose2d_backward(Tensor grad, Tensor input, Tensor weight, int stride_h, "
    "int stride_w, int padding_h, int padding_w, int groups, bool need_input, bool need_weight) "
    "-> (Tensor, Tensor)",
    _backward_reference,
    _backward_fake,
    autocast=None,
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *geometry, _, _, groups = inputs
    ctx.save_for_backward(input, weight)
    ctx.geometry = (*geometry, groups)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_input = grad_weight = None
    if need_input or need_weight:
        grad_input, grad_weight = torch.ops.cvlib.conv_transpose2d_backward(
            grad, input, weight, *ctx.geometry, need_input, need_weight
        )
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad.sum((0, 2, 3)) if need_bias else None,
        *[None] * 7,
    )


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, input, weight, *ctx.geometry, ctx.need_input, ctx.need_weight = inputs
    ctx.save_for_backward(grad, input, weight)


def _second_gradient(ctx: Any, grad_input: Tensor, grad_weight: Tensor) -> tuple[Any, ...]:
    """The output is linear in input and in weight, so second derivatives use the same operators."""
    grad, input, weight = ctx.saved_tensors
    stride, padding, groups = ctx.geometry[:2], ctx.geometry[2:4], ctx.geometry[4]
    extra = _output_padding(grad, input, weight, stride, padding)
    forward = torch.ops.cvlib.conv_transpose2d
    backward = torch.ops.cvlib.conv_transpose2d_backward
    terms, to_input, to_weight = [], None, None
    if ctx.need_input:
        terms.append(forward(grad_input, weight, None, *stride, *padding, *extra, groups))
        to_weight = backward(grad, grad_input, weight, *ctx.geometry, False, True)[1]
    if ctx.need_weight:
        terms.append(forward(input, grad_weight, None, *stride, *padding, *extra, groups))
        to_input = backward(grad, input, grad_weight, *ctx.geometry, True, False)[0]
    return (sum(terms[1:], terms[0]), to_input, to_weight, *[None] * 7)


torch.library.register_autograd(
    "cvlib::conv_transpose2d", _gradient, setup_context=_save, lib=library
)
torch.library.register_autograd(
    "cvlib::conv_transpose2d_backward",
    _second_gradient,
    setup_context=_save_backward,
    lib=library,
)
vmap_by_loop("conv_transpose2d")
vmap_by_loop("conv_transpose2d_backward")
