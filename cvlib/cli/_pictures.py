"""Pictures of what a model says beside what is true."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from cvlib.models import Model
from cvlib.predict import look
from cvlib.visualize import Tile, draw, draw_sample, make_sheet

_SHOWN = 8
_SIDE = 320
_SCORE = 0.5


def draw_predictions(model: Model, dataset: Any, count: int = _SHOWN) -> Image.Image:
    """Draws pictures of a set in pairs: the truth, and what the model says.

    Args:
        model: Of any task.
        dataset: Of the same task; its first readable pictures, spread evenly, are drawn.
        count: How many.
    """
    tiles: list[Tile] = []
    for index in range(0, len(dataset), max(1, len(dataset) // count)):
        if len(tiles) == 2 * count:
            break
        try:
            image, target = dataset[index]
        except (OSError, ValueError):  # has been told before
            continue
        image = image.as_subclass(Tensor)
        (result,) = look(model, [image], score_threshold=_SCORE)
        truth = draw_sample(image, target, dataset.classes)
        for picture, caption in (
            (truth.picture, f"true: {truth.caption}"),
            (draw(image, result), "found"),
        ):
            tiles.append(Tile(_shrink(picture), caption))
    return make_sheet(tiles, f"{model.name}: the truth, and what it finds", columns=4)


def _shrink(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    copy.thumbnail((_SIDE, _SIDE))
    return copy
