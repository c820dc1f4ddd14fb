"""Drawings of a model's anchors and of the objects that they are matched to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cvlib.data.transforms import Resize
from cvlib.ops import box_iou, match_anchors
from cvlib.visualize.drawing import (
    PALETTE,
    class_name,
    colour_of,
    draw_dashed_box,
    font_for,
    line_width,
    to_pil,
    write_label,
)
from cvlib.visualize.sheets import Tile, make_sheet

_FAINT, _DOT, _UNMATCHED = "#B0B0B0", "#FFFFFF", "#FF3030"
_SAME_CENTRE = 1e-5
# Largest number of cells whose centres are marked; more would hide the image.
_MAX_DOTS = 1600
# Minimum length of the shorter side of a drawing in pixels.
_MIN_SIDE = 400
# Largest number of objects that are labelled by class name; more get numbers.
_MAX_NAMES = 8


class AnchorModel(Protocol):
    """Interface of models whose anchors depend only on the input size."""

    anchors: Tensor
    """Anchors in (x1, y1, x2, y2) format in 0..1, ordered by level and cell, shape (A, 4)."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's canvas."""


class Level(NamedTuple):
    """Anchors of one feature map.

    Attributes:
        start: Index of the first anchor.
        rows: Height of the feature map.
        columns: Width of the feature map.
        per_cell: Number of anchors per cell.
    """

    start: int
    rows: int
    columns: int
    per_cell: int

    @property
    def stop(self) -> int:
        """Index after the last anchor."""
        return self.start + self.rows * self.columns * self.per_cell


