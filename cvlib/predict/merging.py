"""Merging of detections from several views of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cvlib.boxes import box_area, clip_boxes
from cvlib.ops import batched_nms, masks_to_rle, rle_to_masks, weighted_boxes_fusion
from cvlib.structures import Detections

Merge = Literal["nms", "wbf"]
# A box that ends closer to the border of its tile than this share of the tile is considered cut,
# because models do not place edges exactly.
_BORDER = 0.01
# A cut box belongs to a complete one that covers at least this share of it.
_MIN_COVERED = 0.7
# Minimum overlap of two parts of one object along the border that cuts it.
_MIN_SHARED_SIDE = 0.5


class Window(NamedTuple):
    """A rectangle of an image in pixels; it may extend beyond the image."""

    left: int
    top: int
    width: int
    height: int


class Piece(NamedTuple):
    """Detections in one window of an image, in pixels of the window."""

    window: Window
    detections: Detections


class _Tiled(NamedTuple):
    """Detections of all tiles in pixels of the image, and the borders that cut them."""

    detections: Detections
    tiles: Tensor  # (N,): index of the tile
    cuts: Tensor  # (N, 4), bool: cut at the left, top, right and bottom border of the tile

    def select(self, chosen: Tensor) -> _Tiled:
        """Select objects by a bool tensor (N,)."""
        return _Tiled(self.detections[chosen], self.tiles[chosen], self.cuts[chosen])


def join_tiles(
    pieces: Sequence[Piece],
    size: tuple[int, int],
    merge: Merge,
    iou_threshold: float,
) -> Detections:
    """Merge the detections in the windows of an image.

    Objects that no border cuts are merged by suppression or fusion. A cut object is dropped if a
    complete one covers it. The remaining ones are parts of objects that no window shows completely,
    and are joined with their continuation beyond the border.

    Args:
        pieces: Detections in each window.
        size: Height and width of the image.
        merge: ``"nms"`` or ``"wbf"``.
        iou_threshold: Boxes of one class that overlap more than this are one object.

    Returns:
        Detections in pixels of the image, best first.

    Raises:
        ValueError: Masks with ``merge="wbf"``: they cannot be averaged.
    """
    tiled = _gather(pieces, size)
    is_cut = tiled.cuts.any(1)
    complete = _merge(tiled.detections[~is_cut], merge, iou_threshold)
    parts = tiled.select(is_cut)
    parts = parts.select(~_are_covered(parts.detections, complete))
    joined = _merge(_drop_parts(_join_parts(parts)), merge, iou_threshold)
    result = _concatenate([complete, joined])
    return result[result.scores.sort(descending=True, stable=True).indices]


def fuse(views: Sequence[Detections], merge: Merge, iou_threshold: float) -> Detections:
    """Merge the detections of several views of a complete image.

    Args:
        views: Detections of each view, in pixels of the image.
        merge: ``"nms"`` keeps the best box of each object; ``"wbf"`` averages boxes, and scores
            over all views.
        iou_threshold: Boxes of one class that overlap more than this are one object.

    Returns:
        The merged detections.

    Raises:
        ValueError: Masks with ``merge="wbf"``: they cannot be averaged.
    """
    if merge == "nms":
        return _merge(_concatenate(views), merge, iou_threshold)
    return _fuse_boxes(views, iou_threshold)


def _merge(detections: Detections, merge: Merge, iou_threshold: float) -> Detections:
    if merge == "nms":
        boxes, scores, labels = detections.boxes, detections.scores, detections.labels
        return detections[batched_nms(boxes, scores, labels, iou_threshold)]
    # Fused as one model's boxes: an object is not less likely because other tiles do not show it.
    return _fuse_boxes([detections], iou_threshold)


def _fuse_boxes(views: Sequence[Detections], iou_threshold: float) -> Detections:
    if any(detections.masks is not None for detections in views):
        raise ValueError(
            "predict: expected `merge` to be 'nms' for detections with masks, got 'wbf'"
        )
    boxes, scores, labels = weighted_boxes_fusion(
        [detections.boxes for detections in views],
        [detections.scores for detections in views],
        [detections.labels for detections in views],
        iou_threshold=iou_threshold,
    )
    return replace(views[0], boxes=boxes, scores=scores, labels=labels)


def _gather(pieces: Sequence[Piece], size: tuple[int, int]) -> _Tiled:
    height, width = size
    gathered, tiles, cuts = [], [], []
    for number, (window, detections) in enumerate(pieces):
        boxes = detections.boxes
        margin = boxes.new_tensor([window.width, window.height] * 2) * _BORDER
        border = boxes.new_tensor([0, 0, window.width, window.height])
        # The border of the image cuts nothing.
        is_inner = torch.tensor(
            [
                window.left > 0,
                window.top > 0,
                window.left + window.width < width,
                window.top + window.height < height,
            ]
        )
        cuts.append(((boxes - border).abs() <= margin) & is_inner)
        tiles.append(torch.full((len(detections),), number))
        boxes = clip_boxes(boxes + boxes.new_tensor([window.left, window.top] * 2), size)
        masks = None if detections.masks is None else _paste_masks(detections, window, size)
        gathered.append(replace(detections, boxes=boxes, masks=masks, size=size))
    tiled = _Tiled(_concatenate(gathered), torch.cat(tiles), torch.cat(cuts))
    # Without objects in the margin around a small view.
    return tiled.select(box_area(tiled.detections.boxes) > 0)


def _paste_masks(
    detections: Detections, window: Window, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Run lengths in the image: bitmaps of a large image would fill the memory."""
    rles = []
    height, width = size
    left, top = max(0, window.left), max(0, window.top)
    right, bottom = min(width, window.left + window.width), min(height, window.top + window.height)
    y, x = top - window.top, left - window.left
    for mask in detections.bitmaps():
        canvas = mask.new_zeros(1, height, width)
        canvas[0, top:bottom, left:right] = mask[y : y + bottom - top, x : x + right - left]
        rles += masks_to_rle(canvas)
    return rles


