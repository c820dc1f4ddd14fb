"""Anchors of a single-shot model, and which of them learn which object."""

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
    colour_of,
    draw_dashed,
    font_for,
    line_width,
    to_pil,
    write_label,
)
from cvlib.visualize.sheets import Tile, make_sheet

_FAINT, _DOT, _MISSED = "#B0B0B0", "#FFFFFF", "#FF3030"
_SAME_CENTRE = 1e-5
# Most cells of a level whose centres are marked; more would hide the image.
_DENSEST = 1600
# Pixels of the shorter side, at least; and how many objects may have their names beside them.
_LEAST_SIDE, _FEW = 400, 8


class AnchorModel(Protocol):
    """A model with anchors that depend on the size of the image alone."""

    anchors: Tensor
    """Shape (A, 4), (x1, y1, x2, y2) normalised to 0..1, levels and cells one after the other."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's canvas."""


class Level(NamedTuple):
    """The anchors of one feature map.

    Attributes:
        start: Index of its first anchor.
        rows: Height of the feature map.
        columns: Width of the feature map.
        per_cell: Anchors of each cell.
    """

    start: int
    rows: int
    columns: int
    per_cell: int

    @property
    def stop(self) -> int:
        """Index after its last anchor."""
        return self.start + self.rows * self.columns * self.per_cell


def split_levels(anchors: Tensor) -> list[Level]:
    """Finds the feature maps that anchors come from.

    Args:
        anchors: Shape (A, 4): level by level, cells row by row, and the anchors of a cell together.

    Returns:
        The levels. A new one begins where the centres jump back to the top.
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
    """Draws the anchors of a model, a tile for each feature map.

    Args:
        model: With ``anchors`` and ``image_size``.
        image: uint8, shape (3, H, W), of any size: resized to the model's.
        cells: How many cells show their anchors along the diagonal of each map; the centres of all
            cells are dots.

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
        own = anchors[level.start : level.stop].view(level.rows, level.columns, level.per_cell, 4)
        _draw_centres(painter, own)
        for at in _spread(cells, min(level.rows, level.columns)):
            row = at * level.rows // min(level.rows, level.columns)
            column = at * level.columns // min(level.rows, level.columns)
            for i, box in enumerate(own[row, column].tolist()):
                painter.rectangle(box, outline=PALETTE[i % len(PALETTE)], width=2)
        sides = (own[0, 0, :, 2:] - own[0, 0, :, :2]).prod(-1).sqrt() / zoom
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
    """Draws which anchors are matched to which object, by the rule of `match_anchors`.

    The first tile shows the objects, each in a colour of its own, with how many anchors learn it
    and the best IoU. An object that no anchor reaches the threshold with is dashed in red:
    it gets the one anchor that it claims, which fits badly, or none. The other tiles show the
    matched anchors of each feature map that has some, in the colours of their objects.

    Args:
        model: With ``anchors`` and ``image_size``.
        image: uint8, shape (3, H, W), of any size: resized to the model's with its target.
        target: ``boxes`` (N, 4) in pixels of the image and ``labels`` (N,).
        iou_threshold: Of the model's matching.
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
    wanted = {"boxes": target["boxes"], "labels": target["labels"]}
    wanted = {name: value[target["labels"] >= 0] for name, value in wanted.items()}
    canvas, anchors, _ = _prepare("show_targets", model, image)
    # Matched as in training: normalised to 0..1.
    own_size = torch.tensor([image.shape[2], image.shape[1]] * 2)
    normalised = wanted["boxes"].as_subclass(Tensor).cpu().float() / own_size
    matched = match_anchors(model.anchors.cpu(), normalised, iou_threshold)
    boxes = normalised * torch.tensor([canvas.width, canvas.height] * 2)
    best = box_iou(normalised, model.anchors.cpu()).amax(1)
    counts = [int((matched == i).sum()) for i in range(len(boxes))]
    names = [classes[k] if k < len(classes) else str(k) for k in wanted["labels"].tolist()]
    missed = (best < iou_threshold).tolist()
    texts = [
        f"{name if len(boxes) <= _FEW else i + 1}: {count} ({float(iou):.2f})"
        for i, (name, count, iou) in enumerate(zip(names, counts, best, strict=True))
    ]
    tiles = [Tile(_draw_objects(canvas, boxes, texts, missed), "objects: anchors (best IoU)")]
    unused = []
    for number, level in enumerate(split_levels(anchors), start=1):
        own = matched[level.start : level.stop]
        if not (own >= 0).any():
            unused.append(str(number))
            continue
        tile = _draw_matched(canvas, anchors[level.start : level.stop], own, boxes)
        reached = len(own[own >= 0].unique())
        tiles.append(
            Tile(
                tile,
                f"map {number}, {level.rows} x {level.columns}: {int((own >= 0).sum())} of "
                f"{len(own)} anchors for {reached} of {len(boxes)} objects",
            )
        )
    title = (
        f"{len(boxes)} object{'s' * (len(boxes) != 1)}, {sum(counts)} of {len(anchors):,} anchors "
        f"matched at IoU {iou_threshold:g}"
    )
    if any(missed):
        title += f"; no anchor fits {sum(missed)} (red)"
    if unused:
        title += f"; none on map{'s' * (len(unused) > 1)} {', '.join(unused)}"
    return make_sheet(tiles, title)


def _prepare(function: str, model: AnchorModel, image: Tensor) -> tuple[Image.Image, Tensor, int]:
    """The image in the model's shape, the anchors in its pixels, and how far it is enlarged."""
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.dim() != 2 or anchors.shape[1] != 4:
        raise ValueError(
            f"{function}: expected a model with anchors (A, 4), got {type(model).__name__}, which "
            "has none"
        )
    zoom = -(-_LEAST_SIDE // min(model.image_size))
    height, width = (zoom * side for side in model.image_size)
    canvas = to_pil(Resize((height, width))(image.cpu()))
    return canvas, anchors.detach().cpu().float() * torch.tensor([width, height] * 2), zoom


def _draw_centres(painter: ImageDraw.ImageDraw, anchors: Tensor) -> None:
    if anchors.shape[0] * anchors.shape[1] > _DENSEST:
        return
    for x1, y1, x2, y2 in anchors[:, :, 0].flatten(0, 1).tolist():
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        painter.rectangle((x, y, x + 1, y + 1), fill=_DOT)


def _spread(count: int, cells: int) -> list[int]:
    """Cells at equal distances along a diagonal."""
    return sorted({int(cells * (i + 1) / (count + 1)) for i in range(count)})


def _draw_objects(
    image: Image.Image, boxes: Tensor, texts: list[str], missed: list[bool]
) -> Image.Image:
    result = image.copy()
    painter = ImageDraw.Draw(result)
    width, font = line_width(result), font_for(result)
    for i, (box, text, is_missed) in enumerate(zip(boxes.tolist(), texts, missed, strict=True)):
        colour = _MISSED if is_missed else colour_of(i)
        if is_missed:
            draw_dashed(painter, box, colour, width)
        else:
            painter.rectangle(box, outline=colour, width=width)
        write_label(painter, box, text, colour, font)
    return result


def _draw_matched(
    image: Image.Image, anchors: Tensor, matched: Tensor, boxes: Tensor
) -> Image.Image:
    result = image.copy()
    painter = ImageDraw.Draw(result)
    for box in boxes.tolist():
        draw_dashed(painter, box, _FAINT, 1)
    for anchor in (matched >= 0).nonzero()[:, 0].tolist():
        colour = colour_of(int(matched[anchor]))
        painter.rectangle(anchors[anchor].tolist(), outline=colour, width=1)
    return result
