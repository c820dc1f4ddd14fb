"""Slow and obvious RoI operators, from their definitions in NumPy.

Positions of samples and bins are computed in the dtype of the maps, in the order that
the docstrings of torchvision's operators imply, because ceil and floor decide there; values are
summed in float64.
"""

from __future__ import annotations

import math

import numpy as np


def _positions(low, high, size, bins, scale, ratio, aligned):
    """Positions of the samples of each bin, and their number including those outside."""
    real = low.dtype.type
    start = low * real(scale) - real(0.5 if aligned else 0)
    length = (high * real(scale) - real(0.5 if aligned else 0)) - start
    if not aligned:
        length = max(length, real(1))
    step = length / real(bins)
    samples = ratio if ratio > 0 else math.ceil(step)
    result = []
    for one in range(bins):
        positions = [
            start + real(one) * step + (real(i) + real(0.5)) * step / real(samples)
            for i in range(samples)
        ]
        result.append([position for position in positions if -1 <= position <= size])
    return result, samples


def _bilinear(position, size):
    """The one or two pixels next to a position, with their weights."""
    position = max(float(position), 0.0)
    low = min(int(position), size - 1)
    if low == size - 1:
        return [(low, 1.0)]
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def align_taps(region, height, width, bins, scale, ratio, aligned):
    """Yield (bin y, bin x, pixel y, pixel x, weight) of one region."""
    _, x1, y1, x2, y2 = region
    rows, count_y = _positions(y1, y2, height, bins[0], scale, ratio, aligned)
    columns, count_x = _positions(x1, x2, width, bins[1], scale, ratio, aligned)
    for i, ys in enumerate(rows):
        for j, xs in enumerate(columns):
            for y in ys:
                for x in xs:
                    for pixel_y, weight_y in _bilinear(y, height):
                        for pixel_x, weight_x in _bilinear(x, width):
                            weight = weight_y * weight_x / (count_y * count_x)
                            yield i, j, pixel_y, pixel_x, weight


def roi_align(maps, regions, bins, scale=1.0, ratio=-1, aligned=False):
    result = np.zeros((len(regions), maps.shape[1], *bins))
    for k, region in enumerate(regions):
        for i, j, y, x, weight in align_taps(region, *maps.shape[2:], bins, scale, ratio, aligned):
            result[k, :, i, j] += weight * maps[int(region[0]), :, y, x].astype(np.float64)
    return result


def roi_align_gradient(grad, regions, shape, scale=1.0, ratio=-1, aligned=False):
    result = np.zeros(shape)
    for k, region in enumerate(regions):
        for i, j, y, x, weight in align_taps(
            region, *shape[2:], grad.shape[2:], scale, ratio, aligned
        ):
            result[int(region[0]), :, y, x] += weight * grad[k, :, i, j].astype(np.float64)
    return result


def _away_from_zero(value):
    value = float(value)
    whole = math.trunc(value)
    return whole + (abs(value - whole) >= 0.5) * (1 if value > 0 else -1)


def _bin_ranges(low, high, size, bins, scale):
    real = low.dtype.type
    start, last = (_away_from_zero(side * real(scale)) for side in (low, high))
    step = real(max(last - start + 1, 1)) / real(bins)
    for i in range(bins):
        begin = start + math.floor(real(i) * step)
        end = start + math.ceil(real(i + 1) * step)
        yield range(min(max(begin, 0), size), min(max(end, 0), size))


def roi_pool(maps, regions, bins, scale=1.0):
    """Maxima, and the indices of their pixels (-1: none)."""
    result = np.zeros((len(regions), maps.shape[1], *bins))
    places = np.full(result.shape, -1, np.int32)
    height, width = maps.shape[2:]
    for k, (image, x1, y1, x2, y2) in enumerate(regions):
        for i, ys in enumerate(_bin_ranges(y1, y2, height, bins[0], scale)):
            for j, xs in enumerate(_bin_ranges(x1, x2, width, bins[1], scale)):
                for channel, plane in enumerate(maps[int(image)]):
                    pixels = [(plane[y, x], y * width + x) for y in ys for x in xs]
                    if pixels:
                        best = max(pixels, key=lambda one: one[0])  # the first of equals
                        result[k, channel, i, j], places[k, channel, i, j] = best
    return result, places


def roi_pool_gradient(grad, places, regions, shape):
    result = np.zeros(shape)
    for k, region in enumerate(regions):
        for channel in range(shape[1]):
            plane = result[int(region[0]), channel].reshape(-1)
            for value, place in zip(grad[k, channel].flat, places[k, channel].flat, strict=True):
                if place >= 0:
                    plane[place] += value
    return result


def choose_levels(regions, levels, canonical_scale, canonical_level):
    """For each region the index of its map: the last level that it reaches, else the first."""
    result = []
    for _, x1, y1, x2, y2 in regions:
        side = math.sqrt(float((x2 - x1) * (y2 - y1)))
        wanted = -math.inf
        if side > 0:
            wanted = math.floor(canonical_level + math.log2(side / canonical_scale) + 1e-6)
        result.append(max([i for i, level in enumerate(levels) if level <= wanted], default=0))
    return result


def random_regions(rng, count, images, extent, smallest=0.0, largest=1.0):
    """Rows (image, x1, y1, x2, y2) of all sizes, some of them across the border."""
    corner = rng.uniform(-0.2, 1, (count, 2)) * extent
    side = rng.uniform(smallest, largest, (count, 2)) * extent
    image = rng.integers(0, images, (count, 1))
    return np.concatenate([image, corner, corner + side], axis=1)
