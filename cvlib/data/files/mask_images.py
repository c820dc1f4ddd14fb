"""Masks stored as images: numbers in palette or grey PNG, colours where there is a palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cvlib._files import read_bytes
from cvlib.data.files.folders import shown
from cvlib.data.files.image_headers import MemorySource
from cvlib.data.files.images import (
    UnreadableImageError,
    check_pixels,
    check_png,
    known_header,
    open_by_pillow,
)

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]

# Lossy formats blur class numbers at every edge.
_FORMATS = ("PNG", "BMP", "TIFF", "GIF")
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_VOC_BORDER: Colour = (224, 224, 192)


def voc_palette(count: int = 256) -> list[Colour]:
    """The colours of Pascal VOC: bits of the class number, dealt out to red, green and blue.

    Args:
        count: How many, up to 256. Number 255 is the border between objects.
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
    """Read a mask of numbers; of a palette image the indices, whatever its colours.

    Args:
        path: An image without loss: PNG, BMP, TIFF or GIF.

    Returns:
        Shape (H, W).

    Raises:
        UnreadableImageError: Damaged, lossy, too large, or an image of colours.
        OSError: The file cannot be read.
    """
    pixels = _read(path)
    if pixels.ndim == 3:
        raise _coloured(path)
    return pixels


def decode_numbers(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a PNG of numbers 0..255; raises as `read_numbers`, and for larger numbers."""
    pixels = _decode(data, Path(name))
    if pixels.ndim == 3:
        raise _coloured(Path(name))
    if pixels.dtype != np.uint8:
        raise _damaged(Path(name), f"numbers of type {pixels.dtype}")
    return pixels


def read_classes(
    path: Path, num_classes: int, void: int = 255, palette: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """Read a mask of class numbers.

    Args:
        path: As for `read_numbers`, or an image of colours where there is a palette.
        num_classes: K, at most 255.
        void: The number in the file that means no class.
        palette: Colours of classes 0..K-1, for masks of colours. VOC's border colour is void
            unless it belongs to a class, and so are further entries of the palette.

    Returns:
        Shape (H, W): 0..K-1, and 255 for void.

    Raises:
        UnreadableImageError: As `read_numbers`; a number or a colour that is none of the classes.
        OSError: The file cannot be read.
    """
    pixels = _read(path)
    if pixels.ndim == 3:
        pixels, void = _to_numbers(pixels, path, num_classes, palette), 255
    if pixels.dtype != np.uint8 or void not in range(256):
        _check_numbers(pixels, path, num_classes, void)
        return np.where(pixels == void, 255, pixels).astype(np.uint8)
    there = np.bincount(pixels.ravel(), minlength=256) > 0  # five times faster than comparisons
    there[:num_classes], there[void] = False, False
    if there.any():
        _check_numbers(pixels, path, num_classes, void)
    if void != 255:
        pixels = np.where(pixels == void, np.uint8(255), pixels)
    return pixels


def _check_numbers(pixels: NDArray[Any], path: Path, num_classes: int, void: int) -> None:
    outside = ((pixels < 0) | (pixels >= num_classes)) & (pixels != void)
    if not outside.any():
        return
    values, counts = np.unique(pixels[outside], return_counts=True)
    row, column = np.argwhere(outside)[0]
    told = [f"{v} ({n:,} pixels)" for v, n in zip(values[:5], counts[:5], strict=True)]
    raise UnreadableImageError(
        f"read_mask: expected class numbers 0..{num_classes - 1} or {void} for void, got "
        f"{', '.join(told)}{', ...' if len(values) > 5 else ''}, first at column {column}, row "
        f"{row}, in {shown(path)}; name every class, or say which number is void",
        path,
    )


def _read(path: Path) -> NDArray[Any]:
    """Numbers (H, W), or colours (H, W, 3)."""
    return _decode(read_bytes(path, "read_mask", "a mask"), path)


def _decode(data: bytes, path: Path) -> NDArray[Any]:
    header = known_header("read_mask", data[:32], MemorySource(data), path)
    check_pixels(header, path)
    if header.format not in _FORMATS:
        raise _damaged(path, f"{header.format}, which blurs numbers at every edge")
    if header.format == "PNG":
        check_png(data, path)
    try:
        with open_by_pillow(header, data) as image:
            return _to_array(image)
    except Exception as error:  # Pillow's decoders raise almost anything at damaged files
        raise _damaged(path, str(error) or type(error).__name__) from error


def _to_array(image: Image.Image) -> NDArray[Any]:
    if image.mode in _NUMBERS:
        numbers = np.array(image)
        return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers
    if image.mode == "RGBA" and np.array(image)[..., 3].min() < 255:
        raise ValueError("transparent pixels, of which nobody knows the class")
    return np.array(image.convert("RGB"))


def _coloured(path: Path) -> UnreadableImageError:
    return UnreadableImageError(
        "read_mask: expected a mask of numbers (palette or grey), got colours in "
        f"{shown(path)}; pass palette=... with the colour of each class",
        path,
    )


def _damaged(path: Path, reason: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"read_mask: expected a whole mask in a format without loss ({', '.join(_FORMATS)}), got "
        f"{shown(path)}, which cannot be read as one: {reason}; restore the file, or save it as "
        "PNG",
        path,
    )


def _to_numbers(
    pixels: NDArray[Any], path: Path, num_classes: int, palette: Sequence[Colour] | None
) -> NDArray[Any]:
    if palette is None:
        raise _coloured(path)
    codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
    numbers = {_code(_VOC_BORDER): 255}
    for number in reversed(range(len(palette))):  # of equal colours the first
        numbers[_code(palette[number])] = number if number < num_classes else 255
    found, inverse = np.unique(codes, return_inverse=True)
    unknown = [int(code) for code in found if int(code) not in numbers]
    if unknown:
        count = int((codes == unknown[0]).sum())
        colour = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise UnreadableImageError(
            f"read_mask: expected the colours of {num_classes} classes, got {colour} in {count:,} "
            f"pixels and {len(unknown) - 1} more unknown colours in {shown(path)}; pass "
            "palette=... with the colour of each class",
            path,
        )
    return np.array([numbers[int(code)] for code in found])[inverse].reshape(codes.shape)


def _code(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]
