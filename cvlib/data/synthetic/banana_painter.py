"""Procedural bananas: drawn straight in a small texture, then bent along an arc.

The texture has ``s`` (along the banana, 0 at the stem, 1 at the tip) from left to right and ``r``
(across it, in units of the largest half width) from top to bottom. Two textures share this layout:
colours, and the signed distance to the outline, whose sign is the exact mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_COLUMNS, _ROWS = 79, 32
_S_MARGIN = 0.08  # texture beyond both ends, where the outline fades out
_R_REACH = 1.7  # texture beyond the sides
_BOUND = slice(5, _COLUMNS - 5, 4)  # from just before the stem to just after the tip
_S_SCALE = (_COLUMNS - 1) / (1 + 2 * _S_MARGIN)
_R_SCALE = (_ROWS - 1) / (2 * _R_REACH)

_GREEN = np.array([122, 160, 58], np.float32)
_YELLOW = np.array([240, 205, 62], np.float32)
_OVERRIPE = np.array([214, 158, 44], np.float32)
_STEM = np.array([128, 116, 52], np.float32)
_DARK = np.array([58, 40, 22], np.float32)


@dataclass(frozen=True)
class Peel:
    """A banana before it is placed, in units of its length.

    Attributes:
        bend: Angle of the arc in radians.
        half_width: Largest half width over the length of the centre line.
        profile: Shape (columns,): half width, in units of ``half_width``.
        middle: Shape (columns,): shift of the centre line, in units of ``half_width``.
        distance: Shape (rows, columns), float32: signed distance to the outline, positive inside.
        colours: Shape (rows, columns, 3), uint8 RGB.
    """

    bend: float
    half_width: float
    profile: Array
    middle: Array
    distance: Array
    colours: NDArray[np.uint8]


@dataclass(frozen=True)
class Pose:
    """Orientation of a banana.

    Attributes:
        rotation: Angle in radians.
        squash: Scale along the axis through the middle of the arc, as if viewed at a slant;
            negative mirrors the banana.
    """

    rotation: float
    squash: float


@dataclass(frozen=True)
class Banana:
    """A banana rendered into a window of the image plane.

    Attributes:
        left: Column of the window's first pixel; may lie outside the image.
        top: Row of the window's first pixel; may lie outside the image.
        alpha: Coverage of each pixel, shape (h, w), float32 in 0..1.
        mask: Pixels that are at least half covered, shape (h, w), uint8 0 or 1.
        u: Texture column of each pixel, shape (h, w), float32.
        v: Texture row of each pixel, shape (h, w), float32.
    """

    left: int
    top: int
    alpha: Array
    mask: NDArray[np.uint8]
    u: Array
    v: Array


_STATIONS = np.array([0.0, 0.09, 0.17, 0.30, 0.45, 0.60, 0.75, 0.88, 0.95, 1.0], np.float32)
_WIDTHS = np.array([0.24, 0.20, 0.42, 0.80, 0.98, 1.0, 0.86, 0.52, 0.28, 0.16], np.float32)


@lru_cache(maxsize=1)
def _grid() -> tuple[Array, Array]:
    s = np.linspace(-_S_MARGIN, 1 + _S_MARGIN, _COLUMNS, dtype=np.float32)
    r = np.linspace(-_R_REACH, _R_REACH, _ROWS, dtype=np.float32)[:, None]
    return s, r


def random_peel(rng: np.random.Generator) -> Peel:
    """Draw the shape and colours of a banana."""
    bend, width, sway = rng.random(3)
    bend, half_width = math.radians(75 + 75 * bend), 0.095 + 0.045 * width
    s, r = _grid()
    profile = np.interp(s, _STATIONS, _WIDTHS * rng.uniform(0.88, 1.12, 10)).astype(np.float32)
    profile[2:-2] = np.convolve(profile, np.full(5, 0.2, np.float32), "valid")
    middle = np.float32(3.2 * (2 * sway - 1)) * (s - np.float32(0.5)) ** 3
    inside = (profile - np.abs(r - middle)) * np.float32(half_width)
    distance = np.minimum(inside, np.minimum(s, 1 - s))
    across = np.clip((r - middle) / np.maximum(profile, 0.1), -1, 1)
    return Peel(bend, half_width, profile, middle, distance, _random_colours(rng, across))


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a rotation, a slant and a mirroring."""
    rotation, squash, mirror = rng.random(3)
    return Pose(2 * math.pi * rotation, (0.8 + 0.2 * squash) * (-1 if mirror < 0.5 else 1))


def bounding_box(peel: Peel, pose: Pose) -> NDArray[np.float64]:
    """Return the box (x1, y1, x2, y2) about the centre of the arc, for a banana of length 1."""
    s, _ = _grid()
    # Every fourth column: the extremum of the arc is missed by less than .1 pixel.
    s, profile, middle = s[_BOUND], peel.profile[_BOUND], peel.middle[_BOUND]
    angle = s * np.float32(peel.bend) + np.float32(math.pi - peel.bend / 2)
    radius = 1 / peel.bend + peel.half_width * np.stack([middle + profile, middle - profile])
    x, y = radius * np.cos(angle) * pose.squash, radius * np.sin(angle)
    cos, sin = math.cos(pose.rotation), math.sin(pose.rotation)
    across, down = cos * x - sin * y, sin * x + cos * y
    return np.array([across.min(), down.min(), across.max(), down.max()])


