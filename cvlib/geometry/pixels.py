"""Pixels in OpenCV's memory layout, and fast resizing without aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]
Rectangle = tuple[int, int, int, int]


def to_rows(image: Tensor, part: Rectangle | None = None) -> Pixels:
    """Convert an image, or a part of it, to OpenCV's layout of interleaved channels.

    Args:
        image: uint8, shape (3, H, W).
        part: (x1, y1, x2, y2) in pixels; ``None`` for the whole image.

    Returns:
        Shape (h, w, 3). Shares memory with images in channels-last layout, as decoders return them.
    """
    plain = image.as_subclass(Tensor)
    x1, y1, x2, y2 = part or (0, 0, plain.shape[2], plain.shape[1])
    if plain.stride(0) == 1 and plain.stride(2) == 3:
        rows: Pixels = plain.permute(1, 2, 0).numpy()[y1:y2, x1:x2]
        return rows
    import cv2

    planes = np.ascontiguousarray(plain.numpy())
    # merge interleaves thirty times as fast as NumPy copies a transposed array.
    return _pixels(cv2.merge([plane[y1:y2, x1:x2] for plane in planes]))


def to_image(rows: Pixels) -> Tensor:
    """View interleaved pixels as uint8 (3, H, W) in channels-last memory, without a copy."""
    return torch.from_numpy(rows).permute(2, 0, 1)


def resize_pixels(rows: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize an image bilinearly, with averaging where it shrinks.

    Args:
        rows: Shape (H, W, 3).
        size: (height, width), in pixels.

    Returns:
        Shape (height, width, 3).

    Note:
        While a side is at least 2.5 times too long, pairs of pixels are averaged first (without an
        odd last row or column, see `shrink_to_halves`). OpenCV halves both sides at the speed of
        memory; its filter for arbitrary ratios takes eight times as long.
    """
    import cv2

    height, width = size
    for _ in range(max(halvings(rows.shape[0], height), halvings(rows.shape[1], width))):
        by_y, by_x = halvings(rows.shape[0], height) > 0, halvings(rows.shape[1], width) > 0
        new_height, new_width = rows.shape[0] >> by_y, rows.shape[1] >> by_x
        even = rows[: new_height << by_y, : new_width << by_x]
        # Halfway between two pixels, linear interpolation is their mean.
        method = cv2.INTER_AREA if by_y and by_x else cv2.INTER_LINEAR
        rows = _pixels(cv2.resize(even, (new_width, new_height), interpolation=method))
    if rows.shape[:2] == (height, width):
        return rows
    return _pixels(cv2.resize(rows, (width, height), interpolation=cv2.INTER_LINEAR))


def halvings(side: int, goal: int) -> int:
    """Number of times a side is halved before the last, bilinear step brings it to ``goal``.

    The bilinear step reads two neighbours, so it can shrink by up to 2.5 without skipping much.
    Halving from 2 on would more than double the time from 640 x 480 to 300 x 300.
    """
    return (2 * side // (5 * goal)).bit_length()


def shrink_to_halves(side: int, goal: int) -> int:
    """Longest part of a side that can be halved as often as `halvings` requires."""
    return side >> halvings(side, goal) << halvings(side, goal)


def recolour(rows: Pixels, matrix: NDArray[np.float64]) -> Pixels:
    """Apply a colour matrix (3, 4) to all pixels, with rounding and clipping."""
    import cv2

    return _pixels(cv2.transform(rows, matrix))


def resize_classes(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize a class map (H, W): each pixel takes the class at its centre."""
    import cv2

    if mask.shape == size:
        return mask
    goal = (size[1], size[0])
    return _pixels(cv2.resize(mask, goal, interpolation=cv2.INTER_NEAREST_EXACT))


def turn(rows: Pixels, transposed: bool, mirrored: bool, flipped: bool) -> Pixels:
    """Swap rows and columns, then left and right, then top and bottom."""
    import cv2

    if transposed:
        rows = _pixels(cv2.transpose(rows))
    if mirrored or flipped:
        rows = _pixels(cv2.flip(rows, -1 if mirrored and flipped else int(mirrored)))
    return rows


def put(rows: Pixels, canvas: tuple[int, int], at: Rectangle, fill: Sequence[int]) -> Pixels:
    """Place an image on an empty canvas (height, width) of one colour."""
    import cv2

    if rows.shape[:2] == canvas:
        return rows
    x1, y1, x2, y2 = at
    border = y1, canvas[0] - y2, x1, canvas[1] - x2
    return _pixels(cv2.copyMakeBorder(rows, *border, cv2.BORDER_CONSTANT, value=fill))


def _pixels(array: NDArray[Any]) -> Pixels:
    """OpenCV returns uint8 for uint8, unlike its type stubs."""
    return cast(Pixels, array)
