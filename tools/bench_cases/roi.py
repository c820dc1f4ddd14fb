"""Cases of the RoI family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from bench_cases.case import Case, close, size_in_bytes
from cvlib.ops.multiscale_roi import MultiScaleRoIAlign
from cvlib.ops.roi import roi_align
from cvlib.ops.roi_pool import roi_pool

IMAGE = (800, 1088)  # typical size after Faster R-CNN's resizing
CHANNELS = 256


def proposals(count: int, generator: torch.Generator) -> Tensor:
    """Draw boxes with log-uniform sides of 16 to 512 pixels, clipped to the image."""
    height, width = IMAGE
    side = 16 * 32 ** torch.rand(count, 1, generator=generator)
    shape = 2 ** (torch.rand(count, 1, generator=generator) * 2 - 1)
    half = torch.cat([side * shape**0.5, side / shape**0.5], 1) / 2
    center = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    corners = torch.cat([center - half, center + half], 1)
    limit = torch.tensor([width, height, width, height])
    return torch.minimum(corners.clamp(min=0), limit)


def taps(boxes: Tensor, bins: int, ratio: int, scale: float) -> int:
    """Return the number of pixel reads of all bins in one channel, each pixel once per bin.

    With two samples a bin reads at most four rows and columns; adaptive samples read every pixel.
    """
    sides = ((boxes[:, 2:] - boxes[:, :2]) * scale).clamp(min=1) / bins + 1
    if ratio > 0:
        sides = sides.clamp(max=2 * ratio)
    return int((sides[:, 0] * sides[:, 1]).sum()) * bins * bins


def with_gradient(
    pool: Callable[[Any], Tensor], inputs: list[Tensor], weight: Tensor
) -> Callable[[], Any]:
    """Return a call that runs only the backward pass."""
    pooled = pool(inputs)
    return lambda: torch.autograd.grad(pooled, inputs, weight, retain_graph=True)


def roi_cases(device: str) -> Iterator[Case]:
    """RoI align and RoI pool, forward and backward, on one feature map of stride 4."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, CHANNELS, IMAGE[0] // 4, IMAGE[1] // 4, generator=generator).to(device)
    many = proposals(1000, generator)
    settings = [
        ("roi_align", "1000 boxes, 7x7, ratio 2", maps, many, 7, 2),
        ("roi_align", "1000 boxes, 7x7, adaptive", maps, many, 7, 0),
        ("roi_align", "100 boxes, 14x14, ratio 2", maps, many[:100], 14, 2),
        ("roi_pool", "1000 boxes, 7x7", maps, many, 7, 0),
        ("roi_align", "2 boxes, 8 channels, tiny", maps[:, :8, :16, :16], many[:2] / 20, 2, 2),
        ("roi_pool", "2 boxes, 8 channels, tiny", maps[:, :8, :16, :16], many[:2] / 20, 2, 0),
    ]
    for operator, name, features, boxes, bins, ratio in settings:
        features = features.contiguous()
        rows = torch.nn.functional.pad(boxes, (1, 0)).to(device)
        numbers = (bins, 0.25, ratio) if operator == "roi_align" else (bins, 0.25)
        own = {"roi_align": roi_align, "roi_pool": roi_pool}[operator]
        peer = getattr(torchvision.ops, operator)
        shape = len(boxes), features.shape[1], bins, bins
        weight = torch.randn(shape, generator=generator).to(device)
        work = taps(boxes, bins, ratio, 0.25) * features.shape[1]
        moved = size_in_bytes(features, weight, rows)
        yield Case(
            operator,
            name,
            "torchvision",
            partial(own, features, rows, *numbers),
            partial(peer, features, rows, *numbers),
            None,
            close,
            bytes_moved=moved,
            operations=2 * work,
        )
        inputs = [features.clone().requires_grad_()]
        yield Case(
            operator,
            name + ", backward",
            "torchvision",
            with_gradient(lambda x: own(x[0], rows, *numbers), inputs, weight),  # noqa: B023
            with_gradient(lambda x: peer(x[0], rows, *numbers), inputs, weight),  # noqa: B023
            None,
            close,
            bytes_moved=moved,
            operations=2 * (work if operator == "roi_align" else weight.numel()),
        )


def multiscale_roi_cases(device: str) -> Iterator[Case]:
    """The pooling of Faster R-CNN with a feature pyramid: two images, 1000 boxes each."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        str(i): torch.randn(2, CHANNELS, IMAGE[0] >> k, IMAGE[1] >> k, generator=generator)
        for i, k in enumerate((2, 3, 4, 5))
    }
    maps = {name: features.to(device).requires_grad_() for name, features in maps.items()}
    boxes = [proposals(1000, generator).to(device) for _ in range(2)]
    arguments = list(maps), 7, 2
    shapes = [IMAGE] * 2
    pools = [MultiScaleRoIAlign(*arguments), torchvision.ops.MultiScaleRoIAlign(*arguments)]
    weight = torch.randn(2000, CHANNELS, 7, 7, generator=generator).to(device)
    moved = size_in_bytes(*maps.values(), weight)
    work = 2 * taps(torch.cat(boxes), 7, 2, 0.125) * CHANNELS
    constant = {name: features.detach() for name, features in maps.items()}
    yield Case(
        "multiscale_roi_align",
        "2 x 1000 boxes, 4 levels, 7x7",
        "torchvision",
        partial(pools[0], constant, boxes, shapes),
        partial(pools[1], constant, boxes, shapes),
        None,
        close,
        bytes_moved=moved,
        operations=work,
    )
    inputs = list(maps.values())
    yield Case(
        "multiscale_roi_align",
        "2 x 1000 boxes, 4 levels, 7x7, backward",
        "torchvision",
        with_gradient(lambda _: pools[0](maps, boxes, shapes), inputs, weight),
        with_gradient(lambda _: pools[1](maps, boxes, shapes), inputs, weight),
        None,
        close,
        bytes_moved=moved,
        operations=work,
    )
