"""COCO's mask formats: run lengths, compressed or not, and polygons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvlib._checks import is_integer, mismatch
from cvlib.ops.masks import check_binary_masks
from cvlib.ops.paste import check_image_size

# Run lengths are 32-bit numbers in the files and in pycocotools.
_MOST_PIXELS = 2**32 - 1
# A run takes at most this many characters, of 5 bits each.
_LONGEST_RUN = 7


def masks_to_rle(masks: Tensor) -> list[dict[str, Any]]:
    """Encode masks as COCO's compressed run lengths, ready for a JSON file.

    Args:
        masks: Shape (N, H, W), bool or uint8, on any device; nonzero pixels belong to the mask.

    Returns:
        One dictionary ``{"size": [H, W], "counts": str}`` per mask: lengths of alternating runs of
        zeros and ones in column-major order.

    Raises:
        TypeError: Not a tensor, or of another dtype.
        ValueError: Not of shape (N, H, W), or masks of more than 2^32 - 1 pixels.

    Note:
        Deterministic. Runs on the CPU with pycocotools and copies one mask at a time.

    References:
        Format: https://github.com/cocodataset/cocoapi

    Example:
        >>> masks_to_rle(torch.tensor([[[0, 1], [0, 1]]], dtype=torch.bool))
        [{'size': [2, 2], 'counts': '22'}]
    """
    from pycocotools import mask as coco

    check_binary_masks("masks_to_rle", "masks", masks)
    check_pixels("masks_to_rle", "masks", *masks.shape[1:])
    encoded = []
    for mask in masks.detach().cpu():
        # pycocotools expects zeros and ones in column-major order.
        bits = mask if mask.dtype == torch.bool else mask != 0
        columns = bits.t().contiguous().view(torch.uint8)
        rle = coco.encode(columns.numpy().T)
        encoded.append({"size": list(mask.shape), "counts": rle["counts"].decode("ascii")})
    return encoded


def rle_to_masks(
    rles: Sequence[Mapping[str, Any]], *, image_size: tuple[int, int] | None = None
) -> Tensor:
    """Decode COCO's run lengths.

    The runs are checked first; pycocotools returns uninitialised memory for runs that end early.

    Args:
        rles: Dictionaries ``{"size": [H, W], "counts": ...}``, all of one size. Counts are a
            compressed ``str`` or ``bytes``, or a list of integers.
        image_size: Expected (height, width) of the masks; needed only if ``rles`` may be empty.

    Returns:
        Shape (N, H, W), bool, on the CPU.

    Raises:
        TypeError: Not mappings with a size and counts, or of other types.
        ValueError: Different sizes, invalid or truncated text, negative runs, runs that do not add
            up to H x W.

    Note:
        Deterministic. Runs on the CPU; needs the memory of the result and one mask.

    Example:
        >>> rle_to_masks([{"size": [2, 2], "counts": "22"}]).int()
        tensor([[[0, 1],
                 [0, 1]]], dtype=torch.int32)
    """
    sizes = [_read_size(n, rle) for n, rle in enumerate(rles)]
    if image_size is not None:
        size = check_image_size("rle_to_masks", image_size)
    elif sizes:
        size = sizes[0]
    else:
        requirement = "hold at least one mask if `image_size` is None"
        raise ValueError(mismatch("rle_to_masks", "rles", requirement, "none"))
    height, width = size
    masks = torch.empty(len(sizes), height, width, dtype=torch.bool)
    for n, (rle, mask_size) in enumerate(zip(rles, sizes, strict=True)):
        if mask_size != size:
            raise ValueError(mismatch("rle_to_masks", f"rles[{n}]", f"have size {size}", mask_size))
        argument = f'rles[{n}]["counts"]'
        runs = _read_counts(argument, rle["counts"])
        _check_runs(argument, runs, height, width)
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        masks[n] = torch.from_numpy(columns).view(width, height).t()
    return masks


def polygons_to_masks(
    polygons: Sequence[Sequence[Sequence[float]]], image_size: tuple[int, int]
) -> Tensor:
    """Draw the polygons of COCO's annotations as masks.

    Args:
        polygons: A list of polygons per object, each ``[x1, y1, x2, y2, ...]`` in pixels with at
            least three corners; the mask is their union. Corners may be outside the image by at
            most its width and height.
        image_size: (height, width) of the image.

    Returns:
        Shape (N, H, W), bool, on the CPU: the pixels that pycocotools draws.

    Raises:
        TypeError: Not lists of lists of numbers.
        ValueError: A negative size, fewer than three corners, an odd number of coordinates, a NaN,
            or corners far outside the image (which crash pycocotools).

    Note:
        Deterministic. Runs on the CPU.

    Example:
        >>> polygons_to_masks([[[1, 0, 3, 0, 3, 2, 1, 2]]], (2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    from pycocotools import mask as coco

    height, width = check_image_size("polygons_to_masks", image_size)
    check_pixels("polygons_to_masks", "image_size", height, width)
    rles = []
    for n, parts in enumerate(polygons):
        if isinstance(parts, str | bytes | Mapping) or not isinstance(parts, Sequence):
            argument, actual = f"polygons[{n}]", type(parts).__name__
            raise TypeError(
                mismatch("polygons_to_masks", argument, "be a list of polygons", actual)
            )
        rows = [
            _read_polygon(f"polygons[{n}][{k}]", part, height, width)
            for k, part in enumerate(parts)
        ]
        drawn = coco.frPyObjects(rows, height, width) if rows else []
        empty = {"size": [height, width], "counts": [height * width]}
        rles.append(coco.merge(drawn) if drawn else empty)
    return rle_to_masks(rles, image_size=(height, width))


def _rle_error(argument: str, requirement: str, actual: object) -> ValueError:
    return ValueError(mismatch("rle_to_masks", argument, requirement, actual))


def _read_size(n: int, rle: object) -> tuple[int, int]:
    name = "rle_to_masks"
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        actual = sorted(rle) if isinstance(rle, Mapping) else type(rle).__name__
        requirement, advice = (
            'be a dict with "size" and "counts"',
            "for polygons use polygons_to_masks",
        )
        raise TypeError(mismatch(name, f"rles[{n}]", requirement, actual, advice))
    size, argument = rle["size"], f'rles[{n}]["size"]'
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    if not is_pair or not all(is_integer(side) for side in size):
        requirement = "be two integers (height, width)"
        raise TypeError(mismatch(name, argument, requirement, repr(size)))
    height, width = int(size[0]), int(size[1])
    if height < 0 or width < 0:
        raise _rle_error(argument, "be at least (0, 0)", (height, width))
    check_pixels(name, f"rles[{n}]", height, width)
    return height, width


def check_pixels(function: str, argument: str, height: int, width: int) -> None:
    """Raises ValueError if runs would not fit into 32 bits."""
    if height * width > _MOST_PIXELS:
        actual = f"{height} x {width}"
        raise ValueError(mismatch(function, argument, "have at most 2^32 - 1 pixels", actual))


def _read_counts(argument: str, counts: object) -> np.ndarray:
    """Return the runs as int64, without checking their sum."""
    if isinstance(counts, str):
        if not counts.isascii():
            raise _rle_error(argument, "be ASCII text", "other characters")
        return _decompress(argument, counts.encode("ascii"))
    if isinstance(counts, bytes):
        return _decompress(argument, counts)
    actual = type(counts).__name__
    if isinstance(counts, list | tuple | np.ndarray):
        other = next((run for run in counts if not is_integer(run)), None)
        if other is None:
            for run in counts:
                if not 0 <= run <= _MOST_PIXELS:
                    raise _rle_error(argument, "be in 0..2^32 - 1", run)
            return np.asarray(counts, dtype=np.int64)
        actual += f" with {other!r}"
    requirement = "be a str, bytes or a list of integers"
    raise TypeError(mismatch("rle_to_masks", argument, requirement, actual))


def _decompress(argument: str, text: bytes) -> np.ndarray:
    """Undo COCO's compression.

    A number is stored in groups of 5 bits, lowest first, each in a character from "0" on whose
    sixth bit is set if more groups follow. The last group carries the sign. From the fourth run on,
    a number is the difference to the run two before.
    """
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(groups):
        return groups
    if groups.min() < 0 or groups.max() > 63:
        character = chr(text[int(np.argmax((groups < 0) | (groups > 63)))])
        raise _rle_error(argument, "be compressed run lengths", f"the character {character!r}")
    ends = np.flatnonzero(groups < 32)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise _rle_error(argument, "end with a complete number", "text that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        raise _rle_error(argument, "be 32-bit numbers", f"one of {lengths.max()} characters")
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    numbers -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _check_runs(argument: str, runs: np.ndarray, height: int, width: int) -> None:
    if len(runs) and runs.min() < 0:
        raise _rle_error(argument, "be runs of at least 0", runs.min())
    if runs.sum() != height * width:
        requirement = f"add up to {height} x {width} = {height * width} pixels"
        raise _rle_error(argument, requirement, runs.sum())


def _read_polygon(argument: str, polygon: object, height: int, width: int) -> list[float]:
    name = "polygons_to_masks"
    try:
        if isinstance(polygon, str | bytes):
            raise TypeError
        row = [float(value) for value in polygon]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        requirement, actual = "be a list of numbers [x1, y1, x2, y2, ...]", type(polygon).__name__
        raise TypeError(mismatch(name, argument, requirement, actual)) from None
    if len(row) < 6 or len(row) % 2:
        requirement = "have at least 6 coordinates, an even number"
        raise ValueError(mismatch(name, argument, requirement, len(row)))
    for index, value in enumerate(row):
        extent = height if index % 2 else width
        if not math.isfinite(value) or not -extent <= value <= 2 * extent:
            requirement = f"lie within one image size of the image {(height, width)}"
            actual = f"{'y' if index % 2 else 'x'} = {value:g}"
            raise ValueError(
                mismatch(name, argument, requirement, actual, "polygons are in pixels")
            )
    return row