def _are_covered(parts: Detections, complete: Detections) -> Tensor:
    """Which parts belong to a complete object, shape (N,), bool."""
    if not len(parts) or not len(complete):
        return torch.zeros(len(parts), dtype=torch.bool)
    least = torch.maximum(parts.boxes[:, None, :2], complete.boxes[:, :2])
    most = torch.minimum(parts.boxes[:, None, 2:], complete.boxes[:, 2:])
    covered = (most - least).clamp(min=0).prod(-1) / box_area(parts.boxes)[:, None]
    return ((covered >= _MIN_COVERED) & (parts.labels[:, None] == complete.labels)).any(1)


def _drop_parts(joined: Detections) -> Detections:
    """Drop parts of larger objects, which another row of tiles has joined."""
    by_area = joined[box_area(joined.boxes).sort(descending=True, stable=True).indices]
    kept: list[int] = []
    for i in range(len(by_area)):
        if not _are_covered(by_area[i], by_area[kept]).any():
            kept.append(i)
    return by_area[kept]


def _join_parts(parts: _Tiled) -> Detections:
    """Join parts that continue beyond a border."""
    count = len(parts.detections)
    parents = list(range(count))

    def find_root(i: int) -> int:
        while parents[i] != i:
            i = parents[i]
        return i

    for i, j in _find_neighbours(parts).nonzero().tolist():
        low, high = sorted((find_root(i), find_root(j)))
        parents[high] = low
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(find_root(i), []).append(i)
    objects = [_enclose(parts.detections[group]) for group in groups.values()]
    return _concatenate(objects) if objects else parts.detections


def _find_neighbours(parts: _Tiled) -> Tensor:
    """Whether part j continues part i in the next tile, shape (N, N), bool.

    Both show the overlap of the two tiles, so the boxes overlap, and begin and end alike.
    """
    boxes, labels = parts.detections.boxes, parts.detections.labels
    are_possible = (labels[:, None] == labels) & (parts.tiles[:, None] != parts.tiles)
    sides = boxes[:, 2:] - boxes[:, :2]
    # Parts in tiles without overlap may have a gap between them.
    max_gap = 2 * _BORDER * torch.maximum(sides[:, None], sides)
    least = torch.maximum(boxes[:, None, :2], boxes[:, :2])
    most = torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    are_possible &= (least - max_gap <= most).all(-1)
    are_neighbours = torch.zeros_like(are_possible)
    for axis in (0, 1):
        across = 1 - axis
        shared = (most - least)[..., across]
        total = torch.maximum(boxes[:, None, across + 2], boxes[:, across + 2]) - torch.minimum(
            boxes[:, None, across], boxes[:, across]
        )
        is_crossed = parts.cuts[:, axis + 2, None] & parts.cuts[None, :, axis]
        are_neighbours |= are_possible & is_crossed & (shared >= _MIN_SHARED_SIDE * total)
    return are_neighbours


def _enclose(parts: Detections) -> Detections:
    """One object from its parts: the box around them, the score of the best."""
    if len(parts) == 1:
        return parts
    best = int(parts.scores.argmax())
    boxes = torch.cat([parts.boxes[:, :2].amin(0), parts.boxes[:, 2:].amax(0)])[None]
    masks = None
    if parts.masks is not None:
        masks = masks_to_rle(rle_to_masks(parts.rles()).any(0, keepdim=True))
    return replace(parts[best], boxes=boxes, masks=masks)


def _concatenate(views: Sequence[Detections]) -> Detections:
    masks = None
    if any(detections.masks is not None for detections in views):
        masks = [rle for detections in views if len(detections) for rle in detections.rles()]
    return replace(
        views[0],
        boxes=torch.cat([detections.boxes for detections in views]),
        scores=torch.cat([detections.scores for detections in views]),
        labels=torch.cat([detections.labels for detections in views]),
        masks=masks,
    )
