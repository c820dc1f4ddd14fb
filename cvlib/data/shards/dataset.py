"""Data sets in tar files: for sets of many millions of images, and for stores across a network.

`ShardDataset` is like any other set: it has a length and gives any image, so that order, exact
resumption, and shares of several processes work as always. It reads of a tar file the bytes of the
sample that is asked for, in one piece. `ShardStream` (of ``_shard_stream``) reads whole shards from
beginning to end.
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
    read_members,
    read_offsets,
    read_range,
    scan_shards,
)
from cvlib.data.shards.samples import decode_sample, guess_task, image_of, unreadable

Fetch = Callable[[str, int, int], bytes]


class _Folder:
    """One folder of shards; its offsets are mapped anew in each process."""

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

    def find(self, index: int) -> tuple[Path, int, int]:
        """Tar file, first byte and number of bytes of a sample."""
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        start, end = self.offsets[index + shard : index + shard + 2].tolist()
        return self.path / self.index.shards[shard].name, start, end - start

    def _compare_sizes(self) -> None:
        for shard in self.index.shards:
            path = self.path / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                actual = "which is missing" if size is None else f"a file of {size:,} bytes"
                self._note(f"expected {path} with {shard.bytes:,} bytes, got {actual}", str(path))

    def _note(self, message: str, file: str) -> None:
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
            self._note(f"expected a whole tar file, got {text}", str(self.path))
        if not any(shard.images for shard in shards):
            raise ValueError(f"ShardDataset: expected samples in {self.path}, got none")
        if classes is None:
            raise ValueError(
                f"ShardDataset: expected classes, got none, and {self.path} has no {INDEX} with "
                'their names; pass classes=("cat", "dog")'
            )
        first = next(i for i, shard in enumerate(shards) if shard.images)
        start, end = self.offsets[first : first + 2].tolist()
        _, members = read_members(read_range(self.path / names[first], start, end - start))
        task = guess_task(members)
        if task is None:
            raise ValueError(
                f"ShardDataset: expected samples with json, cls or mask.png, got "
                f"{', '.join(members)} in {self.path / names[first]}"
            )
        self.index = Index(task, tuple(classes), True, tuple(shards))


class ShardDataset(Dataset[Any]):
    """Images in tar files, read one by one in any order.

    Args:
        folders: Of `write_shards`, one or several; or of uncompressed tar files in WebDataset's
            layout, which are looked through once.
        classes: Class names; needed where there is no ``index.json``.
        transform: Called as ``transform(image, target)``; gives the pair that is returned.
        fetch: Called as ``fetch(path, start, length)`` for bytes of a tar file that lies
            elsewhere, in a worker; the folder then needs ``index.json`` and ``offsets.npy`` alone.

    Attributes:
        classes: Class names.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        findings: Shards that are missing or damaged.
        transform: As given; may be replaced.

    Raises:
        FileNotFoundError: No shards there.
        ValueError: A damaged index, folders of different sets, no classes.

    Warns:
        UserWarning: Shards are missing or damaged; their samples raise when they are read.

    Note:
        ``offsets.npy`` is mapped, not read: 8 bytes for each image, which all processes share.

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
        self._folders = [_Folder(Path(path), names, fetch is None) for path in paths]
        kinds = {(f.index.task, f.index.classes) for f in self._folders}
        if len(kinds) != 1:
            raise ValueError(f"ShardDataset: expected folders of one set, got {len(kinds)} sets")
        self.task, own = kinds.pop()
        if names is not None and tuple(names) != own:
            raise ValueError(f"ShardDataset: expected classes {own} as in {INDEX}, got {names}")
        self.classes = own
        self.transform = transform
        self._fetch = fetch
        counts = [len(folder) for folder in self._folders]
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._chosen: NDArray[np.int64] | None = None
        self.findings = tuple(one for folder in self._folders for one in folder.findings)
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
            ``(image, target)`` as data sets of this task give them.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: The shard is missing or damaged here, the image cannot be
                decoded, or its labels cannot be right. A ``ValueError``.
        """
        members, place, number, upright = self._read(index)
        try:
            sample = decode_sample(members, self.task, len(self.classes), upright, number)
        except ValueError as error:
            raise unreadable(place, error, "ShardDataset") from error
        return sample if self.transform is None else self.transform(*sample)

    def read_image(self, index: int) -> bytes:
        """The bytes of an image as they were stored.

        Raises:
            IndexError: ``index`` is out of range.
            UnreadableImageError: As for samples, except that nothing is decoded.
        """
        members, place, *_ = self._read(index)
        try:
            return image_of(members)
        except ValueError as error:
            raise unreadable(place, error, "ShardDataset") from error

    def name(self, index: int) -> str:
        """Where a sample is: tar file and first byte."""
        path, start, _, _, _ = self._find(index)
        return f"{path}:{start}"

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ShardDataset:
        """The same set with some of its images, in the order given.

        Raises:
            IndexError: An index is out of range.
        """
        part = copy.copy(self)
        part._chosen = np.array([self._number(index) for index in indices], dtype=np.int64)
        return part

    def split(self, fraction: float, seed: int = 0) -> tuple[ShardDataset, ShardDataset]:
        """Two sets that share no image, drawn at random.

        Args:
            fraction: Between 0 and 1: share of the first set.
            seed: Of the draw.

        Raises:
            ValueError: ``fraction`` is out of range, or a part would be empty.
        """
        first, second = split_images(len(self), fraction, seed, None)
        return self.subset(first), self.subset(second)

    def _number(self, index: int) -> int:
        """Of an image in all folders together."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"ShardDataset: expected index below {len(self)}, got {index}")
        index %= len(self)
        return index if self._chosen is None else int(self._chosen[index])

    def _find(self, index: int) -> tuple[Path, int, int, int, bool]:
        number = self._number(index)
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        folder = self._folders[place]
        path, start, length = folder.find(number - int(self._firsts[place]))
        return path, start, length, number, folder.index.upright

    def _read(self, index: int) -> tuple[dict[str, bytes], str, int, bool]:
        path, start, length, number, upright = self._find(index)
        try:
            if self._fetch is None:
                block = read_range(path, start, length)
            else:
                block = self._fetch(str(path), start, length)
            key, members = read_members(block)
        except (OSError, EOFError, ValueError) as error:
            raise unreadable(f"{path} at byte {start:,}", error, "ShardDataset") from error
        return members, f"{path}, sample {key}", number, upright


def verify_shards(folder: str | Path) -> list[Finding]:
    """Reads every shard of a folder and compares it with the checksum in its index.

    Returns:
        An error for each shard that is missing or has changed.

    Raises:
        FileNotFoundError: There is no ``index.json``.
        ValueError: It is damaged.
    """
    folder = Path(folder)
    found = []
    shards = read_index(folder / INDEX).shards
    for shard in tqdm(shards, "verifying shards", disable=None, leave=False, delay=1):
        path = folder / shard.name
        actual = _checksum(path) if path.is_file() else "no file"
        if actual != shard.sha256:
            message = f"expected SHA-256 {shard.sha256}, got {actual}"
            advice = "copy the shard again"
            found.append(Finding("error", "damaged-shard", message, str(path), fix=advice))
    return found


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
