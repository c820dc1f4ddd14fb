"""From a recipe's name to what happens to training pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from cvlib.data.augment import augment_batch
from cvlib.engine.sampling import SEED_STRIDE, Key
from cvlib.models import Model

Change = Callable[[Tensor, dict[str, Any], Key], tuple[Tensor, dict[str, Any]]]
# By task: what "auto" means.
AUTO = {"detection": "light-batch", "classification": "classify", "segmentation": "none"}
# Random numbers of one picture in `augment_batch`.
_DRAWS = 10


def make_recipe(recipe: str, dataset: Dataset[Any], model: Model, seed: int) -> tuple[Any, Change]:
    """Builds what a recipe does to pictures one by one, and to whole batches.

    Args:
        recipe: ``"auto"``, the one for the model's task; ``"light-batch"``: flips, shifts, changes
            of scale and colour on the whole batch, for detection; ``"none"``: sizes alone.
        dataset: Gives samples by index.
        model: Its task, ``image_size`` and ``resize``.
        seed: Of random changes.

    Returns:
        Samples by ``(epoch, index)``, and the change of a collated batch.

    Raises:
        ValueError: No such recipe, or one for another task.
    """
    name = AUTO[model.task] if recipe == "auto" else recipe
    if name == "light-batch" and model.task != "detection":
        raise ValueError(
            f"fit: expected a recipe for {model.task}, got 'light-batch', which is for detection"
        )
    if name not in ("light-batch", "none", "classify"):
        raise ValueError(f"fit: expected a known recipe, got {recipe!r}")
    samples = Samples(dataset, model, name, seed)
    return samples, _LightBatch(seed) if name == "light-batch" else _keep


class Samples(Dataset[Any]):
    def __init__(self, dataset: Any, model: Model, name: str, seed: int) -> None:
        self.dataset, self.task, self.size, self.seed = dataset, model.task, model.image_size, seed
        self.transform = None
        if model.task == "classification":
            self.transform = (
                v2.Compose(
                    [
                        v2.RandomResizedCrop(self.size, (0.5, 1), antialias=True),
                        v2.RandomHorizontalFlip(),
                    ]
                )
                if name == "classify"
                else v2.Compose([v2.Resize(round(self.size[0] / 0.875)), v2.CenterCrop(self.size)])
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: tuple[int, int]) -> Any:
        epoch, index = at
        image, target = self.dataset[index]
        if self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((self.seed * SEED_STRIDE + epoch) * SEED_STRIDE + index)
                return self.transform(image), target
        if tuple(image.shape[-2:]) != self.size:
            return v2.Resize(self.size, antialias=True)(image, target)
        return image, target


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
        return images, {**targets, "boxes": boxes, "labels": labels}
