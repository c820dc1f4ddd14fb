"""Transposed convolution: PyTorch's function, with own kernels where they are faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cvlib._checks import check_integer, check_same_kind, check_tensor, is_integer
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
    """Adds a scaled kernel to the output for every input pixel; ``torch.nn.functional``'s function.

    Signature, values and gradients are those of ``torch.nn.functional.conv_transpose2d``. Large
    kernels with large strides, which fully convolutional networks upsample with, run on own
    kernels without column buffers; everything else is passed on to PyTorch (the rule and its
    figures stand beside ``_is_ours`` in the source). ``conv_transpose2d_by_definition`` and
    ``conv_transpose2d_by_matrix`` compute the same slowly and say why.

    Args:
        input: Shape (N, C, H, W) or (C, H, W), floating point.
        weight: Shape (C, O / groups, K, L), same dtype and device.
        bias: Shape (O,), same dtype and device.
        stride: Output pixels from one kernel to the next, at least 1; one number or (y, x), as all
            of these.
        padding: Output pixels to cut off at every side, at least 0.
        output_padding: Output pixels to add below and to the right, less than the stride or the
            dilation.
        groups: Blocks of channels that do not mix; divides C.
        dilation: Output pixels between the taps of a kernel, at least 1.

    Returns:
        Shape (N, O, H', W') or (O, H', W') with H' = (H - 1) * stride - 2 * padding + dilation *
        (K - 1) + output_padding + 1, in the dtype of the input. Under autocast as PyTorch's: in the
        lower precision.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, numbers out of range, two devices, or an output without pixels.

    Note:
        Differentiable any number of times. Deterministic where own kernels run, on the CPU also for
        any number of threads; elsewhere as PyTorch is. Own kernels read zeros around the input, so
        an infinite or NaN weight also reaches pixels of the border that its kernel does not touch.
        Memory besides the result is a copy of the input with that border; in the backward a copy of
        the input, and a vector register for each of its elements in 16 rows.

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
    if not _is_ours(input, weight, stride, dilation, groups):
        return functional.conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    batch = input if input.dim() == 4 else input[None]
    output = torch.ops.cvlib.conv_transpose2d(
        batch, weight, bias, *stride, *padding, *output_padding, groups
    )
    return output if input.dim() == 4 else output[0]


# Where own kernels run. Milliseconds of forward and both gradients, PyTorch 2.14 and own, 2 threads
# of an AMD EPYC of family 26 with AVX-512, float32, one image, as given by
# `python tools/bench_ops.py --only "conv_transpose2d kernels"`:
#
#   kernel, stride, channels, input        PyTorch    own
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
#    8,  4, 21 channels apart, 40 x 60         2.6    0.9
#    4,  2, 21 channels apart, 64 x 64         1.3    1.1
#
# A short kernel leaves most of a vector register empty in the gradients. For CUDA nothing could be
# measured: the own kernel serves only what FCN upsamples with, where it is deterministic.
_LEAST_KERNEL, _LEAST_KERNEL_APART, _LEAST_STRIDE = 16, 8, 4
_LEAST_STRIDE_CUDA = 8


def _is_ours(input: Tensor, weight: Tensor, stride: Pair, dilation: Pair, groups: int) -> bool:
    """Whether own kernels are faster than PyTorch's."""
    kernel = weight.shape[2:]
    if dilation != (1, 1) or min(stride) < _LEAST_STRIDE or min(kernel) < _LEAST_KERNEL_APART:
        return False
    device = input.device.type
    if input.dtype not in (torch.float32, torch.float64) or not has_kernels(device):
        return False
    if torch.is_autocast_enabled(device):
        return False
    if device == "cuda":
        return min(stride) >= _LEAST_STRIDE_CUDA and all(
            k == 2 * s for k, s in zip(kernel, stride, strict=True)
        )
    is_apart = groups == weight.shape[0] and weight.shape[1] == 1
    return is_apart or min(kernel) >= _LEAST_KERNEL


