"""Slow references of roi_align and roi_pool in plain PyTorch.

Each axis of a region is divided into bins, and a bin is a weighted sum of pixels, so a region is
two small matrices of weights, one for rows and one for columns. Positions are computed in the order
of operations of ``csrc/roi/region.h``, because rounding decides them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST_COORDINATE = 2.0**30  # of a coordinate times spatial_scale
_BISECTIONS = 64


def are_regions(regions: Tensor, num_images: int, spatial_scale: float) -> Tensor:
    """Whether each row (image, x1, y1, x2, y2) has a valid image, corners in order and in range."""
    images, boxes = regions[:, 0], regions[:, 1:]
    valid = (images >= 0) & (images < num_images) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
    return valid & ((boxes * spatial_scale).abs() <= LARGEST_COORDINATE).all(1)


def sample_weights(
    low: Tensor,
    high: Tensor,
    size: int,
    bins: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Weight (K, bins, size) of each pixel of an axis in each bin of each region."""
    offset = 0.5 if aligned else 0.0
    origin = low * spatial_scale - offset
    length = (high * spatial_scale - offset) - origin
    if not aligned:
        length = length.clamp(min=1)
    step = (length / bins)[:, None]  # (K, 1)
    samples = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil()
    weights = low.new_zeros(len(low), bins, size)
    if not weights.numel():
        return weights
    spread = samples.clamp(min=1)
    base = origin[:, None] + torch.arange(bins, device=low.device).to(low.dtype) * step

    def position(sample: Tensor) -> Tensor:
        return base + (sample.to(low.dtype) + 0.5) * step / spread

    count = samples.long().expand(len(low), bins)
    begin = _first(lambda sample: position(sample) >= -1, count)
    end = _first(lambda sample: position(sample) > size, count)
    for i in range(int((end - begin).max())):
        sample = begin + i
        share = torch.where(sample < end, 1 / spread, 0)
        place = position(sample).clamp(0, size)
        left = place.long().clamp(max=size - 1)
        fraction = torch.where(left < size - 1, place - left, 0)
        right = (left + 1).clamp(max=size - 1)
        weights.scatter_add_(2, left[..., None], ((1 - fraction) * share)[..., None])
        weights.scatter_add_(2, right[..., None], (fraction * share)[..., None])
    return weights


def _first(reached: Callable[[Tensor], Tensor], count: Tensor) -> Tensor:
    """Index of the first of ``count`` samples of each bin from which ``reached`` is true."""
    low, high = torch.zeros_like(count), count
    for _ in range(_BISECTIONS):
        middle = (low + high) // 2
        is_reached = reached(middle)
        low, high = (
            torch.where((low < high) & ~is_reached, middle + 1, low),
            torch.where((low < high) & is_reached, middle, high),
        )
    return low


def align_regions(
    maps: Tensor, regions: Tensor, weights: tuple[Tensor, Tensor], valid: Tensor
) -> Tensor:
    """Compute roi_align from the weights of rows and columns."""
    rows, columns = weights
    images = torch.where(valid, regions[:, 0], 0).long()
    pooled = maps.new_zeros(len(regions), maps.shape[1], rows.shape[1], columns.shape[1])
    if not len(maps):
        return pooled
    for k in range(len(regions)):
        # Pixels without weight are masked because they may be infinite.
        used = (rows[k] > 0).any(0)[:, None] & (columns[k] > 0).any(0)
        pixels = torch.where(used, maps.index_select(0, images[k : k + 1])[0], 0)
        pooled[k] = rows[k] @ pixels @ columns[k].T
    return torch.where(valid[:, None, None, None], pooled, 0)


def spread_regions(
    grad: Tensor,
    regions: Tensor,
    weights: tuple[Tensor, Tensor],
    valid: Tensor,
    shape: tuple[int, int, int, int],
) -> Tensor:
    """Compute the gradient of the maps: the transpose of `align_regions`."""
    rows, columns = weights
    images = torch.where(valid, regions[:, 0], 0).long()
    result = grad.new_zeros(shape)
    if not shape[0]:
        return result
    for k in range(len(regions)):
        used = (rows[k] > 0).any(0)[:, None] & (columns[k] > 0).any(0) & valid[k]
        share = torch.where(used, rows[k].T @ grad[k] @ columns[k], 0)
        result.index_add_(0, images[k : k + 1], share[None])
    return result


def pool_regions(
    maps: Tensor, regions: Tensor, bins: tuple[int, int], spatial_scale: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute roi_pool and the index of the largest pixel of each bin (-1: none)."""
    height, width = maps.shape[2:]
    pooled = maps.new_zeros(len(regions), maps.shape[1], *bins)
    places = torch.full_like(pooled, -1, dtype=torch.int32)
    boxes = torch.where(valid[:, None], regions[:, 1:], 0)
    ys = _bin_pixels(boxes[:, 1], boxes[:, 3], spatial_scale, bins[0], height)
    xs = _bin_pixels(boxes[:, 0], boxes[:, 2], spatial_scale, bins[1], width)
    for k, image in enumerate(torch.where(valid, regions[:, 0], -1).long().tolist()):
        for i, (top, bottom) in enumerate(ys[k]):
            for j, (left, right) in enumerate(xs[k]):
                if image < 0 or top >= bottom or left >= right:
                    continue
                pixels = maps[image, :, top:bottom, left:right].flatten(1)
                value, place = pixels.max(1)
                last_nan = pixels.shape[1] - 1 - pixels.isnan().flip(1).int().argmax(1)
                place = torch.where(value.isnan(), last_nan, place)
                y, x = top + place // (right - left), left + place % (right - left)
                pooled[k, :, i, j] = value
                places[k, :, i, j] = (y * width + x).int()
    return pooled, places


def _bin_pixels(
    low: Tensor, high: Tensor, spatial_scale: float, bins: int, size: int
) -> list[list[list[int]]]:
    """Begin and end (K, bins, 2) of the pixels of each bin."""
    first, last = (_round(side * spatial_scale).long() for side in (low, high))
    step = ((last - first + 1).clamp(min=1).to(low.dtype) / bins)[:, None]
    index = torch.arange(bins + 1, device=low.device).to(low.dtype)
    begin = first[:, None] + (index[:-1] * step).floor().long()
    end = first[:, None] + (index[1:] * step).ceil().long()
    return torch.stack([begin, end], -1).clamp(0, size).tolist()


def _round(values: Tensor) -> Tensor:
    """Round halves away from 0, as C does; torch.round rounds them to even."""
    whole = values.trunc()
    return whole + values.sign() * ((values - whole).abs() >= 0.5)
