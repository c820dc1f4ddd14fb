"""Maps of classes laid over images, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from cvlib.geometry.view import VOID
from cvlib.visualize.drawing import PALETTE, as_image
from cvlib.visualize.sheets import BACKGROUND, caption_font

_OPACITY, _HATCH_OPACITY = 0.6, 0.8
_HATCH_PERIOD, _HATCH_LIGHT, _HATCH_DARK = 8, 235, 60
_ROW, _SWATCH, _PAD = 20, 14, 8
# Largest minus least of red, green and blue: grey is for void.
_LEAST_COLOURFUL = 60

Colour = tuple[int, int, int]


@lru_cache
def class_colours(count: int) -> tuple[Colour, ...]:
    """Gives as many colours as there are classes: the palette first, then what is farthest from it.

    Args:
        count: Number of classes, at most 255.

    Returns:
        (red, green, blue) of each; those of the first classes do not depend on ``count``.
    """
    colours = np.array([ImageColor.getrgb(colour)[:3] for colour in PALETTE[:count]])
    levels = np.linspace(30, 255, 8)
    free = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    free = free[np.ptp(free, axis=1) > _LEAST_COLOURFUL]
    while len(colours) < count:
        distance = np.linalg.norm(free[:, None] - colours, axis=2).min(1)
        colours = np.vstack([colours, free[int(distance.argmax())]])
    return tuple((round(red), round(green), round(blue)) for red, green, blue in colours.tolist())


def draw_segmentation(
    image: Image.Image | Tensor, mask: Tensor, classes: Sequence[str]
) -> Image.Image:
    """Tints every pixel in the colour of its class; void is hatched; a legend names the classes.

    Args:
        image: An image, or a uint8 tensor of shape (3, H, W), RGB.
        mask: Shape (H, W), integers: the class of each pixel, 255 for void.
        classes: Their names.

    Returns:
        A new image; the legend on its right lists the classes that occur, by area.

    Raises:
        ValueError: The mask has another size than the image, or a class without a name.

    Example:
        >>> import torch
        >>> sky = torch.zeros(20, 30, dtype=torch.uint8)
        >>> draw_segmentation(torch.zeros(3, 20, 30, dtype=torch.uint8), sky, ["sky"]).height
        36
    """
    canvas = as_image(image)
    values = mask.as_subclass(Tensor).cpu().numpy()
    if values.shape != (canvas.height, canvas.width):
        raise ValueError(
            f"draw_segmentation: expected mask of shape {(canvas.height, canvas.width)}, as the "
            f"image, got {values.shape}"
        )
    counts = {int(value): int((values == value).sum()) for value in np.unique(values)}
    unknown = [value for value in counts if value != VOID and not 0 <= value < len(classes)]
    if unknown:
        raise ValueError(
            f"draw_segmentation: expected classes in 0..{len(classes) - 1} or {VOID} (void), got "
            f"{unknown[0]}"
        )
    colours = class_colours(len(classes))
    is_void = values == VOID
    tinted = tint(canvas, values, ~is_void, colours)
    if is_void.any():
        tinted = _blend(tinted, _hatch(*values.shape), is_void, _HATCH_OPACITY)
    rows = sorted(counts, key=lambda value: -counts[value])
    shares = [counts[value] / values.size for value in rows]
    return _add_legend(tinted, rows, shares, classes, colours)


def tint(
    image: Image.Image, values: np.ndarray, named: np.ndarray, colours: Sequence[Colour]
) -> Image.Image:
    """Lays colours over the pixels that have a class.

    Args:
        image: RGB.
        values: Shape (H, W): the class of each pixel.
        named: Shape (H, W), bool: which pixels have one; the others stay as they are.
        colours: Of each class.
    """
    layer = np.array(colours, np.uint8)[np.where(named, values, 0)]
    return _blend(image, layer, named, _OPACITY)


def _blend(image: Image.Image, layer: np.ndarray, where: np.ndarray, opacity: float) -> Image.Image:
    shares = Image.fromarray(np.where(where, round(255 * opacity), 0).astype(np.uint8))
    return Image.composite(Image.fromarray(layer).convert("RGB"), image, shares)


def _hatch(height: int, width: int) -> np.ndarray:
    stripes = np.add.outer(np.arange(height), np.arange(width)) % _HATCH_PERIOD
    light = stripes < _HATCH_PERIOD // 2
    return np.where(light, _HATCH_LIGHT, _HATCH_DARK).astype(np.uint8)


def _add_legend(
    image: Image.Image,
    rows: list[int],
    shares: list[float],
    classes: Sequence[str],
    colours: Sequence[Colour],
) -> Image.Image:
    font = caption_font()
    texts = [
        f"{'void' if row == VOID else classes[row]}  {share:.1%}"
        for row, share in zip(rows, shares, strict=True)
    ]
    width = _SWATCH + 3 * _PAD + max(round(font.getlength(text)) for text in texts)
    height = max(image.height, len(rows) * _ROW + 2 * _PAD)
    result = Image.new("RGB", (image.width + width, height), BACKGROUND)
    result.paste(image, (0, 0))
    painter = ImageDraw.Draw(result)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        x, y = image.width + _PAD, _PAD + i * _ROW
        if row == VOID:
            result.paste(Image.fromarray(_hatch(_SWATCH, _SWATCH)).convert("RGB"), (x, y + 2))
        else:
            painter.rectangle((x, y + 2, x + _SWATCH - 1, y + 1 + _SWATCH), fill=colours[row])
        painter.text((x + _SWATCH + _PAD, y + 1), text, fill="#FFFFFF", font=font)
    return result
