"""Writing a data set as WebDataset tar files."""

from __future__ import annotations

import copy
import hashlib
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.labels.findings import counted
from cvlib.data.shards.archive import INDEX, OFFSETS, Index, Shard, save_index, tar_members
from cvlib.data.shards.samples import encode_image, encode_labels

_SHOWN = 20


def write_shards(
    dataset: Any,
    folder: str | Path,
    *,
    per_shard: int = 10_000,
    max_bytes: int = 2**30,
    seed: int | None = None,
    max_bad_share: float = 0.01,
    log: Callable[[str], None] = print,
) -> None:
    """Writes a data set as a folder of tar files, which `ShardDataset` and WebDataset read.

    Image files go in as they are; the pixels of other data sets go in as PNG. Beside an image
    stands a json with its labels, masks of objects as run lengths, and for segmentation a
    ``mask.png`` of class numbers. ``offsets.npy`` says where each sample begins;
    ``index.json``, written last, has the class names and the counts and checksums of all shards.

    Every sample is read as training would read it before it is written. One that cannot be read is
    told, left out and listed in ``index.json``.

    Args:
        dataset: With ``classes`` and ``task``; its transform is not applied.
        folder: Made when it is not there; without shards.
        per_shard: Most images in one tar file.
        max_bytes: A tar file that has reached this size is closed.
        seed: Write in random order, as readers of whole shards in sequence need; ``None``: in the
            order of the set.
        max_bad_share: Of the images that may be unreadable, but at least one unless it is 0.
        log: Is given a line for each image that was left out, and one at the end.

    Raises:
        FileExistsError: The folder holds shards already.
        ValueError: No image, ``per_shard`` or ``max_bytes`` below 1, an unknown task, or too many
            unreadable images.
        OSError: The folder cannot be written.

    Note:
        Equal sets give equal bytes. Several processes write a large set together when each takes a
        `subset` and a folder of its own; `ShardDataset` opens a list of folders.

    Example:
        >>> import tempfile
        >>> from cvlib.data import ShardDataset, SyntheticBananas
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shards(SyntheticBananas(5, image_size=32), folder, per_shard=3)
        ...     shards = ShardDataset(folder)
        5 images in 2 shards
        >>> len(shards), shards.classes, shards.task
        (5, ('banana',), 'detection')
    """
    folder = Path(folder)
    _check(dataset, folder, per_shard, max_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    plain = copy.copy(dataset)
    plain.transform = None
    order = np.arange(len(dataset))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    writer = _Writer(folder, per_shard, max_bytes)
    bad: list[dict[str, Any]] = []
    allowed = max(1, int(len(order) * max_bad_share)) if max_bad_share else 0
    with writer:
        for index in tqdm(order.tolist(), "writing shards", disable=None, leave=False, delay=1):
            try:
                members = _members(plain, index)
            except (OSError, ValueError) as error:
                bad.append({"index": index, "reason": str(error)})
                log(f"left out: image {index} cannot be read: {error}")
                _check_share(bad, allowed, len(order))
            else:
                writer.add(f"{index:09d}", members)
    if not writer.shards:
        raise ValueError(f"write_shards: expected readable images, got none: {bad[0]['reason']}")
    upright = bool(getattr(dataset, "upright", True))
    index_ = Index(plain.task, tuple(plain.classes), upright, tuple(writer.shards), tuple(bad))
    save_index(folder, index_, np.array(writer.offsets, dtype=np.int64))
    shards = counted(len(writer.shards), "shard")
    log(f"{counted(len(order) - len(bad), 'image')} in {shards}")


def _check(dataset: Any, folder: Path, per_shard: int, max_bytes: int) -> None:
    for name, value in (("per_shard", per_shard), ("max_bytes", max_bytes)):
        if value < 1:
            raise ValueError(f"write_shards: expected {name} >= 1, got {value}")
    if dataset.task not in ("detection", "segmentation", "classification"):
        raise ValueError(f"write_shards: expected a known task, got {dataset.task!r}")
    if not len(dataset):
        raise ValueError("write_shards: expected at least one image, got an empty set")
    found = sorted(folder.glob("shard-*.tar")) + [folder / name for name in (INDEX, OFFSETS)]
    there = [path for path in found if path.exists()]
    if there:
        raise FileExistsError(
            f"write_shards: expected a folder without shards, got {there[0]}; choose another "
            "folder, or remove what an interrupted call has left"
        )


def _check_share(bad: list[dict[str, Any]], allowed: int, size: int) -> None:
    if len(bad) > allowed:
        lines = [f"  image {one['index']}: {one['reason']}" for one in bad[:_SHOWN]]
        raise ValueError(
            f"write_shards: expected at most {allowed} unreadable images of {size}, got "
            f"{len(bad)}; repair or remove them, or raise max_bad_share:\n" + "\n".join(lines)
        )


def _members(dataset: Any, index: int) -> list[tuple[str, bytes]]:
    """Suffixes and bytes of a sample, the image first.

    Raises:
        ValueError: The sample cannot be used.
        OSError: A file cannot be read.
    """
    image, target = dataset[index]
    path = _image_path(dataset, index)
    suffix, data = encode_image(image if path is None else path.read_bytes())
    facts = {} if path is None else {"file_name": os.fsencode(path.name).decode("utf-8", "replace")}
    labels = encode_labels(dataset.task, target, facts)
    return [(suffix, data), *labels.items()]


def _image_path(dataset: Any, index: int) -> Path | None:
    """Where the stored bytes of an image are, for sets that give them without a change."""
    if isinstance(dataset, DetectionDataset):
        return dataset.table.path(index)
    if isinstance(dataset, ClassificationDataset | SegmentationDataset):
        return Path(dataset.images[index])
    return None


class _Writer:
    """Opens one tar file after the other; one that is not complete has another name."""

    def __init__(self, folder: Path, per_shard: int, max_bytes: int) -> None:
        self.folder, self.per_shard, self.max_bytes = folder, per_shard, max_bytes
        self.shards: list[Shard] = []
        self.offsets: list[int] = []
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._close()
        elif self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.shards):06d}.tar"

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f".{self._path.name}.tmp")

    def add(self, key: str, members: Sequence[tuple[str, bytes]]) -> None:
        """Writes a sample."""
        if self._file is None:
            self._file = open(self._temporary, "wb")
            self._hash, self._length, self._images = hashlib.sha256(), 0, 0
        self.offsets.append(self._length)
        self._write(tar_members(key, members))
        self._images += 1
        if self._images >= self.per_shard or self._length >= self.max_bytes:
            self._close()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._length += len(data)

    def _close(self) -> None:
        if self._file is None:
            return
        self.offsets.append(self._length)
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        path = self._path
        os.replace(self._temporary, path)
        digest = self._hash.hexdigest()
        self.shards.append(Shard(path.name, self._images, self._length, digest))
