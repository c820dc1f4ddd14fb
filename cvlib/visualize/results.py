"""What models say, drawn on the image that they say it of."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from cvlib.structures import Classification, Detections, GroundTruth, Result, Segmentation
from cvlib.visualize.drawing import (
    as_image,
    colour_of,
    draw_truth,
    font_for,
    line_width,
    paint_masks,
    write_label,
)
from cvlib.visualize.segmentation import class_colours, tint
from cvlib.visualize.sheets import Tile, beside, make_sheet

# Classes of an image that are named.
_NAMED = 3


def draw(image: Image.Image | Tensor, result: Result) -> Image.Image:
    """Draws what a model says of an image.

    Args:
        image: An image, or a uint8 tensor of shape (3, H, W), RGB.
        result: Detections, in pixels of this image: boxes with class names and scores, and masks
            where there are some. A classification: the most probable classes as lines of text. A
            segmentation of this image's size: every pixel in the colour of its class.

    Returns:
        A new image of the same size.

    Raises:
        ValueError: A segmentation of another size.

    Example:
        >>> import torch
        >>> black = torch.zeros(3, 32, 48, dtype=torch.uint8)
        >>> draw(black, Detections.empty(("cat",))).size
        (48, 32)
    """
    canvas = as_image(image)
    if isinstance(result, Classification):
        return _draw_classes(canvas, result)
    if isinstance(result, Segmentation):
        return _draw_areas(canvas, result)
    return _draw_objects(canvas, result)


def _draw_objects(image: Image.Image, result: Detections) -> Image.Image:
    found = result.cpu()
    colours = [colour_of(label) for label in found.labels.tolist()]
    if found.masks is not None:
        image = paint_masks(image, found.masks, colours)
    painter = ImageDraw.Draw(image)
    width, font = line_width(image), font_for(image)
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.names, colours, strict=True)
    # The best box is drawn last, on top.
    for box, score, name, colour in reversed(list(rows)):
        painter.rectangle(box, outline=colour, width=width)
        write_label(painter, box, f"{name} {score:.2f}", colour, font)
    return image


def _draw_classes(image: Image.Image, result: Classification) -> Image.Image:
    painter, font = ImageDraw.Draw(image), font_for(image)
    text = "\n".join(f"{name} {probability:.2f}" for name, probability in result.top(_NAMED))
    box = painter.multiline_textbbox((4, 2), text, font=font)
    painter.rectangle((0, 0, box[2] + 4, box[3] + 4), fill="#000000")
    painter.multiline_text((4, 2), text, fill="#FFFFFF", font=font)
    return image


def _draw_areas(image: Image.Image, result: Segmentation) -> Image.Image:
    if result.size != (image.height, image.width):
        raise ValueError(
            f"draw: expected a segmentation of the size of the image "
            f"{(image.height, image.width)} (height, width), got {result.size}; resize it first"
        )
    labels = result.labels.cpu().numpy()
    return tint(image, labels, labels != result.void, class_colours(len(result.classes)))


def draw_comparison(
    images: Sequence[Tensor], truths: Sequence[GroundTruth], found: Sequence[Detections]
) -> Image.Image:
    """Draws a grid of images, the truth on the left of each pair and the detections on the right.

    Args:
        images: uint8, shape (3, H, W), all of one size.
        truths: True objects of each.
        found: Detections in each.

    Returns:
        One image, two pairs in a row.
    """
    pairs = [
        (draw_truth(image, truth), draw(image, detections))
        for image, truth, detections in zip(images, truths, found, strict=True)
    ]
    tiles = [Tile(beside(pair), "") for pair in pairs]
    return make_sheet(tiles, columns=min(2, len(tiles)))
