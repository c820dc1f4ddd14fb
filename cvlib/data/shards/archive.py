"""Files of a sharded dataset: tar archives that are read in place, and their index.

Nothing is extracted to the disk, and member names are never used as paths, so links, devices and
paths with ``..`` in an archive are harmless.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib._files import inside, read_text, save_json, write_atomically

INDEX, OFFSETS = "index.json", "offsets.npy"
_FORMAT, _VERSION = "cvlib-shards", 1
# As in WebDataset, the key of a sample is its name up to the first dot after the last slash.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*|[^./]+)\.([^/]+)", re.DOTALL)
# Errors of tarfile for damaged archives.
TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, EOFError, OSError)


@dataclass(frozen=True)
class Shard:
    """Entry of a tar file in the index.

    Attributes:
        name: File name.
        images: Number of images.
        bytes: Size of the file.
        sha256: Checksum of the file; empty without an index.
    """

    name: str
    images: int
    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Index:
    """Contents of a folder of shards.

    Attributes:
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        classes: Class names.
        upright: Whether labels refer to images with the EXIF orientation applied.
        shards: Shards in the order of the images.
        left_out: ``{"index": ..., "reason": ...}`` of images that could not be written.
    """

    task: str
    classes: tuple[str, ...]
    upright: bool
    shards: tuple[Shard, ...]
    left_out: tuple[dict[str, Any], ...] = ()


def save_index(folder: Path, index: Index, offsets: NDArray[np.int64]) -> None:
    """Write ``offsets.npy`` and then ``index.json``, which marks the folder as complete."""
    buffer = io.BytesIO()
    np.save(buffer, offsets)
    write_atomically(folder / OFFSETS, buffer.getbuffer())
    images = sum(shard.images for shard in index.shards)
    head = {"format": _FORMAT, "version": _VERSION, "images": images}
    save_json(folder / INDEX, {**head, **asdict(index)})


def read_index(path: Path) -> Index:
    """Read ``index.json``.

    Raises:
        ValueError: The file is not an index of shards, has another version, or is damaged.
    """
    value = json.loads(read_text(path, "ShardDataset", "a JSON file"))
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise ValueError(f"ShardDataset: expected an index of shards, got {path}")
    if value.get("version") != _VERSION:
        raise ValueError(
            f"ShardDataset: expected version {_VERSION}, got {value.get('version')} in {path}; it "
            "was written by another version of cvlib"
        )
    try:
        shards = tuple(Shard(**shard) for shard in value["shards"])
        for shard in shards:
            inside(path.parent, shard.name)
            if min(shard.images, shard.bytes) < 0:
                raise ValueError(f"negative counts of {shard.name}")
        return Index(
            str(value["task"]),
            tuple(str(name) for name in value["classes"]),
            bool(value["upright"]),
            shards,
            tuple(value["left_out"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"ShardDataset: expected a valid index, got {path}: {error}") from error


def is_index(path: Path) -> bool:
    """Whether a file is the index of a folder of shards, by its first bytes."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return f'"{_FORMAT}"'.encode() in file.read(200)


def read_offsets(path: Path, index: Index) -> NDArray[np.int64]:
    """Map the offsets of all samples into memory.

    Returns:
        Shape (P + S,) for P images in S shards: for each shard the first byte of its samples, and
        the end of the last one.

    Raises:
        ValueError: The file is damaged, or does not belong to the index.
    """
    try:
        offsets = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"ShardDataset: expected offsets in {path}, got: {error}") from error
    expected = sum(shard.images + 1 for shard in index.shards)
    if offsets.dtype != np.int64 or offsets.shape != (expected,):
        raise ValueError(
            f"ShardDataset: expected {expected} offsets, got {offsets.dtype} {offsets.shape} in "
            f"{path}; it does not belong to the {INDEX} in that folder"
        )
    return offsets


