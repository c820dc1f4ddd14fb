"""Pictures of what models see and find."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cvlib.metrics import GroundTruth
from cvlib.structures import Detections

# Distinct on dark and light pictures, also for colour-blind people (Okabe and Ito).
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
TRUTH_COLOUR = "#FFFFFF"
_MARGIN = 4


def to_pil(image: Tensor) -> Image.Image:
    """Turns a uint8 tensor of shape (3, H, W), RGB, into a picture.

    Raises:
        ValueError: Another shape or dtype.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"to_pil: expected image uint8 of shape (3, H, W), got {image.dtype} "
            f"{tuple(image.shape)}"
        )
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def draw(image: Image.Image | Tensor, detections: Detections) -> Image.Image:
    """Draws boxes, class names and scores.

    Args:
        image: A picture, or a uint8 tensor of shape (3, H, W), RGB.
        detections: Boxes in pixels of this picture.

    Returns:
        A new picture.

    Example:
        >>> black = torch.zeros(3, 32, 48, dtype=torch.uint8)
        >>> draw(black, Detections.empty(("cat",))).size
        (48, 32)
    """
    picture = to_pil(image) if isinstance(image, Tensor) else image.convert("RGB")
    painter = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / 180))
    font = ImageFont.load_default(size=max(11, round(min(picture.size) / 28)))
    found = detections.cpu()
    # The best box is drawn last, on top.
    for i in reversed(range(len(found))):
        colour = PALETTE[int(found.labels[i]) % len(PALETTE)]
        box = found.boxes[i].tolist()
        painter.rectangle(box, outline=colour, width=width)
        _write_label(painter, box, f"{found.names[i]} {found.scores[i]:.2f}", colour, font)
    return picture


def _write_label(
    painter: ImageDraw.ImageDraw,
    box: list[float],
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = painter.textbbox((0, 0), text, font=font)
    height = bottom - top + 2
    y = box[1] - height if box[1] >= height else box[1]
    painter.rectangle((box[0], y, box[0] + right - left + 4, y + height), fill=colour)
    painter.text((box[0] + 2, y + 1 - top), text, fill="#000000", font=font)


def draw_truth(image: Tensor, truth: GroundTruth) -> Image.Image:
    """Draws the true boxes."""
    picture = to_pil(image)
    painter = ImageDraw.Draw(picture)
    for box in truth.boxes.tolist():
        painter.rectangle(box, outline=TRUTH_COLOUR, width=2)
    return picture


def draw_comparison(
    images: Sequence[Tensor], truths: Sequence[GroundTruth], found: Sequence[Detections]
) -> Image.Image:
    """Draws a grid of pictures, the truth on the left of each pair and the detections on the right.

    Args:
        images: uint8, shape (3, H, W), all of one size.
        truths: True objects of each.
        found: Detections in each.

    Returns:
        One picture, two pairs in a row.
    """
    pairs = [
        (draw_truth(image, truth), draw(image, detections))
        for image, truth, detections in zip(images, truths, found, strict=True)
    ]
    width, height = pairs[0][0].size
    columns = 2 if len(pairs) > 1 else 1
    rows = -(-len(pairs) // columns)
    pair_width = 2 * width + 3 * _MARGIN
    grid = Image.new("RGB", (columns * pair_width, rows * (height + _MARGIN) + _MARGIN), "#202020")
    for i, pair in enumerate(pairs):
        x, y = i % columns * pair_width + _MARGIN, i // columns * (height + _MARGIN) + _MARGIN
        grid.paste(pair[0], (x, y))
        grid.paste(pair[1], (x + width + _MARGIN, y))
    return grid
