"""Masks stored as images: class indices in palette or grey images, or colours of a palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cvlib._files import read_bytes
from cvlib.data.files.folders import escape
from cvlib.data.files.image_headers import MemorySource
from cvlib.data.files.images import (
    UnreadableImageError,
    check_pixels,
    check_png,
    known_header,
    open_by_pillow,
)
from cvlib.geometry.view import VOID

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]

# Lossy formats blur class indices at every edge.
_FORMATS = ("PNG", "BMP", "TIFF", "GIF")
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_VOC_BORDER: Colour = (224, 224, 192)


def voc_palette(count: int = 256) -> list[Colour]:
    """Return the colours of Pascal VOC.

    The bits of a class index are distributed over red, green and blue, the lowest ones first.

    Args:
        count: Number of colours, up to 256. Index 255 is the border between objects.
    """
    colours = []
    for number in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (number >> (3 * (bit // 3) + channel) & 1) << (7 - bit // 3)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


def read_numbers(path: Path) -> NDArray[Any]:
    """Read a mask of integers; palette images are read as indices, whatever their colours.

    Args:
        path: Image in a lossless format: PNG, BMP, TIFF or GIF.

    Returns:
        Shape (H, W).

    Raises:
        UnreadableImageError: The image is damaged, lossy, too large, or in colours.
        OSError: The file cannot be read.
    """
    pixels = _read(path)
    if pixels.ndim == 3:
        raise _coloured(path)
    return pixels


def decode_numbers(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a PNG of integers 0..255; raises like `read_numbers`, and for larger integers."""
    pixels = _decode(data, Path(name))
    if pixels.ndim == 3:
        raise _coloured(Path(name))
    if pixels.dtype != np.uint8:
        raise _damaged(Path(name), f"numbers of type {pixels.dtype}")
    return pixels


def read_classes(
    path: Path, num_classes: int, void: int = VOID, palette: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """Read a mask of class indices.

    Args:
        path: See `read_numbers`; with a palette also an image in colours.
        num_classes: K, at most 255.
        void: Value in the file of pixels without a class.
        palette: Colours of classes 0..K-1, for masks in colours. Further entries are void, as is
            VOC's border colour unless it belongs to a class.

    Returns:
        Shape (H, W), 0..K-1, and 255 for void.

    Raises:
        UnreadableImageError: See `read_numbers`; also an unknown class or colour.
        OSError: The file cannot be read.
    """
    pixels = _read(path)
    if pixels.ndim == 3:
        pixels, void = _to_numbers(pixels, path, num_classes, palette), VOID
    if pixels.dtype != np.uint8 or void not in range(256):
        _check_numbers(pixels, path, num_classes, void)
        return np.where(pixels == void, VOID, pixels).astype(np.uint8)
    is_unknown = np.bincount(pixels.ravel(), minlength=256) > 0  # 5x faster than comparisons
    is_unknown[:num_classes], is_unknown[void] = False, False
    if is_unknown.any():
        _check_numbers(pixels, path, num_classes, void)
    if void != VOID:
        pixels = np.where(pixels == void, np.uint8(VOID), pixels)
    return pixels


def _check_numbers(pixels: NDArray[Any], path: Path, num_classes: int, void: int) -> None:
    outside = ((pixels < 0) | (pixels >= num_classes)) & (pixels != void)
    if not outside.any():
        return
    values, counts = np.unique(pixels[outside], return_counts=True)
    row, column = np.argwhere(outside)[0]
    examples = [f"{v} ({n:,} pixels)" for v, n in zip(values[:5], counts[:5], strict=True)]
    raise UnreadableImageError(
        f"read_mask: expected class indices 0..{num_classes - 1} or {void} for void, got "
        f"{', '.join(examples)}{', ...' if len(values) > 5 else ''}, first at column {column}, row "
        f"{row}, in {escape(path)}; name every class, or pass the value of void",
        path,
    )


def _read(path: Path) -> NDArray[Any]:
    """Read integers (H, W), or colours (H, W, 3)."""
    return _decode(read_bytes(path, "read_mask", "a mask"), path)


def _decode(data: bytes, path: Path) -> NDArray[Any]:
    header = known_header("read_mask", data[:32], MemorySource(data), path)
    check_pixels(header, path)
    if header.format not in _FORMATS:
        raise _damaged(path, f"{header.format}, which blurs class indices at every edge")
    if header.format == "PNG":
        check_png(data, path)
    try:
        with open_by_pillow(header, data) as image:
            return _to_array(image)
    except Exception as error:  # Pillow's decoders raise almost anything for damaged files
        raise _damaged(path, str(error) or type(error).__name__) from error


def _to_array(image: Image.Image) -> NDArray[Any]:
    if image.mode in _NUMBERS:
        numbers = np.array(image)
        return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers
    if image.mode == "RGBA" and np.array(image)[..., 3].min() < 255:
        raise ValueError("transparent pixels have no class")
    return np.array(image.convert("RGB"))


def _coloured(path: Path) -> UnreadableImageError:
    return UnreadableImageError(
        "read_mask: expected a mask of class indices (palette or grey), got colours in "
        f"{escape(path)}; pass palette=... with the colour of each class",
        path,
    )


def _damaged(path: Path, reason: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"read_mask: expected a complete mask in a lossless format ({', '.join(_FORMATS)}), got "
        f"{escape(path)}, which cannot be decoded: {reason}; restore the file, or save it as "
        "PNG",
        path,
    )


def _to_numbers(
    pixels: NDArray[Any], path: Path, num_classes: int, palette: Sequence[Colour] | None
) -> NDArray[Any]:
    if palette is None:
        raise _coloured(path)
    codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    numbers = {_code(_VOC_BORDER): VOID}
    for number in reversed(range(len(palette))):  # the first of equal colours wins
        numbers[_code(palette[number])] = number if number < num_classes else VOID
    present, inverse = np.unique(codes, return_inverse=True)
    unknown = [int(code) for code in present if int(code) not in numbers]
    if unknown:
        count = int((codes == unknown[0]).sum())
        colour = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise UnreadableImageError(
            f"read_mask: expected the colours of {num_classes} classes, got {colour} in {count:,} "
            f"pixels and {len(unknown) - 1} more unknown colours in {escape(path)}; pass "
            "palette=... with the colour of each class",
            path,
        )
    return np.array([numbers[int(code)] for code in present])[inverse].reshape(codes.shape)


def _code(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]
