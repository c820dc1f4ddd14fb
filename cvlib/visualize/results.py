"""Drawings of model results on their images."""

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
from cvlib.visualize.sheets import Tile, join_horizontally, make_sheet

# Number of classes written on a classified image.
_TOP_CLASSES = 3


def draw(image: Image.Image | Tensor, result: Result) -> Image.Image:
    """Draw the result of a model on a copy of its image.

    Args:
        image: PIL image, or uint8 tensor of shape (3, H, W), RGB.
        result: Detections in pixels of the image: boxes with class names and scores, and masks if
            there are any. A classification: the most probable classes as text. A segmentation of
            the image's size: every pixel in the colour of its class.

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
    return result.draw(image)


def draw_detections(image: Image.Image | Tensor, result: Detections) -> Image.Image:
    """Draw boxes, masks, class names and scores; see `draw`."""
    canvas, result = as_image(image), result.cpu()
    colours = [colour_of(label) for label in result.labels.tolist()]
    if result.masks is not None:
        canvas = paint_masks(canvas, result.masks, colours)
    painter = ImageDraw.Draw(canvas)
    width, font = line_width(canvas), font_for(canvas)
    rows = zip(result.boxes.tolist(), result.scores.tolist(), result.names, colours, strict=True)
    # The best box is drawn last, on top.
    for box, score, name, colour in reversed(list(rows)):
        painter.rectangle(box, outline=colour, width=width)
        write_label(painter, box, f"{name} {score:.2f}", colour, font)
    return canvas


def draw_classification(image: Image.Image | Tensor, result: Classification) -> Image.Image:
    """Write the most probable classes in the corner; see `draw`."""
    canvas = as_image(image)
    painter, font = ImageDraw.Draw(canvas), font_for(canvas)
    text = "\n".join(f"{name} {probability:.2f}" for name, probability in result.top(_TOP_CLASSES))
    box = painter.multiline_textbbox((4, 2), text, font=font)
    painter.rectangle((0, 0, box[2] + 4, box[3] + 4), fill="#000000")
    painter.multiline_text((4, 2), text, fill="#FFFFFF", font=font)
    return canvas


def draw_class_map(image: Image.Image | Tensor, result: Segmentation) -> Image.Image:
    """Tint every pixel in the colour of its class; see `draw`."""
    canvas = as_image(image)
    if result.size != (canvas.height, canvas.width):
        raise ValueError(
            f"draw: expected `result` to be a segmentation of the image's size "
            f"{(canvas.height, canvas.width)} (height, width), got {result.size}; resize it first"
        )
    labels = result.labels.cpu().numpy()
    return tint(canvas, labels, labels != result.void, class_colours(len(result.classes)))


def draw_comparison(
    images: Sequence[Tensor], truths: Sequence[GroundTruth], detections: Sequence[Detections]
) -> Image.Image:
    """Draw a grid of images in pairs, ground truth on the left, detections on the right.

    Args:
        images: uint8, shape (3, H, W), all of one size.
        truths: Annotated objects of each image.
        detections: Detections of each image.

    Returns:
        One image, two pairs in a row.
    """
    tiles = [
        Tile(join_horizontally((draw_truth(image, truth), draw(image, result))), "")
        for image, truth, result in zip(images, truths, detections, strict=True)
    ]
    return make_sheet(tiles, columns=min(2, len(tiles)))
