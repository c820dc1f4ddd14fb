"""Which images make which step: a plan that depends on seed and epoch alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvlib.engine.config import TrainConfig

# Seeds of neighbouring epochs and steps must differ; so must those of neighbouring runs.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Key:
    """One batch of one process.

    Attributes:
        step: Of the whole run, from 0.
        epoch: From 0.
        indices: Of the images.
        offset: How many images of the same step come before them, in all processes together.
        weight: Share of the images of the step that this batch has; 1 without accumulation.
        is_last: Whether it completes the step.
    """

    step: int
    epoch: int
    indices: tuple[int, ...]
    offset: int
    weight: float
    is_last: bool


@dataclass(frozen=True)
class Plan:
    """The order of all images of a run.

    A step takes ``batch_size * accumulate * processes`` images of the epoch's order. They are cut
    into ``accumulate`` batches, and each of them into one share for every process. So two processes
    with batches of B take the steps of one with 2B, and nothing is padded: shares of the last step
    are smaller, and may be unequal. A last step with fewer images than processes is left out.

    Attributes:
        size: Images in the set.
        config: ``batch_size``, ``accumulate`` and ``seed``.
        rank: Of this process.
        processes: How many there are.
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
        """In all processes together."""
        return self.config.batch_size * self.config.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image comes once."""
        whole, rest = divmod(self.size, self.images_per_step)
        return whole + (rest >= self.processes)

    @property
    def epochs(self) -> int:
        """Passes over the set."""
        return self.config.epochs_for(self.size)

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> Tensor:
        """All indices in the order of an epoch: always the same for a seed."""
        generator = torch.Generator().manual_seed(self.config.seed * SEED_STRIDE + epoch)
        return torch.randperm(self.size, generator=generator)

    def keys(self, first: int = 0) -> Iterator[Key]:
        """This process's batches to the end of the run; of each step as many as in every process.

        Args:
            first: Steps of the run that are done.
        """
        epoch, done = divmod(first, self.steps_per_epoch)
        for later in range(epoch, self.epochs):
            for step in self.steps(later, done if later == epoch else 0):
                yield from step

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[Key]]:
        """This process's batches of an epoch, step by step.

        Args:
            epoch: From 0.
            first: Steps of the epoch that are done.

        Yields:
            The batches of one step; as many in every process.
        """
        order, count = self.order(epoch), self.images_per_step
        for number in range(first, self.steps_per_epoch):
            images = order[number * count : (number + 1) * count].tolist()
            yield self._batches(images, epoch * self.steps_per_epoch + number, epoch)

    def _batches(self, images: list[int], step: int, epoch: int) -> list[Key]:
        together = self.config.batch_size * self.processes
        # Never so many batches that a process would have nothing to do in one of them.
        number = max(1, min(-(-len(images) // together), len(images) // self.processes))
        keys, start = [], 0
        for batch in _split(images, number):
            shares = _split(batch, self.processes)
            offset = start + sum(len(share) for share in shares[: self.rank])
            start += len(batch)
            weight, is_last = len(batch) / len(images), start == len(images)
            keys.append(Key(step, epoch, tuple(shares[self.rank]), offset, weight, is_last))
        return keys


def _split(items: list[int], parts: int) -> list[list[int]]:
    """Runs of nearly equal length, in order."""
    bounds = [len(items) * i // parts for i in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
