"""Sources of images: files, folders, glob patterns, videos, cameras, streams, lists of paths."""

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
from cvlib.data.files.images import read_image

OnDamaged = Callable[[Path, Exception], None]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
# Source name for a list of paths from standard input.
STDIN = "-"
# Frames per second of videos and streams that do not declare a rate.
DEFAULT_RATE = 25.0
_CAMERA = re.compile(r"(?:webcam:)?([0-9]+)")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video.

    Attributes:
        path: File of the image or video; a name for cameras, streams and images in memory.
        image: uint8, shape (3, H, W), RGB.
        number: Number of the frame in its video, from 0; ``None`` for an image.
        rate: Frames per second of the video; ``None`` for an image.
    """

    path: Path
    image: Tensor
    number: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        """The path, with the number of a frame: ``"clip.mp4#12"``."""
        return str(self.path) if self.number is None else f"{self.path}#{self.number}"


def find_files(sources: Iterable[str | Path]) -> list[Path]:
    """Find images and videos.

    Args:
        sources: Files, folders (searched recursively, without hidden files) and glob patterns.

    Returns:
        Files in the order of the sources, sorted within folders and patterns, without duplicates.

    Raises:
        FileNotFoundError: A source that does not exist, or holds neither images nor videos.
    """
    files: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = [path / name for name in list_images(path, IMAGE_SUFFIXES + VIDEO_SUFFIXES)]
        else:
            paths = map(Path, glob.glob(str(source), recursive=True))
            matches = sorted(p for p in paths if p.is_file() and (is_image(p) or is_video(p)))
        if not matches:
            reason = "a folder without any" if path.is_dir() else "which matches none"
            raise FileNotFoundError(
                f"find_files: expected images ({' '.join(IMAGE_SUFFIXES)}) or videos "
                f"({' '.join(VIDEO_SUFFIXES)}), got {source}, {reason}"
            )
        files.update(dict.fromkeys(matches))
    return list(files)


def is_image(path: Path) -> bool:
    """Whether the suffix is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    """Whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_stream(source: str | Path) -> bool:
    """Whether a source is a camera (``0``, ``webcam:1``) or a stream (``rtsp://...``).

    A file of that name takes precedence.

    Example:
        >>> is_stream("webcam:1"), is_stream("rtsp://host/door"), is_stream("a.mp4")
        (True, True, False)
    """
    if not isinstance(source, str) or os.path.exists(source):
        return False
    return bool(_CAMERA.fullmatch(source) or _URL.match(source))


def read_frames(path: Path) -> Iterator[Frame]:
    """Read an image, or the frames of a video one at a time.

    Raises:
        ValueError: The file is damaged, or neither an image nor a video.
    """
    if is_video(path):
        message = (
            f"read_frames: expected a video that OpenCV can read, got {path}, which is damaged or "
            "of another kind"
        )
        yield from _capture(str(path), path, message)
    else:
        yield Frame(path, read_image(path))


def read_stream(source: str) -> Iterator[Frame]:
    """Read a camera or stream frame by frame, until it ends.

    Args:
        source: Number of a camera, ``"0"`` or ``"webcam:1"``; or an address that OpenCV can open,
            such as ``"rtsp://..."``.

    Yields:
        Frames whose path is a name of the source without passwords.

    Raises:
        ValueError: It cannot be opened.
    """
    camera = _CAMERA.fullmatch(source)
    name = Path(f"webcam-{camera[1]}" if camera else _address_name(source))
    message = f"read_stream: expected a camera or stream that OpenCV can open, got {name}"
    yield from _capture(int(camera[1]) if camera else source, name, message)


def _capture(source: str | int, path: Path, message: str) -> Iterator[Frame]:
    import cv2

    reader: Any = cv2.VideoCapture(source)
    try:
        is_readable, pixels = reader.read()
        if not is_readable:
            raise ValueError(message)
        rate, number = reader.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE, 0
        while is_readable:
            image = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
            yield Frame(path, image, number, rate)
            is_readable, pixels = reader.read()
            number += 1
    finally:
        reader.release()


def _address_name(address: str) -> str:
    url = urlsplit(address)
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{url.scheme}-{url.hostname}{url.path}").strip("-")


class Sources:
    """Sources of images, checked before the first image is read.

    Args:
        names: Files, folders, glob patterns, cameras, streams, and ``"-"``: paths from standard
            input, one per line, read as they come.
        stdin: Replaces the standard input of the process.

    Attributes:
        names: See above.
        files: Files known in advance, in order, without duplicates.
        is_endless: Whether more images than ``files`` may come: from cameras, streams or a list.
        is_live: Whether there are cameras or streams.

    Raises:
        FileNotFoundError: A source that does not exist, or holds neither images nor videos.
        ValueError: No sources, or ``"-"`` twice.
    """

    def __init__(self, names: Sequence[str | Path], stdin: TextIO | None = None) -> None:
        if not names:
            raise ValueError("Sources: expected at least one source, got none")
        if names.count(STDIN) > 1:
            raise ValueError('Sources: expected "-" once, got it twice')
        self.names = tuple(names)
        self.is_live = any(map(is_stream, names))
        self.is_endless = self.is_live or STDIN in names
        self._stdin = stdin
        # Listed once: results may be written into a folder that comes later.
        known: dict[Path, None] = {}
        self._parts: list[str | list[Path]] = []
        for name in names:
            if name == STDIN or is_stream(name):
                self._parts.append(str(name))
                continue
            new = [path for path in find_files([name]) if path not in known]
            known |= dict.fromkeys(new)
            self._parts.append(new)
        self.files = tuple(known)

    def frames(self, on_damaged: OnDamaged | None = None) -> Iterator[Frame]:
        """Read images and frames one after the other.

        Args:
            on_damaged: Called with the path of each unreadable file and the error, and the file is
                skipped; ``None`` raises the error.

        Raises:
            OSError: A listed file is missing or cannot be opened.
            ValueError: A file is damaged, or a camera or stream cannot be opened.
        """
        for part in self._parts:
            if part != STDIN and isinstance(part, str):
                yield from read_stream(part)
                continue
            for path in self._listed_paths() if isinstance(part, str) else part:
                try:
                    yield from read_frames(path)
                except (OSError, ValueError) as error:
                    if on_damaged is None:
                        raise
                    on_damaged(path, error)

    def _listed_paths(self) -> Iterator[Path]:
        known = set(self.files)
        lines: Any = sys.stdin if self._stdin is None else self._stdin
        # Bytes where available: file names need not be UTF-8.
        for line in getattr(lines, "buffer", lines):
            name = os.fsdecode(line).rstrip("\r\n")
            if name and Path(name) not in known:
                yield Path(name)