def scan_shards(folder: Path, names: Sequence[str]) -> tuple[list[Shard], Any, list[str]]:
    """Find the samples of tar files without an index, by reading the headers of all members.

    Returns:
        Shards, offsets as returned by `read_offsets`, and descriptions of damaged shards.
    """
    shards: list[Shard] = []
    offsets: list[NDArray[np.int64]] = []
    damaged: list[str] = []
    for name in tqdm(names, "scanning shards", disable=None, leave=False, delay=1):
        starts, problem = _scan(folder / name)
        shards.append(Shard(name, len(starts) - 1, (folder / name).stat().st_size))
        offsets.append(np.array(starts, dtype=np.int64))
        damaged += [f"{folder / name} after {len(starts) - 1} samples: {problem}"] * bool(problem)
    return shards, np.concatenate(offsets), damaged


class _StrictHeader(tarfile.TarInfo):
    """Raises for damage inside an archive, which tarfile would take for its end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset:,}") from error


def _scan(path: Path) -> tuple[list[int], str]:
    """Return the first bytes of all samples, the end of the last one, and the damage after it."""
    starts: list[int] = []
    key, end = None, 0
    try:
        with tarfile.open(path, "r:", tarinfo=_StrictHeader) as tar:
            for member in _iterate_members(tar):
                name = split_name(member)
                if name is not None and name[0] != key:
                    starts.append(member.offset)
                    key = name[0]
                end = tar.offset
    except TAR_ERRORS as error:
        return starts or [0], str(error)  # without the last one, which may be incomplete
    return [*starts, end], ""


def _iterate_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
        yield member


def split_name(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Return key and suffix of a regular file, as in WebDataset, or None for other members.

    Sparse files are excluded, because a few bytes may expand to terabytes.
    """
    match = _NAME.fullmatch(member.name)
    if match is None or not member.isreg() or member.issparse():
        return None
    return match[1], match[2].lower()


def read_range(path: Path, start: int, length: int) -> bytes:
    """Read ``length`` bytes of a file from offset ``start``.

    Raises:
        OSError: The file cannot be read.
        EOFError: The file is shorter.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Checked first, because a damaged index may ask for more than the memory.
        size = os.fstat(descriptor).st_size
        if start < 0 or length < 0 or start + length > size:
            raise EOFError(f"a file of {size:,} bytes that should have {start + length:,}")
        return os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)


def unpack_sample(block: bytes) -> tuple[str, dict[str, bytes]]:
    """Return the key of the sample in a block of a tar file, and its content keyed by suffix.

    Raises:
        ValueError: The block is damaged, or does not have exactly one sample.
    """
    try:
        archive = io.BytesIO(block + bytes(2 * tarfile.BLOCKSIZE))
        with tarfile.open(fileobj=archive, mode="r:", tarinfo=_StrictHeader) as tar:
            samples = list(_group_members(tar))
    except TAR_ERRORS as error:
        raise ValueError(f"a damaged block of a tar file ({error})") from error
    if len(samples) != 1:
        raise ValueError(f"{len(samples)} samples instead of one")
    return samples[0]


def read_stream(file: BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Read the samples of a tar file in sequence, compressed or not.

    Yields:
        Key and content keyed by suffix.

    Raises:
        ValueError: The archive is damaged; raised after the samples before the damage.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictHeader) as tar:
            yield from _group_members(tar)
    except TAR_ERRORS as error:
        raise ValueError(f"a damaged tar file ({error})") from error


def _group_members(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, members = None, dict[str, bytes]()
    for member in _iterate_members(tar):
        name = split_name(member)
        if name is None:
            continue
        if name[0] != key:
            if key is not None:
                yield key, members
            key, members = name[0], {}
        content = tar.extractfile(member)
        data = b"" if content is None else content.read()
        if len(data) != member.size:
            raise EOFError(f"{member.name} ends after {len(data):,} of {member.size:,} bytes")
        if name[1] in members:
            raise ValueError(f"{member.name} is there twice")
        members[name[1]] = data
    if key is not None:
        yield key, members


def pack_sample(key: str, members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a block of a tar file with one sample; equal samples give equal bytes."""
    buffer = io.BytesIO()
    for suffix, data in members:
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size, info.mode = len(data), 0o644
        buffer.write(info.tobuf(tarfile.USTAR_FORMAT))
        buffer.write(data)
        buffer.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return buffer.getvalue()
