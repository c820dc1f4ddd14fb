"""Targets that follow their image: boxes, labels, masks and other annotations stay together."""

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

# An object of which a smaller share remains visible is removed. A box whose centre is inside SSD's
# crop keeps at least a quarter of its area.
MIN_VISIBILITY = 0.25
# So is an object that is thinner than this, in pixels.
MIN_SIDE = 1.0
# Fields of a target that have one row per object.
OBJECT_FIELDS = ("boxes", "labels", "area", "iscrowd", "masks")


def boxes_of(target: Mapping[str, Any] | None) -> Boxes:
    """Return the boxes of a target in float64, shape (0, 4) if it has none."""
    if target is None or "boxes" not in target:
        return np.zeros((0, 4))
    boxes: Boxes = target["boxes"].as_subclass(Tensor).numpy().astype(np.float64)
    return boxes


def select_objects(target: Mapping[str, Any], kept: NDArray[np.bool_]) -> Target:
    """Return a target with the selected objects; ``kept`` has shape (N,)."""
    if kept.all():
        return dict(target)
    rows = torch.from_numpy(kept.nonzero()[0])
    return {
        name: wrap_like(value, value.as_subclass(Tensor)[rows]) if name in OBJECT_FIELDS else value
        for name, value in target.items()
    }


def wrap_like(old: Tensor, new: Tensor, canvas: tuple[int, int] | None = None) -> Tensor:
    """Wrap a tensor in the class of the one it replaces (boxes, masks or a plain tensor)."""
    if isinstance(old, tv_tensors.BoundingBoxes):
        size = old.canvas_size if canvas is None else canvas
        return tv_tensors.BoundingBoxes(new, format="XYXY", canvas_size=size)
    return tv_tensors.Mask(new) if isinstance(old, tv_tensors.Mask) else new


def move_target(
    target: Mapping[str, Any], view: View, kept: NDArray[np.bool_], min_visibility: float
) -> Target:
    """Map all annotations of a target by a view.

    Args:
        target: Target of a sample; not modified.
        view: View on whole pixels.
        kept: Objects that no step has removed, shape (N,).
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
    unclipped = view.map_boxes(old)
    boxes = clip_to_region(unclipped, view.placed)
    areas = area_of(boxes)
    kept = kept & (_divide(areas, area_of(unclipped)) >= min_visibility) & are_thick(boxes)
    if "area" in target:
        scale = torch.from_numpy(_divide(areas, area_of(old)).astype(np.float32))
        target["area"] = target["area"] * scale
    return _select_with_boxes(target, boxes, view, kept)


def _move_masks(
    target: Target, view: View, kept: NDArray[np.bool_], min_visibility: float
) -> Target:
    """Map masks, which decide what is visible, and boxes around them.

    An object whose mask is empty from the beginning is judged by its box.
    """
    unclipped = view.map_boxes(boxes_of(target))
    kept = kept & (area_of(clip_to_region(unclipped, view.placed)) > 0)
    target, unclipped = select_objects(target, kept), unclipped[kept]
    clipped = clip_to_region(unclipped, view.placed)
    before = count_pixels(target["masks"]) * view.scale
    target["masks"] = wrap_like(target["masks"], view.show_classes(target["masks"], 0))
    after = count_pixels(target["masks"])
    has_mask = before > 0
    boxes = np.where((after > 0)[:, None], boxes_around(target["masks"]), clipped)
    box_shares = _divide(area_of(clipped), area_of(unclipped))
    visible = np.where(has_mask, _divide(after, before), box_shares)
    if "area" in target:
        areas = np.where(has_mask, after, target["area"].numpy() * view.scale * visible)
        target["area"] = torch.from_numpy(areas.astype(np.float32))
    kept = (visible >= min_visibility) & are_thick(boxes)
    return _select_with_boxes(target, boxes, view, kept)


def _select_with_boxes(target: Target, boxes: Boxes, view: View, kept: NDArray[np.bool_]) -> Target:
    new = torch.from_numpy(boxes.astype(np.float32))
    selected = select_objects(target | {"boxes": new}, kept)
    selected["boxes"] = wrap_like(target["boxes"], selected["boxes"], view.canvas)
    return selected


def count_pixels(masks: Tensor) -> NDArray[np.int64]:
    """Number of pixels of each mask, shape (N,) for masks (N, H, W)."""
    counts: NDArray[np.int64] = (
        masks.as_subclass(Tensor).flatten(1).sum(1, dtype=torch.int64).numpy()
    )
    return counts


def boxes_around(masks: Tensor) -> Boxes:
    """Boxes around masks in float64, shape (N, 4)."""
    boxes: Boxes = masks_to_boxes(masks.as_subclass(Tensor)).numpy().astype(np.float64)
    return boxes


def clip_to_region(boxes: Boxes, region: tuple[float, float, float, float]) -> Boxes:
    """Clip boxes (N, 4) to a region (x1, y1, x2, y2)."""
    return boxes.clip(region[:2] * 2, region[2:] * 2)


def are_thick(boxes: Boxes) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) are at least a pixel wide and high."""
    sides = boxes[:, 2:] - boxes[:, :2]
    thick: NDArray[np.bool_] = np.minimum(sides[:, 0], sides[:, 1]) >= MIN_SIDE
    return thick


def area_of(boxes: Boxes) -> NDArray[np.float64]:
    """Areas of boxes (N, 4), shape (N,)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    # A reduction over two numbers takes five times as long.
    area: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return area


def _divide(part: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, with 0 where the total is 0."""
    return np.divide(part, total, out=np.zeros(len(total)), where=total > 0)
