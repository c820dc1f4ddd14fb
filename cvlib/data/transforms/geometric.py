"""Steps of geometry: flips, crops, changes of scale and size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cvlib.data.transforms.base import GeometricStep, Plan, between, draw, draw_rows
from cvlib.data.transforms.targets import area_of, clip_corners
from cvlib.geometry.view import Boxes, View


class IoUCrop(GeometricStep):
    """SSD's crop: a random part of the image that overlaps an object as much as drawn.

    A demand is drawn: no crop at all, any crop, or one with an IoU of at least .1, .3, .5, .7 or .9
    with an object. Of ``tries`` crops of .3 to 1 of each side and shapes from 1:2 to 2:1 the first
    one is taken that meets it; where none does, another demand is drawn. Objects whose centre is
    outside of the crop are removed; at least one is left. An image without objects gets any crop.

    Args:
        tries: Crops to choose from.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 2.2.
    """

    demands = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    smallest_side = 0.3
    largest_aspect = 2.0

    def __init__(self, tries: int = 40) -> None:
        super().__init__()
        if tries < 1:
            raise ValueError(f"IoUCrop: expected tries >= 1, got {tries}")
        self.tries = tries

    def plan(self, plan: Plan) -> None:
        """Crops, or leaves the image whole."""
        crops = self._draw_crops(plan.size)
        boxes = plan.boxes
        inside = have_centres_inside(boxes, crops) & plan.kept  # (crops, N)
        if plan.kept.any():
            best = np.where(inside, _iou(crops, boxes), -1.0).max(1)
        else:
            best = np.full(len(crops), np.inf)
        for number in np.argsort(draw(len(self.demands))).tolist():
            demand = self.demands[number]
            if demand is None:
                return
            meets = best >= demand
            if meets.any():
                break
        chosen = int(meets.argmax())
        x1, y1, x2, y2 = crops[chosen].tolist()
        plan.kept &= inside[chosen]
        plan.view = plan.view.crop((x1, y1, x2, y2))

    def _draw_crops(self, size: Size) -> NDArray[np.int64]:
        """Crops of allowed shapes, (x1, y1, x2, y2) in whole pixels: shape (at most tries, 4)."""
        numbers = draw_rows(4, self.tries)
        whole = np.array([[size[1]], [size[0]]])
        shares = self.smallest_side + (1 - self.smallest_side) * numbers[:2]
        sides = np.maximum((whole * shares).astype(np.int64), 1)
        near = (numbers[2:] * (whole - sides + 1)).astype(np.int64)
        aspect = sides[0] / sides[1]
        allowed = (aspect <= self.largest_aspect) & (aspect >= 1 / self.largest_aspect)
        return np.concatenate([near, near + sides])[:, allowed].T


def _iou(crops: NDArray[np.int64], boxes: Boxes) -> NDArray[np.float64]:
    """IoU of every crop (C, 4) with every box (N, 4): shape (C, N)."""
    low = np.maximum(crops[:, None, :2], boxes[:, :2])
    high = np.minimum(crops[:, None, 2:], boxes[:, 2:])
    common = area_of(np.concatenate([low, np.maximum(low, high)], axis=-1))
    iou: NDArray[np.float64] = common / (area_of(crops)[:, None] + area_of(boxes) - common)
    return iou


Size = tuple[int, int]


class Resize(GeometricStep):
    """Stretches an image to a size, whatever its shape.

    Args:
        size: (height, width) in pixels.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = check_size("Resize", size)

    def plan(self, plan: Plan) -> None:
        """Resizes."""
        plan.view = plan.view.resize(self.size)


class Letterbox(GeometricStep):
    """Makes an image fit into a size without changing its shape; the rest is grey.

    Args:
        size: (height, width) in pixels.

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

    def plan(self, plan: Plan) -> None:
        """Resizes and pads on both sides."""
        height, width = self.size
        scale = min(height / plan.size[0], width / plan.size[1])
        inner = _scaled(plan.size, scale)
        plan.view = plan.view.resize(inner)
        left, top = (width - inner[1]) // 2, (height - inner[0]) // 2
        plan.view = plan.view.crop((-left, -top, width - left, height - top))

    def view(self, image: Size) -> View:
        """How an image of (height, width) is shown: its ``undo_boxes`` takes detections back."""
        plan = Plan(image, np.zeros((0, 4)))
        self.plan(plan)
        return plan.view.on_whole_pixels()


class HorizontalFlip(GeometricStep):
    """Swaps left and right.

    Args:
        p: How often, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_share("HorizontalFlip", p)

    def plan(self, plan: Plan) -> None:
        """Flips or does not."""
        if draw(1)[0] < self.p:
            plan.view = plan.view.mirror()