def split_levels(anchors: Tensor) -> list[Level]:
    """Split anchors into the levels of their feature maps.

    Args:
        anchors: Anchors ordered by level, then by cell in row-major order, shape (A, 4).

    Returns:
        The levels; a new one begins where the centres jump back to the top.
    """
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    jumps = (centres[1:] - centres[:-1]).cpu()
    new_cell = torch.cat([torch.tensor([True]), (jumps.abs() > _SAME_CENTRE).any(1)])
    new_level = torch.cat([torch.tensor([True]), jumps[:, 1] < -_SAME_CENTRE])
    new_row = torch.cat([torch.tensor([True]), jumps[:, 1].abs() > _SAME_CENTRE])
    starts = [*new_level.nonzero()[:, 0].tolist(), len(anchors)]
    levels = []
    for start, stop in itertools.pairwise(starts):
        cells, rows = int(new_cell[start:stop].sum()), int(new_row[start:stop].sum())
        levels.append(Level(start, rows, cells // rows, (stop - start) // cells))
    return levels


def show_anchors(model: AnchorModel, image: Tensor, *, cells: int = 2) -> Image.Image:
    """Draw the anchors of a model, one tile per feature map.

    Args:
        model: Model with ``anchors`` and ``image_size``.
        image: Image of any size, uint8, shape (3, H, W); resized to the input size of the model.
        cells: Number of cells along the diagonal of each map whose anchors are drawn; the centres
            of all cells are dots.

    Returns:
        One image.

    Raises:
        ValueError: The model has no anchors.

    Example:
        >>> from cvlib.models import TinySSD
        >>> show_anchors(TinySSD(["cat"]), torch.zeros(3, 90, 90, dtype=torch.uint8)).mode
        'RGB'
    """
    canvas, anchors, zoom = _prepare("show_anchors", model, image)
    tiles = []
    levels = split_levels(anchors)
    for number, level in enumerate(levels, start=1):
        tile = canvas.copy()
        painter = ImageDraw.Draw(tile)
        grid = anchors[level.start : level.stop].view(level.rows, level.columns, level.per_cell, 4)
        _draw_cell_centres(painter, grid)
        diagonal = min(level.rows, level.columns)
        for position in _spread_indices(cells, diagonal):
            row, column = position * level.rows // diagonal, position * level.columns // diagonal
            for i, box in enumerate(grid[row, column].tolist()):
                painter.rectangle(box, outline=PALETTE[i % len(PALETTE)], width=2)
        sides = (grid[0, 0, :, 2:] - grid[0, 0, :, :2]).prod(-1).sqrt() / zoom
        tiles.append(
            Tile(
                tile,
                f"map {number}: {level.rows} x {level.columns} cells, {level.per_cell} anchors "
                f"each, sides {float(sides.min()):.0f} to {float(sides.max()):.0f} pixels",
            )
        )
    return make_sheet(tiles, f"{len(anchors):,} anchors on {len(levels)} feature maps")


def show_targets(
    model: AnchorModel,
    image: Tensor,
    target: Mapping[str, Any],
    *,
    iou_threshold: float = 0.5,
    classes: Sequence[str] = (),
) -> Image.Image:
    """Draw the anchors that `match_anchors` assigns to each object.

    The first tile shows the objects with the number of matched anchors and the best IoU, dashed in
    red if that is below the threshold (at most one anchor is matched to them, and fits badly). The
    other tiles show the matched anchors of each feature map in the colours of their objects.

    Args:
        model: Model with ``anchors`` and ``image_size``.
        image: Image of any size, uint8, shape (3, H, W); resized to the input size of the model.
        target: ``boxes`` (N, 4) in image pixels and ``labels`` (N,).
        iou_threshold: Threshold of the model's matching.
        classes: Class names.

    Returns:
        One image.

    Raises:
        ValueError: The model has no anchors.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.models import TinySSD
        >>> image, target = SyntheticBananas(2, image_size=64)[0]
        >>> show_targets(TinySSD(("banana",), image_size=(64, 64)), image, target).mode
        'RGB'
    """
    canvas, anchors, _ = _prepare("show_targets", model, image)
    is_object = target["labels"] >= 0
    labels = target["labels"][is_object].tolist()
    # Matched in normalised coordinates, as in training.
    sides = torch.tensor([image.shape[2], image.shape[1]] * 2)
    normalised = target["boxes"][is_object].as_subclass(Tensor).cpu().float() / sides
    matched = match_anchors(model.anchors.cpu(), normalised, iou_threshold)
    best_ious = box_iou(normalised, model.anchors.cpu()).amax(1)
    boxes = normalised * torch.tensor([canvas.width, canvas.height] * 2)
    names = [class_name(classes, label) for label in labels]
    tiles = [_objects_tile(canvas, boxes, names, matched, best_ious, iou_threshold)]
    unused = []
    for number, level in enumerate(split_levels(anchors), start=1):
        if (matched[level.start : level.stop] >= 0).any():
            tiles.append(_level_tile(canvas, number, level, anchors, matched, boxes))
        else:
            unused.append(str(number))
    title = (
        f"{len(boxes)} object{'s' * (len(boxes) != 1)}, {int((matched >= 0).sum())} of "
        f"{len(anchors):,} anchors matched at IoU {iou_threshold:g}"
    )
    if unmatched := int((best_ious < iou_threshold).sum()):
        title += f"; no anchor fits {unmatched} (red)"
    if unused:
        title += f"; none on map{'s' * (len(unused) > 1)} {', '.join(unused)}"
    return make_sheet(tiles, title)


def _prepare(function: str, model: AnchorModel, image: Tensor) -> tuple[Image.Image, Tensor, int]:
    """Return the image in the model's aspect ratio, the anchors in its pixels, and its zoom."""
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.dim() != 2 or anchors.shape[1] != 4:
        raise ValueError(
            f"{function}: expected `model` to have anchors of shape (A, 4), got "
            f"{type(model).__name__} without them"
        )
    zoom = -(-_MIN_SIDE // min(model.image_size))
    height, width = (zoom * side for side in model.image_size)
    canvas = to_pil(Resize((height, width))(image.cpu()))
    return canvas, anchors.detach().cpu().float() * torch.tensor([width, height] * 2), zoom


def _draw_cell_centres(painter: ImageDraw.ImageDraw, grid: Tensor) -> None:
    if grid.shape[0] * grid.shape[1] > _MAX_DOTS:
        return
    for x1, y1, x2, y2 in grid[:, :, 0].flatten(0, 1).tolist():
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        painter.rectangle((x, y, x + 1, y + 1), fill=_DOT)


def _spread_indices(count: int, length: int) -> list[int]:
    """Return up to ``count`` evenly spaced indices below ``length``."""
    return sorted({int(length * (i + 1) / (count + 1)) for i in range(count)})


def _objects_tile(
    image: Image.Image,
    boxes: Tensor,
    names: list[str],
    matched: Tensor,
    best_ious: Tensor,
    iou_threshold: float,
) -> Tile:
    result = image.copy()
    painter = ImageDraw.Draw(result)
    width, font = line_width(result), font_for(result)
    for i, (box, name, iou) in enumerate(zip(boxes.tolist(), names, best_ious, strict=True)):
        is_unmatched = bool(iou < iou_threshold)
        colour = _UNMATCHED if is_unmatched else colour_of(i)
        if is_unmatched:
            draw_dashed_box(painter, box, colour, width)
        else:
            painter.rectangle(box, outline=colour, width=width)
        label = name if len(boxes) <= _MAX_NAMES else str(i + 1)
        text = f"{label}: {int((matched == i).sum())} ({float(iou):.2f})"
        write_label(painter, box, text, colour, font)
    return Tile(result, "objects: anchors (best IoU)")


def _level_tile(
    image: Image.Image, number: int, level: Level, anchors: Tensor, matched: Tensor, boxes: Tensor
) -> Tile:
    result = image.copy()
    painter = ImageDraw.Draw(result)
    for box in boxes.tolist():
        draw_dashed_box(painter, box, _FAINT, 1)
    anchors, matched = anchors[level.start : level.stop], matched[level.start : level.stop]
    is_matched = matched >= 0
    for box, index in zip(anchors[is_matched].tolist(), matched[is_matched].tolist(), strict=True):
        painter.rectangle(box, outline=colour_of(index), width=1)
    objects = len(matched[is_matched].unique())
    caption = (
        f"map {number}, {level.rows} x {level.columns}: {int(is_matched.sum())} of {len(matched)} "
        f"anchors for {objects} of {len(boxes)} objects"
    )
    return Tile(result, caption)
