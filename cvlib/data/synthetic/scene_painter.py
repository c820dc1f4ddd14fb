"""Backgrounds, distractors and camera effects of synthetic images."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]

_SUBPIXEL_BITS = 4  # fixed-point polygon corners, for smooth edges
_NOISE_MARGIN = 64
_MEAN_OF_THREE = np.array([[1 / 3], [1 / 3], [1 / 3], [0]])
_RAMP_256 = np.linspace(0, 1, 256)


def random_colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw RGB colours from grey to vivid, shape (count, 3), 0..255."""
    numbers = rng.random((count, 4)) * 255
    colours, vividness = numbers[:, :3], 0.25 + numbers[:, 3:] * (0.75 / 255)
    grey = numbers @ _MEAN_OF_THREE
    return grey + vividness * (colours - grey)


def paint_background(rng: np.random.Generator, size: int) -> Image:
    """Paint a background: a scalar field in colours of a random palette, or overlapping blobs.

    Args:
        rng: Random generator.
        size: Height and width in pixels.

    Returns:
        Shape (size, size, 3), uint8, RGB.
    """
    import cv2

    kind = rng.random()
    if kind < 0.22:
        field, hard = _ramp(rng, size, rng.uniform(40, 220)), False
    elif kind < 0.50:
        field, hard = _low_frequency(rng, size, rng.uniform(80, 400)), rng.random() < 0.25
    elif kind < 0.66:
        field, hard = _ramp(rng, size, 256 * rng.uniform(2, 14)), rng.random() < 0.5
        field += _low_frequency(rng, size, rng.uniform(0, 120))
    elif kind < 0.80:
        field, hard = _checks(rng, size), rng.random() < 0.7
    else:
        field, hard = _low_frequency(rng, size, rng.uniform(40, 160)), False
    image = np.asarray(cv2.applyColorMap(field, _palette(rng, hard)), np.uint8)
    if kind >= 0.80:
        _paint_blobs(rng, image)
    return image


def _low_frequency(rng: np.random.Generator, size: int, amplitude: float) -> Image:
    """Return smooth noise whose values wrap around at 256, shape (size, size)."""
    import cv2

    cells = int(rng.integers(3, 18))
    grid = rng.random((cells, cells), np.float32) * np.float32(amplitude)
    smooth = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
    return smooth.astype(np.int32).astype(np.uint8)


def _ramp(rng: np.random.Generator, size: int, total: float) -> Image:
    """Return a ramp of ``total`` over the image in a random direction, modulo 256."""
    angle = 2 * math.pi * rng.random()
    step = np.arange(size, dtype=np.float32) * np.float32(total / size)
    down, across = step * np.float32(math.sin(angle)), step * np.float32(math.cos(angle))
    return np.add.outer(down, across).astype(np.int32).astype(np.uint8)


def _checks(rng: np.random.Generator, size: int) -> Image:
    """Return two crossing families of stripes: checks, tiles or tartan."""
    frequency = rng.uniform(2, 9)
    angle = 2 * math.pi * rng.random()
    step = np.arange(size, dtype=np.float32) * np.float32(256 * frequency / size)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    first = np.add.outer(step * sin, step * cos).astype(np.int32).astype(np.uint8)
    second = np.add.outer(step * cos, step * -sin).astype(np.int32).astype(np.uint8)
    return np.bitwise_xor(first, second) if rng.random() < 0.5 else np.maximum(first, second)


def _palette(rng: np.random.Generator, hard: bool) -> Image:
    """Return a cyclic table of 256 colours, shape (256, 1, 3)."""
    count = int(rng.integers(2, 6))
    contrast = 0.3 + 0.7 * rng.random()
    colours = random_colours(rng, count)
    colours = colours[:1] + contrast * (colours - colours[:1])
    position = np.arange(256) * (count / 256)
    index = position.astype(np.int64)
    table = colours[index]
    if not hard:
        after = colours[(index + 1) % count]
        table = table + (position - index)[:, None] * (after - table)
    return table.astype(np.uint8)[:, None]


def _paint_blobs(rng: np.random.Generator, image: Image) -> None:
    import cv2

    size = len(image)
    tones = random_colours(rng, 4)
    for x, y, radius, tone in rng.random((int(rng.integers(10, 36)), 4)).tolist():
        colour = tones[int(4 * tone)] * (0.8 + 0.4 * ((37 * tone) % 1))
        center = (int(x * size), int(y * size))
        cv2.circle(image, center, int(size * (0.01 + 0.09 * radius**2)), colour.tolist(), -1)


