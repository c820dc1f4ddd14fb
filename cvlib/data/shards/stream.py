"""Whole shards, read from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cvlib._distributed import rank, world_size
from cvlib.data.datasets.base import check_classes
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.files.shared_memory import is_for_worker
from cvlib.data.shards.archive import read_stream
from cvlib.data.shards.samples import decode_sample, unreadable


class ShardStream(IterableDataset[Any]):
    """Samples of whole shards, from the beginning to the end of each: for stores without seeking.

    Processes of a training and workers of a loader share the shards among them: one shard is read
    by one of them, so give each at least one. The order is that of the shards, or random with
    ``buffer``.

    Args:
        shards: Paths, or whatever ``open_shard`` takes.
        classes: Class names.
        task: As of data sets.
        upright: Turn images as EXIF says.
        buffer: Samples that are kept to draw from at random, shards being shuffled, too; 0: none.
        seed: Of the random order; `set_epoch` changes it.
        transform: Called as ``transform(image, target)``.
        open_shard: Opens a shard for reading bytes; ``None``: a file of this machine.
        on_damaged: Called with the place and the error of each damaged sample or shard, which is
            then skipped; ``None`` raises instead.

    Raises:
        ValueError: No shard, or an unknown task.

    Example:
        >>> import tempfile
        >>> from cvlib.data import SyntheticBananas, write_shards
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shards(SyntheticBananas(3, image_size=32), folder, log=lambda line: None)
        ...     stream = ShardStream(Path(folder).glob("*.tar"), ("banana",), "detection")
        ...     print(sum(1 for image, target in stream))
        3
    """

    def __init__(
        self,
        shards: Sequence[str | Path] | Iterator[str | Path],
        classes: Sequence[str],
        task: str,
        *,
        upright: bool = True,
        buffer: int = 0,
        seed: int = 0,
        transform: Callable[..., Any] | None = None,
        open_shard: Callable[[str], BinaryIO] | None = None,
        on_damaged: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.shards = sorted(str(shard) for shard in shards)
        self.classes = tuple(check_classes("ShardStream", classes))
        if not self.shards or task not in ("detection", "segmentation", "classification"):
            raise ValueError(
                f"ShardStream: expected shards and a known task, got {len(self.shards)} shards and "
                f"task {task!r}"
            )
        self.task, self.upright, self.buffer, self.seed = task, upright, buffer, seed
        self.transform, self.open_shard, self.on_damaged = transform, open_shard, on_damaged
        # Shared: workers that outlive an epoch must learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._process: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass take another random order, also of workers that persist."""
        self._epoch.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked belongs to no group of processes: it must be told.
        known = {"_process": (rank(), world_size())} if is_for_worker() else {}
        return self.__dict__ | known

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        generator = np.random.default_rng((self.seed, int(self._epoch)))
        shards = list(self.shards)
        if self.buffer:
            generator.shuffle(shards)
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        process, processes = self._process or (rank(), world_size())
        mine = shards[process * workers + number :: processes * workers]
        samples = (sample for shard in mine for sample in self._read(shard))
        return _shuffled(samples, self.buffer, generator) if self.buffer else samples

    def _read(self, shard: str) -> Iterator[tuple[Any, Any]]:
        try:
            with open(shard, "rb") if self.open_shard is None else self.open_shard(shard) as file:
                for number, (key, members) in enumerate(read_stream(file)):
                    sample = self._decode(members, f"{shard}, sample {key}", number)
                    if sample is not None:
                        yield sample
        except UnreadableImageError:
            raise
        except (OSError, ValueError) as error:
            self._tell(shard, error)

    def _decode(self, members: dict[str, bytes], place: str, number: int) -> Any:
        try:
            sample = decode_sample(members, self.task, len(self.classes), self.upright, number)
        except ValueError as error:
            self._tell(place, error)
            return None
        return sample if self.transform is None else self.transform(*sample)

    def _tell(self, place: str, error: Exception) -> None:
        damage = unreadable(place, error, "ShardStream")
        if self.on_damaged is None:
            raise damage from error
        self.on_damaged(place, damage)


def _shuffled(samples: Iterator[Any], size: int, generator: np.random.Generator) -> Iterator[Any]:
    kept: list[Any] = []
    for sample in samples:
        if len(kept) < size:
            kept.append(sample)
            continue
        place = int(generator.integers(size))
        kept[place], sample = sample, kept[place]
        yield sample
    yield from (kept[place] for place in generator.permutation(len(kept)))