class VerticalFlip(GeometricStep):
    """Swaps top and bottom.

    Args:
        p: How often, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_share("VerticalFlip", p)

    def plan(self, plan: Plan) -> None:
        """Flips or does not."""
        if draw(1)[0] < self.p:
            plan.view = plan.view.flip()


class Transpose(GeometricStep):
    """Swaps rows and columns of square images; others are left as they are.

    Args:
        p: How often, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_share("Transpose", p)

    def plan(self, plan: Plan) -> None:
        """Transposes or does not."""
        if draw(1)[0] < self.p and plan.size[0] == plan.size[1]:
            plan.view = plan.view.transpose()


class ZoomOut(GeometricStep):
    """Puts an image at a random place on a larger grey canvas, which makes small objects.

    Args:
        largest: Sides of the canvas over those of the image, drawn from 1 to this.
        p: How often, in [0, 1].

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 3.6.
    """

    def __init__(self, largest: float = 4.0, p: float = 0.5) -> None:
        super().__init__()
        if not largest >= 1:
            raise ValueError(f"ZoomOut: expected largest >= 1, got {largest}")
        self.largest, self.p = largest, check_share("ZoomOut", p)

    def plan(self, plan: Plan) -> None:
        """Enlarges the canvas or does not."""
        chance, ratio, x, y = draw(4)
        if chance >= self.p:
            return
        height, width = plan.size
        new_height, new_width = _scaled(plan.size, between(1, self.largest, ratio))
        left, top = round(x * (new_width - width)), round(y * (new_height - height))
        plan.view = plan.view.crop((-left, -top, new_width - left, new_height - top))


class ScaleJitter(GeometricStep):
    """Enlarges or shrinks the canvas by a random factor, without changing its shape.

    Args:
        scales: Least and largest factor; any between is equally likely.
    """

    def __init__(self, scales: tuple[float, float] = (0.5, 2.0)) -> None:
        super().__init__()
        if not 0 < scales[0] <= scales[1]:
            raise ValueError(
                f"ScaleJitter: expected scales with 0 < least <= largest, got {scales}"
            )
        self.scales = scales

    def plan(self, plan: Plan) -> None:
        """Resizes."""
        scale = between(*self.scales, draw(1)[0])
        plan.view = plan.view.resize(_scaled(plan.size, scale))


class FixedCrop(GeometricStep):
    """Cuts a region of one size at a random place; where the canvas is smaller, it is padded.

    Of ``tries`` places the first one is taken that has the centre of an object, if there is one.

    Args:
        size: (height, width) in pixels.
        tries: Places to try.
    """

    def __init__(self, size: Size, tries: int = 10) -> None:
        super().__init__()
        if tries < 1:
            raise ValueError(f"FixedCrop: expected tries >= 1, got {tries}")
        self.size, self.tries = check_size("FixedCrop", size), tries

    def plan(self, plan: Plan) -> None:
        """Crops and pads."""
        numbers = draw_rows(2, self.tries)
        height, width = self.size
        free_y, free_x = plan.size[0] - height, plan.size[1] - width
        y, x = np.round(free_y * numbers[0]), np.round(free_x * numbers[1])
        crops = np.stack([x, y, x + width, y + height], axis=1).astype(np.int64)
        boxes = plan.boxes[plan.kept]
        hits = have_centres_inside(boxes, crops).any(1)
        x1, y1, x2, y2 = crops[int(hits.argmax())].tolist()
        plan.view = plan.view.crop((x1, y1, x2, y2))


