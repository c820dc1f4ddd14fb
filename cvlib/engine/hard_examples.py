"""The images that a model is worst at, to be looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.data.transforms import VOID
from cvlib.engine.evaluation_results import DetectionEvaluation, Evaluation, SegmentationEvaluation
from cvlib.metrics import ErrorMeter
from cvlib.structures import Segmentation
from cvlib.visualize import Tile, draw, draw_segmentation, draw_truth, make_sheet, to_pil
from cvlib.visualize.sheets import beside

# Pixels of the longer side of an image.
_SIDE = 360


def draw_worst(
    evaluation: Evaluation, dataset: Dataset, count: int = 8, *, score_threshold: float = 0.3
) -> Image.Image:
    """Draws the images with the costliest errors.

    Args:
        evaluation: What `cvlib.evaluate` gave for this set. Of detection and segmentation the truth
            is drawn on the left and what was found on the right; of classification the surest
            mistakes.
        dataset: The set that was evaluated.
        count: How many images at most; of segmentation there are never more than 32.
        score_threshold: Least score of detections that are drawn; all of them count as errors.

    Returns:
        A sheet, the worst image first, with a line on each image's errors above it.

    Raises:
        TypeError: The evaluation has lost its images.
        ValueError: The model made no error.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.engine import evaluate
        >>> from cvlib.models import TinySSD
        >>> bananas = SyntheticBananas(3, image_size=64)
        >>> found = evaluate(TinySSD(("banana",), (64, 64)), bananas)
        >>> draw_worst(found, bananas, count=1).mode
        'RGB'
    """
    if getattr(evaluation, "images", None) is None:
        raise TypeError(
            f"draw_worst: expected an evaluation with its images, got {type(evaluation).__name__}"
        )
    columns = 2
    if isinstance(evaluation, DetectionEvaluation):
        tiles = _detection_tiles(evaluation, dataset, count, score_threshold)
    elif isinstance(evaluation, SegmentationEvaluation):
        tiles = _segmentation_tiles(evaluation, dataset, count)
    else:
        tiles, columns = _classification_tiles(evaluation, dataset, count), 4
    if not tiles:
        raise ValueError("draw_worst: expected at least one error, got none: nothing to draw")
    return make_sheet(tiles, "the worst images", columns=min(columns, len(tiles)))


def _detection_tiles(
    evaluation: DetectionEvaluation, dataset: Any, count: int, score_threshold: float
) -> list[Tile]:
    images: Any = evaluation.images
    sides = zip(images.truths, images.detections, strict=True)
    pairs = dict(zip(images.image_ids, sides, strict=True))
    tiles = []
    for one in ErrorMeter(images.classes).merge(images).compute().images[:count]:
        truth, found = pairs[one.image_id]
        if found.masks is None:  # they would hide what is to be compared
            truth = replace(truth, masks=None)
        image = _scaled(dataset[one.image_id][0])
        size = (image.height, image.width)
        found = found[found.scores >= score_threshold].resize(size)
        pair = [draw_truth(image, truth.resize(size), images.classes), draw(image, found)]
        words = ", ".join(f"{number} {kind}" for kind, number in one.counts.items() if number)
        tiles.append(Tile(beside(pair), f"{one.image_id}: {words}"))
    return tiles


def _segmentation_tiles(evaluation: SegmentationEvaluation, dataset: Any, count: int) -> list[Tile]:
    images: Any = evaluation.images
    tiles = []
    for index, share in images.worst(count):
        if share == 1 or index not in evaluation.maps:
            continue
        image, target = dataset[index]
        canvas = _scaled(image)
        truth = Segmentation(target["mask"].as_subclass(Tensor), images.classes)
        pair = [_draw_map(canvas, one) for one in (truth, evaluation.maps[index])]
        words = f"{index}: {share:.1%} of the pixels are right"
        for true, taken, _ in images.confusion(index).worst(1):
            words += f", most of the others are {true} taken for {taken}"
        tiles.append(Tile(beside(pair), words))
    return tiles


def _draw_map(image: Image.Image, found: Segmentation) -> Image.Image:
    labels = found.resize((image.height, image.width)).labels
    return draw_segmentation(
        image, torch.where(labels == found.void, VOID, labels.long()), found.classes
    )


def _classification_tiles(evaluation: Any, dataset: Any, count: int) -> list[Tile]:
    return [
        Tile(_scaled(dataset[index][0]), f"{index}: {true}, taken for {taken} {probability:.2f}")
        for index, true, taken, probability in evaluation.images.worst(count)
    ]


def _scaled(image: Tensor) -> Image.Image:
    """Before anything is written on it, so that words can be read."""
    canvas = to_pil(image)
    scale = _SIDE / max(canvas.size)
    return canvas.resize(
        (max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale)))
    )
