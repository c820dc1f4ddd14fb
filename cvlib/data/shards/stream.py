"""Sequential reading of shards."""

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
from cvlib.data.shards.samples import decode_sample, sample_error


class ShardStream(IterableDataset[Any]):
    """Samples of shards that are read sequentially, for storage without random access.

    Each shard is read by one worker of one process, so there should be at least one per worker.
    The order is that of the shards, or random with ``buffer``.

    Args:
        shards: Paths, or other arguments of ``open_shard``.
        classes: Class names.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        upright: Apply the EXIF orientation.
        buffer: Size of the shuffle buffer; shards are shuffled as well. 0 keeps the order.
        seed: Random seed; `set_epoch` changes the order.
        transform: Called as ``transform(image, target)``; returns the pair of the sample.
        open_shard: Called to open a shard as a binary file. Default: opens local files.
        on_damaged: Called with place and error of each damaged sample or shard, which is then
            skipped. Default: raises the error.

    Raises:
        ValueError: There are no shards, or the task is unknown.

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
                "ShardStream: expected `shards` and a known `task`, got "
                f"{len(self.shards)} shards and task {task!r}"
            )
        self.task, self.upright, self.buffer, self.seed = task, upright, buffer, seed
        self.transform, self.open_shard, self.on_damaged = transform, open_shard, on_damaged
        # In shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._process: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random order, also in persistent workers."""
        self._epoch.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker is not in the process group, so it needs the rank of its parent.
        process = {"_process": (rank(), world_size())} if is_for_worker() else {}
        return self.__dict__ | process

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        generator = np.random.default_rng((self.seed, int(self._epoch)))
        shards = list(self.shards)
        if self.buffer:
            generator.shuffle(shards)
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        process, processes = self._process or (rank(), world_size())
        shards = shards[process * workers + number :: processes * workers]
        samples = (sample for shard in shards for sample in self._read(shard))
        return _shuffle(samples, self.buffer, generator) if self.buffer else samples

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
            self._handle_damage(shard, error)

    def _decode(self, members: dict[str, bytes], place: str, number: int) -> Any:
        try:
            sample = decode_sample(members, self.task, len(self.classes), self.upright, number)
        except ValueError as error:
            self._handle_damage(place, error)
            return None
        return sample if self.transform is None else self.transform(*sample)

    def _handle_damage(self, place: str, error: Exception) -> None:
        damage = sample_error(place, error, "ShardStream")
        if self.on_damaged is None:
            raise damage from error
        self.on_damaged(place, damage)


def _shuffle(samples: Iterator[Any], size: int, generator: np.random.Generator) -> Iterator[Any]:
    buffer: list[Any] = []
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        place = int(generator.integers(size))
        buffer[place], sample = sample, buffer[place]
        yield sample
    yield from (buffer[place] for place in generator.permutation(len(buffer)))
