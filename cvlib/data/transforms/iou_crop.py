"""SSD's random crop, with all its tries computed at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvlib.data.transforms._objects import area_of
from cvlib.data.transforms.base import GeometricStep, Plan, draw, draw_rows
from cvlib.data.transforms.geometry import Size, have_centres_inside
from cvlib.data.transforms.view import Boxes


class IoUCrop(GeometricStep):
    """SSD's crop: a random part of the picture that overlaps an object as much as drawn.

    A demand is drawn: no crop at all, any crop, or one with an IoU of at least .1, .3, .5, .7 or .9
    with an object. Of ``tries`` crops of .3 to 1 of each side and shapes from 1:2 to 2:1 the first
    one is taken that meets it; where none does, another demand is drawn. Objects whose centre is
    outside of the crop are removed; at least one is left. A picture without objects gets any crop.

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
        """Crops, or leaves the picture whole."""
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
