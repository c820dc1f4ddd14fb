"""Masks of an image's objects, as bitmaps or as run lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cvlib.ops.rle import masks_to_rle, rle_to_masks

# Bool (N, H, W), or COCO's run lengths, one dictionary for each object.
Masks = Tensor | Sequence[Mapping[str, Any]]


def mask_areas(masks: Masks) -> Tensor:
    """Counts the pixels of each mask.

    Args:
        masks: Bool tensor (N, H, W) or run lengths.

    Returns:
        Shape (N,), float64, on the CPU for run lengths.
    """
    if isinstance(masks, Tensor):
        return masks.flatten(1).sum(1).double()
    from pycocotools import mask as coco

    # One by one: for a list of more than 255, pycocotools 2.0.11 fails with numpy 2.
    counts = [float(coco.area(_compressed(rle))) for rle in masks]
    return torch.tensor(counts, dtype=torch.float64)


def _compressed(rle: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run lengths as pycocotools computes with them; lists of runs are compressed."""
    if isinstance(rle["counts"], str | bytes):
        return rle
    return masks_to_rle(rle_to_masks([rle]))[0]


def resize_masks(masks: Masks, size: tuple[int, int]) -> Tensor:
    """Stretches masks to another size; a pixel is set where they cover at least half of it.

    Args:
        masks: Shape (N, H, W), bool, or run lengths.
        size: Height and width of the result.

    Returns:
        Shape (N, *size), bool.

    Note:
        One mask after the other: as numbers all masks of a large image would fill the memory.
    """
    device = masks.device if isinstance(masks, Tensor) else None
    result = torch.zeros(len(masks), *size, dtype=torch.bool, device=device)
    for row, mask in zip(result, each_bitmap(masks), strict=True):
        pixels = mask[None, None].float()
        row[:] = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0, 0] >= 0.5
    return result


def each_bitmap(masks: Masks) -> Iterator[Tensor]:
    """Gives one mask after the other, shape (H, W), bool: run lengths are never all unpacked."""
    if isinstance(masks, Tensor):
        yield from masks
    else:
        for rle in masks:
            yield rle_to_masks([rle])[0]


def select_masks(masks: Masks, index: Tensor | slice | list[int]) -> Masks:
    """Those of some objects, in the same form."""
    if isinstance(masks, Tensor):
        return masks[index]
    chosen = index.cpu() if isinstance(index, Tensor) else index
    return tuple(masks[i] for i in torch.arange(len(masks))[chosen].tolist())


def to_bitmaps(function: str, masks: Masks | None, size: tuple[int, int] | None = None) -> Tensor:
    """As a tensor, shape (N, H, W), bool; raises ValueError without masks."""
    if masks is None:
        raise ValueError(f"{function}: expected masks, got detections or truths with boxes alone")
    return masks if isinstance(masks, Tensor) else rle_to_masks(masks, image_size=size)


def to_rles(function: str, masks: Masks | None) -> list[dict[str, Any]]:
    """As compressed run lengths; raises ValueError without masks."""
    if masks is None:
        raise ValueError(f"{function}: expected masks, got detections or truths with boxes alone")
    if isinstance(masks, Tensor):
        return masks_to_rle(masks)
    return [dict(_compressed(rle)) for rle in masks]


def check_masks(function: str, masks: Masks | None, count: int) -> None:
    """Raises TypeError or ValueError unless there is a mask for each of ``count`` objects."""
    if masks is None:
        return
    if isinstance(masks, Tensor):
        if masks.dtype != torch.bool:
            raise TypeError(
                f"{function}: expected masks of dtype torch.bool, got {masks.dtype}; compare "
                "first, as in masks != 0 or masks >= 0.5"
            )
        if masks.dim() != 3 or len(masks) != count:
            raise ValueError(
                f"{function}: expected masks of shape (N, H, W) with N = {count} as in labels, got "
                f"{tuple(masks.shape)}"
            )
        return
    if isinstance(masks, str | Mapping) or not isinstance(masks, Sequence):
        raise TypeError(
            f"{function}: expected masks to be a bool tensor or a list of run lengths, got "
            f"{type(masks).__name__}"
        )
    if len(masks) != count:
        raise ValueError(
            f"{function}: expected run lengths of {count} masks as in labels, got {len(masks)}"
        )
