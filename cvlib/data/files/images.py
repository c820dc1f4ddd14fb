"""Reading images: sizes from headers, pixels as RGB."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib._files import read_bytes
from cvlib.data.files.image_headers import (
    PNG_SIGNATURE,
    BadHeaderError,
    FileSource,
    Header,
    MemorySource,
    read_header,
)

if TYPE_CHECKING:
    from PIL import Image

# 1.6 GB as RGB, so 20,000 x 20,000 passes. CVLIB_MAX_PIXELS overrides it, also in workers.
MAX_PIXELS = 2**29

_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"


class UnreadableImageError(ValueError):
    """A single image, or its labels, cannot be used.

    Attributes:
        path: Path of the image.
    """

    def __init__(self, message: str, path: str | Path = "") -> None:
        self.path = str(path)
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.path)  # DataLoader workers pickle errors


def read_image_size(path: str | Path, *, upright: bool = True) -> tuple[int, int]:
    """Read the size of an image without decoding its pixels.

    Args:
        path: Image file.
        upright: Apply the EXIF orientation, as `read_image` does.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        UnreadableImageError: The file is not an image.
        OSError: The file cannot be read.

    Note:
        About 12 microseconds for JPEG, PNG, WebP, GIF and BMP from the page cache.
    """
    return read_image_header(path).size(upright)


def read_image_header(path: str | Path) -> Header:
    """Read format, size and orientation of an image; raises like `read_image_size`."""
    # Without O_NONBLOCK, opening a named pipe would block forever.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"read_image_size: expected an image, got {path}, which does not exist"
        ) from None
    try:
        source = FileSource(descriptor)
        header = known_header("read_image_size", source.at(0, 32), source, path)
        if header.height:
            return header
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return _pillow_header("read_image_size", header, file.read(), path)
    finally:
        os.close(descriptor)


def read_image(source: str | Path | bytes, *, upright: bool = True) -> Tensor:
    """Decode an image to RGB.

    The format is recognised by content, not by suffix: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG
    2000 and AVIF (if Pillow supports it). Grey, palette, CMYK and 16-bit images become 8-bit RGB;
    transparency is dropped, not blended; only the first frame is read.

    Args:
        source: Image file, or its content.
        upright: Apply the EXIF orientation, as labelling tools do. (TIFF's own orientation is
            part of the format and always applied.)

    Returns:
        Shape (3, H, W), uint8, RGB, channels-last in memory, which is the order of decoders and
        fast for transforms and convolutions.

    Raises:
        UnreadableImageError: The image is truncated or damaged, not an image, or has more pixels
            than ``CVLIB_MAX_PIXELS`` (536,870,912) allows.
        OSError: The file cannot be read.

    Note:
        A JPEG of 640 x 480 takes about a millisecond. OpenCV decodes JPEG, at 95 % of the speed of
        ``torchvision.io.decode_jpeg``, which is deprecated and whose PNG counterpart crashes on
        damaged pixel data. Pillow decodes all other formats.
    """
    if isinstance(source, bytes):
        data, name = source, ""
    else:
        data, name = read_bytes(Path(source), "read_image", "an image"), str(source)
    header = known_header("read_image", data[:32], MemorySource(data), name)
    check_pixels(header, name)
    if header.format == "JPEG" and header.channels in (1, 3):
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return _to_tensor(_turn(pixels, header.orientation if upright else 1))
    if header.format == "PNG":
        check_png(data, name)
    pixels = _decode_by_pillow(header, data, name)
    return _to_tensor(_turn(pixels, header.orientation if upright else 1))


def known_header(
    function: str, start: bytes, source: FileSource | MemorySource, name: str | Path
) -> Header:
    """Read the header of an image; raise `UnreadableImageError` if its format is unknown."""
    try:
        header = read_header(source)
    except BadHeaderError as error:
        raise _unreadable(function, start, str(error), name) from error
    if header is None:
        raise _unreadable(function, start, "", name)
    return header


def _unreadable(function: str, start: bytes, reason: str, name: str | Path) -> Exception:
    damage = f" that cannot be decoded ({reason})" if reason else ""
    return UnreadableImageError(
        f"{function}: expected a complete image (JPEG, PNG, WebP, GIF, BMP, TIFF, ...), got "
        f"{_describe(start)}{damage}{_where(name)}; restore or remove the file",
        name,
    )


def _where(name: str | Path) -> str:
    return f" in {name}" if name else ""


def check_pixels(header: Header, name: str | Path) -> None:
    """Raise `UnreadableImageError` for more pixels than ``CVLIB_MAX_PIXELS`` allows."""
    limit = int(os.environ.get("CVLIB_MAX_PIXELS") or MAX_PIXELS)
    if header.height * header.width > limit:
        raise UnreadableImageError(
            f"read_image: expected an image of at most {limit:,} pixels, got {header.width} x "
            f"{header.height}{_where(name)}; if it is not a decompression bomb, raise the limit "
            f"with the environment variable CVLIB_MAX_PIXELS={header.height * header.width}",
            name,
        )


def _decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Decode to (H, W, 3), or return None to let Pillow try and report the error."""
    import cv2

    # OpenCV 4 would fill the missing part of a truncated JPEG with grey. The end marker is only
    # searched for if other bytes follow it, because that takes 7 % of the time of decoding.
    if not data.endswith(_END_OF_JPEG):
        if data.find(_END_OF_JPEG, data.find(_START_OF_SCAN)) < 0:
            return None
    try:
        decoded = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        return None
    return None if decoded is None else np.asarray(decoded, dtype=np.uint8)


