"""Drawings of annotated objects, and the elements shared by all drawings of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from cvlib.structures import GroundTruth
from cvlib.structures.masks import Masks, each_bitmap

# Distinct on dark and light images and to colour-blind people (Okabe and Ito).
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
TRUTH_COLOUR = "#FFFFFF"
MASK_OPACITY = 0.45
_DASH = 6
# Characters; longer labels would hide the image.
_MAX_LABEL_LENGTH = 34
# Luminance above which text on a plate is black.
_LIGHT = 110

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_pil(image: Tensor) -> Image.Image:
    """Convert a uint8 tensor of shape (3, H, W), RGB, to a PIL image.

    Raises:
        ValueError: Wrong shape or dtype.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"to_pil: expected `image` to be uint8 of shape (3, H, W), got {image.dtype} "
            f"{tuple(image.shape)}"
        )
    return Image.fromarray(image.as_subclass(Tensor).permute(1, 2, 0).cpu().numpy())


def as_image(image: Image.Image | Tensor) -> Image.Image:
    """Convert to a new PIL image in RGB."""
    return to_pil(image) if isinstance(image, Tensor) else image.convert("RGB")


def draw_target(
    image: Image.Image | Tensor, target: Mapping[str, Any], classes: Sequence[str] = ()
) -> Image.Image:
    """Draw the objects of a target dict: boxes with class names, masks, crowds dashed.

    Args:
        image: PIL image, or uint8 tensor of shape (3, H, W), RGB.
        target: Target of a sample; rows of padding (label -1) are skipped.
        classes: Class names; other classes are shown by number.

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
    """Draw annotated objects: boxes with class names, masks, crowds dashed.

    Args:
        image: PIL image, or uint8 tensor of shape (3, H, W), RGB.
        truth: Objects in pixels of the image.
        classes: Class names; other classes are shown by number. ``None`` draws only white boxes.

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
        name = class_name(classes, label)
        if is_crowd:
            draw_dashed_box(painter, box, colour, width)
            name += " (crowd)"
        else:
            painter.rectangle(box, outline=colour, width=width)
        write_label(painter, box, name, colour, font)
    return canvas


def paint_masks(image: Image.Image, masks: Masks, colours: Sequence[str]) -> Image.Image:
    """Tint the pixels of each mask and outline it, so that neighbours can be told apart.

    Args:
        image: RGB image.
        masks: Masks of shape (N, H, W), set where not 0, or run lengths.
        colours: Colour of each mask.
    """
    import cv2

    pixels = np.array(image)
    for mask, colour in zip(each_bitmap(masks), colours, strict=True):
        plane = (mask.as_subclass(Tensor).cpu() != 0).numpy().astype(np.uint8)
        rgb = np.array(ImageColor.getrgb(colour))
        inside = plane > 0
        tinted = pixels[inside] * (1 - MASK_OPACITY) + rgb * MASK_OPACITY
        pixels[inside] = tinted.round().astype(np.uint8)
        contours, _ = cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, contours, -1, ImageColor.getrgb(colour), 1)
    return Image.fromarray(pixels)


def draw_dashed_box(
    painter: ImageDraw.ImageDraw, box: Sequence[float], colour: str, width: int
) -> None:
    """Draw the outline of a box in dashes."""
    x1, y1, x2, y2 = box
    for x in np.arange(x1, x2, 2 * _DASH):
        end = min(x + _DASH, x2)
        painter.line([(x, y1), (end, y1)], fill=colour, width=width)
        painter.line([(x, y2), (end, y2)], fill=colour, width=width)
    for y in np.arange(y1, y2, 2 * _DASH):
        end = min(y + _DASH, y2)
        painter.line([(x1, y), (x1, end)], fill=colour, width=width)
        painter.line([(x2, y), (x2, end)], fill=colour, width=width)


def class_name(classes: Sequence[str], label: int) -> str:
    """Return the name of a class, or its number if it has none."""
    return classes[label] if label < len(classes) else str(label)


def colour_of(label: int) -> str:
    """Return the colour of a class."""
    return PALETTE[label % len(PALETTE)]


def line_width(image: Image.Image) -> int:
    """Return a width of outlines that suits the image size, in pixels."""
    return max(2, round(min(image.size) / 180))


def font_for(image: Image.Image) -> Font:
    """Return a font that suits the image size."""
    return ImageFont.load_default(size=max(11, round(min(image.size) / 28)))


def write_label(
    painter: ImageDraw.ImageDraw, box: Sequence[float], text: str, colour: str, font: Font
) -> None:
    """Write a label on a plate above a box, or at its top if there is no room above."""
    if len(text) > _MAX_LABEL_LENGTH:  # keep the end, which is the score or "(crowd)"
        text = f"{text[: _MAX_LABEL_LENGTH - 13]}...{text[-10:]}"
    left, top, right, bottom = painter.textbbox((0, 0), text, font=font)
    height, width = bottom - top + 2, right - left + 4
    # Within the right border, so that the end of the name is visible.
    x = max(0, min(box[0], painter.im.size[0] - width - 1))
    y = box[1] - height if box[1] >= height else box[1]
    painter.rectangle((x, y, x + width, y + height), fill=colour)
    painter.text((x + 2, y + 1 - top), text, fill=_text_colour(colour), font=font)


def _text_colour(plate: str) -> str:
    """Return black for light plates and white for dark ones."""
    red, green, blue = ImageColor.getrgb(plate)[:3]
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > _LIGHT else "#FFFFFF"
