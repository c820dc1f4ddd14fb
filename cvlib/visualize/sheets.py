"""Sheets of images with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND = "#202020"
_MARGIN, _LINE, _FONT_SIZE = 6, 20, 13
_ASPECT_RATIO = 1.6  # preferred width over height of a sheet


class Tile(NamedTuple):
    """An image and the caption above it."""

    image: Image.Image
    caption: str


def caption_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of captions and legends."""
    return ImageFont.load_default(size=_FONT_SIZE)


def make_sheet(tiles: Sequence[Tile], title: str = "", columns: int | None = None) -> Image.Image:
    """Arrange images with captions in a grid.

    Args:
        tiles: Images and captions, at least one.
        title: Title at the top.
        columns: Number of columns; by default the sheet becomes somewhat wider than high.

    Returns:
        One image.
    """
    font = caption_font()
    captions = [_wrap(tile.caption, tile.image.width, font) for tile in tiles]
    lines = max(caption.count("\n") + 1 if caption else 0 for caption in captions)
    width = max(tile.image.width for tile in tiles) + _MARGIN
    height = max(tile.image.height for tile in tiles) + lines * _LINE + _MARGIN
    columns = columns or _choose_columns(len(tiles), width, height)
    top = _LINE + _MARGIN if title else 0
    rows = -(-len(tiles) // columns)
    min_width = round(font.getlength(title)) + 2 * _MARGIN
    size = (max(columns * width + _MARGIN, min_width), rows * height + _MARGIN + top)
    result = Image.new("RGB", size, BACKGROUND)
    painter = ImageDraw.Draw(result)
    painter.text((_MARGIN, _MARGIN), title, fill="#FFFFFF", font=font)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        x = i % columns * width + _MARGIN
        y = i // columns * height + _MARGIN + top
        painter.multiline_text((x, y), caption, fill="#D0D0D0", font=font, spacing=5)
        result.paste(tile.image, (x, y + lines * _LINE))
    return result


def join_horizontally(images: Sequence[Image.Image]) -> Image.Image:
    """Join images from left to right into one."""
    width = sum(image.width for image in images) + _MARGIN * (len(images) - 1)
    result = Image.new("RGB", (width, max(image.height for image in images)), BACKGROUND)
    x = 0
    for image in images:
        result.paste(image, (x, 0))
        x += image.width + _MARGIN
    return result


def _choose_columns(count: int, width: int, height: int) -> int:
    def deviation(columns: int) -> float:
        rows = -(-count // columns)
        empty = rows * columns - count
        return abs(math.log(columns * width / (rows * height) / _ASPECT_RATIO)) + 0.2 * empty

    return min(range(1, count + 1), key=deviation)


def _wrap(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Break lines that are wider than the image, between words."""
    lines = []
    for line in caption.split("\n"):
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > width:
                lines.append(current)
                current = word
            else:
                current = longer
        lines.append(current)
    return "\n".join(lines)


def enlarge(
    image: Tensor, target: Mapping[str, Any], min_side: int = 256
) -> tuple[Tensor, dict[str, Any]]:
    """Enlarge a small image by repeating pixels, and its target, to make room for labels.

    Args:
        image: Image, uint8, shape (3, H, W).
        target: Target with boxes and masks, or a class map.
        min_side: Minimum length of the longer side in pixels.

    Returns:
        Image and target, unchanged if the image is large enough.
    """
    factor = -(-min_side // max(image.shape[1:]))
    if factor == 1:
        return image, dict(target)
    larger = dict(target)
    for name in ("masks", "mask"):
        if larger.get(name) is not None:
            larger[name] = _repeat(target[name], factor)
    if "boxes" in target:
        boxes = target["boxes"].as_subclass(Tensor)
        # Padding stays padding.
        larger["boxes"] = torch.where((boxes == -1).all(-1, keepdim=True), boxes, boxes * factor)
    return _repeat(image, factor), larger


def _repeat(pixels: Tensor, factor: int) -> Tensor:
    plain = pixels.as_subclass(Tensor)
    return plain.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
