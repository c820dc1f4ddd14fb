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
_COVERED = 0.7
# Minimum overlap of two parts of one object along the border that cuts it.
_ALIKE = 0.5


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
    whole = _merge(tiled.detections[~is_cut], merge, iou_threshold)
    parts = _select(tiled, is_cut)
    open_parts = ~_covered(parts.detections, whole)
    parts = _select(parts, open_parts)
    joined = _merge(_without_parts(_join(parts)), merge, iou_threshold)
    return _sorted(_concatenate([whole, joined]))


def fuse(seen: Sequence[Detections], merge: Merge, iou_threshold: float) -> Detections:
    """Merge the detections of several views of a whole image.

    Args:
        seen: Detections of each view, in pixels of the image.
        merge: ``"nms"`` keeps the best box of each object; ``"wbf"`` averages boxes, and scores
            over all views.
        iou_threshold: Boxes of one class that overlap more than this are one object.

    Returns:
        The merged detections.

    Raises:
        ValueError: Masks with ``merge="wbf"``: they cannot be averaged.
    """
    if merge == "nms":
        return _merge(_concatenate(seen), merge, iou_threshold)
    _refuse_masks(seen)
    boxes, scores, labels = weighted_boxes_fusion(
        [one.boxes for one in seen],
        [one.scores for one in seen],
        [one.labels for one in seen],
        iou_threshold=iou_threshold,
    )
    return Detections(boxes, scores, labels, seen[0].classes)


def _merge(found: Detections, merge: Merge, iou_threshold: float) -> Detections:
    if merge == "nms":
        return found[batched_nms(found.boxes, found.scores, found.labels, iou_threshold)]
    _refuse_masks([found])
    # Fused as one model's boxes: an object is not less likely because other tiles do not show it.
    boxes, scores, labels = weighted_boxes_fusion(
        [found.boxes], [found.scores], [found.labels], iou_threshold=iou_threshold
    )
    return Detections(boxes, scores, labels, found.classes)


def _refuse_masks(seen: Sequence[Detections]) -> None:
    if any(one.masks is not None for one in seen):
        raise ValueError(
            "predict: expected `merge` to be 'nms' for detections with masks, got 'wbf'"
        )


def _gather(pieces: Sequence[Piece], size: tuple[int, int]) -> _Tiled:
    height, width = size
    found, tiles, cuts = [], [], []
    for number, (window, one) in enumerate(pieces):
        near = one.boxes.new_tensor([window.width, window.height] * 2) * _BORDER
        far = one.boxes.new_tensor([0, 0, window.width, window.height])
        ends = torch.tensor(
            [
                window.left > 0,
                window.top > 0,
                window.left + window.width < width,
                window.top + window.height < height,
            ]
        )
        cuts.append(((one.boxes - far).abs() <= near) & ends)
        offset = one.boxes.new_tensor([window.left, window.top] * 2)
        masks = None if one.masks is None else _paste(one, window, size)
        boxes = clip_boxes(one.boxes + offset, size)
        found.append(replace(one, boxes=boxes, masks=masks))
        tiles.append(torch.full((len(one),), number))
    everything = _Tiled(_concatenate(found), torch.cat(tiles), torch.cat(cuts))
    visible = (
        box_area(everything.detections.boxes) > 0
    )  # otherwise detected in the margin of a small view
    return _select(everything, visible)


def _select(tiled: _Tiled, chosen: Tensor) -> _Tiled:
    return _Tiled(tiled.detections[chosen], tiled.tiles[chosen], tiled.cuts[chosen])


