"""Results drawn on their picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cvlib.structures import Classification, Detections, Result, Segmentation
from cvlib.visualize import draw, to_pil
from cvlib.visualize.segmentation import class_colours

_SHOWN = 3
_OPACITY = 0.5


def annotate(image: Tensor, result: Result) -> Image.Image:
    """Draws what a model says of a picture.

    Args:
        image: uint8, shape (3, H, W), RGB.
        result: Objects are drawn as boxes, classes as lines of text, areas as colours.

    Returns:
        A new picture of the same size.

    Example:
        >>> import torch
        >>> result = Classification(torch.tensor([0.25, 0.75]), ("ant", "bee"))
        >>> annotate(torch.zeros(3, 64, 96, dtype=torch.uint8), result).size
        (96, 64)
    """
    if isinstance(result, Detections):
        return draw(image, result)
    if isinstance(result, Segmentation):
        return _draw_areas(to_pil(image), result)
    return _draw_classes(to_pil(image), result)


def _draw_classes(picture: Image.Image, result: Classification) -> Image.Image:
    painter = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, round(min(picture.size) / 20)))
    lines = [f"{name} {probability:.2f}" for name, probability in result.top(_SHOWN)]
    box = painter.multiline_textbbox((4, 2), "\n".join(lines), font=font)
    painter.rectangle((0, 0, box[2] + 4, box[3] + 4), fill="#000000")
    painter.multiline_text((4, 2), "\n".join(lines), fill="#FFFFFF", font=font)
    return picture


def _draw_areas(picture: Image.Image, result: Segmentation) -> Image.Image:
    pixels = np.asarray(picture)
    labels = result.labels.cpu().numpy()
    named = labels != result.void
    colours = np.array(class_colours(len(result.classes)))[np.where(named, labels, 0)]
    mixed = (_OPACITY * colours + (1 - _OPACITY) * pixels).astype(np.uint8)
    return Image.fromarray(np.where(named[..., None], mixed, pixels))
