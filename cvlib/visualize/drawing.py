"""True objects drawn on images, and what all drawings of objects are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from cvlib.structures import GroundTruth, Masks
from cvlib.structures.masks import each_bitmap

# Distinct on dark and light images, also for colour-blind people (Okabe and Ito).
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
TRUTH_COLOUR = "#FFFFFF"
# How much of a mask's colour covers the image.
MASK_OPACITY = 0.45
_DASH = 6
# Letters; longer ones would hide the image.
_LONGEST_LABEL = 34
_DARK = 110

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_pil(image: Tensor) -> Image.Image:
    """Turns a uint8 tensor of shape (3, H, W), RGB, into an image.

    Raises:
        ValueError: Another shape or dtype.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"to_pil: expected image uint8 of shape (3, H, W), got {image.dtype} "
            f"{tuple(image.shape)}"
        )
    return Image.fromarray(image.as_subclass(Tensor).permute(1, 2, 0).cpu().numpy())


def as_image(image: Image.Image | Tensor) -> Image.Image:
    """A new RGB image of either kind."""
    return to_pil(image) if isinstance(image, Tensor) else image.convert("RGB")


def draw_target(
    image: Image.Image | Tensor, target: Mapping[str, Any], classes: Sequence[str] = ()
) -> Image.Image:
    """Draws the objects of a ground truth: boxes with class names, masks, crowds in dashes.

    Args:
        image: An image, or a uint8 tensor of shape (3, H, W), RGB.
        target: Of a sample; rows of padding (label -1) are left out.
        classes: Names; a class without one is shown by its number.

    Returns:
        A new image.
    """
    canvas = as_image(image)
    kept = target["labels"] >= 0
    rows = {n: target[n][kept] for n in ("boxes", "labels", "iscrowd") if n in target}
    truth = GroundTruth.from_target({**target, **rows}, (canvas.height, canvas.width))
    return draw_truth(canvas, truth, classes)


def draw_truth(
    image: Image.Image | Tensor, truth: GroundTruth, classes: Sequence[str] | None = None
) -> Image.Image:
    """Draws true objects: boxes with class names, masks, crowds in dashes.

    Args:
        image: An image, or a uint8 tensor of shape (3, H, W), RGB.
        truth: In pixels of this image.
        classes: Names; a class without one is shown by its number. ``None``: white boxes alone.

    Returns:
        A new image.
    """
    canvas = as_image(image)
    painter = ImageDraw.Draw(canvas)
    if classes is None:
        for box in truth.boxes.tolist():
            painter.rectangle(box, outline=TRUTH_COLOUR, width=2)
        return canvas
    labels = truth.labels.tolist()
    colours = [colour_of(label) for label in labels]
    if truth.masks is not None:
        canvas = paint_masks(canvas, truth.masks, colours)
        painter = ImageDraw.Draw(canvas)
    width, font = line_width(canvas), font_for(canvas)
    rows = zip(truth.boxes.tolist(), labels, truth.crowds.tolist(), colours, strict=True)
    for box, label, is_crowd, colour in rows:
        name = classes[label] if label < len(classes) else str(label)
        if is_crowd:
            draw_dashed(painter, box, colour, width)
            name += " (crowd)"
        else:
            painter.rectangle(box, outline=colour, width=width)
        write_label(painter, box, name, colour, font)
    return canvas


def paint_masks(image: Image.Image, masks: Masks, colours: Sequence[str]) -> Image.Image:
    """Tints what each mask covers, with a rim that tells neighbours apart.

    Args:
        image: RGB.
        masks: Shape (N, H, W), of which what is not 0 belongs to the mask, or run lengths.
        colours: Of each mask.
    """
    import cv2

    pixels = np.array(image)
    for mask, colour in zip(each_bitmap(masks), colours, strict=True):
        plane = (mask.as_subclass(Tensor).cpu() != 0).numpy().astype(np.uint8)
        rgb = np.array(ImageColor.getrgb(colour))
        inside = plane > 0
        tinted = pixels[inside] * (1 - MASK_OPACITY) + rgb * MASK_OPACITY
        pixels[inside] = tinted.round().astype(np.uint8)
        rims, _ = cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, rims, -1, ImageColor.getrgb(colour), 1)
    return Image.fromarray(pixels)


def draw_dashed(
    painter: ImageDraw.ImageDraw, box: Sequence[float], colour: str, width: int
) -> None:
    """Draws the outline of a box in dashes."""
    x1, y1, x2, y2 = box
    for x in np.arange(x1, x2, 2 * _DASH):
        end = min(x + _DASH, x2)
        painter.line([(x, y1), (end, y1)], fill=colour, width=width)
        painter.line([(x, y2), (end, y2)], fill=colour, width=width)
    for y in np.arange(y1, y2, 2 * _DASH):
        end = min(y + _DASH, y2)
        painter.line([(x1, y), (x1, end)], fill=colour, width=width)
        painter.line([(x2, y), (x2, end)], fill=colour, width=width)


def colour_of(label: int) -> str:
    """The colour of a class."""
    return PALETTE[label % len(PALETTE)]


def line_width(image: Image.Image) -> int:
    """Of outlines that can be seen and hide little."""
    return max(2, round(min(image.size) / 180))


def font_for(image: Image.Image) -> Font:
    """A font whose size suits the image."""
    return ImageFont.load_default(size=max(11, round(min(image.size) / 28)))


def write_label(
    painter: ImageDraw.ImageDraw, box: Sequence[float], text: str, colour: str, font: Font
) -> None:
    """Writes on a plate above a box, or inside at its top where there is no room above."""
    if len(text) > _LONGEST_LABEL:  # its end is the score, or the word crowd
        text = f"{text[: _LONGEST_LABEL - 13]}...{text[-10:]}"
    left, top, right, bottom = painter.textbbox((0, 0), text, font=font)
    height, width = bottom - top + 2, right - left + 4
    # Not beyond the right border, where the end of the name would be lost.
    x = max(0, min(box[0], painter.im.size[0] - width - 1))
    y = box[1] - height if box[1] >= height else box[1]
    painter.rectangle((x, y, x + width, y + height), fill=colour)
    painter.text((x + 2, y + 1 - top), text, fill=_text_colour(colour), font=font)


def _text_colour(plate: str) -> str:
    """Black on light plates, white on dark ones."""
    red, green, blue = ImageColor.getrgb(plate)[:3]
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > _DARK else "#FFFFFF"
