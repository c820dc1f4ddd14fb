"""Geometric steps: flips, crops, changes of scale and size."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from cvlib.data.transforms.base import (
    GeometricStep,
    GeometryPlan,
    draw_uniform,
    draw_uniform_array,
    lerp,
)
from cvlib.data.transforms.targets import clip_to_region
from cvlib.geometry.framing import Framing
from cvlib.geometry.view import Boxes, View
from cvlib.ops import box_iou

Size = tuple[int, int]


class Resize(GeometricStep):
    """Resize an image to a fixed size, without keeping its aspect ratio.

    Args:
        size: Height and width in pixels.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = check_size("Resize", size)

    def plan(self, plan: GeometryPlan) -> None:
        """Resize the canvas."""
        plan.view = plan.view.resize(self.size)


class Letterbox(GeometricStep):
    """Fit an image into a fixed size, keeping its aspect ratio, and pad both sides with grey.

    Args:
        size: Height and width in pixels.

    Example:
        >>> import torch
        >>> letterbox = Letterbox((100, 100))
        >>> letterbox(torch.zeros(3, 40, 80, dtype=torch.uint8)).shape
        torch.Size([3, 100, 100])
        >>> letterbox.view((40, 80)).undo_boxes(torch.tensor([[0.0, 25.0, 50.0, 75.0]]))
        tensor([[ 0.,  0., 40., 40.]])
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = check_size("Letterbox", size)

    def plan(self, plan: GeometryPlan) -> None:
        """Resize and pad the canvas."""
        height, width = self.size
        scale = min(height / plan.size[0], width / plan.size[1])
        inner = _scale_size(plan.size, scale)
        plan.view = plan.view.resize(inner)
        left, top = (width - inner[1]) // 2, (height - inner[0]) // 2
        plan.view = plan.view.crop((-left, -top, width - left, height - top))

    def view(self, image_size: Size) -> View:
        """Return the view of an image; its ``undo_boxes`` maps detections back.

        Args:
            image_size: Height and width of the image in pixels.
        """
        plan = GeometryPlan(image_size, np.zeros((0, 4)))
        self.plan(plan)
        return plan.view.on_whole_pixels()


class Frame(GeometricStep):
    """Bring an image onto the canvas of a model.

    Args:
        framing: How the model sees images.
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing

    def plan(self, plan: GeometryPlan) -> None:
        """Apply the framing to the canvas."""
        plan.view = self.framing.extend(plan.view)


class HorizontalFlip(GeometricStep):
    """Swap left and right.

    Args:
        p: Probability of a flip, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_fraction("HorizontalFlip", "p", p)

    def plan(self, plan: GeometryPlan) -> None:
        """Flip with probability ``p``."""
        if draw_uniform(1)[0] < self.p:
            plan.view = plan.view.mirror()


class VerticalFlip(GeometricStep):
    """Swap top and bottom.

    Args:
        p: Probability of a flip, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_fraction("VerticalFlip", "p", p)

    def plan(self, plan: GeometryPlan) -> None:
        """Flip with probability ``p``."""
        if draw_uniform(1)[0] < self.p:
            plan.view = plan.view.flip()


