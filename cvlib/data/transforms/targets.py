"""Targets that follow their image: boxes, labels, masks and the rest stay together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from cvlib.geometry.view import VOID, Boxes, View
from cvlib.ops import masks_to_boxes

Target = dict[str, Any]

# An object of which a smaller share of its area is left is removed with all that belongs to it. A
# box whose centre is inside of SSD's crop has a quarter left at least.
MIN_VISIBILITY = 0.25
# So is one that has become thinner than this, in pixels.
LEAST_SIDE = 1.0
# What a target may hold for each object, one row each.
PER_OBJECT = ("boxes", "labels", "area", "iscrowd", "masks")


def boxes_of(target: Mapping[str, Any] | None) -> Boxes:
    """The boxes of a target in float64; of shape (0, 4) where it has none."""
    if target is None or "boxes" not in target:
        return np.zeros((0, 4))
    boxes: Boxes = target["boxes"].as_subclass(Tensor).numpy().astype(np.float64)
    return boxes


def select_objects(target: Mapping[str, Any], kept: NDArray[np.bool_]) -> Target:
    """Gives a target without some of its objects; ``kept`` has shape (N,)."""
    if kept.all():
        return dict(target)
    rows = torch.from_numpy(kept.nonzero()[0])
    return {
        name: wrap_like(value, value.as_subclass(Tensor)[rows]) if name in PER_OBJECT else value
        for name, value in target.items()
    }


def wrap_like(old: Tensor, new: Tensor, canvas: tuple[int, int] | None = None) -> Tensor:
    """Gives boxes and masks the class of those that they replace."""
    if isinstance(old, tv_tensors.BoundingBoxes):
        size = old.canvas_size if canvas is None else canvas
        return tv_tensors.BoundingBoxes(new, format="XYXY", canvas_size=size)
    return tv_tensors.Mask(new) if isinstance(old, tv_tensors.Mask) else new


def move_target(
    target: Mapping[str, Any],
    view: View,
    kept: NDArray[np.bool_],
    min_visibility: float = MIN_VISIBILITY,
) -> Target:
    """Moves everything that a target holds.

    Args:
        target: Of a sample; it is left as it is.
        view: On whole pixels.
        kept: Shape (N,): objects that no step has removed so far.
        min_visibility: Smallest share of an object's area with which it is kept.

    Returns:
        A new target without the objects of which too little remains visible.
    """
    moved = dict(target)
    if "mask" in target:
        moved["mask"] = wrap_like(target["mask"], view.show_classes(target["mask"], VOID))
    if "boxes" not in target:
        return moved
    if view.is_identity:
        return select_objects(moved, kept)
    move = _move_masks if "masks" in target else _move_boxes
    return move(moved, view, kept, min_visibility)


def _move_boxes(
    target: Target, view: View, kept: NDArray[np.bool_], min_visibility: float
) -> Target:
    old = boxes_of(target)
    whole = view.map_boxes(old)
    boxes = clip_corners(whole, view.placed)
    left = area_of(boxes)
    kept = kept & (_divide(left, area_of(whole)) >= min_visibility) & are_thick(boxes)
    if "area" in target:
        scale = torch.from_numpy(_divide(left, area_of(old)).astype(np.float32))
        target["area"] = target["area"] * scale
    return _select_with_boxes(target, boxes, view, kept)


def _move_masks(
    target: Target, view: View, kept: NDArray[np.bool_], min_visibility: float
) -> Target:
    """As `_move_boxes`, with the masks to say what is visible; boxes are drawn around them.

    An object whose mask is empty from the start is judged by its box.
    """
    whole = view.map_boxes(boxes_of(target))
    kept = kept & (area_of(clip_corners(whole, view.placed)) > 0)
    target, whole = select_objects(target, kept), whole[kept]
    clipped = clip_corners(whole, view.placed)
    before = count_pixels(target["masks"]) * view.scale
    target["masks"] = wrap_like(target["masks"], view.show_classes(target["masks"], 0))
    after = count_pixels(target["masks"])
    has_mask = before > 0
    boxes = np.where((after > 0)[:, None], boxes_around(target["masks"]), clipped)
    shares = np.where(has_mask, _divide(after, before), _divide(area_of(clipped), area_of(whole)))
    if "area" in target:
        areas = np.where(has_mask, after, target["area"].numpy() * view.scale * shares)
        target["area"] = torch.from_numpy(areas.astype(np.float32))
    kept = (shares >= min_visibility) & are_thick(boxes)
    return _select_with_boxes(target, boxes, view, kept)


def _select_with_boxes(target: Target, boxes: Boxes, view: View, kept: NDArray[np.bool_]) -> Target:
    new = torch.from_numpy(boxes.astype(np.float32))
    selected = select_objects(target | {"boxes": new}, kept)
    selected["boxes"] = wrap_like(target["boxes"], selected["boxes"], view.canvas)
    return selected


def count_pixels(masks: Tensor) -> NDArray[np.int64]:
    """Pixels of each mask: shape (N,) for (N, H, W)."""
    counts: NDArray[np.int64] = (
        masks.as_subclass(Tensor).flatten(1).sum(1, dtype=torch.int64).numpy()
    )
    return counts


def boxes_around(masks: Tensor) -> Boxes:
    """Boxes around masks: shape (N, 4)."""
    boxes: Boxes = masks_to_boxes(masks.as_subclass(Tensor)).numpy().astype(np.float64)
    return boxes


def clip_corners(boxes: Boxes, region: tuple[float, float, float, float]) -> Boxes:
    """Cuts off what lies outside of a region, (x1, y1, x2, y2)."""
    return boxes.clip(region[:2] * 2, region[2:] * 2)


def are_thick(boxes: Boxes) -> NDArray[np.bool_]:
    """Which boxes (N, 4) are at least a pixel wide and high."""
    sides = boxes[:, 2:] - boxes[:, :2]
    thick: NDArray[np.bool_] = np.minimum(sides[:, 0], sides[:, 1]) >= LEAST_SIDE
    return thick


def area_of(boxes: NDArray[Any]) -> NDArray[Any]:
    """Areas of boxes (..., 4): shape (...)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    # Of two numbers a reduction takes five times as long.
    area: NDArray[Any] = sides[..., 0] * sides[..., 1]
    return area


def _divide(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Shares; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
