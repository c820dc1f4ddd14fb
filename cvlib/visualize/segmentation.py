"""Drawings of class maps on images, with a legend."""

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
# Minimum difference of the largest and smallest channel, because grey is for void.
_MIN_CHROMA = 60

Colour = tuple[int, int, int]


@lru_cache
def class_colours(count: int) -> tuple[Colour, ...]:
    """Return distinct colours of classes: the palette, then the colours farthest from it.

    Args:
        count: Number of classes, at most 255.

    Returns:
        (red, green, blue) of each class, independent of ``count`` for the first classes.
    """
    colours = np.array([ImageColor.getrgb(colour)[:3] for colour in PALETTE[:count]])
    levels = np.linspace(30, 255, 8)
    free = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    free = free[np.ptp(free, axis=1) > _MIN_CHROMA]
    while len(colours) < count:
        distance = np.linalg.norm(free[:, None] - colours, axis=2).min(1)
        colours = np.vstack([colours, free[int(distance.argmax())]])
    return tuple((round(red), round(green), round(blue)) for red, green, blue in colours.tolist())


def draw_segmentation(
    image: Image.Image | Tensor, mask: Tensor, classes: Sequence[str]
) -> Image.Image:
    """Tint every pixel in the colour of its class, hatch void and add a legend.

    Args:
        image: PIL image, or uint8 tensor of shape (3, H, W), RGB.
        mask: Class of each pixel, shape (H, W), integers, 255 for void.
        classes: Class names.

    Returns:
        A new image; the legend on the right lists the classes of the mask by area.

    Raises:
        ValueError: The mask differs from the image in size, or has a class without a name.

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
            f"draw_segmentation: expected `mask` to have the image's shape "
            f"{(canvas.height, canvas.width)}, got {values.shape}"
        )
    counts = {int(value): int((values == value).sum()) for value in np.unique(values)}
    unknown = [value for value in counts if value != VOID and not 0 <= value < len(classes)]
    if unknown:
        raise ValueError(
            f"draw_segmentation: expected `mask` to hold classes in 0..{len(classes) - 1} or "
            f"{VOID} (void), got {unknown[0]}"
        )
    colours = class_colours(len(classes))
    is_void = values == VOID
    tinted = tint(canvas, values, ~is_void, colours)
    if is_void.any():
        tinted = _blend(tinted, _hatching(*values.shape), is_void, _HATCH_OPACITY)
    present = sorted(counts, key=lambda value: -counts[value])
    shares = [counts[value] / values.size for value in present]
    return _add_legend(tinted, present, shares, classes, colours)


def tint(
    image: Image.Image, values: np.ndarray, has_class: np.ndarray, colours: Sequence[Colour]
) -> Image.Image:
    """Tint the pixels of an image that have a class.

    Args:
        image: RGB image.
        values: Class of each pixel, shape (H, W).
        has_class: Pixels to tint, bool, shape (H, W); other pixels are not changed.
        colours: Colour of each class.
    """
    layer = np.array(colours, np.uint8)[np.where(has_class, values, 0)]
    return _blend(image, layer, has_class, _OPACITY)


def _blend(image: Image.Image, layer: np.ndarray, mask: np.ndarray, opacity: float) -> Image.Image:
    alpha = Image.fromarray(np.where(mask, round(255 * opacity), 0).astype(np.uint8))
    return Image.composite(Image.fromarray(layer).convert("RGB"), image, alpha)


def _hatching(height: int, width: int) -> np.ndarray:
    stripes = np.add.outer(np.arange(height), np.arange(width)) % _HATCH_PERIOD
    light = stripes < _HATCH_PERIOD // 2
    return np.where(light, _HATCH_LIGHT, _HATCH_DARK).astype(np.uint8)


def _add_legend(
    image: Image.Image,
    present: list[int],
    shares: list[float],
    classes: Sequence[str],
    colours: Sequence[Colour],
) -> Image.Image:
    font = caption_font()
    texts = [
        f"{'void' if value == VOID else classes[value]}  {share:.1%}"
        for value, share in zip(present, shares, strict=True)
    ]
    width = _SWATCH + 3 * _PAD + max(round(font.getlength(text)) for text in texts)
    height = max(image.height, len(present) * _ROW + 2 * _PAD)
    result = Image.new("RGB", (image.width + width, height), BACKGROUND)
    result.paste(image, (0, 0))
    painter = ImageDraw.Draw(result)
    for i, (value, text) in enumerate(zip(present, texts, strict=True)):
        x, y = image.width + _PAD, _PAD + i * _ROW
        if value == VOID:
            result.paste(Image.fromarray(_hatching(_SWATCH, _SWATCH)).convert("RGB"), (x, y + 2))
        else:
            painter.rectangle((x, y + 2, x + _SWATCH - 1, y + 1 + _SWATCH), fill=colours[value])
        painter.text((x + _SWATCH + _PAD, y + 1), text, fill="#FFFFFF", font=font)
    return result