class Transpose(GeometricStep):
    """Swap rows and columns of square images; leave other images unchanged.

    Args:
        p: Probability of a transposition, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_fraction("Transpose", "p", p)

    def plan(self, plan: GeometryPlan) -> None:
        """Transpose with probability ``p``."""
        if draw_uniform(1)[0] < self.p and plan.size[0] == plan.size[1]:
            plan.view = plan.view.transpose()


class ZoomOut(GeometricStep):
    """Place an image at random on a larger grey canvas, which makes objects smaller.

    Args:
        max_ratio: Largest ratio of the canvas sides to the image sides; the smallest is 1.
        p: Probability of the change, in [0, 1].

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 3.6.
    """

    def __init__(self, max_ratio: float = 4.0, p: float = 0.5) -> None:
        super().__init__()
        if not max_ratio >= 1:
            raise ValueError(f"ZoomOut: expected `max_ratio` to be at least 1, got {max_ratio}")
        self.max_ratio, self.p = max_ratio, check_fraction("ZoomOut", "p", p)

    def plan(self, plan: GeometryPlan) -> None:
        """Enlarge the canvas with probability ``p``."""
        chance, ratio, x, y = draw_uniform(4)
        if chance >= self.p:
            return
        height, width = plan.size
        new_height, new_width = _scale_size(plan.size, lerp(1, self.max_ratio, ratio))
        left, top = round(x * (new_width - width)), round(y * (new_height - height))
        plan.view = plan.view.crop((-left, -top, new_width - left, new_height - top))


class IoUCrop(GeometricStep):
    """SSD's random crop with a minimum IoU with an object.

    The minimum IoU is drawn from `min_ious`, where ``None`` means no crop. Of ``tries`` crops with
    sides of .3 to 1 of the image and aspect ratios from 1:2 to 2:1, the first one that reaches the
    minimum is taken; if none does, another minimum is drawn. Objects with their centre outside the
    crop are removed; at least one remains. An image without objects gets any crop.

    Args:
        tries: Number of crops to choose from.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 2.2.
    """

    min_ious = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    min_side = 0.3
    max_aspect_ratio = 2.0

    def __init__(self, tries: int = 40) -> None:
        super().__init__()
        if tries < 1:
            raise ValueError(f"IoUCrop: expected `tries` to be at least 1, got {tries}")
        self.tries = tries

    def plan(self, plan: GeometryPlan) -> None:
        """Crop the canvas, or leave it as it is."""
        crops = self._draw_crops(plan.size)
        boxes = plan.boxes
        inside = have_centres_inside(boxes, crops) & plan.kept  # (crops, N)
        if plan.kept.any():
            ious = box_iou(torch.from_numpy(crops.astype(np.float64)), torch.from_numpy(boxes))
            best = np.where(inside, ious.numpy(), -1.0).max(1)
        else:
            best = np.full(len(crops), np.inf)
        for index in np.argsort(draw_uniform(len(self.min_ious))).tolist():
            min_iou = self.min_ious[index]
            if min_iou is None:
                return
            is_allowed = best >= min_iou
            if is_allowed.any():
                break
        chosen = int(is_allowed.argmax())
        x1, y1, x2, y2 = crops[chosen].tolist()
        plan.kept &= inside[chosen]
        plan.view = plan.view.crop((x1, y1, x2, y2))

    def _draw_crops(self, size: Size) -> NDArray[np.int64]:
        """Draw crops of allowed aspect ratios, (x1, y1, x2, y2), shape (at most tries, 4)."""
        numbers = draw_uniform_array(4, self.tries)
        image_sides = np.array([[size[1]], [size[0]]])
        fractions = self.min_side + (1 - self.min_side) * numbers[:2]
        sides = np.maximum((image_sides * fractions).astype(np.int64), 1)
        corners = (numbers[2:] * (image_sides - sides + 1)).astype(np.int64)
        aspect_ratios = sides[0] / sides[1]
        bound = self.max_aspect_ratio
        is_allowed = (aspect_ratios <= bound) & (aspect_ratios >= 1 / bound)
        return np.concatenate([corners, corners + sides])[:, is_allowed].T


class ScaleJitter(GeometricStep):
    """Resize an image by a random factor, keeping its aspect ratio.

    Args:
        scale_range: Smallest and largest factor, drawn uniformly.
    """

    def __init__(self, scale_range: tuple[float, float] = (0.5, 2.0)) -> None:
        super().__init__()
        low, high = scale_range
        if not 0 < low <= high:
            raise ValueError(
                f"ScaleJitter: expected `scale_range` to be (low, high) with 0 < low <= high, got "
                f"{scale_range}"
            )
        self.scale_range = scale_range

    def plan(self, plan: GeometryPlan) -> None:
        """Resize the canvas."""
        scale = lerp(*self.scale_range, draw_uniform(1)[0])
        plan.view = plan.view.resize(_scale_size(plan.size, scale))


class FixedCrop(GeometricStep):
    """Crop a region of fixed size at random, padding where the canvas is smaller.

    Of ``tries`` regions the first one that contains the centre of an object is taken, if any.

    Args:
        size: Height and width in pixels.
        tries: Number of regions to choose from.
    """

    def __init__(self, size: Size, tries: int = 10) -> None:
        super().__init__()
        if tries < 1:
            raise ValueError(f"FixedCrop: expected `tries` to be at least 1, got {tries}")
        self.size, self.tries = check_size("FixedCrop", size), tries

    def plan(self, plan: GeometryPlan) -> None:
        """Crop and pad the canvas."""
        numbers = draw_uniform_array(2, self.tries)
        height, width = self.size
        free_y, free_x = plan.size[0] - height, plan.size[1] - width
        y, x = np.round(free_y * numbers[0]), np.round(free_x * numbers[1])
        crops = np.stack([x, y, x + width, y + height], axis=1).astype(np.int64)
        has_object = have_centres_inside(plan.boxes[plan.kept], crops).any(1)
        x1, y1, x2, y2 = crops[int(has_object.argmax())].tolist()
        plan.view = plan.view.crop((x1, y1, x2, y2))


class RandomResizedCrop(GeometricStep):
    """Crop a random region and resize it, as in image classification.

    Args:
        size: Height and width of the result in pixels.
        scale: Smallest and largest area of the crop, as a fraction of the image.
        max_aspect_ratio: Largest ratio of the longer to the shorter side of the crop.

    References:
        Szegedy et al., "Going Deeper with Convolutions" (2014), section 6.
    """

    tries = 10

    def __init__(
        self, size: Size, scale: tuple[float, float] = (0.08, 1.0), max_aspect_ratio: float = 4 / 3
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                "RandomResizedCrop: expected `scale` to be (low, high) with 0 < low <= high <= 1, "
                f"got {scale}"
            )
        if not max_aspect_ratio >= 1:
            raise ValueError(
                "RandomResizedCrop: expected `max_aspect_ratio` to be at least 1, got "
                f"{max_aspect_ratio}"
            )
        self.size = check_size("RandomResizedCrop", size)
        self.scale, self.max_aspect_ratio = scale, max_aspect_ratio

    def plan(self, plan: GeometryPlan) -> None:
        """Crop and resize; falls back to the largest central region if no draw fits."""
        height, width = plan.size
        bound = math.log(self.max_aspect_ratio)
        for _ in range(self.tries):
            fraction, aspect, x, y = draw_uniform(4)
            area = height * width * lerp(*self.scale, fraction)
            ratio = math.exp(lerp(-bound, bound, aspect))
            w, h = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
            if w <= width and h <= height:
                left, top = round(x * (width - w)), round(y * (height - h))
                break
        else:
            w = max(1, min(width, round(height * self.max_aspect_ratio)))
            h = max(1, min(height, round(width * self.max_aspect_ratio)))
            left, top = (width - w) // 2, (height - h) // 2
        plan.view = plan.view.crop((left, top, left + w, top + h)).resize(self.size)


class CenterCrop(GeometricStep):
    """Crop the centre of an image in the aspect ratio of ``size`` and resize it to that size.

    Args:
        size: Height and width of the result in pixels.
        fraction: Sides of the crop as a fraction of the largest one that fits; .875 is the usual
            224 of 256 pixels.
    """

    def __init__(self, size: Size, fraction: float = 0.875) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"CenterCrop: expected `fraction` to be in (0, 1], got {fraction}")
        self.size, self.fraction = check_size("CenterCrop", size), fraction

    def plan(self, plan: GeometryPlan) -> None:
        """Crop and resize the canvas."""
        height, width = plan.size
        scale = self.fraction * min(height / self.size[0], width / self.size[1])
        h, w = map(min, plan.size, _scale_size(self.size, scale))
        left, top = (width - w) // 2, (height - h) // 2
        plan.view = plan.view.crop((left, top, left + w, top + h)).resize(self.size)


class ShiftScale(GeometricStep):
    """Shift and scale an image slightly within its canvas.

    An image that would lose an object entirely is left in place.

    Args:
        max_scale: Largest factor by which the image is enlarged or shrunk.
        max_shift: Largest shift as a fraction of the sides.
        p: Probability of the change, in [0, 1].
        min_visibility: Objects of which a smaller share remains in a moved image are removed.
    """

    def __init__(
        self,
        max_scale: float = 1.2,
        max_shift: float = 0.1,
        p: float = 0.5,
        min_visibility: float = 0.5,
    ) -> None:
        super().__init__()
        if not max_scale >= 1:
            raise ValueError(f"ShiftScale: expected `max_scale` to be at least 1, got {max_scale}")
        self.max_scale = max_scale
        self.max_shift = check_fraction("ShiftScale", "max_shift", max_shift)
        self.p = check_fraction("ShiftScale", "p", p)
        self.min_visibility = check_fraction("ShiftScale", "min_visibility", min_visibility)

    def plan(self, plan: GeometryPlan) -> None:
        """Shift and scale with probability ``p``."""
        chance, ratio, x, y = draw_uniform(4)
        if chance >= self.p:
            return
        height, width = plan.size
        new_height, new_width = _scale_size(plan.size, self.max_scale ** (2 * ratio - 1))
        left = round((new_width - width) / 2 + self.max_shift * width * (2 * x - 1))
        top = round((new_height - height) / 2 + self.max_shift * height * (2 * y - 1))
        region = (left, top, left + width, top + height)
        moved = plan.view.resize((new_height, new_width)).crop(region)
        boxes = clip_to_region(plan.boxes[plan.kept], (0, 0, width, height))
        scale = new_width / width, new_height / height
        boxes = clip_to_region(boxes * (scale * 2), region)
        if (boxes[:, 2:] > boxes[:, :2]).all() and not moved.shows_nothing:
            plan.view = moved
            plan.min_visibility = max(plan.min_visibility, self.min_visibility)


def have_centres_inside(boxes: Boxes, crops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) have their centres inside crops (C, 4), shape (C, N)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    crops = crops[:, None]
    after, before = centres > crops[..., :2], centres < crops[..., 2:]
    return after[..., 0] & after[..., 1] & before[..., 0] & before[..., 1]


def check_size(function: str, size: Size, argument: str = "size") -> Size:
    """Return a size if it is (height, width) in whole positive pixels, raise otherwise."""
    is_whole = isinstance(size, tuple | list) and all(isinstance(side, int) for side in size)
    if not is_whole or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"{function}: expected `{argument}` to be (height, width) in whole pixels, got {size!r}"
        )
    return size[0], size[1]


def check_fraction(function: str, argument: str, value: float) -> float:
    """Return a value if it is in [0, 1], raise otherwise."""
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: expected `{argument}` to be in [0, 1], got {value}")
    return value


def _scale_size(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
