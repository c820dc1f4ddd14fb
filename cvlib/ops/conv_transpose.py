"""Transposed convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cvlib._extension import define, library


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
    height = (input.shape[2] - 1) * stride_h - 2 * padding_h + weight.shape[2] + output_padding_h
    width = (input.shape[3] - 1) * stride_w - 2 * padding_w + weight.shape[3] + output_padding_w
    return input.new_empty(input.shape[0], weight.shape[1] * groups, height, width)


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
    output_padding = [
        grad.shape[2 + d]
        - ((input.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + weight.shape[2 + d])
        for d in range(2)
    ]
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        stride,
        padding,
        (1, 1),
        True,
        output_padding,
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
