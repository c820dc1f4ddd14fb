"""From a recipe's name to what happens to training pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.data.augment import augment_batch
from cvlib.data.transforms import RECIPES, TransformedDataset, make_transform
from cvlib.engine.sampling import SEED_STRIDE, Key
from cvlib.models import Model

Change = Callable[[Tensor, dict[str, Any], Key], tuple[Tensor, dict[str, Any]]]
LIGHT_BATCH = "light-batch"
# What "auto" means, by task.
AUTO = {
    "detection": LIGHT_BATCH,
    "segmentation": "segmentation",
    "classification": "classification",
}
# Random numbers of one picture in `augment_batch`.
_DRAWS = 10


def make_recipe(
    recipe: str, dataset: Dataset[Any], model: Model, seed: int
) -> tuple[TransformedDataset, Change]:
    """Builds what a recipe does to pictures one by one, and to whole batches.

    Args:
        recipe: A name in ``cvlib.data.transforms.RECIPES`` for the model's task;
            ``"light-batch"``, for detection: pictures are stretched to the model's size where they
            have another one, then `augment_batch` mirrors, turns, moves and recolours the batch;
            ``"auto"``: the one of ``AUTO``.
        dataset: Gives samples by index.
        model: Its task and ``image_size``.
        seed: Of random changes.

    Returns:
        Samples by ``(epoch, index)``, and the change of a collated batch.

    Raises:
        ValueError: No such recipe for the model's task.
    """
    name = AUTO[model.task] if recipe == "auto" else recipe
    known = [*RECIPES[model.task], *([LIGHT_BATCH] if model.task == "detection" else [])]
    if name not in known:
        raise ValueError(
            f"fit: expected a recipe for {model.task} ({', '.join(known)}), got {recipe!r}"
        )
    by_picture = "none" if name == LIGHT_BATCH else name
    transform = make_transform(by_picture, model.task, model.image_size, train=True)
    samples = TransformedDataset(dataset, transform, seed)
    return samples, _LightBatch(seed) if name == LIGHT_BATCH else _keep


def _keep(images: Tensor, targets: dict[str, Any], _: Key) -> tuple[Tensor, dict[str, Any]]:
    return images, targets


class _LightBatch:
    """`augment_batch`, with numbers drawn for the step; each picture gets those of its place."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(
        self, images: Tensor, targets: dict[str, Any], key: Key
    ) -> tuple[Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + key.step)
        torch.rand(key.offset, _DRAWS, generator=generator)  # those of the pictures before
        images, boxes, labels = augment_batch(
            images, targets["boxes"], targets["labels"], generator
        )
        # Masks are not moved along, so they would be wrong.
        rest = {name: value for name, value in targets.items() if name != "masks"}
        return images, {**rest, "boxes": boxes, "labels": labels}
