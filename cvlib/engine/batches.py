"""Batches: read, checked, changed at random, stacked; in workers where there are some."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cvlib._distributed import world_size
from cvlib.data import (
    ClassificationDataset,
    DetectionDataset,
    SegmentationDataset,
    SyntheticBananas,
    collate,
)
from cvlib.data.check.doctor import unwrap
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.shards.dataset import ShardDataset
from cvlib.data.transforms import RECIPES, TransformedDataset, make_transform
from cvlib.data.transforms.dataset import preserve_generators
from cvlib.engine.sampling import BatchKey, SamplingPlan
from cvlib.models import Model
from cvlib.targets import check_targets

# Sets that processes share well: their labels and cache are memory that all of them read.
_SHARED = (
    *(DetectionDataset, SegmentationDataset, ClassificationDataset),
    *(ShardDataset, SyntheticBananas),
)
# One process reads this many images in less time than it takes to start others.
_FEW = 100
_MOST = 8


def choose_workers(wanted: int | None, *datasets: Any) -> int:
    """Says how many processes shall load images beside this one.

    Args:
        wanted: What the user wants; ``None`` leaves it to the machine.
        datasets: That are read.

    Returns:
        ``wanted``; or half of the cores that this process may use, divided by the training
        processes of the machine, at most 8, since the other half computes. But none for a few
        images; for sets of other makers, which may hold what processes cannot share, such as an
        open file; and where processes are not forked, because each would import torch again.
    """
    if wanted is not None:
        return wanted
    # Not the plain call, which would settle the method for the whole process.
    method = multiprocessing.get_start_method(allow_none=True)
    if (method or multiprocessing.get_all_start_methods()[0]) != "fork":
        return 0
    if max(len(one) for one in datasets) < _FEW:
        return 0
    if not all(isinstance(unwrap(one)[0], _SHARED) for one in datasets):
        return 0
    together = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return min(_MOST, len(os.sched_getaffinity(0)) // (2 * together))


def leave_interrupts_to_others(_: int) -> None:
    """Makes a worker outlive Ctrl-C: the terminal tells it to all processes, the first decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# Recipe that "auto" selects, by task.
AUTO_RECIPES = {
    "detection": "light",
    "segmentation": "segmentation",
    "classification": "classification",
}


def apply_recipe(recipe: str, dataset: Dataset[Any], model: Model, seed: int) -> TransformedDataset:
    """Apply a training recipe to a dataset.

    Args:
        recipe: A name in ``cvlib.data.transforms.RECIPES`` for the model's task, or ``"auto"``
            for the default of the task.
        dataset: Samples by index.
        model: Supplies the task and ``image_size``.
        seed: Seed of the random changes.

    Returns:
        Samples by ``(epoch, index)``.

    Raises:
        ValueError: Unknown recipe for the model's task.
    """
    name = AUTO_RECIPES[model.task] if recipe == "auto" else recipe
    known = RECIPES[model.task]
    if name not in known:
        raise ValueError(
            f"fit: expected a recipe for {model.task} ({', '.join(known)}), got {recipe!r}"
        )
    transform = make_transform(name, model.task, model.image_size, train=True)
    return TransformedDataset(dataset, transform, seed)


BadImage = tuple[int, str]


@dataclass
class Batch:
    """What one process computes at a time.

    Attributes:
        images: Shape (B, 3, H, W), uint8.
        targets: As of `collate`.
        bad: Indices and reasons of images that could not be read and are left out.
        key: What was asked for.
    """

    images: Tensor
    targets: dict[str, Any]
    key: BatchKey
    bad: list[BadImage] = field(default_factory=list)

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


# What a data set raises for an image that is missing or damaged. Anything else is a mistake of
# labels or of code, and stops the run.
UNREADABLE = (OSError, UnreadableImageError)


class LeftOut(Exception):
    """An image that cannot be read, by index and reason."""

    def __init__(self, index: int, reason: str) -> None:
        self.bad: BadImage = (index, reason)
        super().__init__(index, reason)


class Readable(Dataset[Any]):
    """Tells images that cannot be read from labels that are wrong.

    Args:
        dataset: Raises one of ``UNREADABLE`` for an image that it cannot read.
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
                raise ValueError(f"fit: wrong labels of image {index}: {error}") from error
        return image, target


class Batches(Dataset[Batch]):
    """Gives the batch that a `BatchKey` names.

    What comes out depends on the key and the seed alone, not on the process that makes it or on
    what it has made before.

    Args:
        dataset: The training set.
        model: Its task, classes and ``image_size``.
        recipe: See `apply_recipe`.
        seed: Seed of the random changes.
    """

    def __init__(self, dataset: Any, model: Model, recipe: str, seed: int) -> None:
        readable = Readable(dataset, model.num_classes)
        self.size, self.seed = len(readable), seed
        self.samples = apply_recipe(recipe, readable, model, seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: BatchKey) -> Batch:
        samples, bad = [], []
        with preserve_generators():
            for index in key.indices:
                try:
                    samples.append(self.samples[key.epoch, index])
                except LeftOut as error:
                    bad.append(error.bad)
        if not samples:
            samples.append(self._substitute(key, bad))
        images, targets = collate(samples)
        return Batch(images, targets, key, bad)

    def _substitute(self, key: BatchKey, bad: list[BadImage]) -> Any:
        """The next readable image of the set, because a step cannot do without any."""
        for further in range(1, self.size):
            index = (key.indices[-1] + further) % self.size
            try:
                return self.samples[key.epoch, index]
            except LeftOut as error:
                bad.append(error.bad)
        raise ValueError(f"fit: expected readable images, got none; the first: {bad[0][1]}")


def load_batches(
    batches: Batches, plan: SamplingPlan, first: int, workers: int, device: torch.device
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