def place(peel: Peel, pose: Pose, box: NDArray[np.float64]) -> Banana:
    """Render a banana into a box.

    Args:
        peel: Shape and colours.
        pose: Orientation.
        box: (x1, y1, x2, y2) in pixels, with the aspect ratio of ``bounding_box``.

    Returns:
        Coverage and texture coordinates in a window around the box.
    """
    import cv2

    unit = bounding_box(peel, pose)
    length = float((box[2:] - box[:2]).max() / (unit[2:] - unit[:2]).max())
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    left, top, right, bottom = left - 2, top - 2, right + 2, bottom + 2
    dx = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - box[0] + length * unit[0])
    dy = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - box[1] + length * unit[1])
    u, v = _texture_coordinates(peel, pose, dx, dy, length)
    distance = cv2.remap(
        peel.distance, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-9
    )
    mask = (distance >= 0).view(np.uint8)
    alpha = np.clip(distance * np.float32(length) + np.float32(0.5), 0, 1).astype(np.float32)
    return Banana(left, top, alpha, mask, u, v)


def _texture_coordinates(
    peel: Peel, pose: Pose, dx: Array, dy: Array, length: float
) -> tuple[Array, Array]:
    """Return texture columns and rows of pixels at ``dx``, ``dy`` from the centre of the arc."""
    import cv2

    cos, sin, squash = math.cos(pose.rotation), math.sin(pose.rotation), pose.squash
    x = np.add.outer(dy * np.float32(sin / squash), dx * np.float32(cos / squash))
    y = np.add.outer(dy * np.float32(cos), dx * np.float32(-sin))
    v, u = cv2.cartToPolar(x, y)
    u *= np.float32(_S_SCALE / peel.bend)
    u += np.float32((0.5 + _S_MARGIN - math.pi / peel.bend) * _S_SCALE)
    v *= np.float32(_R_SCALE / (peel.half_width * length))
    v += np.float32((_R_REACH - 1 / (peel.bend * peel.half_width)) * _R_SCALE)
    return u, v


def paint(banana: Banana, peel: Peel) -> NDArray[np.uint8]:
    """Return the colours of a banana in its window, shape (h, w, 3), uint8."""
    import cv2

    u, v = banana.u, banana.v
    bent = cv2.remap(peel.colours, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(bent, np.uint8)


def _random_colours(rng: np.random.Generator, across: Array) -> NDArray[np.uint8]:
    """Draw ripeness, shading, a ridge, dark ends and brown spots."""
    import cv2

    s, _ = _grid()
    peel = _ripeness(rng, s)  # [columns, 3]
    colours = peel * _shade(rng, across)[:, :, None]  # [rows, columns, 3]
    texture: NDArray[np.uint8] = np.clip(colours, 0, 255).astype(np.uint8)
    _spot(rng, texture)
    return np.asarray(cv2.blur(texture, (3, 3)), np.uint8)


def _ripeness(rng: np.random.Generator, s: Array) -> Array:
    ripeness, value, green_ends, dark_tip = rng.random(4).astype(np.float32)
    if ripeness < 0.3:
        body = _GREEN + (_YELLOW - _GREEN) * (ripeness / 0.3)
    elif ripeness < 0.75:
        body = _YELLOW
    else:
        body = _YELLOW + (_OVERRIPE - _YELLOW) * ((ripeness - 0.75) / 0.25)
    body = (body + rng.normal(0, 7, 3)) * (0.85 + 0.2 * value)
    ends = np.clip(1 - np.minimum(s, 1 - s) / 0.28, 0, 1) * (0.6 * green_ends)
    stem = np.clip((0.17 - s) / 0.10, 0, 1) * 0.8
    dark = np.clip((0.05 - s) / 0.03, 0, 1) * 0.8 + np.clip((s - 0.94) / 0.03, 0, 1) * (
        0.5 + 0.5 * dark_tip
    )
    peel = body + ends[:, None] * (_GREEN - body)
    peel = peel + stem[:, None] * (_STEM - peel)
    return (peel + dark[:, None] * (_DARK - peel)).astype(np.float32)


def _shade(rng: np.random.Generator, across: Array) -> Array:
    """Return the brightness of a round peel, lit from one side, with a faint ridge."""
    light, depth, ridge, strength = rng.random(4).astype(np.float32)
    lit = across - (light * np.float32(1.2) - np.float32(0.6))
    shade = np.float32(1.08) - (np.float32(0.22) + np.float32(0.2) * depth) * lit * lit
    position = ridge * np.float32(0.8) - np.float32(0.4)
    shade -= (np.float32(0.16) * strength) * (across > position)
    return shade


def _spot(rng: np.random.Generator, texture: NDArray[np.uint8]) -> None:
    """Draw brown spots and scratches in place."""
    import cv2

    count = int(rng.integers(-8, 16))
    if count <= 0:
        return
    numbers = rng.random((count, 5))
    for x, y, size, aspect, tone in numbers.tolist():
        center = (int(14 + (_COLUMNS - 26) * x), int(_ROWS * (0.2 + 0.6 * y)))
        axes = (1 + int(size * size * 5 * (0.5 + aspect)), 1 + int(size * size * 2))
        colour = (110 + 50 * tone, 74 + 40 * tone, 28 + 16 * tone)
        cv2.ellipse(texture, center, axes, 0, 0, 360, colour, -1)
