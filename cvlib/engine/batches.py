"""Training batches: reading, checking, augmenting and stacking samples, in worker processes."""

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

# Datasets whose labels and cache are in shared memory.
_SHARED = (
    *(DetectionDataset, SegmentationDataset, ClassificationDataset),
    *(ShardDataset, SyntheticBananas),
)
# Starting workers takes longer than reading this many images.
_MIN_IMAGES = 100
_MAX_WORKERS = 8


def choose_workers(wanted: int | None, *datasets: Any) -> int:
    """Choose the number of worker processes that load images.

    Args:
        wanted: The user's choice; ``None`` chooses by machine and datasets.
        datasets: The datasets to read.

    Returns:
        ``wanted``; or half of the cores available to this process, divided by the training
        processes of the machine, at most 8, since the other half computes. No workers for few
        images, for datasets from elsewhere, which may hold what processes cannot share (such as an
        open file), and where processes are not forked, because each would import torch again.
    """
    if wanted is not None:
        return wanted
    # The plain call would fix the method for the whole process.
    method = multiprocessing.get_start_method(allow_none=True)
    if (method or multiprocessing.get_all_start_methods()[0]) != "fork":
        return 0
    if max(len(dataset) for dataset in datasets) < _MIN_IMAGES:
        return 0
    if not all(isinstance(unwrap(dataset)[0], _SHARED) for dataset in datasets):
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return min(_MAX_WORKERS, len(os.sched_getaffinity(0)) // (2 * processes))


def ignore_interrupts(_: int) -> None:
    """Make a worker ignore Ctrl-C, which the terminal sends to all processes of a run."""
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
        model: The model; its task and framing are used.
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
    transform = make_transform(name, model.task, model.framing, train=True)
    return TransformedDataset(dataset, transform, seed)


BadImage = tuple[int, str]


@dataclass
class Batch:
    """A batch of one process.

    Attributes:
        images: Shape (B, 3, H, W), uint8.
        targets: Targets; see `collate`.
        key: Identifies the batch.
        bad: Indices and reasons of unreadable images, which are skipped.
    """

    images: Tensor
    targets: dict[str, Any]
    key: BatchKey
    bad: list[BadImage] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """Pin tensors for asynchronous copies to CUDA; called by the loader."""
        self.images = self.images.pin_memory()
        self.targets = {
            name: value.pin_memory() if isinstance(value, Tensor) else value
            for name, value in self.targets.items()
        }
        return self

    def to(self, device: torch.device) -> tuple[Tensor, dict[str, Any]]:
        """Return images (in channels-last memory) and targets on a device."""
        images = self.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        return images, {name: _move(value, device) for name, value in self.targets.items()}


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return [_move(item, device) for item in value] if isinstance(value, list) else value


# Errors of datasets for missing or damaged images. Anything else is a mistake in labels or code and
# stops the run.
UNREADABLE = (OSError, UnreadableImageError)


class _Unreadable(Exception):
    """An unreadable image: index and reason."""

    def __init__(self, index: int, reason: str) -> None:
        self.bad: BadImage = (index, reason)
        super().__init__(index, reason)


class _CheckedSamples(Dataset[Any]):
    """Distinguishes unreadable images from wrong labels.

    Args:
        dataset: A dataset that raises one of ``UNREADABLE`` for unreadable images.
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
            raise _Unreadable(index, str(error)) from error
        if "boxes" in target:  # before a transform clips a wrong box into a valid one
            size = (image.shape[-2], image.shape[-1])
            boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
            try:
                check_targets(boxes[None].float(), labels[None], self.num_classes, size)
            except ValueError as error:
                raise ValueError(
                    f"fit: expected valid labels, got in image {index}: {error}"
                ) from error
        return image, target


class Batches(Dataset[Batch]):
    """Batches by `BatchKey`.

    A batch depends only on its key and the seed, not on the process that creates it or on earlier
    batches.

    Args:
        dataset: Training dataset.
        model: The model; its task, classes and framing are used.
        recipe: See `apply_recipe`.
        seed: Seed of the random changes.
    """

    def __init__(self, dataset: Any, model: Model, recipe: str, seed: int) -> None:
        readable = _CheckedSamples(dataset, model.num_classes)
        self.size, self.seed = len(readable), seed
        self.multiple = model.framing.multiple
        self.samples = apply_recipe(recipe, readable, model, seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: BatchKey) -> Batch:
        samples, bad = [], []
        with preserve_generators():
            for index in key.indices:
                try:
                    samples.append(self.samples[key.epoch, index])
                except _Unreadable as error:
                    bad.append(error.bad)
        if not samples:
            samples.append(self._substitute(key, bad))
        images, targets = collate(samples, multiple=self.multiple)
        return Batch(images, targets, key, bad)

    def _substitute(self, key: BatchKey, bad: list[BadImage]) -> Any:
        """The next readable image, because a step needs at least one."""
        for further in range(1, self.size):
            index = (key.indices[-1] + further) % self.size
            try:
                return self.samples[key.epoch, index]
            except _Unreadable as error:
                bad.append(error.bad)
        raise ValueError(f"fit: expected readable images, got none; the first: {bad[0][1]}")


def load_batches(
    batches: Batches, plan: SamplingPlan, first: int, workers: int, device: torch.device
) -> Iterator[list[Batch]]:
    """Yield the batches of every remaining step of a run.

    Workers live as long as the run and keep loading while it evaluates.

    Args:
        batches: The batches by key.
        plan: Assignment of images to steps.
        first: First step, for resumed runs.
        workers: Number of worker processes.
        device: Device that the batches will be copied to.

    Yields:
        The batches of a step.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=plan.keys(first),
        num_workers=workers,
        collate_fn=_identity,
        worker_init_fn=ignore_interrupts,
        pin_memory=device.type == "cuda",
        # Its own generator, so that starting workers leaves the global one alone.
        generator=torch.Generator().manual_seed(plan.config.seed),
    )
    step: list[Batch] = []
    for batch in loader:
        step.append(batch)
        if batch.key.is_last:
            yield step
            step = []


def _identity(batch: Any) -> Any:
    return batch
