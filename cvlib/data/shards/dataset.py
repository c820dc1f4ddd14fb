"""Random access to datasets in tar files, for many millions of images or remote storage.

`ShardDataset` has a length and random access like any other dataset, so sampling orders, exact
resumption and distributed training work as usual. A sample is read in one piece from its tar file.
`ShardStream` reads shards sequentially.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.split import split_images
from cvlib.data.labels.findings import Finding, counted
from cvlib.data.shards.archive import (
    INDEX,
    OFFSETS,
    Index,
    is_index,
    read_index,
    read_offsets,
    read_range,
    scan_shards,
    unpack_sample,
)
from cvlib.data.shards.samples import decode_sample, find_image, guess_task, sample_error

Fetch = Callable[[str, int, int], bytes]


class _ShardFolder:
    """A folder of shards; each process maps its offsets itself."""

    def __init__(self, path: Path, classes: Sequence[str] | None, local: bool) -> None:
        self.path, self.findings = path, list[Finding]()
        self.has_index = is_index(path / INDEX)
        if self.has_index:
            self.index = read_index(path / INDEX)
            self.offsets = read_offsets(path / OFFSETS, self.index)
            if local:
                self._compare_sizes()
        else:
            self._scan(classes)
        counts = [shard.images for shard in self.index.shards]
        self.firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"offsets": None} if self.has_index else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.has_index:
            self.offsets = read_offsets(self.path / OFFSETS, self.index)

    def locate(self, index: int) -> tuple[Path, int, int]:
        """Return tar file, first byte and number of bytes of a sample."""
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        start, end = self.offsets[index + shard : index + shard + 2].tolist()
        return self.path / self.index.shards[shard].name, start, end - start

    def _compare_sizes(self) -> None:
        for shard in self.index.shards:
            path = self.path / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                actual = "which is missing" if size is None else f"a file of {size:,} bytes"
                self._warn(f"expected {path} with {shard.bytes:,} bytes, got {actual}", str(path))

    def _warn(self, message: str, file: str) -> None:
        advice = "restore it; its samples cannot be read"
        self.findings.append(Finding("warning", "damaged-shard", message, file, fix=advice))

    def _scan(self, classes: Sequence[str] | None) -> None:
        names = sorted(p.name for p in self.path.glob("*.tar") if p.is_file())
        if not names:
            raise FileNotFoundError(
                f"ShardDataset: expected a folder with {INDEX} or *.tar, got {self.path}; tar "
                "files must not be compressed, so that one sample can be read without the others"
            )
        shards, self.offsets, damaged = scan_shards(self.path, names)
        for text in damaged:
            self._warn(f"expected a complete tar file, got {text}", str(self.path))
        if not any(shard.images for shard in shards):
            raise ValueError(f"ShardDataset: expected samples in {self.path}, got none")
        if classes is None:
            raise ValueError(
                f"ShardDataset: expected `classes`, got none, and {self.path} has no {INDEX} with "
                'their names; pass classes=("cat", "dog")'
            )
        first = next(i for i, shard in enumerate(shards) if shard.images)
        start, end = self.offsets[first : first + 2].tolist()
        _, members = unpack_sample(read_range(self.path / names[first], start, end - start))
        task = guess_task(members)
        if task is None:
            raise ValueError(
                f"ShardDataset: expected samples with json, cls or mask.png, got "
                f"{', '.join(members)} in {self.path / names[first]}"
            )
        self.index = Index(task, tuple(classes), True, tuple(shards))


class ShardDataset(Dataset[Any]):
    """Dataset in tar files, with random access.

    Args:
        folders: One or several folders of `write_shards`, or of uncompressed tar files in the
            layout of WebDataset, which are scanned once.
        classes: Class names; required without ``index.json``.
        transform: Called as ``transform(image, target)``; returns the pair of the sample.
        fetch: Called as ``fetch(path, start, length)`` in workers to read bytes of a tar file in
            remote storage; only ``index.json`` and ``offsets.npy`` must then be in the folder.

    Attributes:
        classes: Class names.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        findings: Shards that are missing or damaged.
        transform: See the argument; may be replaced.

    Raises:
        FileNotFoundError: A folder has no shards.
        ValueError: An index is damaged, folders belong to different datasets, or ``classes`` are
            missing.

    Warns:
        UserWarning: Shards are missing or damaged; reading their samples raises.

    Note:
        ``offsets.npy`` takes 8 bytes per image and is memory-mapped, shared by all processes.

    Example:
        >>> import tempfile
        >>> from cvlib.data import SyntheticBananas, write_shards
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shards(SyntheticBananas(2, image_size=32), folder, log=lambda line: None)
        ...     image, target = ShardDataset(folder)[1]
        >>> image.shape, target["labels"]
        (torch.Size([3, 32, 32]), tensor([0, 0]))
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        *,
        classes: Sequence[str] | None = None,
        transform: Callable[..., Any] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        paths = [folders] if isinstance(folders, str | Path) else list(folders)
        names = None if classes is None else check_classes("ShardDataset", classes)
        self._folders = [_ShardFolder(Path(path), names, fetch is None) for path in paths]
        contents = {(folder.index.task, folder.index.classes) for folder in self._folders}
        if len(contents) != 1:
            raise ValueError(
                "ShardDataset: expected `folders` with one task and equal classes, got "
                f"{len(contents)} datasets"
            )
        self.task, self.classes = contents.pop()
        if names is not None and tuple(names) != self.classes:
            raise ValueError(
                f"ShardDataset: expected `classes` {self.classes} as in {INDEX}, got {names}"
            )
        self.transform = transform
        self._fetch = fetch
        counts = [len(folder) for folder in self._folders]
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._chosen: NDArray[np.int64] | None = None
        self.findings = tuple(finding for folder in self._folders for finding in folder.findings)
        if self.findings:
            warnings.warn(
                f"ShardDataset: {counted(len(self.findings), 'damaged shard')}, the first: "
                f"{self.findings[0]}",
                UserWarning,
                stacklevel=2,
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._firsts[-1]) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)`` as in other datasets of this task.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The shard is missing or damaged here, the image cannot be
                decoded, or its labels are invalid. A ``ValueError``.
        """
        members, place, number, upright = self._read(index)
        try:
            sample = decode_sample(members, self.task, len(self.classes), upright, number)
        except ValueError as error:
            raise sample_error(place, error, "ShardDataset") from error
        return sample if self.transform is None else self.transform(*sample)

    def read_image(self, index: int) -> bytes:
        """Return the stored bytes of an image.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The shard is missing or damaged here, or has no image.
        """
        members, place, *_ = self._read(index)
        try:
            return find_image(members)
        except ValueError as error:
            raise sample_error(place, error, "ShardDataset") from error

    def name(self, index: int) -> str:
        """Return tar file and first byte of a sample, as text."""
        path, start, *_ = self._locate(index)
        return f"{path}:{start}"

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ShardDataset:
        """Return the dataset of some images, in the order given.

        Raises:
            IndexError: An index is out of range.
        """
        part = copy.copy(self)
        part._chosen = np.array([self._global_index(index) for index in indices], dtype=np.int64)
        return part

    def split(self, fraction: float, seed: int = 0) -> tuple[ShardDataset, ShardDataset]:
        """Split the dataset at random into two that share no image.

        Args:
            fraction: Share of the first part, between 0 and 1.
            seed: Random seed; equal seeds give equal parts.

        Raises:
            ValueError: ``fraction`` is out of range, or a part would be empty.
        """
        first, second = split_images(len(self), fraction, seed, None)
        return self.subset(first), self.subset(second)

    def _global_index(self, index: int) -> int:
        """Return the index of an image in all folders together."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"ShardDataset: expected index below {len(self)}, got {index}")
        index %= len(self)
        return index if self._chosen is None else int(self._chosen[index])

    def _locate(self, index: int) -> tuple[Path, int, int, int, bool]:
        number = self._global_index(index)
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        folder = self._folders[place]
        path, start, length = folder.locate(number - int(self._firsts[place]))
        return path, start, length, number, folder.index.upright

    def _read(self, index: int) -> tuple[dict[str, bytes], str, int, bool]:
        path, start, length, number, upright = self._locate(index)
        try:
            if self._fetch is None:
                block = read_range(path, start, length)
            else:
                block = self._fetch(str(path), start, length)
            key, members = unpack_sample(block)
        except (OSError, EOFError, ValueError) as error:
            raise sample_error(f"{path} at byte {start:,}", error, "ShardDataset") from error
        return members, f"{path}, sample {key}", number, upright


def verify_shards(folder: str | Path) -> list[Finding]:
    """Compare the shards of a folder with the checksums in their index.

    Returns:
        An error for each shard that is missing or has changed.

    Raises:
        FileNotFoundError: There is no ``index.json``.
        ValueError: The index is damaged.
    """
    folder = Path(folder)
    findings = []
    shards = read_index(folder / INDEX).shards
    for shard in tqdm(shards, "verifying shards", disable=None, leave=False, delay=1):
        path = folder / shard.name
        actual = _checksum(path) if path.is_file() else "no file"
        if actual != shard.sha256:
            message = f"expected SHA-256 {shard.sha256}, got {actual}"
            advice = "copy the shard again"
            findings.append(Finding("error", "damaged-shard", message, str(path), fix=advice))
    return findings


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
