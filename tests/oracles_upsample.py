"""Bilinear interpolation and its gradient from the taps of each pixel, in float64.

Only the position of an output pixel is rounded to the dtype that the operator computes in, because
over a long axis that rounding is visible: it is one fused multiply-add, and the product of two
float32 is exact in float64.
"""

from __future__ import annotations

import numpy as np


def taps(size, out_size, factor, align_corners, dtype) -> list[list[tuple[int, float]]]:
    """Return, for every output pixel, its input pixels and their weights."""
    if size == out_size:
        return [[(i, 1.0)] for i in range(size)]
    if align_corners:
        step = dtype(size - 1) / dtype(out_size - 1) if out_size > 1 else dtype(0)
    else:
        step = dtype(1.0 / factor) if factor else dtype(size) / dtype(out_size)
    result = []
    for output in range(out_size):
        if align_corners:
            position = step * dtype(output)
        else:
            position = dtype(np.float64(step) * np.float64(dtype(output) + dtype(0.5)) - 0.5)
        position = float(max(position, dtype(0)))
        low = min(int(position), size - 1)
        share = min(position - low, 1.0)
        result.append([(low, 1 - share), (min(low + 1, size - 1), share)])
    return result


def _matrix(size, out_size, factor, align_corners, dtype) -> np.ndarray:
    """Weights of shape (out_size, size) of the taps along one axis."""
    weights = np.zeros((out_size, size))
    for output, pixels in enumerate(taps(size, out_size, factor, align_corners, dtype)):
        for i, share in pixels:
            weights[output, i] += share
    return weights


def upsample_bilinear(images, size, factors=(0, 0), align_corners=False) -> np.ndarray:
    """Images (N, C, H, W) resized to ``size``, computed in float64."""
    dtype = images.dtype.type
    rows = _matrix(images.shape[2], size[0], factors[0], align_corners, dtype)
    columns = _matrix(images.shape[3], size[1], factors[1], align_corners, dtype)
    return rows @ images.astype(np.float64) @ columns.T


def upsample_bilinear_backward(grad, size, factors=(0, 0), align_corners=False) -> np.ndarray:
    """Gradient of images of ``size``: every output pixel returns its gradient by its shares."""
    dtype = grad.dtype.type
    rows = _matrix(size[0], grad.shape[2], factors[0], align_corners, dtype)
    columns = _matrix(size[1], grad.shape[3], factors[1], align_corners, dtype)
    return rows.T @ grad.astype(np.float64) @ columns
