"""Drawings of the images with the worst predictions."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.engine.evaluation_results import (
    ClassificationEvaluation,
    DetectionEvaluation,
    Evaluation,
    SegmentationEvaluation,
)
from cvlib.geometry.view import VOID
from cvlib.metrics import ErrorMeter
from cvlib.structures import Segmentation
from cvlib.visualize import draw, draw_segmentation, draw_truth
from cvlib.visualize.drawing import to_pil
from cvlib.visualize.sheets import Tile, join_horizontally, make_sheet

# Longer side of a drawn image in pixels.
_SIDE = 360


def draw_worst(
    evaluation: Evaluation, dataset: Dataset, count: int = 8, *, score_threshold: float = 0.3
) -> Image.Image:
    """Draw the images with the worst predictions.

    Args:
        evaluation: Result of `cvlib.evaluate`. Detection and segmentation show the ground truth on
            the left and the prediction on the right; classification shows the most confident
            mistakes.
        dataset: The evaluated dataset.
        count: Maximum number of images; for segmentation at most 32.
        score_threshold: Minimum score of drawn detections; all detections count as errors.

    Returns:
        A sheet with the worst image first and a caption about the errors of each.

    Raises:
        TypeError: The evaluation has no images.
        ValueError: The model made no errors.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.engine import evaluate
        >>> from cvlib.models import TinySSD
        >>> bananas = SyntheticBananas(3, image_size=64)
        >>> evaluation = evaluate(TinySSD(("banana",), (64, 64)), bananas)
        >>> draw_worst(evaluation, bananas, count=1).mode
        'RGB'
    """
    if getattr(evaluation, "images", None) is None:
        raise TypeError(
            f"draw_worst: expected `evaluation` to have images, got {type(evaluation).__name__} "
            "without"
        )
    tiles = _draw_tiles(evaluation, dataset, count, score_threshold)
    if not tiles:
        raise ValueError("draw_worst: expected at least one error to draw, got none")
    # Pairs of ground truth and prediction are wide.
    columns = 4 if isinstance(evaluation, ClassificationEvaluation) else 2
    return make_sheet(tiles, "worst images", columns=min(columns, len(tiles)))


@singledispatch
def _draw_tiles(
    evaluation: Evaluation, dataset: Any, count: int, score_threshold: float
) -> list[Tile]:
    raise TypeError(
        "draw_worst: expected `evaluation` to be a result of `evaluate`, got "
        f"{type(evaluation).__name__}"
    )


@_draw_tiles.register
def _(
    evaluation: DetectionEvaluation, dataset: Any, count: int, score_threshold: float
) -> list[Tile]:
    images: Any = evaluation.images
    sides = zip(images.truths, images.detections, strict=True)
    pairs = dict(zip(images.image_ids, sides, strict=True))
    tiles = []
    for one in ErrorMeter(images.classes).merge(images).compute().images[:count]:
        truth, found = pairs[one.image_id]
        if found.masks is None:  # masks on one side would hide the difference
            truth = replace(truth, masks=None)
        image = _scaled(dataset[one.image_id][0])
        size = (image.height, image.width)
        found = found[found.scores >= score_threshold].resize(size)
        pair = [draw_truth(image, truth.resize(size), images.classes), draw(image, found)]
        words = ", ".join(f"{number} {kind}" for kind, number in one.counts.items() if number)
        tiles.append(Tile(join_horizontally(pair), f"{one.image_id}: {words}"))
    return tiles


@_draw_tiles.register
def _(
    evaluation: SegmentationEvaluation, dataset: Any, count: int, score_threshold: float
) -> list[Tile]:
    images: Any = evaluation.images
    tiles = []
    for index, share in images.worst(count):
        if share == 1 or index not in evaluation.maps:
            continue
        image, target = dataset[index]
        canvas = _scaled(image)
        truth = Segmentation(target["mask"].as_subclass(Tensor), images.classes)
        pair = [_draw_map(canvas, one) for one in (truth, evaluation.maps[index])]
        words = f"{index}: {share:.1%} of the pixels are correct"
        for true, taken, _ in images.confusion(index).worst(1):
            words += f", most errors are {true} predicted as {taken}"
        tiles.append(Tile(join_horizontally(pair), words))
    return tiles


def _draw_map(image: Image.Image, found: Segmentation) -> Image.Image:
    labels = found.resize((image.height, image.width)).labels
    return draw_segmentation(
        image, torch.where(labels == found.void, VOID, labels.long()), found.classes
    )


@_draw_tiles.register
def _(
    evaluation: ClassificationEvaluation, dataset: Any, count: int, score_threshold: float
) -> list[Tile]:
    images: Any = evaluation.images
    return [
        Tile(_scaled(dataset[index][0]), f"{index}: {true}, predicted as {taken} {probability:.2f}")
        for index, true, taken, probability in images.worst(count)
    ]


def _scaled(image: Tensor) -> Image.Image:
    """Resize before anything is written on the image, so that text stays readable."""
    canvas = to_pil(image)
    scale = _SIDE / max(canvas.size)
    return canvas.resize(
        (max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale)))
    )
