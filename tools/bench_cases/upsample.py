"""Cases of bilinear upsampling, against PyTorch's interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_cases.case import Call, Case, close, size_in_bytes
from cvlib.ops.upsample import _backward_reference, _reference, upsample_bilinear


@dataclass(frozen=True)
class Shape:
    """Shape of the images and the size to resize them to."""

    name: str
    images: tuple[int, int, int, int]
    size: tuple[int, int]
    align_corners: bool = False


# Class scores of a segmentation network, feature maps doubled and halved, images, and the smallest
# case for the cost of a call.
SHAPES = (
    Shape("1x21x10x15 to 320x480", (1, 21, 10, 15), (320, 480)),
    Shape("8x21x10x15 to 320x480", (8, 21, 10, 15), (320, 480)),
    Shape("8x64x64x64 to 128x128", (8, 64, 64, 64), (128, 128)),
    Shape("8x64x64x64 to 128x128, corners", (8, 64, 64, 64), (128, 128), align_corners=True),
    Shape("8x64x128x128 to 64x64", (8, 64, 128, 128), (64, 64)),
    Shape("8x3x224x224 to 448x448", (8, 3, 224, 224), (448, 448)),
    Shape("1x1x2x2 to 4x4", (1, 1, 2, 2), (4, 4)),
)


def close_sums(terms: float, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Whether gradients agree up to rounding; PyTorch sums `terms` numbers one after another."""
    return close([grad / terms for grad in a], [grad / terms for grad in b])


def gradient_of(resize: Any, images: Tensor, weight: Tensor) -> Call:
    """Return a call that runs only the backward pass, repeatedly over one graph."""
    images = images.detach().requires_grad_()
    resized = resize(images)
    return partial(torch.autograd.grad, resized, images, weight, retain_graph=True)


def reference_gradient(images: Tensor, weight: Tensor, align_corners: bool) -> tuple[Tensor]:
    """Return the reference's gradient, in the form of ``torch.autograd.grad``."""
    height, width = images.shape[2:]
    return (_backward_reference(weight, height, width, 0.0, 0.0, align_corners),)


def upsample_cases(device: str) -> Iterator[Case]:
    """Forward and backward of upsample_bilinear, contiguous and channels-last."""
    generator = torch.Generator().manual_seed(4)
    for shape in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            if layout is torch.channels_last and shape.images[1] == 1:
                continue
            name = shape.name + (", channels-last" if layout is torch.channels_last else "")
            images = torch.randn(shape.images, generator=generator).to(device)
            images = images.contiguous(memory_format=layout)
            own = partial(upsample_bilinear, size=shape.size, align_corners=shape.align_corners)
            peer = partial(
                F.interpolate, size=shape.size, mode="bilinear", align_corners=shape.align_corners
            )
            weight = torch.randn(own(images).shape, generator=generator).to(device)
            weight = weight.contiguous(memory_format=layout)
            height, width = shape.size
            moved = size_in_bytes(images, weight)
            yield Case(
                "upsample_bilinear",
                name,
                "PyTorch",
                partial(own, images),
                partial(peer, images),
                partial(_reference, images, height, width, 0.0, 0.0, shape.align_corners),
                close,
                bytes_moved=moved,
                operations=6 * weight.numel(),
            )
            yield Case(
                "upsample_bilinear backward",
                name,
                "PyTorch",
                gradient_of(own, images, weight),
                gradient_of(peer, images, weight),
                partial(reference_gradient, images, weight, shape.align_corners),
                partial(close_sums, max(1.0, weight.numel() / images.numel())),
                bytes_moved=moved,
                operations=8 * weight.numel(),
            )
