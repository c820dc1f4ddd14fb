"""Cases of the transposed convolution: of FCN, of other models, and a tiny one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench_cases.case import Case, close, size_in_bytes
from cvlib.ops.conv_transpose import _backward_reference, _reference, conv_transpose2d

# Name, images, channels (in and out), groups, kernel, stride, padding, input size.
SHAPES = (
    ("FCN-32s, 1 x 21", 1, 21, 1, 64, 32, 16, (10, 15)),
    ("FCN-32s, 8 x 21", 8, 21, 1, 64, 32, 16, (10, 15)),
    ("FCN-8s, 1 x 21", 1, 21, 1, 16, 8, 4, (40, 60)),
    ("FCN-32s, 21 channels apart", 1, 21, 21, 64, 32, 16, (10, 15)),
    ("FCN-8s, 21 channels apart", 1, 21, 21, 16, 8, 4, (40, 60)),
    ("kernel 4, 1 x 21 x 20 x 30", 1, 21, 1, 4, 2, 1, (20, 30)),
    ("kernel 4, 1 x 21 x 64 x 64", 1, 21, 1, 4, 2, 1, (64, 64)),
    ("kernel 4, 1 x 256 x 20 x 30", 1, 256, 1, 4, 2, 1, (20, 30)),
    ("Mask R-CNN, 100 x 256", 100, 256, 1, 2, 2, 0, (14, 14)),
    ("tiny", 1, 1, 1, 4, 2, 1, (2, 2)),
    ("tiny, own kernel", 1, 1, 1, 16, 8, 4, (1, 1)),
)

# Kernel, stride, channels, groups, input size: on both sides of the rule in conv_transpose.py.
RULE = (
    (64, 32, 21, 1, (10, 15)),
    (32, 16, 21, 1, (20, 30)),
    (32, 32, 21, 1, (10, 15)),
    (16, 8, 21, 1, (40, 60)),
    (16, 8, 256, 1, (16, 16)),
    (16, 4, 21, 1, (30, 30)),
    (12, 6, 21, 1, (32, 32)),
    (8, 8, 64, 1, (20, 20)),
    (8, 4, 64, 1, (32, 32)),
    (4, 2, 21, 1, (64, 64)),
    (8, 4, 21, 21, (40, 60)),
    (4, 2, 21, 21, (64, 64)),
)


def with_gradients(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, grad: Tensor, options: Any
) -> tuple[Tensor, ...]:
    """Return the output and the gradients of input and weight."""
    output = function(x, weight, None, *options)
    return output.detach(), *torch.autograd.grad(output, (x, weight), grad)


def conv_transpose_cases(device: str) -> Iterator[Case]:
    """Forward alone, and forward with both gradients."""
    for name, images, channels, groups, kernel, stride, padding, size in SHAPES:
        generator = torch.Generator().manual_seed(0)
        shapes = (images, channels, *size), (channels, channels // groups, kernel, kernel)
        x, weight = (torch.randn(s, generator=generator).to(device) for s in shapes)
        weight /= kernel / stride * (channels // groups) ** 0.5  # outputs of about 1
        options = (stride, padding, 0, groups)
        output = functional.conv_transpose2d(x, weight, None, *options)
        grad = (
            torch.randn(output.shape, generator=generator).to(device) / output[0, 0].numel() ** 0.5
        )
        operations = 2 * x.numel() * weight[0].numel()
        yield Case(
            "conv_transpose2d",
            name,
            "PyTorch",
            partial(conv_transpose2d, x, weight, None, *options),
            partial(functional.conv_transpose2d, x, weight, None, *options),
            None,
            close,
            bytes_moved=size_in_bytes(x, weight, output),
            operations=operations,
        )
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        yield Case(
            "conv_transpose2d",
            f"{name}, with gradients",
            "PyTorch",
            partial(with_gradients, conv_transpose2d, x, weight, grad, options),
            partial(with_gradients, functional.conv_transpose2d, x, weight, grad, options),
            None,
            close,
            bytes_moved=3 * size_in_bytes(x, weight) + 2 * size_in_bytes(output),
            operations=3 * operations,
        )


def run_both(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    options: Any,
) -> Any:
    """Run forward and backward operators without autograd."""
    x, weight, grad = tensors
    stride, padding, groups = options
    output = forward(x, weight, None, stride, stride, padding, padding, 0, 0, groups)
    numbers = (stride, stride, padding, padding, groups, True, True)
    return output, *backward(grad, x, weight, *numbers)


def conv_transpose_rule_cases(device: str) -> Iterator[Case]:
    """Both kernels of each shape, whichever of them the public function would choose."""
    operators = torch.ops.cvlib
    for kernel, stride, channels, groups, size in RULE:
        generator = torch.Generator().manual_seed(0)
        shapes = (1, channels, *size), (channels, channels // groups, kernel, kernel)
        x, weight = (torch.randn(s, generator=generator).to(device) for s in shapes)
        weight /= kernel / stride * (channels // groups) ** 0.5
        options = (stride, (kernel - stride) // 2, groups)
        output = functional.conv_transpose2d(x, weight, None, options[0], options[1], 0, groups)
        grad = torch.randn(output.shape, generator=generator).to(device)
        tensors = x, weight, grad / output[0, 0].numel() ** 0.5
        own = operators.conv_transpose2d, operators.conv_transpose2d_backward
        yield Case(
            "conv_transpose2d kernels",
            f"{kernel}, {stride}, {channels} in {groups} groups, {size[0]} x {size[1]}",
            "PyTorch",
            partial(run_both, *own, tensors, options),
            partial(run_both, _reference, _backward_reference, tensors, options),
            None,
            close,
            bytes_moved=3 * size_in_bytes(x, weight) + 2 * size_in_bytes(output),
            operations=6 * x.numel() * weight[0].numel(),
        )
