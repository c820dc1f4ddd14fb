"""Writing a dataset as WebDataset tar files."""

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
from cvlib.data.shards.archive import INDEX, OFFSETS, Index, Shard, pack_sample, save_index
from cvlib.data.shards.samples import encode_image, encode_labels

_MAX_LISTED = 20


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
    """Write a dataset as a folder of tar files, for `ShardDataset` and WebDataset.

    Image files are stored unchanged; images of other datasets are stored as PNG. Each image has a
    json with its labels, with masks of objects as run lengths, and for segmentation a ``mask.png``
    of class indices. ``offsets.npy`` has the first byte of each sample; ``index.json``, written
    last, has the class names, and the counts and checksums of all shards.

    Samples are read as in training before they are written. Unreadable ones are logged, left out
    and listed in ``index.json``.

    Args:
        dataset: Dataset with ``classes`` and ``task``; its transform is not applied.
        folder: Folder without shards; created if it does not exist.
        per_shard: Maximum number of images in a tar file.
        max_bytes: Size from which on a tar file is closed.
        seed: Random seed for a random order, which sequential readers need. Default: keeps the
            order of the dataset.
        max_bad_share: Maximum share of unreadable images; one is always allowed unless it is 0.
        log: Called with a line for each image that is left out, and one at the end.

    Raises:
        FileExistsError: The folder already has shards.
        ValueError: There are no images, ``per_shard`` or ``max_bytes`` is below 1, the task is
            unknown, or there are too many unreadable images.
        OSError: The folder cannot be written.

    Note:
        Equal datasets give equal bytes. Several processes can write a large dataset together, each
        with its own `subset` and folder; `ShardDataset` opens a list of folders.

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
    _check_arguments(dataset, folder, per_shard, max_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(dataset))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    allowed = max(1, int(len(order) * max_bad_share)) if max_bad_share else 0
    with _ShardWriter(folder, per_shard, max_bytes) as writer:
        bad = _write_samples(dataset, order.tolist(), writer, allowed, log)
    if not writer.shards:
        raise ValueError(f"write_shards: expected readable images, got none: {bad[0]['reason']}")
    upright = bool(getattr(dataset, "upright", True))
    shards = tuple(writer.shards)
    index = Index(dataset.task, tuple(dataset.classes), upright, shards, tuple(bad))
    save_index(folder, index, np.array(writer.offsets, dtype=np.int64))
    log(f"{counted(len(order) - len(bad), 'image')} in {counted(len(shards), 'shard')}")


def _write_samples(
    dataset: Any,
    order: list[int],
    writer: _ShardWriter,
    allowed: int,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Write samples in the given order; return index and reason of unreadable ones."""
    untransformed = copy.copy(dataset)
    untransformed.transform = None
    bad: list[dict[str, Any]] = []
    for index in tqdm(order, "writing shards", disable=None, leave=False, delay=1):
        try:
            members = _encode_sample(untransformed, index)
        except (OSError, ValueError) as error:
            bad.append({"index": index, "reason": str(error)})
            log(f"left out: image {index} cannot be read: {error}")
            _check_share(bad, allowed, len(order))
        else:
            writer.add(f"{index:09d}", members)
    return bad


def _check_arguments(dataset: Any, folder: Path, per_shard: int, max_bytes: int) -> None:
    for name, value in (("per_shard", per_shard), ("max_bytes", max_bytes)):
        if value < 1:
            raise ValueError(f"write_shards: expected `{name}` >= 1, got {value}")
    if dataset.task not in ("detection", "segmentation", "classification"):
        raise ValueError(f"write_shards: expected a known task, got {dataset.task!r}")
    if not len(dataset):
        raise ValueError("write_shards: expected at least one image, got an empty dataset")
    shards = sorted(folder.glob("shard-*.tar"))
    existing = shards + [path for path in (folder / INDEX, folder / OFFSETS) if path.exists()]
    if existing:
        raise FileExistsError(
            f"write_shards: expected `folder` without shards, got {existing[0]}; choose another "
            "folder, or remove the files of an interrupted call"
        )


def _check_share(bad: list[dict[str, Any]], allowed: int, size: int) -> None:
    if len(bad) > allowed:
        lines = [f"  image {image['index']}: {image['reason']}" for image in bad[:_MAX_LISTED]]
        raise ValueError(
            f"write_shards: expected at most {allowed} unreadable images of {size}, got "
            f"{len(bad)}; repair or remove them, or raise max_bad_share:\n" + "\n".join(lines)
        )


def _encode_sample(dataset: Any, index: int) -> list[tuple[str, bytes]]:
    """Return suffixes and bytes of a sample, beginning with the image.

    Raises:
        ValueError: The sample is invalid.
        OSError: A file cannot be read.
    """
    image, target = dataset[index]
    path = _image_path(dataset, index)
    suffix, data = encode_image(image if path is None else path.read_bytes())
    extra = {} if path is None else {"file_name": os.fsencode(path.name).decode("utf-8", "replace")}
    labels = encode_labels(dataset.task, target, extra)
    return [(suffix, data), *labels.items()]


def _image_path(dataset: Any, index: int) -> Path | None:
    """Return the path of an image file, for datasets whose images are unchanged files."""
    if isinstance(dataset, DetectionDataset):
        return dataset.table.path(index)
    if isinstance(dataset, ClassificationDataset | SegmentationDataset):
        return Path(dataset.images[index])
    return None


class _ShardWriter:
    """Writes one tar file after the other, under a temporary name until it is complete."""

    def __init__(self, folder: Path, per_shard: int, max_bytes: int) -> None:
        self.folder, self.per_shard, self.max_bytes = folder, per_shard, max_bytes
        self.shards: list[Shard] = []
        self.offsets: list[int] = []
        self._file: BinaryIO | None = None

    def __enter__(self) -> _ShardWriter:
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
        """Write a sample."""
        if self._file is None:
            self._file = open(self._temporary, "wb")
            self._hash, self._length, self._images = hashlib.sha256(), 0, 0
        self.offsets.append(self._length)
        self._write(pack_sample(key, members))
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