class RandomResizedCrop(GeometricStep):
    """Stretches a random part of the image to a size, the crop of image classification.

    Args:
        size: (height, width) in pixels.
        shares: Least and largest area of the part over that of the image.
        largest_aspect: The part is at most this many times as wide as high, or as high as wide.

    References:
        Szegedy et al., "Going Deeper with Convolutions" (2014), section 6.
    """

    tries = 10

    def __init__(
        self, size: Size, shares: tuple[float, float] = (0.08, 1.0), largest_aspect: float = 4 / 3
    ) -> None:
        super().__init__()
        if not 0 < shares[0] <= shares[1] <= 1:
            raise ValueError(
                f"RandomResizedCrop: expected shares with 0 < least <= largest <= 1, got {shares}"
            )
        if not largest_aspect >= 1:
            raise ValueError(
                f"RandomResizedCrop: expected largest_aspect >= 1, got {largest_aspect}"
            )
        self.size = check_size("RandomResizedCrop", size)
        self.shares, self.largest_aspect = shares, largest_aspect

    def plan(self, plan: Plan) -> None:
        """Crops and resizes; takes the largest part in the middle where no draw fits."""
        height, width = plan.size
        bound = math.log(self.largest_aspect)
        for _ in range(self.tries):
            share, aspect, x, y = draw(4)
            area = height * width * between(*self.shares, share)
            ratio = math.exp(between(-bound, bound, aspect))
            w, h = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
            if w <= width and h <= height:
                left, top = round(x * (width - w)), round(y * (height - h))
                break
        else:
            w = max(1, min(width, round(height * self.largest_aspect)))
            h = max(1, min(height, round(width * self.largest_aspect)))
            left, top = (width - w) // 2, (height - h) // 2
        plan.view = plan.view.crop((left, top, left + w, top + h)).resize(self.size)


class CenterCrop(GeometricStep):
    """Shows the middle of an image, without changing its shape, at a size.

    Args:
        size: (height, width) in pixels.
        share: Sides of the part over those of the largest one that fits; .875 is the usual 224 of
            256 pixels.
    """

    def __init__(self, size: Size, share: float = 0.875) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"CenterCrop: expected share in (0, 1], got {share}")
        self.size, self.share = check_size("CenterCrop", size), share

    def plan(self, plan: Plan) -> None:
        """Crops and resizes."""
        height, width = plan.size
        scale = self.share * min(height / self.size[0], width / self.size[1])
        h, w = (min(side, inner) for side, inner in zip(
            plan.size, _scaled(self.size, scale), strict=True))  # fmt: skip
        left, top = (width - w) // 2, (height - h) // 2
        plan.view = plan.view.crop((left, top, left + w, top + h)).resize(self.size)


class Nudge(GeometricStep):
    """Shift and scale an image slightly within its canvas.

    An image that would lose an object entirely is left in place.

    Args:
        largest_scale: Largest factor by which the image is enlarged or shrunk.
        largest_shift: Largest shift, as a share of the sides.
        p: Probability of the change, in [0, 1].
        min_visibility: Objects of which a smaller share remains in a moved image are removed.
    """

    def __init__(
        self,
        largest_scale: float = 1.2,
        largest_shift: float = 0.1,
        p: float = 0.5,
        min_visibility: float = 0.5,
    ) -> None:
        super().__init__()
        if not largest_scale >= 1:
            raise ValueError(f"Nudge: expected largest_scale >= 1, got {largest_scale}")
        self.largest_scale = largest_scale
        self.largest_shift = check_share("Nudge", largest_shift, "largest_shift")
        self.p = check_share("Nudge", p)
        self.min_visibility = check_share("Nudge", min_visibility, "min_visibility")

    def plan(self, plan: Plan) -> None:
        """Moves or does not."""
        chance, ratio, x, y = draw(4)
        if chance >= self.p:
            return
        height, width = plan.size
        new_height, new_width = _scaled(plan.size, self.largest_scale ** (2 * ratio - 1))
        left = round((new_width - width) / 2 + self.largest_shift * width * (2 * x - 1))
        top = round((new_height - height) / 2 + self.largest_shift * height * (2 * y - 1))
        region = (left, top, left + width, top + height)
        moved = plan.view.resize((new_height, new_width)).crop(region)
        old = clip_corners(plan.boxes[plan.kept], (0, 0, width, height))
        scale = new_width / width, new_height / height
        new = clip_corners(old * (scale * 2), region)
        if (new[:, 2:] > new[:, :2]).all() and not moved.shows_nothing:
            plan.view = moved
            plan.min_visibility = max(plan.min_visibility, self.min_visibility)


def have_centres_inside(boxes: Boxes, crops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Says which boxes (N, 4) have their centre inside of which crops (C, 4): shape (C, N)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    crops = crops[:, None]
    after, before = centres > crops[..., :2], centres < crops[..., 2:]
    return after[..., 0] & after[..., 1] & before[..., 0] & before[..., 1]


def check_size(name: str, size: Size) -> Size:
    """Refuses what is not (height, width) in whole positive pixels."""
    whole = isinstance(size, tuple | list) and all(isinstance(side, int) for side in size)
    if not whole or len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: expected size (height, width) in whole pixels, got {size!r}")
    return size[0], size[1]


def check_share(name: str, value: float, argument: str = "p") -> float:
    """Refuses what is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected {argument} in [0, 1], got {value}")
    return value


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