def open_by_pillow(header: Header, data: bytes) -> Image.Image:
    """Open an image lazily; ``Image.open`` would try other formats, and has its own pixel limit."""
    from PIL import Image

    Image.preinit()
    if header.format not in Image.OPEN:
        Image.init()
    if header.format not in Image.OPEN:
        raise ValueError(f"this Pillow was built without {header.format}")
    image: Image.Image = Image.OPEN[header.format][0](io.BytesIO(data), "")
    return image


def _pillow_header(function: str, header: Header, data: bytes, name: str | Path) -> Header:
    try:
        with open_by_pillow(header, data) as image:
            return Header(header.format, image.height, image.width)
    except Exception as error:
        raise _unreadable(function, data, str(error) or type(error).__name__, name) from error


def _decode_by_pillow(header: Header, data: bytes, name: str | Path) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) RGB, as stored."""
    try:
        with open_by_pillow(header, data) as image:
            check_pixels(Header(header.format, image.height, image.width), name)
            return _to_rgb(image, header)
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged files
        raise _unreadable("read_image", data, str(error) or type(error).__name__, name) from error


def _to_rgb(image: Image.Image, header: Header) -> NDArray[np.uint8]:
    from PIL import ImageChops

    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of no known range; save 8 or 16 bit")
    if image.mode.startswith("I"):
        return _to_8_bit(np.asarray(image))
    image.load()
    if image.mode == "CMYK" and header.format == "JPEG" and not header.adobe:
        # Pillow assumes that every CMYK JPEG is inverted, as Adobe writes them.
        image = ImageChops.invert(image)
    image.info.pop("transparency", None)  # avoids a warning of Pillow
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _to_8_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit grey to 8 bits, which Pillow would clip at 255."""
    if values.size and not 0 <= values.min() <= values.max() < 2**16:
        raise ValueError("pixels are 32-bit numbers of no known range; save 8 or 16 bit")
    grey = (values.astype(np.int32) >> 8).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply one of the eight EXIF orientations to pixels of shape (H, W, 3)."""
    if orientation >= 5:  # rows and columns exchanged
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):  # upside down
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # mirrored
        pixels = pixels[:, ::-1]
    return pixels


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)


def check_png(data: bytes, name: str | Path) -> None:
    """Verify the checksums of a PNG, which decoders skip, in 2 % of the time of decoding."""
    view = memoryview(data)
    position = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length = struct.unpack_from(">I", data, position)[0] if position + 12 <= len(data) else 0
        end = position + 12 + length
        if end > len(data) or position + 12 > len(data):
            raise _damaged_png(name, f"a file that ends after {len(data)} bytes")
        kind = data[position + 4 : position + 8]
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise _damaged_png(name, f"a wrong checksum at byte {position}")
        position = end


def _damaged_png(name: str | Path, actual: str) -> Exception:
    message = f"read_image: expected a complete PNG, got {actual}{_where(name)}; "
    return UnreadableImageError(f"{message}restore or remove the file", name)


def _describe(header: bytes) -> str:
    """Describe the content of a file by its first bytes."""
    kinds = {
        PNG_SIGNATURE: "a PNG",
        b"\xff\xd8\xff": "a JPEG",
        b"GIF8": "a GIF",
        b"BM": "a BMP",
        b"RIFF": "a RIFF file (WebP?)",
        b"II*\x00": "a TIFF",
        b"MM\x00*": "a TIFF",
        b"<": "a web page or XML",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a zip archive",
        b"version https://git-lfs": "a Git LFS pointer (run git lfs pull)",
    }
    if header[4:8] == b"ftyp":
        return "an HEIF, AVIF or MP4 file"
    for signature, name in kinds.items():
        if header.startswith(signature):
            return name
    return f"bytes {header[:8]!r}" if header else "an empty file"
