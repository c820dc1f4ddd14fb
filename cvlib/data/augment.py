"""Random changes of a whole training batch, drawn from a generator of its own.

One affine map for each image moves pixels and boxes alike; OpenCV applies it on uint8, a tenth of
the cost of a training step. Drawing from a generator that the loop seeds by step makes a resumed
run see the same images as an undisturbed one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvlib.geometry.view import BORDER

# Brightness, contrast and saturation are multiplied by 1 - this to 1 + this.
COLOUR_STRENGTH = 0.2
# An image that is moved is scaled by at most this factor, up or down, and shifted by this share.
LARGEST_SCALE = 1.2
LARGEST_SHIFT = 0.1
MOVED_SHARE = 0.5
# An object of which less remains in the image is dropped.
LEAST_VISIBLE = 0.5
# Weights of red, green and blue in brightness (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114])


def augment_batch(
    images: Tensor, boxes: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirrors, turns, moves and recolours a batch at random, each image on its own.

    Args:
        images: Shape (B, 3, H, W), uint8.
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
        labels: Shape (B, M), int64, padded with -1.
        generator: Of random numbers, on the CPU.

    Returns:
        Images, uint8 in channels-last memory, boxes clipped to them, and labels. An object of which
        less than half is left becomes padding; an image that would lose an object altogether is
        mirrored and turned only.
    """
    size = (images.shape[3], images.shape[2])
    draws = torch.rand(len(images), 10, generator=generator).numpy()
    pixels = images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()
    changed = np.empty_like(pixels)
    boxes = boxes.clone()
    for i, draw in enumerate(draws):
        mirrored = _mirror_and_turn(draw[:3], size)
        moved = _move(draw[3:7], size) @ mirrored
        kept = labels[i] >= 0
        new = _transform(boxes[i, kept], moved)
        clipped = _clip(new, size)
        if bool((_area(clipped) <= 0).any()):
            moved = mirrored
            new = clipped = _transform(boxes[i, kept], moved)
        clipped[_area(clipped) < LEAST_VISIBLE * _area(new)] = -1
        boxes[i, kept] = clipped
        _warp(pixels[i], moved, changed[i])
        _recolour(changed[i], draw[7:])
    labels = torch.where((boxes == -1).all(-1), -1, labels)
    return torch.from_numpy(changed).permute(0, 3, 1, 2), boxes, labels


def _mirror_and_turn(draw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mirrors left to right, top to bottom, and (square images) along the diagonal: (3, 3)."""
    width, height = size
    result = np.eye(3)
    if draw[0] < 0.5:
        result = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ result
    if draw[1] < 0.5:
        result = np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]]) @ result
    if draw[2] < 0.5 and width == height:
        result = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ result
    return result


def _move(draw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales about the centre and shifts, or not: (3, 3)."""
    if draw[0] >= MOVED_SHARE:
        return np.eye(3)
    scale = LARGEST_SCALE ** (2 * draw[1] - 1)
    shift = [
        side / 2 * (1 - scale) + (2 * at - 1) * LARGEST_SHIFT * side
        for side, at in zip(size, draw[2:], strict=True)
    ]
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def _transform(boxes: Tensor, affine: np.ndarray) -> Tensor:
    matrix = torch.from_numpy(affine).to(boxes.dtype)
    corners = boxes.view(-1, 2, 2) @ matrix[:2, :2].T + matrix[:2, 2]  # (N, 2, 2)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def _clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limit = boxes.new_tensor(size * 2)
    return boxes.clamp(min=0).minimum(limit)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def _warp(image: np.ndarray, affine: np.ndarray, out: np.ndarray) -> None:
    import cv2

    # A map of corners; OpenCV wants one of pixel centres, which lie half a pixel inside.
    pixels = affine[:2].copy()
    pixels[:, 2] += affine[:2, :2].sum(1) / 2 - 0.5
    is_exact = np.abs(affine[:2, :2]).max() == 1
    cv2.warpAffine(
        image,
        pixels,
        (image.shape[1], image.shape[0]),
        dst=out,
        flags=cv2.INTER_NEAREST if is_exact else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=BORDER,
    )


def colour_matrix(draw: np.ndarray, strength: float = COLOUR_STRENGTH) -> np.ndarray:
    """One matrix for a change of brightness, contrast and saturation.

    Args:
        draw: Three numbers in [0, 1]; at .5 nothing changes.
        strength: Each of the three is multiplied by 1 - this to 1 + this.

    Returns:
        Shape (3, 4): weights of red, green and blue, and what is added.
    """
    brightness, contrast, saturation = 1 + strength * (2 * draw - 1)
    mix = saturation * np.eye(3) + (1 - saturation) * LUMA
    shift = np.full((3, 1), (1 - contrast) * 127.5)
    return np.hstack([mix * brightness * contrast, shift])


def _recolour(image: np.ndarray, draw: np.ndarray) -> None:
    """Changes brightness, contrast and saturation in place."""
    import cv2

    cv2.transform(image, colour_matrix(draw), dst=image)
