"""Lazy geometry: crops, flips, padding and resizing as one map of coordinates.

A chain of geometric steps only changes a `View`, which costs nothing. Pixels, boxes and masks are
moved once, at the end.
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
    """A map from a window of an image to a rectangle on a canvas; the rest of the canvas is empty.

    Attributes:
        image_size: Height and width of the image in pixels.
        window: Visible part of the image, (x1, y1, x2, y2) in its pixels.
        placed: Where the window lies on the canvas, (x1, y1, x2, y2) in canvas pixels.
        canvas: Height and width of the canvas in pixels.
        transposed: Whether rows and columns are swapped (before the flips below).
        mirrored: Whether left and right are swapped.
        flipped: Whether top and bottom are swapped.

    Example:
        >>> view = View.whole((30, 40)).crop((10, 0, 30, 30)).mirror().resize((60, 40))
        >>> view.window, view.canvas
        ((10.0, 0.0, 30.0, 30.0), (60, 40))
        >>> view.map_boxes(np.array([[10.0, 0.0, 15.0, 30.0]]))
        array([[30.,  0., 40., 60.]])
    """

    image_size: tuple[int, int]
    window: Corners
    placed: Corners
    canvas: tuple[int, int]
    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @classmethod
    def whole(cls, size: tuple[int, int]) -> View:
        """Identity view of an image of (height, width) pixels."""
        corners = (0.0, 0.0, float(size[1]), float(size[0]))
        return cls(size, corners, corners, size)

    @property
    def is_identity(self) -> bool:
        """Whether canvas and image are the same, pixel by pixel."""
        turned = self.transposed or self.mirrored or self.flipped
        full = (0, 0, self.canvas[1], self.canvas[0])
        return not turned and self.window == self.placed == full and self.image_size == self.canvas

    def mirror(self) -> View:
        """Swap left and right."""
        x1, y1, x2, y2 = self.placed
        width = self.canvas[1]
        return replace(self, placed=(width - x2, y1, width - x1, y2), mirrored=not self.mirrored)

    def flip(self) -> View:
        """Swap top and bottom."""
        x1, y1, x2, y2 = self.placed
        height = self.canvas[0]
        return replace(self, placed=(x1, height - y2, x2, height - y1), flipped=not self.flipped)

    def transpose(self) -> View:
        """Swap rows and columns."""
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
        """Stretch the canvas to (height, width) pixels."""
        y, x = size[0] / self.canvas[0], size[1] / self.canvas[1]
        x1, y1, x2, y2 = self.placed
        return replace(self, placed=(x1 * x, y1 * y, x2 * x, y2 * y), canvas=size)

    def crop(self, region: tuple[int, int, int, int]) -> View:
        """Make a region of the canvas the new canvas; it may extend beyond the old one.

        Args:
            region: (x1, y1, x2, y2) in pixels of the canvas, x1 < x2 and y1 < y2.

        Returns:
            The view of this region; pixels from outside of the old canvas are empty.
        """
        x1, y1, x2, y2 = region
        canvas = (y2 - y1, x2 - x1)
        left, top, right, bottom = self.placed
        shown = max(left, x1), max(top, y1), min(right, x2), min(bottom, y2)
        if self.shows_nothing or shown[2] <= shown[0] or shown[3] <= shown[1]:
            return replace(self, placed=(0.0, 0.0, 0.0, 0.0), canvas=canvas)
        # Begin and end of the visible part as fractions of the placed rectangle, in image axes.
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
        """Round window and placement to whole pixels, at least one each.

        Boxes mapped by the rounded view match the moved pixels exactly.
        """
        if self.shows_nothing:
            return self
        left, top, right, bottom = _round(self.placed, self.canvas)
        sides = right - left, bottom - top
        goal_x, goal_y = sides[::-1] if self.transposed else sides
        x1, y1, x2, y2 = _round(self.window, self.image_size)
        x2, y2 = x1 + shrink_to_halves(x2 - x1, goal_x), y1 + shrink_to_halves(y2 - y1, goal_y)
        return replace(self, window=(x1, y1, x2, y2), placed=(left, top, right, bottom))

    @property
    def shows_nothing(self) -> bool:
        """Whether the whole canvas is empty."""
        x1, y1, x2, y2 = self.placed
        return x2 <= x1 or y2 <= y1

    @property
    def scale(self) -> float:
        """Canvas area per unit of image area."""
        scale_x, scale_y = self._affine()[0]
        return abs(scale_x * scale_y)

    def map_boxes(self, boxes: Boxes) -> Boxes:
        """Map boxes from the image to the canvas.

        Args:
            boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels of the image.

        Returns:
            Shape (N, 4), in canvas pixels, not clipped to the canvas.
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
        """Map boxes from the canvas back to the image, for instance those of detections.

        Args:
            boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in canvas pixels.

        Returns:
            Shape (N, 4), same dtype and device, in image pixels, not clipped to the image.
        """
        scale, offset = (boxes.new_tensor(one) for one in self._affine())
        corners = (boxes.reshape(-1, 2, 2) - offset) / scale
        if self.transposed:
            corners = corners.flip(-1)
        return torch.cat([corners.amin(1), corners.amax(1)], dim=1)

    def undo_labels(self, values: Tensor, fill: int | float) -> Tensor:
        """Map per-pixel values from the canvas back to the image, by the nearest pixel.

        Args:
            values: Shape (..., height, width) of the canvas, any dtype and device.
            fill: Value of image pixels that the canvas does not show.

        Returns:
            Shape (..., H, W) of the image, same dtype and device.
        """
        if self.transposed:
            values = values.transpose(-1, -2)
        scales, offsets = self._affine()
        outside = []
        for dim, axis in ((-1, 0), (-2, 1)):
            count, length = self.image_size[1 - axis], values.shape[dim]
            at = (torch.arange(count, device=values.device) + 0.5).double()
            # The affine map gives canvas axes after transposition; undo it for the image axes.
            k = 1 - axis if self.transposed else axis
            low, high = self._placed_range(k, length)
            index = (at * scales[k] + offsets[k]).floor().long()
            outside.append((at < self.window[axis]) | (at > self.window[axis + 2]))
            values = values.index_select(dim, index.clamp(low, high))
        hidden = outside[1][:, None] | outside[0]
        return values.masked_fill(hidden, fill) if bool(hidden.any()) else values

    def _placed_range(self, axis: int, length: int) -> tuple[int, int]:
        """First and last index of canvas pixels that show the image, along x (0) or y (1)."""
        first = int(self.placed[axis] + 0.5)
        return min(first, length - 1), max(first, min(int(self.placed[axis + 2] + 0.5), length) - 1)

    def _affine(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Factors and offsets from image to canvas for x and y, after transposition."""
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
        """Draw an image on the canvas; the view must be on whole pixels.

        Args:
            image: uint8, shape (3, H, W).
            fill: Colour of empty pixels.

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
        """Draw a class map or instance masks on the canvas, by the nearest pixel.

        Args:
            mask: uint8, shape (H, W) or (N, H, W); the view must be on whole pixels.
            fill: Value of empty pixels.

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
    """Round a rectangle inside (height, width) to whole pixels, at least one each way."""
    height, width = size
    x1, y1 = min(round(corners[0]), width - 1), min(round(corners[1]), height - 1)
    return x1, y1, max(round(corners[2]), x1 + 1), max(round(corners[3]), y1 + 1)