def _paste(found: Detections, window: Window, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks of a window as run lengths in the image: bitmaps of a large image fill the memory."""
    rles = []
    height, width = size
    left, top = max(0, window.left), max(0, window.top)
    right, bottom = min(width, window.left + window.width), min(height, window.top + window.height)
    for mask in found.bitmaps():
        canvas = mask.new_zeros(1, height, width)
        y, x = top - window.top, left - window.left
        canvas[0, top:bottom, left:right] = mask[y : y + bottom - top, x : x + right - left]
        rles += masks_to_rle(canvas)
    return rles


def _covered(parts: Detections, whole: Detections) -> Tensor:
    """Which parts belong to a complete object, shape (N,), bool."""
    if not len(parts) or not len(whole):
        return torch.zeros(len(parts), dtype=torch.bool)
    shared = _intersection(parts.boxes, whole.boxes) / box_area(parts.boxes)[:, None]
    return ((shared >= _COVERED) & (parts.labels[:, None] == whole.labels)).any(1)


def _without_parts(joined: Detections) -> Detections:
    """Drop parts of larger objects, which another row of tiles has joined."""
    larger = joined[box_area(joined.boxes).sort(descending=True, stable=True).indices]
    kept: list[int] = []
    for i in range(len(larger)):
        if not _covered(larger[i], larger[kept]).any():
            kept.append(i)
    return larger[kept]


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    least = torch.maximum(first[:, None, :2], second[None, :, :2])
    most = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    return (most - least).clamp(min=0).prod(-1)


def _join(parts: _Tiled) -> Detections:
    """Join parts that continue beyond a border."""
    count = len(parts.detections)
    group = list(range(count))

    def first(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in _neighbours(parts).nonzero().tolist():
        low, high = sorted((first(i), first(j)))
        group[high] = low
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(first(i), []).append(i)
    joined = [_hull(parts.detections[one]) for one in members.values()]
    return _concatenate(joined) if joined else parts.detections


def _neighbours(parts: _Tiled) -> Tensor:
    """Whether part j continues part i in the next tile, shape (N, N), bool.

    Both show the overlap of the two tiles, so the boxes overlap, and begin and end alike.
    """
    boxes, labels = parts.detections.boxes, parts.detections.labels
    same = (labels[:, None] == labels) & (parts.tiles[:, None] != parts.tiles)
    touching = (torch.maximum(boxes[:, None, :2], boxes[:, :2]) - _reach(boxes)) <= (
        torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    )
    same &= touching.all(-1)
    found = torch.zeros_like(same)
    for axis in (0, 1):
        across = 1 - axis
        inner = torch.minimum(boxes[:, None, across + 2], boxes[:, across + 2]) - torch.maximum(
            boxes[:, None, across], boxes[:, across]
        )
        outer = torch.maximum(boxes[:, None, across + 2], boxes[:, across + 2]) - torch.minimum(
            boxes[:, None, across], boxes[:, across]
        )
        crossing = parts.cuts[:, axis + 2, None] & parts.cuts[None, :, axis]
        found |= same & crossing & (inner >= _ALIKE * outer)
    return found


def _reach(boxes: Tensor) -> Tensor:
    """Maximum gap between parts in tiles without overlap, shape (N, N, 2)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return 2 * _BORDER * torch.maximum(sides[:, None], sides)


def _hull(parts: Detections) -> Detections:
    """One object from several parts: the box around them, the score of the best."""
    best = int(parts.scores.argmax())
    if len(parts) == 1:
        return parts
    boxes = torch.cat([parts.boxes[:, :2].amin(0), parts.boxes[:, 2:].amax(0)])[None]
    masks = None
    if parts.masks is not None:
        masks = masks_to_rle(rle_to_masks(parts.rles()).any(0, keepdim=True))
    return replace(parts[best], boxes=boxes, masks=masks)


def _concatenate(seen: Sequence[Detections]) -> Detections:
    masks = None
    if any(one.masks is not None for one in seen):
        masks = [rle for one in seen if len(one) for rle in one.rles()]
    return Detections(
        torch.cat([one.boxes for one in seen]),
        torch.cat([one.scores for one in seen]),
        torch.cat([one.labels for one in seen]),
        seen[0].classes,
        masks,
    )


def _sorted(found: Detections) -> Detections:
    return found[found.scores.sort(descending=True, stable=True).indices]
