"""Which part of an image is shown where: geometry that is decided first and carried out once.

A chain of crops, paddings, flips and resizes is one map of coordinates. Steps change a `View`,
which costs nothing; at the end every pixel, box and mask is moved by it, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib.geometry.pixels import (
    put,
    resize_classes,
    resize_pixels,
    shrink_to_halves,
    to_image,
    to_rows,
    turn,
)

Boxes = NDArray[np.float64]
Corners = tuple[float, float, float, float]

VOID = 255
# Fill colour of empty canvas: ImageNet's mean.
BORDER = (124, 116, 104)


@dataclass(frozen=True)
class View:
    """A part of an image, shown on a canvas; whatever else the canvas has is empty.

    Attributes:
        image: (height, width) of the image.
        window: The part that is shown, (x1, y1, x2, y2) in pixels of the image.
        placed: Where it is shown, (x1, y1, x2, y2) in pixels of the canvas.
        canvas: (height, width) in pixels.
        transposed: Rows are shown as columns; before the two below.
        mirrored: Left is shown right.
        flipped: The top is shown at the bottom.

    Example:
        >>> view = View.whole((30, 40)).crop((10, 0, 30, 30)).mirror().resize((60, 40))
        >>> view.window, view.canvas
        ((10.0, 0.0, 30.0, 30.0), (60, 40))
        >>> view.map_boxes(np.array([[10.0, 0.0, 15.0, 30.0]]))
        array([[30.,  0., 40., 60.]])
    """

    image: tuple[int, int]
    window: Corners
    placed: Corners
    canvas: tuple[int, int]
    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @classmethod
    def whole(cls, size: tuple[int, int]) -> View:
        """Shows an image of (height, width) pixels as it is."""
        corners = (0.0, 0.0, float(size[1]), float(size[0]))
        return cls(size, corners, corners, size)

    @property
    def is_identity(self) -> bool:
        """Says whether the canvas is the image, pixel by pixel."""
        turned = self.transposed or self.mirrored or self.flipped
        full = (0, 0, self.canvas[1], self.canvas[0])
        return not turned and self.window == self.placed == full

    def mirror(self) -> View:
        """Swaps left and right."""
        x1, y1, x2, y2 = self.placed
        width = self.canvas[1]
        return replace(self, placed=(width - x2, y1, width - x1, y2), mirrored=not self.mirrored)

    def flip(self) -> View:
        """Swaps top and bottom."""
        x1, y1, x2, y2 = self.placed
        height = self.canvas[0]
        return replace(self, placed=(x1, height - y2, x2, height - y1), flipped=not self.flipped)

    def transpose(self) -> View:
        """Swaps rows and columns."""
        x1, y1, x2, y2 = self.placed
        return replace(
            self,
            placed=(y1, x1, y2, x2),
            canvas=(self.canvas[1], self.canvas[0]),
            transposed=not self.transposed,
            mirrored=self.flipped,
            flipped=self.mirrored,
        )

    def resize(self, size: tuple[int, int]) -> View:
        """Stretches the canvas to (height, width) pixels."""
        y, x = size[0] / self.canvas[0], size[1] / self.canvas[1]
        x1, y1, x2, y2 = self.placed
        return replace(self, placed=(x1 * x, y1 * y, x2 * x, y2 * y), canvas=size)

    def crop(self, region: tuple[int, int, int, int]) -> View:
        """Makes a region of the canvas the new canvas; what lies outside of the old one is empty.

        Args:
            region: (x1, y1, x2, y2) in pixels of the canvas, x1 < x2 and y1 < y2.

        Returns:
            The view of this region.
        """
        x1, y1, x2, y2 = region
        canvas = (y2 - y1, x2 - x1)
        left, top, right, bottom = self.placed
        shown = max(left, x1), max(top, y1), min(right, x2), min(bottom, y2)
        if self.shows_nothing or shown[2] <= shown[0] or shown[3] <= shown[1]:
            return replace(self, placed=(0.0, 0.0, 0.0, 0.0), canvas=canvas)
        # Where the shown part begins and ends, as shares of what is placed; in the image's axes.
        along_x = (shown[0] - left) / (right - left), (shown[2] - left) / (right - left)
        along_y = (shown[1] - top) / (bottom - top), (shown[3] - top) / (bottom - top)
        if self.mirrored:
            along_x = 1 - along_x[1], 1 - along_x[0]
        if self.flipped:
            along_y = 1 - along_y[1], 1 - along_y[0]
        if self.transposed:
            along_x, along_y = along_y, along_x
        x, y = self.window[:2]
        width, height = self.window[2] - x, self.window[3] - y
        return replace(
            self,
            window=(
                x + along_x[0] * width,
                y + along_y[0] * height,
                x + along_x[1] * width,
                y + along_y[1] * height,
            ),
            placed=(shown[0] - x1, shown[1] - y1, shown[2] - x1, shown[3] - y1),
            canvas=canvas,
        )

    def on_whole_pixels(self) -> View:
        """Rounds window and place to pixels, each to one pixel at least.

        Boxes that are mapped by the rounded view lie exactly where the pixels lie.
        """
        if self.shows_nothing:
            return self
        left, top, right, bottom = _round(self.placed, self.canvas)
        sides = right - left, bottom - top
        goal_x, goal_y = sides[::-1] if self.transposed else sides
        x1, y1, x2, y2 = _round(self.window, self.image)
        x2, y2 = x1 + shrink_to_halves(x2 - x1, goal_x), y1 + shrink_to_halves(y2 - y1, goal_y)
        return replace(self, window=(x1, y1, x2, y2), placed=(left, top, right, bottom))

    @property
    def shows_nothing(self) -> bool:
        """Says whether all of the canvas is empty."""
        x1, y1, x2, y2 = self.placed
        return x2 <= x1 or y2 <= y1

    @property
    def scale(self) -> float:
        """Pixels of the canvas for each pixel of the image."""
        scale_x, scale_y = self._affine()[0]
        return abs(scale_x * scale_y)

    def map_boxes(self, boxes: Boxes) -> Boxes:
        """Moves boxes from the image to the canvas.

        Args:
            boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels of the image.

        Returns:
            Shape (N, 4), in pixels of the canvas; parts that are not shown are not cut off.
        """
        (scale_x, scale_y), (offset_x, offset_y) = self._affine()
        if self.transposed:
            boxes = boxes[:, [1, 0, 3, 2]]
        moved = boxes * (scale_x, scale_y, scale_x, scale_y)
        moved += (offset_x, offset_y, offset_x, offset_y)
        if self.mirrored:
            moved = moved[:, [2, 1, 0, 3]]
        return moved[:, [0, 3, 2, 1]] if self.flipped else moved

    def undo_boxes(self, boxes: Tensor) -> Tensor:
        """Moves boxes from the canvas back to the image, for instance those of detections.

        Args:
            boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in pixels of the canvas.

        Returns:
            Shape (N, 4), same dtype and device, in pixels of the image.
        """
        scale, offset = (boxes.new_tensor(one) for one in self._affine())
        corners = (boxes.reshape(-1, 2, 2) - offset) / scale
        if self.transposed:
            corners = corners.flip(-1)
        return torch.cat([corners.amin(1), corners.amax(1)], dim=1)

    def _affine(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Factors and shifts that give x and y of the canvas, after transposition."""
        x, y, right, bottom = self.window
        if self.transposed:
            x, y, right, bottom = y, x, bottom, right
        left, top = self.placed[:2]
        scale_x, scale_y = (
            (self.placed[2] - left) / (right - x),
            (self.placed[3] - top) / (bottom - y),
        )
        if self.mirrored:
            left, scale_x = self.placed[2], -scale_x
        if self.flipped:
            top, scale_y = self.placed[3], -scale_y
        return (scale_x, scale_y), (left - scale_x * x, top - scale_y * y)

    def show(self, image: Tensor, fill: tuple[int, int, int] = BORDER) -> Tensor:
        """Moves an image.

        Args:
            image: uint8, shape (3, H, W); the view is on whole pixels.
            fill: Colour of what is empty.

        Returns:
            uint8, shape (3, height, width) of the canvas.
        """
        if self.is_identity:
            return image.as_subclass(Tensor)
        if self.shows_nothing:
            return to_image(np.full((*self.canvas, 3), fill, np.uint8))
        window, placed = _whole(self.window), _whole(self.placed)
        rows = resize_pixels(to_rows(image, window), self._size_before_turning())
        rows = turn(rows, self.transposed, self.mirrored, self.flipped)
        return to_image(put(np.ascontiguousarray(rows), self.canvas, placed, fill))

    def show_classes(self, mask: Tensor, fill: int) -> Tensor:
        """Moves a map of classes or an object's mask, without mixing values.

        Args:
            mask: uint8, shape (H, W) or (N, H, W); the view is on whole pixels.
            fill: Value of what is empty.

        Returns:
            uint8, shape (height, width) or (N, height, width) of the canvas.
        """
        plain = mask.as_subclass(Tensor)
        if self.is_identity:
            return plain
        result = np.full((*plain.shape[:-2], *self.canvas), fill, np.uint8)
        if not self.shows_nothing:
            x1, y1, x2, y2 = _whole(self.window)
            left, top, right, bottom = _whole(self.placed)
            pairs = zip(
                plain.reshape(-1, *plain.shape[-2:]).numpy(),
                result.reshape(-1, *self.canvas),
                strict=True,
            )
            for source, target in pairs:
                rows = resize_classes(source[y1:y2, x1:x2], self._size_before_turning())
                rows = turn(rows, self.transposed, self.mirrored, self.flipped)
                target[top:bottom, left:right] = rows
        return torch.from_numpy(result)

    def _size_before_turning(self) -> tuple[int, int]:
        x1, y1, x2, y2 = _whole(self.placed)
        return (x2 - x1, y2 - y1) if self.transposed else (y2 - y1, x2 - x1)


def _whole(corners: Corners) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = corners
    return int(x1), int(y1), int(x2), int(y2)


def _round(corners: Corners, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rounds a rectangle inside of (height, width), to one pixel at least."""
    height, width = size
    x1, y1 = min(round(corners[0]), width - 1), min(round(corners[1]), height - 1)
    return x1, y1, max(round(corners[2]), x1 + 1), max(round(corners[3]), y1 + 1)
