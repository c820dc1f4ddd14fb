"""Images of what a model says beside what is true."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import Resize

from cvlib.models import Model
from cvlib.visualize import draw
from cvlib.visualize.samples import draw_sample
from cvlib.visualize.sheets import Tile, make_sheet

_SHOWN = 8
_SIDE = 320
_SCORE = 0.5


def draw_predictions(model: Model, dataset: Any, count: int = _SHOWN) -> Image.Image:
    """Draws images of a set in pairs: the truth, and what the model says.

    Args:
        model: Of any task.
        dataset: Of the same task; its first readable images, spread evenly, are drawn.
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
        whole = (image.shape[-2], image.shape[-1])
        result = model.predict(image.as_subclass(Tensor), score_threshold=_SCORE)
        # Before anything is written on it, so that words can be read.
        scale = min(1.0, _SIDE / max(whole))
        small = (max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale)))
        image, target = Resize(small)(image, target)
        truth = draw_sample(image, target, dataset.classes)
        found = draw(image, result.resize(small))
        tiles += [Tile(truth.image, f"true: {truth.caption}"), Tile(found, "found")]
    return make_sheet(tiles, f"{model.name}: the truth, and what it finds", columns=4)
