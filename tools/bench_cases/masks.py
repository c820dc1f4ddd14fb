"""Cases of masks: pasting, boxes, IoU and run lengths, at the sizes of Mask R-CNN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image

from bench_cases.case import Case, close, equal, size_in_bytes
from cvlib.ops.masks import (
    _mask_iou_reference,
    _masks_to_boxes_reference,
    mask_iou,
    masks_to_boxes,
)
from cvlib.ops.paste import (
    _paste_mask_values_reference,
    _paste_masks_reference,
    paste_masks,
)
from cvlib.ops.paste_rle import paste_masks_rle
from cvlib.ops.rle import masks_to_rle, rle_to_masks

CANVAS = (800, 1333)


def predictions(
    count: int, canvas: tuple[int, int], generator: torch.Generator, device: str
) -> tuple[Tensor, Tensor]:
    """Draw round objects as 28 x 28 probabilities, with boxes of 16 to 316 pixels in the canvas."""
    center = torch.rand(count, 2, 1, generator=generator) * 8 + 10
    squares = (torch.arange(28) + 0.5 - center) ** 2
    distance = (squares[:, 1, :, None] + squares[:, 0, None, :]).sqrt()
    masks = torch.sigmoid(9 - distance + torch.randn(count, 28, 28, generator=generator) / 4)
    extent = torch.tensor([canvas[1], canvas[0]])
    sides = torch.minimum(16 + torch.rand(count, 2, generator=generator) * 300, extent)
    corner = torch.rand(count, 2, generator=generator) * (extent - sides)
    return masks.to(device), torch.cat([corner, corner + sides], dim=1).to(device)


def sample_in_pytorch(
    masks: Tensor, boxes: Tensor, canvas: tuple[int, int], threshold: float | None = 0.5
) -> Tensor:
    """Paste like detectron2 on the CPU: box by box, with grid_sample over the pixels around it."""
    height, width = canvas
    dtype = masks.dtype if threshold is None else torch.bool
    out = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    for n, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        x1, y1, x2, y2 = box.tolist()
        left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
        right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
        xs = torch.arange(left, right, device=masks.device) + 0.5
        ys = torch.arange(top, bottom, device=masks.device) + 0.5
        grid_x = ((xs - x1) / (x2 - x1) * 2 - 1).expand(len(ys), -1)
        grid_y = ((ys - y1) / (y2 - y1) * 2 - 1)[:, None].expand(-1, len(xs))
        grid = torch.stack([grid_x, grid_y], dim=2)[None]
        values = functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        out[n, top:bottom, left:right] = values if threshold is None else values >= threshold
    return out


def paste_in_torchvision(masks: Tensor, boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Paste like torchvision's Mask R-CNN."""
    return paste_masks_in_image(masks[:, None], boxes, canvas)[:, 0] >= 0.5


def nearly_equal(a: Tensor, b: Tensor, max_share: float) -> bool:
    """Whether at most this share of the pixels differs."""
    return (a != b).float().mean().item() <= max_share


def paste_cases(device: str) -> Iterator[Case]:
    """Pasting as masks and as probabilities, and two small masks to show the cost of a call."""
    generator = torch.Generator().manual_seed(0)
    for count, canvas in ((100, CANVAS), (2, (32, 32))):
        masks, boxes = predictions(count, canvas, generator, device)
        name = f"{count} x 28 x 28 on {canvas[0]} x {canvas[1]}"
        pixels = count * canvas[0] * canvas[1]
        inside = int((boxes[:, 2:] - boxes[:, :2]).prod(1).sum())
        shared: dict[str, Any] = {
            "own": partial(paste_masks, masks, boxes, canvas),
            "reference": partial(_paste_masks_reference, masks, boxes, *canvas, 0.5),
            "bytes_moved": size_in_bytes(masks, boxes) + pixels,
            "operations": 3 * inside,
        }
        yield Case(
            "paste_masks",
            name,
            "torchvision",
            peer=partial(paste_in_torchvision, masks, boxes, canvas),
            # torchvision rounds the corners of boxes, so edges differ by up to a pixel.
            agree=partial(nearly_equal, max_share=0.002 if count > 2 else 0.2),
            **shared,
        )
        yield Case(
            "paste_masks",
            name,
            "grid_sample",
            peer=partial(sample_in_pytorch, masks, boxes, canvas),
            agree=partial(nearly_equal, max_share=1e-6),
            **shared,
        )
    masks, boxes = predictions(100, CANVAS, generator, device)
    ones = torch.ones_like(masks)
    inside_box = paste_masks(ones, boxes, CANVAS, threshold=0.0)
    yield Case(
        "paste_masks",
        "100 x 28 x 28 on 800 x 1333, probabilities",
        "grid_sample",
        partial(paste_masks, masks, boxes, CANVAS, threshold=None),
        partial(sample_in_pytorch, masks, boxes, CANVAS, threshold=None),
        partial(_paste_mask_values_reference, masks, boxes, *CANVAS),
        lambda a, b: close(a[inside_box], b[inside_box]),
        bytes_moved=size_in_bytes(masks, boxes) + 4 * inside_box.numel(),
        operations=3 * int(inside_box.sum()),
    )


def draw_masks(
    count: int, canvas: tuple[int, int], generator: torch.Generator, device: str
) -> Tensor:
    """Draw pasted masks; the copy allocates every page of their memory."""
    return paste_masks(*predictions(count, canvas, generator, device), canvas).clone()


