"""Format, size and orientation of an image from its first bytes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

# EXIF orientations that exchange width and height.
_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION_TAG = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# More blocks than any real image has before its pixels.
_MAX_BLOCKS = 10_000
# JPEG markers that begin a frame, and those without a length.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))


class BadHeaderError(ValueError):
    """A header that is inconsistent or truncated."""


@dataclass(frozen=True)
class Header:
    """Header of an image.

    Attributes:
        format: Pillow's name of the format, such as ``"JPEG"``.
        height: Height in pixels as stored; 0 if only a decoder can determine it.
        width: Width in pixels as stored; 0 if only a decoder can determine it.
        orientation: EXIF orientation, 1 to 8.
        channels: 1, 3 or 4 for JPEG with 8 bits, otherwise 0.
        adobe: Whether a JPEG has Adobe's marker, which means that CMYK is stored inverted.
    """

    format: str
    height: int = 0
    width: int = 0
    orientation: int = 1
    channels: int = 0
    adobe: bool = False

    def size(self, upright: bool) -> tuple[int, int]:
        """Return height and width, as stored or with the orientation applied."""
        if upright and self.orientation in _SIDEWAYS:
            return self.width, self.height
        return self.height, self.width


class Source(Protocol):
    """Bytes that can be read at any offset."""

    def at(self, offset: int, count: int) -> bytes:
        """Return at most ``count`` bytes from ``offset``."""


class MemorySource:
    """`Source` of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at(self, offset: int, count: int) -> bytes:
        """Return at most ``count`` bytes from ``offset``."""
        return self._data[offset : offset + count]


class FileSource:
    """`Source` of an open file, whose first bytes are read once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start = os.pread(descriptor, 1024, 0)

    def at(self, offset: int, count: int) -> bytes:
        """Return at most ``count`` bytes from ``offset``."""
        if offset + count <= len(self._start):
            return self._start[offset : offset + count]
        return os.pread(self._descriptor, count, offset)


def read_header(source: Source) -> Header | None:
    """Recognise the format of an image by its content, and read its header.

    Args:
        source: Content of the file.

    Returns:
        The header, or None if the format is unknown.

    Raises:
        BadHeaderError: The header of a known format is damaged.
    """
    start = source.at(0, 32)
    for matches, read in _READERS:
        if matches(start):
            try:
                return read(source, start)
            except (struct.error, IndexError) as error:
                raise BadHeaderError("its header ends too early") from error
    return None


def _read_png(source: Source, start: bytes) -> Header:
    width, height = struct.unpack_from(">II", start, 16)
    if start[12:16] != b"IHDR" or not width or not height:
        raise BadHeaderError("its header is damaged")
    position = 33
    for _ in range(_MAX_BLOCKS):
        length, kind = struct.unpack(">I4s", source.at(position, 8))
        if kind == b"eXIf":
            return Header("PNG", height, width, _orientation(source.at(position + 8, length)))
        if kind in (b"IDAT", b"IEND"):
            break
        position += 12 + length
    return Header("PNG", height, width)


def _read_jpeg(source: Source, start: bytes) -> Header:
    orientation, adobe = 1, False
    for marker, position, length in _jpeg_segments(source):
        if marker == 0xE1 and source.at(position, 6) == b"Exif\0\0":
            orientation = _orientation(source.at(position + 6, length - 6))
        elif marker == 0xEE:
            adobe = source.at(position, 5) == b"Adobe"
        elif marker in _FRAME_MARKERS:
            bits, height, width, channels = struct.unpack(">BHHB", source.at(position, 6))
            if not height or not width:
                raise BadHeaderError("its header has no size")
            return Header("JPEG", height, width, orientation, channels * (bits == 8), adobe)
    raise BadHeaderError("it has no header with a size")


def _jpeg_segments(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield marker, offset and length of the content of each segment."""
    position = 2
    for _ in range(_MAX_BLOCKS):
        fill, marker = struct.unpack(">BB", source.at(position, 2))
        if fill != 0xFF:
            raise BadHeaderError(f"its header is damaged at byte {position}")
        if marker == 0xFF:  # padding
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        elif marker in (0xD9, 0xDA):
            return
        else:
            (length,) = struct.unpack(">H", source.at(position + 2, 2))
            if length < 2:
                raise BadHeaderError(f"its header is damaged at byte {position}")
            yield marker, position + 4, length - 2
            position += 2 + length


def _read_gif(source: Source, start: bytes) -> Header:
    width, height = struct.unpack_from("<HH", start, 6)
    return Header("GIF", height, width)


def _read_bmp(source: Source, start: bytes) -> Header:
    (length,) = struct.unpack_from("<I", start, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", start, 18)
    return Header("BMP", abs(height), width)


def _read_webp(source: Source, start: bytes) -> Header:
    kind = start[12:16]
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
        return Header("WEBP", height, width)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        return Header("WEBP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    width, height = (int.from_bytes(start[i : i + 3], "little") + 1 for i in (24, 27))
    if len(start) < 30 or kind != b"VP8X":
        raise BadHeaderError("its header is damaged")
    has_exif = start[20] & 0x08
    return Header("WEBP", height, width, _webp_orientation(source) if has_exif else 1)


def _webp_orientation(source: Source) -> int:
    position = 12
    for _ in range(_MAX_BLOCKS):
        head = source.at(position, 8)
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            block = source.at(position + 8, length)
            return _orientation(block[6:] if block.startswith(b"Exif\0\0") else block)
        position += 8 + length + length % 2
    return 1


def _orientation(block: bytes) -> int:
    """Read the orientation from an EXIF block, a small TIFF; damaged blocks mean 1."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == _ORIENTATION_TAG and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1


def _is_plain_map(start: bytes) -> bool:
    return start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace()


# Pillow reads the headers of formats whose size is left 0.
_READERS = (
    (lambda start: start.startswith(b"\xff\xd8\xff"), _read_jpeg),
    (lambda start: start.startswith(PNG_SIGNATURE), _read_png),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _read_webp),
    (lambda start: start.startswith((b"GIF87a", b"GIF89a")), _read_gif),
    (lambda start: start[:2] == b"BM" and len(start) > 25, _read_bmp),
    (lambda start: start.startswith((b"II*\0", b"MM\0*")), lambda *_: Header("TIFF")),
    (_is_plain_map, lambda *_: Header("PPM")),
    (lambda start: start.startswith(b"\0\0\0\x0cjP  "), lambda *_: Header("JPEG2000")),
    (lambda start: start[4:12] in (b"ftypavif", b"ftypavis"), lambda *_: Header("AVIF")),
)
