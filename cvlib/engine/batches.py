"""Batches: read, checked, changed at random, stacked; in workers where there are some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cvlib.data import collate
from cvlib.data._images import UnreadablePictureError
from cvlib.data.transforms.dataset import generators_kept
from cvlib.engine.recipes import make_recipe
from cvlib.engine.sampling import Key, Plan
from cvlib.engine.workers import leave_interrupts_to_others
from cvlib.models import Model
from cvlib.targets import check_targets

BadPicture = tuple[int, str]


@dataclass
class Batch:
    """What one process computes at a time.

    Attributes:
        images: Shape (B, 3, H, W), uint8.
        targets: As of `collate`.
        bad: Indices and reasons of pictures that could not be read and are left out.
        key: What was asked for.
    """

    images: Tensor
    targets: dict[str, Any]
    key: Key
    bad: list[BadPicture] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """Puts tensors where CUDA copies from without waiting; the loader calls it."""
        self.images = self.images.pin_memory()
        self.targets = {
            name: value.pin_memory() if isinstance(value, Tensor) else value
            for name, value in self.targets.items()
        }
        return self

    def to(self, device: torch.device) -> tuple[Tensor, dict[str, Any]]:
        """Images (in channels-last memory) and targets on a device."""
        images = self.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        return images, {name: _move(value, device) for name, value in self.targets.items()}


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return [_move(one, device) for one in value] if isinstance(value, list) else value


# What a data set raises for a picture that is missing or damaged. Anything else is a mistake of
# labels or of code, and stops the run.
UNREADABLE = (OSError, UnreadablePictureError)


class LeftOut(Exception):
    """A picture that cannot be read, by index and reason."""

    def __init__(self, index: int, reason: str) -> None:
        self.bad: BadPicture = (index, reason)
        super().__init__(index, reason)


class Readable(Dataset[Any]):
    """Tells pictures that cannot be read from labels that are wrong.

    Args:
        dataset: Raises one of ``UNREADABLE`` for a picture that it cannot read.
        num_classes: K.
    """

    def __init__(self, dataset: Any, num_classes: int) -> None:
        self.dataset, self.num_classes = dataset, num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            image, target = self.dataset[index]
        except UNREADABLE as error:
            raise LeftOut(index, str(error)) from error
        if "boxes" in target:  # before a transform clips a wrong box into a right one
            size = (image.shape[-2], image.shape[-1])
            boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
            try:
                check_targets(boxes[None].float(), labels[None], self.num_classes, size)
            except ValueError as error:
                raise ValueError(f"fit: wrong labels of picture {index}: {error}") from error
        return image, target


class Batches(Dataset[Batch]):
    """Gives the batch that a `Key` names.

    What comes out depends on the key and the seed alone, not on the process that makes it or on
    what it has made before.

    Args:
        dataset: The training set.
        model: Its task, classes and ``image_size``.
        recipe: A name of `make_recipe`.
        seed: Of random changes.
    """

    def __init__(self, dataset: Any, model: Model, recipe: str, seed: int) -> None:
        readable = Readable(dataset, model.num_classes)
        self.size, self.seed = len(readable), seed
        self.samples, self.change = make_recipe(recipe, readable, model, seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: Key) -> Batch:
        samples, bad = [], []
        with generators_kept():
            for index in key.indices:
                try:
                    samples.append(self.samples[key.epoch, index])
                except LeftOut as error:
                    bad.append(error.bad)
        if not samples:
            samples.append(self._substitute(key, bad))
        images, targets = collate(samples)
        images, targets = self.change(images, targets, key)
        return Batch(images, targets, key, bad)

    def _substitute(self, key: Key, bad: list[BadPicture]) -> Any:
        """The next readable picture of the set, because a step cannot do without any."""
        for further in range(1, self.size):
            index = (key.indices[-1] + further) % self.size
            try:
                return self.samples[key.epoch, index]
            except LeftOut as error:
                bad.append(error.bad)
        raise ValueError(f"fit: expected readable pictures, got none; the first: {bad[0][1]}")


def load_batches(
    batches: Batches, plan: Plan, first: int, workers: int, device: torch.device
) -> Iterator[list[Batch]]:
    """Gives the batches of every step of the rest of a run.

    Workers live as long as the run, and go on loading while it evaluates.

    Args:
        batches: Makes them.
        plan: Says which.
        first: Steps of the run that are done.
        workers: Processes that load.
        device: Where the batches go later.

    Yields:
        The batches of a step.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=plan.keys(first),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=leave_interrupts_to_others,
        pin_memory=device.type == "cuda",
        # Of its own, so that starting workers draws nothing from the global one.
        generator=torch.Generator().manual_seed(plan.config.seed),
    )
    step: list[Batch] = []
    for batch in loader:
        step.append(batch)
        if batch.key.is_last:
            yield step
            step = []


def _as_it_is(batch: Any) -> Any:
    return batch