def masks_to_boxes_cases(device: str) -> Iterator[Case]:
    """Boxes of objects, of empty masks (every pixel is read) and of two small masks."""
    generator = torch.Generator().manual_seed(1)
    for name, masks in (
        ("100 x 800 x 1333", draw_masks(100, CANVAS, generator, device)),
        ("100 x 800 x 1333, empty", torch.zeros(100, *CANVAS, dtype=torch.bool, device=device)),
        ("2 x 32 x 32", draw_masks(2, (32, 32), generator, device)),
    ):
        yield Case(
            "masks_to_boxes",
            name,
            "torchvision",
            partial(masks_to_boxes, masks),
            partial(torchvision.ops.masks_to_boxes, masks),
            partial(_masks_to_boxes_reference, masks),
            # torchvision returns the last pixel, not its far edge.
            lambda a, b: equal(a, b) or equal(a - a.new_tensor([0.0, 0, 1, 1]), b),
            bytes_moved=size_in_bytes(masks),
        )


def iou_by_product(masks1: Tensor, masks2: Tensor) -> Tensor:
    """IoU matrix from a product of flattened masks."""
    first, second = masks1.flatten(1).float(), masks2.flatten(1).float()
    shared = first @ second.t()
    return (shared / (first.sum(1)[:, None] + second.sum(1) - shared)).nan_to_num()


def encode(masks: Tensor) -> list[Any]:
    """Encode masks as run lengths with pycocotools."""
    return [coco.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in masks]


def iou_by_run_lengths(masks1: Tensor, masks2: Tensor) -> Tensor:
    """IoU matrix from pycocotools, including the encoding."""
    return _iou_of_runs(encode(masks1), encode(masks2))


def _iou_of_runs(first: list[Any], second: list[Any]) -> Tensor:
    return torch.from_numpy(coco.iou(first, second, [0] * len(second))).float()


def mask_iou_cases(device: str) -> Iterator[Case]:
    """IoU of objects, of noise (no pixel can be skipped) and of small masks."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(2, 20, *CANVAS, generator=generator) < 0.5
    for name, masks, others in (
        (
            "100 x 100 at 800 x 1333",
            draw_masks(100, CANVAS, generator, device),
            draw_masks(100, CANVAS, generator, device),
        ),
        ("20 x 20 at 800 x 1333, noise", *noise.to(device)),
        (
            "2 x 2 at 32 x 32",
            draw_masks(2, (32, 32), generator, device),
            draw_masks(2, (32, 32), generator, device),
        ),
    ):
        peers: dict[str, Any] = {"matrix product": partial(iou_by_product, masks, others)}
        if device == "cpu" and "noise" not in name:
            runs = encode(masks), encode(others)
            peers["pycocotools"] = partial(iou_by_run_lengths, masks, others)
            peers["pycocotools, already encoded"] = partial(_iou_of_runs, *runs)
        for peer_name, peer in peers.items():
            yield Case(
                "mask_iou",
                name,
                peer_name,
                partial(mask_iou, masks, others),
                peer,
                partial(_mask_iou_reference, masks, others, None),
                close,
                bytes_moved=size_in_bytes(masks, others) + 4 * len(masks) * len(others),
            )


def encode_after_sampling(masks: Tensor, boxes: Tensor) -> list[Any]:
    """Prepare COCO evaluation like detectron2: a canvas for each mask, then pycocotools."""
    return encode(sample_in_pytorch(masks, boxes, CANVAS))


def decode(runs: list[Any]) -> Tensor:
    """Decode run lengths with pycocotools, in row-major order."""
    return torch.from_numpy(coco.decode(runs)).permute(2, 0, 1).contiguous().bool()


def nearly_equal_runs(a: list[Any], b: list[Any]) -> bool:
    """Whether masks are equal except for pixels within rounding of the threshold."""
    pairs = zip(a, b, strict=True)
    return all(coco.iou([x], [y], [0]).item() > 0.999 for x, y in pairs)


def rle_cases(device: str) -> Iterator[Case]:
    """Run lengths from predictions and from masks, and decoding."""
    if device != "cpu":
        return
    generator = torch.Generator().manual_seed(3)
    masks, boxes = predictions(100, CANVAS, generator, device)
    pasted = paste_masks(masks, boxes, CANVAS).clone()
    runs = masks_to_rle(pasted)
    yield Case(
        "paste_masks_rle",
        "100 x 28 x 28 on 800 x 1333",
        "grid_sample and pycocotools",
        partial(paste_masks_rle, masks, boxes, CANVAS),
        partial(encode_after_sampling, masks, boxes),
        None,
        nearly_equal_runs,
        bytes_moved=size_in_bytes(masks, boxes) + sum(len(run["counts"]) for run in runs),
    )
    yield Case(
        "masks_to_rle",
        "100 x 800 x 1333",
        "pycocotools",
        partial(masks_to_rle, pasted),
        partial(encode, pasted),
        None,
        nearly_equal_runs,
        bytes_moved=size_in_bytes(pasted),
    )
    yield Case(
        "rle_to_masks",
        "100 x 800 x 1333",
        "pycocotools",
        partial(rle_to_masks, runs),
        partial(decode, runs),
        None,
        equal,
        bytes_moved=size_in_bytes(pasted),
    )
