"""The pictures that a model is worst at, to be looked at."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.engine.figures import ClassificationEvaluation, DetectionEvaluation, Evaluation
from cvlib.metrics import ErrorMeter, PictureErrors
from cvlib.visualize import draw, draw_truth, to_pil

_WIDTH, _MARGIN, _CAPTION = 360, 6, 26
_DARK, _LIGHT = "#202020", "#F0F0F0"
# Pictures that stand side by side, and the line below them.
Tile = tuple[list[Image.Image], str]


def draw_worst(
    evaluation: Evaluation, dataset: Dataset, count: int = 8, *, score_threshold: float = 0.3
) -> Image.Image:
    """Draws the pictures with the costliest errors.

    Args:
        evaluation: What `cvlib.evaluate` gave for this set: of a detector, with the truth on the
            left and what was found on the right; or of a classifier, with its surest mistakes.
        dataset: The set that was evaluated.
        count: How many pictures at most.
        score_threshold: Least score of detections that are drawn; all of them count as errors.

    Returns:
        A grid, the worst picture first, with a line on each picture's errors below it.

    Raises:
        TypeError: The evaluation is of another kind, or has lost its pictures.
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
    pictures = getattr(evaluation, "pictures", None)
    if isinstance(evaluation, DetectionEvaluation) and pictures is not None:
        tiles = _detection_tiles(evaluation, dataset, count, score_threshold)
        columns = 2
    elif isinstance(evaluation, ClassificationEvaluation) and pictures is not None:
        tiles = [
            ([to_pil(_read(dataset, index))], f"{index}: {true}, taken for {found} {share:.2f}")
            for index, true, found, share in pictures.worst(count)
        ]
        columns = 4
    else:
        raise TypeError(
            "draw_worst: expected the evaluation of a detector or a classifier with its pictures, "
            f"got {type(evaluation).__name__}"
        )
    if not tiles:
        raise ValueError("draw_worst: expected at least one error, got none: nothing to draw")
    return _grid(tiles, min(columns, len(tiles)))


def _detection_tiles(
    evaluation: DetectionEvaluation, dataset: Dataset, count: int, score_threshold: float
) -> list[Tile]:
    pictures: Any = evaluation.pictures
    meter = ErrorMeter(pictures.classes).merge(pictures)
    place = {number: i for i, number in enumerate(pictures.image_ids)}
    truths, detections = pictures.truths, pictures.detections
    tiles = []
    for one in meter.compute().pictures[:count]:
        image, found = _read(dataset, one.image_id), detections[place[one.image_id]]
        pair = [
            draw_truth(image, truths[place[one.image_id]]),
            draw(image, found[found.scores >= score_threshold]),
        ]
        tiles.append((pair, _describe(one)))
    return tiles


def _describe(errors: PictureErrors) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in errors.counts.items() if count)
    return f"{errors.image_id}: {counts}"


def _read(dataset: Any, index: int) -> Tensor:
    return dataset[index][0].as_subclass(Tensor)


def _grid(tiles: list[Tile], columns: int) -> Image.Image:
    # As high as the highest picture needs, within reason.
    aspect = max(picture.height / picture.width for pictures, _ in tiles for picture in pictures)
    height = round(_WIDTH * min(max(aspect, 0.4), 1.6))
    step = len(tiles[0][0]) * (_WIDTH + _MARGIN)
    rows = -(-len(tiles) // columns)
    size = (columns * step + _MARGIN, rows * (height + _CAPTION) + _MARGIN)
    grid = Image.new("RGB", size, _DARK)
    painter, font = ImageDraw.Draw(grid), ImageFont.load_default(size=13)
    for i, (pictures, text) in enumerate(tiles):
        x, y = i % columns * step + _MARGIN, i // columns * (height + _CAPTION) + _MARGIN
        for k, picture in enumerate(pictures):
            tile = ImageOps.pad(picture, (_WIDTH, height), color=_DARK)
            grid.paste(tile, (x + k * (_WIDTH + _MARGIN), y))
        painter.text((x + 2, y + height + 3), text, fill=_LIGHT, font=font)
    return grid