def as_pair(function: str, argument: str, value: int | Sequence[int], least: int) -> Pair:
    """Gives (y, x) from one number or two."""
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    pair = given * 2 if len(given) == 1 else given
    if not all(is_integer(one) for one in pair):
        raise TypeError(f"{function}: expected {argument} to be one or two integers, got {value!r}")
    if len(pair) != 2 or pair[0] < least or pair[1] < least:
        raise ValueError(
            f"{function}: expected {argument} to be one or two integers of at least {least}, "
            f"got {value}"
        )
    return pair


def as_pairs(
    function: str,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> tuple[Pair, Pair, Pair, Pair]:
    """Gives each of these as (y, x)."""
    return (
        as_pair(function, "stride", stride, 1),
        as_pair(function, "padding", padding, 0),
        as_pair(function, "output_padding", output_padding, 0),
        as_pair(function, "dilation", dilation, 1),
    )


def output_length(
    size: int, kernel: int, stride: int, padding: int, output_padding: int = 0, dilation: int = 1
) -> int:
    """Gives the output pixels along one axis."""
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
    """Raises unless these are arguments of a transposed convolution."""
    check_tensor(function, "input", input)
    check_tensor(function, "weight", weight)
    check_same_kind(function, "input", input, "weight", weight)
    if input.dim() not in (3, 4):
        raise ValueError(
            f"{function}: expected input of shape (N, C, H, W) or (C, H, W), "
            f"got {tuple(input.shape)}"
        )
    if weight.dim() != 4:
        raise ValueError(
            f"{function}: expected weight of shape (C, O / groups, K, L), got {tuple(weight.shape)}"
        )
    channels = input.shape[-3]
    if weight.shape[0] != channels:
        raise ValueError(
            f"{function}: expected weight with as many rows as input has channels ({channels}), "
            f"got weight of shape {tuple(weight.shape)}; a transposed convolution's weight is "
            "(in, out / groups, K, L)"
        )
    check_integer(function, "groups", groups)
    if groups < 1 or channels % groups:
        raise ValueError(
            f"{function}: expected groups to divide the {channels} channels of input, got {groups}"
        )
    if bias is not None:
        check_tensor(function, "bias", bias)
        check_same_kind(function, "input", input, "bias", bias)
        if bias.shape != (weight.shape[1] * groups,):
            raise ValueError(
                f"{function}: expected bias of shape ({weight.shape[1] * groups},), one for each "
                f"output channel, got {tuple(bias.shape)}"
            )
    for axis in range(2):
        if output_padding[axis] >= max(stride[axis], dilation[axis]):
            raise ValueError(
                f"{function}: expected output_padding less than the stride or the dilation "
                f"({stride}, {dilation}), got {output_padding}"
            )
        size, kernel = input.shape[axis - 2], weight.shape[axis + 2]
        length = output_length(
            size, kernel, stride[axis], padding[axis], output_padding[axis], dilation[axis]
        )
        if size < 1 or kernel < 1 or length < 1:
            raise ValueError(
                f"{function}: expected an output with pixels, got input {tuple(input.shape)}, "
                f"weight {tuple(weight.shape)}, stride {stride} and padding {padding}"
            )


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
    """What the output has had beyond the size that the others give."""
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
    """The output is linear in input and in weight, so its second derivatives are its first."""
    grad, input, weight = ctx.saved_tensors
    stride, padding, groups = ctx.geometry[:2], ctx.geometry[2:4], ctx.geometry[4]
    rest = _output_padding(grad, input, weight, stride, padding)
    forward = torch.ops.cvlib.conv_transpose2d
    backward = torch.ops.cvlib.conv_transpose2d_backward
    terms, to_input, to_weight = [], None, None
    if ctx.need_input:
        terms.append(forward(grad_input, weight, None, *stride, *padding, *rest, groups))
        to_weight = backward(grad, grad_input, weight, *ctx.geometry, False, True)[1]
    if ctx.need_weight:
        terms.append(forward(input, grad_weight, None, *stride, *padding, *rest, groups))
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
