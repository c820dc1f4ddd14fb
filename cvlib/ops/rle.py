"""Masks as COCO writes them: run lengths, compressed or not, and polygons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvlib._checks import is_integer
from cvlib.ops.masks import check_binary_masks
from cvlib.ops.paste import check_image_size

# Runs are 32-bit numbers in the files and in pycocotools.
_MOST_PIXELS = 2**32 - 1
# A run takes at most this many characters, of 5 bits each.
_LONGEST_RUN = 7


def masks_to_rle(masks: Tensor) -> list[dict[str, Any]]:
    """Encodes masks as COCO's compressed run lengths, ready for a JSON file.

    Args:
        masks: Shape (N, H, W), bool or uint8, on any device; what is not 0 belongs to the mask.

    Returns:
        For each mask ``{"size": [H, W], "counts": str}``: the lengths of runs of zeros and ones in
        turn, down one column after the other.

    Raises:
        TypeError: Not a tensor, or of another dtype.
        ValueError: Not of shape (N, H, W), or masks of more than 2^32 - 1 pixels.

    Note:
        Deterministic. A plain function on the CPU, by pycocotools; one mask is copied at a time.

    References:
        https://github.com/cocodataset/cocoapi, the format.

    Example:
        >>> masks_to_rle(torch.tensor([[[0, 1], [0, 1]]], dtype=torch.bool))
        [{'size': [2, 2], 'counts': '22'}]
    """
    from pycocotools import mask as coco

    check_binary_masks("masks_to_rle", "masks", masks)
    check_pixels("masks_to_rle", "masks", *masks.shape[1:])
    encoded = []
    for mask in masks.detach().cpu():
        # pycocotools wants zeros and ones, column after column: the transpose in memory.
        bits = mask if mask.dtype == torch.bool else mask != 0
        columns = bits.t().contiguous().view(torch.uint8)
        rle = coco.encode(columns.numpy().T)
        encoded.append({"size": list(mask.shape), "counts": rle["counts"].decode("ascii")})
    return encoded


def rle_to_masks(
    rles: Sequence[Mapping[str, Any]], *, image_size: tuple[int, int] | None = None
) -> Tensor:
    """Decodes COCO's run lengths.

    Everything about the runs is checked first. pycocotools is less careful: for runs that end early
    it returns what happened to be in memory.

    Args:
        rles: Each ``{"size": [H, W], "counts": ...}``, all of one size. Counts are a compressed
            ``str`` or ``bytes``, or a list of integers.
        image_size: (height, width) that the masks shall have; needed only when there may be none.

    Returns:
        Shape (N, H, W), bool, on the CPU.

    Raises:
        TypeError: Not mappings with a size and counts, or of other types.
        ValueError: Sizes that differ, text that is no run lengths or is cut off, negative runs,
            runs that do not add up to H x W.

    Note:
        Deterministic. A plain function on the CPU; memory is the result and one mask.

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
        raise ValueError("rle_to_masks: expected at least one mask or an image_size, got neither")
    height, width = size
    masks = torch.empty(len(sizes), height, width, dtype=torch.bool)
    for n, (rle, own_size) in enumerate(zip(rles, sizes, strict=True)):
        if own_size != size:
            raise ValueError(
                f"rle_to_masks: expected every mask of size {size}, got rles[{n}] of {own_size}"
            )
        runs = _read_counts(f"rles[{n}]", rle["counts"])
        _check_runs(f"rles[{n}]", runs, height, width)
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        masks[n] = torch.from_numpy(columns).view(width, height).t()
    return masks