def random_distractor(rng: np.random.Generator, size: int) -> Points:
    """Draw the corners of a distractor.

    Discs, rectangles, triangles and other polygons, lemons and sticks are all convex, unlike
    bananas.

    Returns:
        Shape (P, 2), x and y in pixels.
    """
    kind, x, y, turn, scale, aspect = rng.random(6).tolist()
    length = size * (0.03 + 0.17 * scale)
    corners, ratio, pointed = 20, 1.0, False
    if 0.25 <= kind < 0.45:
        ratio, pointed = 0.45 + 0.4 * aspect, aspect < 0.6
    elif 0.45 <= kind < 0.70:
        corners, ratio = 4, 0.3 + 0.7 * aspect
    elif 0.70 <= kind < 0.85:
        corners, ratio, length = 4, 0.06 + 0.1 * aspect, 2 * length
    elif kind >= 0.85:
        corners, ratio = 3 + int(4 * aspect), 0.8
    cos, sin = length * math.cos(2 * math.pi * turn), length * math.sin(2 * math.pi * turn)
    axes = np.array([[cos, sin], [-ratio * sin, ratio * cos]])
    return _unit_polygon(corners, pointed) @ axes + (size * x, size * y)


@lru_cache(maxsize=32)
def _unit_polygon(corners: int, pointed: bool) -> Points:
    angle = (np.arange(corners) + 0.5) * (2 * math.pi / corners)
    polygon = np.stack([np.cos(angle), np.sin(angle)], 1)
    if pointed:  # the two nipples of a lemon
        polygon *= 1 + 0.3 * np.abs(np.cos(angle[:, None])) ** 12
    return polygon


def paint_distractor(rng: np.random.Generator, image: Image, corners: Points) -> None:
    """Paint a distractor in place, often yellow like a banana, mostly with a lighter side."""
    yellow, light, x, y = rng.random(4).tolist()
    colour = random_colours(rng, 1)[0]
    if yellow < 0.3:
        colour = 0.2 * colour + (190, 160, 45)
    fill_polygon(image, corners, colour)
    if light < 0.3:
        return
    shift = np.array([x - 0.5, y - 0.5]) * np.abs(corners[0] - corners.mean(0))
    for shrink, gain in ((0.75, 1.07), (0.5, 1.14)):
        inner = shrink * corners + (1 - shrink) * (corners.mean(0) + shift)
        fill_polygon(image, inner, colour * gain)


def fill_polygon(image: Image, corners: Points, colour: NDArray[np.float64] | int) -> None:
    """Fill a convex polygon in place, with smooth edges for RGB and exact ones for integers."""
    import cv2

    fixed = np.round((corners - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    value = colour if isinstance(colour, int) else colour.tolist()
    line = cv2.LINE_8 if image.ndim == 2 else cv2.LINE_AA
    cv2.fillConvexPoly(image, fixed, value, line, _SUBPIXEL_BITS)


def photograph(rng: np.random.Generator, image: Image) -> Image:
    """Add random camera effects in place: blur, noise, contrast, exposure and tint.

    Returns:
        Shape (3, H, W), uint8, contiguous.
    """
    import cv2

    size = len(image)
    blur, noise, gamma, gain, lift = rng.random(5)
    if blur < 0.5:
        cv2.GaussianBlur(image, (3, 3), 0.4 + blur, dst=image)
    strength = 0.45 * noise * noise
    x, y = rng.integers(0, _NOISE_MARGIN, 2).tolist()
    grain = _grain(size)[y : y + size, x : x + size]
    cv2.addWeighted(image, 1.0, grain, strength, -128 * strength, dst=image)
    ramp = _RAMP_256 ** math.exp(0.7 * gamma - 0.35)
    tint = (0.75 + 0.3 * gain) * rng.uniform(0.94, 1.06, 3)
    table = np.clip(255 * (np.outer(ramp, tint) + 0.1 * lift), 0, 255).astype(np.uint8)
    channels = np.empty((3, size, size), np.uint8)
    cv2.split(image, list(channels))
    for channel, tones in zip(channels, table.T, strict=True):
        cv2.LUT(channel, tones, dst=channel)
    return channels


@lru_cache(maxsize=4)
def _grain(size: int) -> Image:
    """Return noise about 128 of which every image takes a part; fresh noise would take 2 ms."""
    side = size + _NOISE_MARGIN
    noise = np.random.default_rng(20).normal(128, 32, (side, side, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)
