"""Assignment of images to steps, which depends only on seed and epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvlib.engine.config import TrainConfig

# Keeps the seeds of neighbouring epochs, steps and runs apart.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class BatchKey:
    """Identifies one batch of one process.

    Attributes:
        step: Step of the run, from 0.
        epoch: Epoch, from 0.
        indices: Indices of the images.
        weight: Share of the images of the step in this batch; 1 without accumulation.
        is_last: Whether this batch completes the step.
    """

    step: int
    epoch: int
    indices: tuple[int, ...]
    weight: float
    is_last: bool


@dataclass(frozen=True)
class SamplingPlan:
    """Order of all images of a run.

    A step takes the next ``batch_size * accumulate * processes`` images of the epoch, splits them
    into ``accumulate`` batches, and each batch into one share per process. So two processes with
    batches of B take the same steps as one with 2B, and nothing is padded: the shares of the last
    step are smaller and may be unequal. A last step with fewer images than processes is skipped.

    Attributes:
        size: Number of images in the dataset.
        config: Settings ``batch_size``, ``accumulate``, ``seed`` and the number of epochs.
        rank: Rank of this process.
        processes: Number of processes.
    """

    size: int
    config: TrainConfig
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.size < self.processes:
            raise ValueError(
                f"fit: expected at least one image for each of {self.processes} processes, got "
                f"{self.size}"
            )

    @property
    def images_per_step(self) -> int:
        """Images per step in all processes together."""
        return self.config.batch_size * self.config.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        full, rest = divmod(self.size, self.images_per_step)
        return full + (rest >= self.processes)

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return self.config.epochs_for(self.size)

    @property
    def total_steps(self) -> int:
        """Number of steps in the run."""
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> Tensor:
        """All indices in the order of an epoch, the same for equal seeds."""
        generator = torch.Generator().manual_seed(self.config.seed * SEED_STRIDE + epoch)
        return torch.randperm(self.size, generator=generator)

    def keys(self, first: int = 0) -> Iterator[BatchKey]:
        """Yield this process's batches to the end of the run.

        Args:
            first: First step, for resumed runs.
        """
        epoch, done = divmod(first, self.steps_per_epoch)
        for later in range(epoch, self.epochs):
            for step in self.steps(later, done if later == epoch else 0):
                yield from step

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[BatchKey]]:
        """Yield this process's batches of an epoch, step by step.

        Args:
            epoch: Epoch, from 0.
            first: First step of the epoch, for resumed runs.

        Yields:
            The batches of one step, as many as in every other process.
        """
        order, count = self.order(epoch), self.images_per_step
        for number in range(first, self.steps_per_epoch):
            images = order[number * count : (number + 1) * count].tolist()
            yield self._batches(images, epoch * self.steps_per_epoch + number, epoch)

    def _batches(self, images: list[int], step: int, epoch: int) -> list[BatchKey]:
        together = self.config.batch_size * self.processes
        # Every process gets at least one image of each batch.
        number = max(1, min(-(-len(images) // together), len(images) // self.processes))
        keys: list[BatchKey] = []
        for batch in _split(images, number):
            share = _split(batch, self.processes)[self.rank]
            is_last = len(keys) == number - 1
            keys.append(BatchKey(step, epoch, tuple(share), len(batch) / len(images), is_last))
        return keys


def _split(items: list[int], parts: int) -> list[list[int]]:
    """Consecutive parts of nearly equal length."""
    bounds = [len(items) * i // parts for i in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