def polygons_to_masks(
    polygons: Sequence[Sequence[Sequence[float]]], image_size: tuple[int, int]
) -> Tensor:
    """Draws the polygons of COCO's annotations as masks.

    Args:
        polygons: For each object its parts, each ``[x1, y1, x2, y2, ...]`` in pixels with at least
            three corners; an object is the union of its parts. Corners may lie outside of the image
            by at most its own width and height.
        image_size: (height, width) of the image.

    Returns:
        Shape (N, H, W), bool, on the CPU: the pixels that pycocotools draws.

    Raises:
        TypeError: Not lists of lists of numbers.
        ValueError: A negative size, fewer than three corners, an odd number of coordinates, a NaN,
            or corners far outside of the image (pycocotools crashes at large ones).

    Note:
        Deterministic. A plain function on the CPU.

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
            raise TypeError(
                f"polygons_to_masks: expected polygons[{n}] to be a list of polygons, "
                f"got {type(parts).__name__}"
            )
        rows = [
            _read_polygon(f"polygons[{n}][{k}]", part, height, width)
            for k, part in enumerate(parts)
        ]
        drawn = coco.frPyObjects(rows, height, width) if rows else []
        empty = {"size": [height, width], "counts": [height * width]}
        rles.append(coco.merge(drawn) if drawn else empty)
    return rle_to_masks(rles, image_size=(height, width))


def _read_size(n: int, rle: object) -> tuple[int, int]:
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        actual = sorted(rle) if isinstance(rle, Mapping) else type(rle).__name__
        raise TypeError(
            f'rle_to_masks: expected rles[{n}] to be a dict with "size" and "counts", got '
            f"{actual}; for polygons use polygons_to_masks"
        )
    size = rle["size"]
    is_pair = isinstance(size, list | tuple) and len(size) == 2
    if not is_pair or not all(is_integer(one) for one in size):
        raise TypeError(
            f"rle_to_masks: expected the size of rles[{n}] to be two integers (height, width), "
            f"got {size!r}"
        )
    height, width = int(size[0]), int(size[1])
    if height < 0 or width < 0:
        raise ValueError(
            f"rle_to_masks: expected the size of rles[{n}] to be at least (0, 0), "
            f"got {(height, width)}"
        )
    check_pixels("rle_to_masks", f"rles[{n}]", height, width)
    return height, width


def check_pixels(function: str, argument: str, height: int, width: int) -> None:
    """Raises ValueError where runs would not fit into 32 bits."""
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{function}: expected {argument} of at most 2^32 - 1 pixels, got {height} x {width}"
        )


def _read_counts(name: str, counts: object) -> np.ndarray:
    """Gives the runs as int64, whatever they add up to."""
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError(
                f"rle_to_masks: expected the counts of {name} in ASCII, got other characters"
            )
        return _decompress(name, counts.encode("ascii"))
    if isinstance(counts, bytes):
        return _decompress(name, counts)
    if isinstance(counts, list | tuple | np.ndarray) and all(is_integer(one) for one in counts):
        if any(not 0 <= one <= _MOST_PIXELS for one in counts):
            wrong = next(one for one in counts if not 0 <= one <= _MOST_PIXELS)
            raise ValueError(
                f"rle_to_masks: expected the counts of {name} in 0..2^32 - 1, got {wrong}"
            )
        return np.asarray(counts, dtype=np.int64)
    raise TypeError(
        f"rle_to_masks: expected the counts of {name} to be a str, bytes or a list of integers, "
        f"got {type(counts).__name__}{_odd_entry(counts)}"
    )


def _odd_entry(counts: object) -> str:
    if not isinstance(counts, list | tuple | np.ndarray):
        return ""
    return f" with {next(one for one in counts if not is_integer(one))!r}"


def _decompress(name: str, text: bytes) -> np.ndarray:
    """Undoes COCO's compression.

    A number stands as groups of 5 bits, lowest first, each in a character from "0" on whose sixth
    bit says that more follow; the last group carries the sign. From the fourth run on a number is
    the difference to the run two before.
    """
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(groups):
        return groups
    if groups.min() < 0 or groups.max() > 63:
        raise ValueError(
            f"rle_to_masks: expected the counts of {name} as compressed run lengths, "
            f"got the character {chr(text[int(np.argmax((groups < 0) | (groups > 63)))])!r}"
        )
    ends = np.flatnonzero(groups < 32)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise ValueError(
            f"rle_to_masks: expected the counts of {name} to end with a whole number, "
            "got text that is cut off"
        )
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        raise ValueError(
            f"rle_to_masks: expected the counts of {name} to be 32-bit numbers, got one of "
            f"{lengths.max()} characters"
        )
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    numbers -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _check_runs(name: str, runs: np.ndarray, height: int, width: int) -> None:
    if len(runs) and runs.min() < 0:
        raise ValueError(
            f"rle_to_masks: expected the runs of {name} to be at least 0, got {runs.min()}"
        )
    if runs.sum() != height * width:
        raise ValueError(
            f"rle_to_masks: expected the runs of {name} to add up to {height} x {width} = "
            f"{height * width} pixels, got {runs.sum()}"
        )


def _read_polygon(name: str, polygon: object, height: int, width: int) -> list[float]:
    try:
        if isinstance(polygon, str | bytes):
            raise TypeError
        row = [float(one) for one in polygon]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(
            f"polygons_to_masks: expected {name} to be a list of numbers [x1, y1, x2, y2, ...], "
            f"got {type(polygon).__name__}"
        ) from None
    if len(row) < 6 or len(row) % 2:
        raise ValueError(
            f"polygons_to_masks: expected {name} to have at least 6 coordinates, an even number, "
            f"got {len(row)}"
        )
    for index, value in enumerate(row):
        extent = height if index % 2 else width
        if not math.isfinite(value) or not -extent <= value <= 2 * extent:
            raise ValueError(
                f"polygons_to_masks: expected {name} within one image's size of the image "
                f"{(height, width)}, got {'y' if index % 2 else 'x'} = {value:g}; polygons are in "
                "pixels"
            )
    return row
