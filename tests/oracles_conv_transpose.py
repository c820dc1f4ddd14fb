"""Transposed convolution and its gradients from the definition alone, with NumPy in float64."""

from __future__ import annotations

import numpy as np


def _without_groups(weight, groups):
    """The weight of shape (C, O, K, L) with zeros between channels of different groups."""
    channels, per_group = weight.shape[0], weight.shape[1]
    full = np.zeros((channels, per_group * groups, *weight.shape[2:]))
    for c in range(channels):
        first = c // (channels // groups) * per_group
        full[c, first : first + per_group] = weight[c]
    return full


def _reaches(size, kernel, stride, dilation):
    """Yield every input pixel and tap, and the output pixel they contribute to before cropping."""
    for i, j, ky, kx in np.ndindex(*size, *kernel):
        yield i, j, ky, kx, i * stride[0] + ky * dilation[0], j * stride[1] + kx * dilation[1]


def conv_transpose2d(
    image, weight, bias, stride, padding, output_padding=(0, 0), groups=1, dilation=(1, 1)
):
    """Add input pixel times tap to the output pixel that the tap reaches."""
    full = _without_groups(weight, groups)
    sizes = [
        (image.shape[d] - 1) * stride[d - 2]
        + dilation[d - 2] * (weight.shape[d] - 1)
        + 1
        + output_padding[d - 2]
        for d in (2, 3)
    ]
    output = np.zeros((len(image), full.shape[1], *sizes))
    for i, j, ky, kx, y, x in _reaches(image.shape[2:], weight.shape[2:], stride, dilation):
        output[:, :, y, x] += image[:, :, i, j] @ full[:, :, ky, kx]
    if bias is not None:
        output += bias[:, None, None]
    return output[:, :, padding[0] : sizes[0] - padding[0], padding[1] : sizes[1] - padding[1]]


def conv_transpose2d_gradients(grad, image, weight, stride, padding, groups=1, dilation=(1, 1)):
    """Gradients of image, weight and bias: each product passes its gradient on."""
    full = _without_groups(weight, groups)
    grad_image, grad_full = np.zeros(image.shape), np.zeros(full.shape)
    for i, j, ky, kx, y, x in _reaches(image.shape[2:], weight.shape[2:], stride, dilation):
        y, x = y - padding[0], x - padding[1]
        if 0 <= y < grad.shape[2] and 0 <= x < grad.shape[3]:
            grad_image[:, :, i, j] += grad[:, :, y, x] @ full[:, :, ky, kx].T
            grad_full[:, :, ky, kx] += image[:, :, i, j].T @ grad[:, :, y, x]
    channels, per_group = weight.shape[:2]
    grad_weight = np.stack(
        [grad_full[c, c // (channels // groups) * per_group :][:per_group] for c in range(channels)]
    )
    return grad_image, grad_weight, grad.sum((0, 2, 3))
