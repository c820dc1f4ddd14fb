"""Random changes of a whole training batch, drawn from a generator of its own.

Working on the batch and not on single pictures costs a tenth of the time; drawing from a generator
that the loop seeds by step makes a resumed run see the same pictures as an undisturbed one.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Weights of red, green and blue in brightness (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)
COLOUR_STRENGTH = 0.2


def flip_horizontally(images: Tensor, boxes: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors the chosen pictures left to right.

    Args:
        images: Shape (B, 3, H, W), any dtype.
        boxes: Shape (B, M, 4), (x1, y1, x2, y2) in pixels; rows of -1 are padding.
        chosen: Shape (B,), bool.

    Returns:
        Images and boxes.
    """
    width = images.shape[3]
    mirrored = boxes.clone()
    mirrored[..., 0], mirrored[..., 2] = width - boxes[..., 2], width - boxes[..., 0]
    images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return images, _replace(boxes, mirrored, chosen)


def flip_vertically(images: Tensor, boxes: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors the chosen pictures top to bottom; see `flip_horizontally`."""
    height = images.shape[2]
    mirrored = boxes.clone()
    mirrored[..., 1], mirrored[..., 3] = height - boxes[..., 3], height - boxes[..., 1]
    images = torch.where(chosen[:, None, None, None], images.flip(2), images)
    return images, _replace(boxes, mirrored, chosen)


def transpose(images: Tensor, boxes: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors the chosen square pictures along the diagonal; see `flip_horizontally`."""
    turned = boxes[..., [1, 0, 3, 2]]
    images = torch.where(chosen[:, None, None, None], images.transpose(2, 3), images)
    return images, _replace(boxes, turned, chosen)


def _replace(boxes: Tensor, changed: Tensor, chosen: Tensor) -> Tensor:
    padding = (boxes == -1).all(-1)
    return torch.where((chosen[:, None] & ~padding)[..., None], changed, boxes)


def change_colours(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Changes brightness, contrast and saturation of each picture.

    Args:
        images: Shape (B, 3, H, W), uint8.
        generator: Of random numbers, on the CPU.
        strength: Each factor is drawn from 1 - strength to 1 + strength.

    Returns:
        Shape (B, 3, H, W), float32 in 0..1.
    """
    batch = len(images)
    factors = 1 + strength * (2 * torch.rand(batch, 3, generator=generator) - 1)
    brightness, contrast, saturation = factors.unbind(1)
    grey = torch.tensor(_LUMA).expand(3, 3)
    mix = saturation.view(-1, 1, 1) * torch.eye(3) + (1 - saturation).view(-1, 1, 1) * grey
    mix = mix * (brightness * contrast).view(-1, 1, 1)  # (B, 3, 3)
    shift = (1 - contrast).view(-1, 1, 1) * 0.5
    pixels = images.to(torch.float32).div_(255).flatten(2)  # (B, 3, H * W)
    changed = torch.baddbmm(shift.to(images.device), mix.to(images.device), pixels)
    return changed.clamp_(0, 1).view(images.shape)


def augment_batch(
    images: Tensor, boxes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Turns, mirrors and recolours a batch at random, each picture on its own.

    Args:
        images: Shape (B, 3, H, W), uint8.
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
        generator: Of random numbers, on the CPU.

    Returns:
        Images, float32 in 0..1, and boxes.
    """
    coins = torch.rand(3, len(images), generator=generator) < 0.5
    images, boxes = flip_horizontally(images, boxes, coins[0])
    images, boxes = flip_vertically(images, boxes, coins[1])
    if images.shape[2] == images.shape[3]:
        images, boxes = transpose(images, boxes, coins[2])
    return change_colours(images, generator, COLOUR_STRENGTH), boxes
