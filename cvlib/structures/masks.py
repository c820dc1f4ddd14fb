"""Instance masks, as bitmaps or as run lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cvlib.ops.rle import masks_to_rle, rle_to_masks

if TYPE_CHECKING:
    from cvlib.geometry.view import View

# Bool tensor (N, H, W), or COCO run lengths, one dictionary per object.
Masks = Tensor | Sequence[Mapping[str, Any]]


def mask_areas(masks: Masks) -> Tensor:
    """Return the number of pixels of each mask.

    Args:
        masks: Bool tensor (N, H, W) or run lengths.

    Returns:
        Shape (N,), float64, on the CPU for run lengths.
    """
    if isinstance(masks, Tensor):
        return masks.flatten(1).sum(1).double()
    from pycocotools import mask as coco

    # One by one: pycocotools 2.0.11 fails with NumPy 2 on lists of more than 255.
    counts = [float(coco.area(_compressed(rle))) for rle in masks]
    return torch.tensor(counts, dtype=torch.float64)


def _compressed(rle: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run lengths in the compressed form that pycocotools needs."""
    if isinstance(rle["counts"], str | bytes):
        return rle
    return masks_to_rle(rle_to_masks([rle]))[0]


def resize_masks(masks: Masks, size: tuple[int, int]) -> Tensor:
    """Stretch masks to another size; a pixel is set if it is covered at least half.

    Args:
        masks: Shape (N, H, W), bool, or run lengths.
        size: Height and width of the result.

    Returns:
        Shape (N, *size), bool.

    Note:
        Resizes one mask at a time: as floats, all masks of a large image would fill the memory.
    """
    device = masks.device if isinstance(masks, Tensor) else None
    result = torch.zeros(len(masks), *size, dtype=torch.bool, device=device)
    for row, mask in zip(result, each_bitmap(masks), strict=True):
        pixels = mask[None, None].float()
        row[:] = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0, 0] >= 0.5
    return result


def restore_masks(masks: Masks, view: View) -> Tensor:
    """Map masks from the canvas of a view back to its image.

    Args:
        masks: Shape (N, *view.canvas), bool, or run lengths.
        view: Map from the image to the canvas.

    Returns:
        Shape (N, *view.image_size), bool; parts of the image that the canvas does not show are
        False.
    """
    if view.is_identity and isinstance(masks, Tensor) and masks.shape[1:] == view.image_size:
        return masks
    left, top, right, bottom = (round(side) for side in view.placed)
    x1, y1, x2, y2 = (round(side) for side in view.window)
    device = masks.device if isinstance(masks, Tensor) else None
    result = torch.zeros(len(masks), *view.image_size, dtype=torch.bool, device=device)
    if view.shows_nothing:
        return result
    for row, mask in zip(result, each_bitmap(masks), strict=True):
        part = mask[None, top:bottom, left:right]
        part = part.flip(-1) if view.mirrored else part
        part = part.flip(-2) if view.flipped else part
        part = part.transpose(-1, -2) if view.transposed else part
        row[y1:y2, x1:x2] = resize_masks(part, (y2 - y1, x2 - x1))[0]
    return result


def each_bitmap(masks: Masks) -> Iterator[Tensor]:
    """Yield one bool mask (H, W) at a time, so that run lengths are never all decoded at once."""
    if isinstance(masks, Tensor):
        yield from masks
    else:
        for rle in masks:
            yield rle_to_masks([rle])[0]


def select_masks(masks: Masks, index: Tensor | slice | list[int]) -> Masks:
    """Return the masks of the selected objects, in the same form."""
    if isinstance(masks, Tensor):
        return masks[index]
    chosen = index.cpu() if isinstance(index, Tensor) else index
    return tuple(masks[i] for i in torch.arange(len(masks))[chosen].tolist())


def to_bitmaps(function: str, masks: Masks | None, size: tuple[int, int] | None = None) -> Tensor:
    """Return masks as a bool tensor (N, H, W); ValueError if there are none."""
    if masks is None:
        raise ValueError(f"{function}: expected masks, got boxes only")
    return masks if isinstance(masks, Tensor) else rle_to_masks(masks, image_size=size)


def to_rles(function: str, masks: Masks | None) -> list[dict[str, Any]]:
    """Return masks as compressed run lengths; ValueError if there are none."""
    if masks is None:
        raise ValueError(f"{function}: expected masks, got boxes only")
    if isinstance(masks, Tensor):
        return masks_to_rle(masks)
    return [dict(_compressed(rle)) for rle in masks]


def check_masks(function: str, masks: Masks | None, count: int) -> None:
    """Raise TypeError or ValueError unless there is one mask for each of ``count`` objects."""
    if masks is None:
        return
    if isinstance(masks, Tensor):
        if masks.dtype != torch.bool:
            raise TypeError(
                f"{function}: expected `masks` of dtype torch.bool, got {masks.dtype}; compare "
                "first, as in masks != 0 or masks >= 0.5"
            )
        if masks.dim() != 3 or len(masks) != count:
            raise ValueError(
                f"{function}: expected `masks` of shape (N, H, W) with N = {count} as in labels, "
                f"got {tuple(masks.shape)}"
            )
        return
    if isinstance(masks, str | Mapping) or not isinstance(masks, Sequence):
        raise TypeError(
            f"{function}: expected `masks` to be a bool tensor or a list of run lengths, got "
            f"{type(masks).__name__}"
        )
    if len(masks) != count:
        raise ValueError(
            f"{function}: expected `masks` to hold {count} run lengths, as in labels, got "
            f"{len(masks)}"
        )
