"""What can be known of pictures: from their folder, their headers, and all of their bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data._images import read_image, read_image_header

# Side of the small grey picture by which pictures are compared.
THUMBNAIL = 16
_WORKERS = 2
# JPEG adds so many steps of brightness to what is one grey, and so much between its channels.
_GREY_NOISE = 4
_GREY_SPREAD = 16
# Whether a picture has colours is asked of every so many pixels of a row and a column.
_GREY_STEP = 4
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Facts:
    """What is known of one picture.

    Attributes:
        problem: Why it cannot be read; empty: it can.
        size: (height, width) as stored.
        orientation: EXIF's, from 1 (upright) to 8.
        format: Pillow's name.
        digest: Of its bytes; empty where only the header was read.
        thumbnail: Shape (16, 16), uint8, grey; None where only the header was read.
        plain_share: Of a picture without colours: the share of its pixels that are one grey.
    """

    problem: str = ""
    size: tuple[int, int] = (-1, -1)
    orientation: int = 1
    format: str = ""
    digest: bytes = b""
    thumbnail: NDArray[np.uint8] | None = None
    plain_share: float = 0.0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def usual_suffix(self) -> str:
        """That of the format, with its dot; empty where the format is unusual."""
        return _SUFFIXES.get(self.format, ("",))[0]

    def has_right_suffix(self, path: Path) -> bool:
        """Whether the name ends as the content wants."""
        return path.suffix.lower() in _SUFFIXES.get(self.format, (path.suffix.lower(),))


def list_missing(paths: Sequence[Path]) -> dict[int, str]:
    """Finds the paths that are no files.

    Args:
        paths: Of pictures.

    Returns:
        Their indices, with a hint where a similar name exists, else an empty string.

    Note:
        Each folder is listed once, which takes a tenth of asking for each file.
    """
    folders: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        folders[os.path.dirname(path)].append(index)
    missing = {}
    for folder, indices in folders.items():
        names = _list_names(folder)
        absent = [index for index in indices if paths[index].name not in names]
        similar = {os.path.splitext(name)[0].lower(): name for name in names} if absent else {}
        for index in absent:
            if not paths[index].is_file():
                near = similar.get(paths[index].stem.lower())
                missing[index] = f"there is {near}" if near else ""
    return missing


def _list_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def read_header(path: Path) -> Facts:
    """Reads size, format and orientation; no pixels."""
    try:
        header = read_image_header(path)
        return Facts(
            size=header.size(upright=False),
            orientation=header.orientation,
            format=header.format,
        )
    except (OSError, ValueError) as error:
        return Facts(problem=_reason(error))


def read_whole(path: Path) -> Facts:
    """Reads the header, hashes the bytes and decodes the pixels as training would."""
    facts = read_header(path)
    if facts.problem:
        return facts
    try:
        data = path.read_bytes()
        image = read_image(data).numpy()
    except (OSError, ValueError) as error:
        return Facts(problem=_reason(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return replace(
        facts, digest=digest, thumbnail=_shrink(image[1]), plain_share=_plain_share(image)
    )


def _shrink(channel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Averages over the cells of a small grid; green is nearly grey, and lies ready in memory."""
    import cv2

    small = cv2.resize(channel, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def _plain_share(image: NDArray[np.uint8]) -> float:
    """See `Facts`. What JPEG adds to a grey surface still counts as it."""
    import cv2

    counts = cv2.calcHist([image[1]], [0], None, [256], [0, 256]).ravel()
    near = np.convolve(counts, np.ones(2 * _GREY_NOISE + 1), "same")
    has_colours = np.ptp(image[:, ::_GREY_STEP, ::_GREY_STEP], axis=0) > _GREY_SPREAD
    return 0.0 if has_colours.any() else float(near.max() / image[1].size)


def _reason(error: Exception) -> str:
    """What a reader got, without what it had expected and where."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.split(", got ", 1)[-1].split("; restore or remove", 1)[0]


def scan(
    paths: Sequence[Path], *, decode: bool, progress: bool, skip: Iterable[int] = ()
) -> dict[int, Facts]:
    """Reads pictures on two threads; decoders let go of Python's lock.

    Args:
        paths: Of the pictures.
        decode: Read all of them; else their headers.
        progress: Show a bar.
        skip: Indices to leave out.

    Returns:
        What is known of each picture, by index.
    """
    left_out = set(skip)
    indices = [index for index in range(len(paths)) if index not in left_out]
    read, verb = (read_whole, "decoding") if decode else (read_header, "reading headers of")
    bar = tqdm(
        total=len(indices),
        desc=f"{verb} pictures",
        unit="picture",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    with bar, ThreadPoolExecutor(_WORKERS if decode else 1) as pool:
        facts = {}
        for index, known in zip(
            indices, _map(pool, read, (paths[i] for i in indices)), strict=True
        ):
            facts[index] = known
            bar.update()
    return facts


def _map(
    pool: ThreadPoolExecutor, call: Callable[[_Item], _Result], items: Iterator[_Item]
) -> Iterator[_Result]:
    """As ``pool.map``, in slices, so that an interruption waits for few, not for all."""
    while chunk := list(islice(items, 256)):
        yield from pool.map(call, chunk)
