"""Where images come from: files, folders, patterns, videos, cameras, lists of paths."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import torch
from torch import Tensor

from cvlib._files import IMAGE_SUFFIXES, list_images
from cvlib.data.files import images as image_files

OnDamaged = Callable[[Path, Exception], None]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
STDIN = "-"
_CAMERA = re.compile(r"(?:webcam:)?([0-9]+)")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Frames a second where a source does not tell.
_USUAL_RATE = 25.0


@dataclass(frozen=True)
class Frame:
    """One image to look at.

    Attributes:
        path: Of the file it comes from.
        image: uint8, shape (3, H, W), RGB.
        number: Of the frame in a video, from 0; ``None`` for an image.
        rate: Frames a second of the video; ``None`` for an image.
    """

    path: Path
    image: Tensor
    number: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        """The path, and the number where it is a frame: ``"clip.mp4#12"``."""
        return str(self.path) if self.number is None else f"{self.path}#{self.number}"


def find_files(sources: Iterable[str | Path]) -> list[Path]:
    """Finds the images and videos that are meant.

    Args:
        sources: Files, folders (searched with their subfolders, but for what begins with a dot) and
            glob patterns.

    Returns:
        Files in the order given, folders and patterns sorted, each file once.

    Raises:
        FileNotFoundError: A source that does not exist, or with neither images nor videos in it.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = [path / name for name in list_images(path, IMAGE_SUFFIXES + VIDEO_SUFFIXES)]
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))
            files = sorted(p for p in matches if p.is_file() and (is_image(p) or is_video(p)))
        if not files:
            what = "a folder without any" if path.is_dir() else "which matches none"
            raise FileNotFoundError(
                f"find_files: expected images ({' '.join(IMAGE_SUFFIXES)}) or videos "
                f"({' '.join(VIDEO_SUFFIXES)}), got {source}, {what}"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def is_image(path: Path) -> bool:
    """Says whether the suffix is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    """Says whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_image(path: Path) -> Tensor:
    """Reads an image of any format that Pillow knows, upright as its EXIF orientation says.

    Returns:
        uint8, shape (3, H, W), RGB.

    Raises:
        ValueError: The file is damaged or no image.
    """
    return image_files.read_image(path)


def read_video(path: Path) -> Iterator[Tensor]:
    """Reads the frames of a video, one at a time: uint8, shape (3, H, W), RGB.

    Raises:
        ValueError: The file is damaged or no video.
    """
    message = f"read_video: {path} is damaged or not a video that OpenCV can read"
    for frame in _capture(str(path), path, message):
        yield frame.image


def is_stream(source: str | Path) -> bool:
    """Says whether it names a camera (``0``, ``webcam:1``) or a stream (``rtsp://...``).

    A file of that name comes first.

    Example:
        >>> is_stream("webcam:1"), is_stream("rtsp://host/door"), is_stream("a.mp4")
        (True, True, False)
    """
    if not isinstance(source, str) or os.path.exists(source):
        return False
    return bool(_CAMERA.fullmatch(source) or _URL.match(source))


def read_stream(source: str) -> Iterator[Frame]:
    """Reads a camera or a stream frame by frame, until it ends.

    Args:
        source: The number of a camera, ``"0"`` or ``"webcam:1"``; or an address that OpenCV opens,
            such as ``"rtsp://..."``.

    Yields:
        Frames whose path is a name for it, without passwords.

    Raises:
        ValueError: It cannot be opened.
    """
    camera = _CAMERA.fullmatch(source)
    name = Path(f"webcam-{camera[1]}" if camera else _address_name(source))
    message = f"read_stream: expected a camera or stream that OpenCV can open, got {name}"
    yield from _capture(int(camera[1]) if camera else source, name, message)


def read_frames(path: Path) -> Iterator[Frame]:
    """Reads an image, or all frames of a video."""
    if not is_video(path):
        yield Frame(path, read_image(path))
        return
    message = f"read_video: {path} is damaged or not a video that OpenCV can read"
    yield from _capture(str(path), path, message)


def _capture(what: str | int, path: Path, message: str) -> Iterator[Frame]:
    import cv2

    reader: Any = cv2.VideoCapture(what)
    try:
        readable, pixels = reader.read()
        if not readable:
            raise ValueError(message)
        rate, number = reader.get(cv2.CAP_PROP_FPS) or _USUAL_RATE, 0
        while readable:
            image = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
            yield Frame(path, image, number, rate)
            readable, pixels = reader.read()
            number += 1
    finally:
        reader.release()


def _address_name(address: str) -> str:
    parts = urlsplit(address)
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{parts.scheme}-{parts.hostname}{parts.path}").strip("-")


class Sources:
    """Everything that shall be looked at, checked before the first image is read.

    Args:
        given: Files, folders, glob patterns, cameras, streams, and ``"-"``: paths from standard
            input, one a line, read as they come.
        stdin: Instead of the standard input of the process.

    Attributes:
        given: As above.
        files: Known beforehand, each once, in the order given.
        is_endless: Whether more may come than ``files``: from cameras, streams or a list.
        is_live: Whether there are cameras or streams.

    Raises:
        FileNotFoundError: A source that does not exist, or with neither images nor videos in it.
        ValueError: No sources, or ``"-"`` twice.
    """

    def __init__(self, given: Sequence[str | Path], stdin: TextIO | None = None) -> None:
        if not given:
            raise ValueError("Sources: expected at least one source, got none")
        if given.count(STDIN) > 1:
            raise ValueError('Sources: expected "-" once, got it twice')
        self.given = tuple(given)
        self.is_live = any(map(is_stream, given))
        self.is_endless = self.is_live or STDIN in given
        self._stdin = stdin
        # Looked up once: results may be written into a folder whose turn comes later.
        known: dict[Path, None] = {}
        self._parts: list[str | list[Path]] = []
        for source in given:
            if source == STDIN or is_stream(source):
                self._parts.append(str(source))
                continue
            new = [path for path in find_files([source]) if path not in known]
            known |= dict.fromkeys(new)
            self._parts.append(new)
        self.files = tuple(known)

    def frames(self, on_damaged: OnDamaged | None = None) -> Iterator[Frame]:
        """Reads them one after the other; nothing is kept.

        Args:
            on_damaged: Called with each file that cannot be read, which is then skipped; ``None``
                raises instead.

        Raises:
            OSError: A listed file is missing or cannot be opened.
            ValueError: A file is damaged, a camera or stream cannot be opened.
        """
        for part in self._parts:
            if part != STDIN and isinstance(part, str):
                yield from read_stream(part)
            else:
                for path in self._listed() if isinstance(part, str) else part:
                    yield from _readable(path, on_damaged)

    def _listed(self) -> Iterator[Path]:
        known = set(self.files)
        lines: Any = sys.stdin if self._stdin is None else self._stdin
        # Bytes where there are some: names of files need not be UTF-8.
        for line in getattr(lines, "buffer", lines):
            name = os.fsdecode(line).rstrip("\r\n")
            if name and Path(name) not in known:
                yield Path(name)


def _readable(path: Path, on_damaged: OnDamaged | None) -> Iterator[Frame]:
    try:
        yield from read_frames(path)
    except (OSError, ValueError) as error:
        if on_damaged is None:
            raise
        on_damaged(path, error)
