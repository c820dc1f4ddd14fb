"""Transforms that combine several samples into one: mosaic and copy-paste.

Such a transform has two methods. ``partners()`` draws the number of additional samples for the next
call, which may be 0. The call ``transform(image, target, *partners)`` then gets that many pairs
``(image, target)``, or none. `TransformedDataset` makes both calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from cvlib.data.transforms.base import (
    GeometryPlan,
    Sample,
    check_image,
    draw_uniform,
    move_sample,
)
from cvlib.data.transforms.geometric import (
    FixedCrop,
    HorizontalFlip,
    Resize,
    ScaleJitter,
    Size,
    check_fraction,
    check_size,
)
from cvlib.data.transforms.targets import (
    MIN_VISIBILITY,
    OBJECT_FIELDS,
    Target,
    are_thick,
    boxes_around,
    boxes_of,
    count_pixels,
    select_objects,
    wrap_like,
)
from cvlib.geometry.pixels import to_image, to_rows


class MultiImageTransform(Protocol):
    """Interface of transforms that combine several samples."""

    def partners(self) -> int:
        """Draw the number of additional samples for the next call."""

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Combine the samples into one."""


class Chain:
    """Transform of several samples, followed by transforms of one sample.

    Args:
        first: `Mosaic`, `CopyPaste` or another transform with ``partners()``.
        *rest: Transforms called as ``transform(image, target)``, in order.
    """

    def __init__(self, first: MultiImageTransform, *rest: Callable[..., Any]) -> None:
        self.first, self.rest = first, rest

    def partners(self) -> int:
        """Draw the number of additional samples."""
        return self.first.partners()

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Combine the samples into one and transform it."""
        sample = self.first(image, target, *partners)
        for transform in self.rest:
            sample = transform(*sample)
        return sample

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, (self.first, *self.rest)))})"


class Mosaic:
    """Four images in the quadrants around a random centre.

    Each image is resized to the aspect ratio of the mosaic, flipped at random, and scaled so that a
    random region of it fills its quadrant. Objects become smaller and get a new context, and a
    batch contains up to four times as many images.

    Args:
        size: Height and width of the mosaic in pixels.
        scale_range: Smallest and largest scale of an image; at 1 it just covers its quadrant.
        p: Probability of a mosaic; otherwise the first image fills the canvas.

    References:
        Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection" (2020).
    """

    min_fraction = 0.3

    def __init__(
        self, size: Size, scale_range: tuple[float, float] = (1.0, 1.5), p: float = 0.5
    ) -> None:
        self.size = check_size("Mosaic", size)
        self.p = check_fraction("Mosaic", "p", p)
        self.scale_range = ScaleJitter(scale_range).scale_range

    def partners(self) -> int:
        """Draw the number of additional samples: 3 or 0."""
        return 3 if draw_uniform(1)[0] < self.p else 0

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Combine four samples, or crop one."""
        samples = [(image, target), *partners]
        height, width = self.size
        if len(samples) == 1:
            return self._random_crop(samples[0], self.size)
        if len(samples) != 4:
            raise ValueError(f"Mosaic: expected 3 `partners` or none, got {len(partners)}")
        margin = self.min_fraction
        x, y = (round(side * (margin + (1 - 2 * margin) * number))
                for side, number in zip((width, height), draw_uniform(2), strict=True))  # fmt: skip
        canvas = np.empty((height, width, 3), np.uint8)
        targets = []
        regions = (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)
        for sample, (left, top, right, bottom) in zip(samples, regions, strict=True):
            part, moved = self._random_crop(sample, (bottom - top, right - left))
            canvas[top:bottom, left:right] = to_rows(part)
            targets.append(_place_on_canvas(moved, (left, top), self.size))
        return tv_tensors.Image(to_image(canvas)), join_targets(targets)

    def _random_crop(self, sample: Sample, size: Size) -> tuple[Tensor, Target]:
        image, target = sample
        check_image("Mosaic", image)
        if "boxes" not in target:
            raise ValueError(f"Mosaic: expected `target` to have boxes, got {', '.join(target)}")
        plan = GeometryPlan((image.shape[1], image.shape[2]), boxes_of(target))
        cover = max(side / full for side, full in zip(size, self.size, strict=True))
        scales = cover * self.scale_range[0], cover * self.scale_range[1]
        steps = Resize(self.size), HorizontalFlip(), ScaleJitter(scales), FixedCrop(size)
        for step in steps:
            step.plan(plan)
        return move_sample(sample, plan)

    def __repr__(self) -> str:
        return f"Mosaic(size={self.size}, scale_range={self.scale_range}, p={self.p})"


class CopyPaste:
    """Paste objects of a second image into the first along their masks.

    Both images first go through ``transform``. Of the second image's objects about half are pasted,
    crowds excepted. Pixels that they hide are removed from the masks below, and an object of which
    less than a quarter remains visible is removed. Samples without masks only go through
    ``transform``.

    Args:
        transform: Called as ``transform(image, target)``; must return images of one size.
        p: Probability of pasting, in [0, 1].

    References:
        Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
        Segmentation" (2021).
    """

    def __init__(self, transform: Callable[..., Any], p: float = 0.5) -> None:
        self.transform, self.p = transform, check_fraction("CopyPaste", "p", p)

    def partners(self) -> int:
        """Draw the number of additional samples: 1 or 0."""
        return 1 if draw_uniform(1)[0] < self.p else 0

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Transform both samples and paste objects of the second into the first."""
        if len(partners) > 1:
            raise ValueError(f"CopyPaste: expected 1 of `partners` or none, got {len(partners)}")
        below = self.transform(image, target)
        if not partners or "masks" not in target or "masks" not in partners[0][1]:
            return below
        above = self.transform(*partners[0])
        if above[0].shape != below[0].shape:
            raise ValueError(
                "CopyPaste: expected `transform` to return images of one size, got "
                f"{tuple(below[0].shape[1:])} and {tuple(above[0].shape[1:])}"
            )
        objects = above[1]
        is_pasted = (torch.rand(len(objects["labels"])) < 0.5).numpy()
        if "iscrowd" in objects:
            is_pasted &= (objects["iscrowd"] == 0).numpy()
        is_pasted &= count_pixels(objects["masks"]) > 0
        objects = select_objects(objects, is_pasted)
        return _paste(below, (above[0], objects)) if is_pasted.any() else below

    def __repr__(self) -> str:
        return f"CopyPaste(transform={self.transform!r}, p={self.p})"


def _paste(below: Sample, above: Sample) -> Sample:
    """Paste the objects of an image onto another image of the same size."""
    hidden = above[1]["masks"].as_subclass(Tensor).amax(0) > 0
    rows = np.where(hidden.numpy()[..., None], to_rows(above[0]), to_rows(below[0]))
    target = dict(below[1])
    before = count_pixels(target["masks"])
    masks = target["masks"].as_subclass(Tensor) * ~hidden
    after = count_pixels(masks)
    target["masks"] = wrap_like(target["masks"], masks)
    changed = after < before
    boxes = np.where(changed[:, None], boxes_around(masks), boxes_of(target))
    new = torch.from_numpy(boxes.astype(np.float32))
    target["boxes"] = wrap_like(target["boxes"], new)
    if "area" in target:
        target["area"] = torch.from_numpy(
            np.where(changed, after, target["area"].numpy()).astype(np.float32)
        )
    visible = (after >= MIN_VISIBILITY * before) & are_thick(boxes)
    joined = join_targets([select_objects(target, visible), above[1]])
    return tv_tensors.Image(to_image(np.ascontiguousarray(rows))), joined


def _place_on_canvas(target: Target, corner: tuple[int, int], canvas: Size) -> Target:
    """Map a target of a region with top-left corner (x, y) to the whole canvas."""
    x, y = corner
    moved = dict(target)
    boxes = target["boxes"].as_subclass(Tensor) + torch.tensor([x, y, x, y], dtype=torch.float32)
    moved["boxes"] = wrap_like(target["boxes"], boxes, canvas)
    if "masks" in target:
        masks = target["masks"].as_subclass(Tensor)
        placed = torch.zeros(len(masks), *canvas, dtype=masks.dtype)
        placed[:, y : y + masks.shape[1], x : x + masks.shape[2]] = masks
        moved["masks"] = wrap_like(target["masks"], placed)
    return moved


def join_targets(targets: Sequence[Mapping[str, Any]]) -> Target:
    """Concatenate the objects of targets on one canvas; other fields are those of the first.

    Raises:
        ValueError: The targets have different fields per object.
    """
    fields = [[name for name in OBJECT_FIELDS if name in target] for target in targets]
    if any(names != fields[0] for names in fields):
        raise ValueError(
            "join_targets: expected all `targets` to have the same fields, got "
            f"{' and '.join(', '.join(names) for names in fields)}"
        )
    joined = dict(targets[0])
    for name in fields[0]:
        values = [target[name].as_subclass(Tensor) for target in targets]
        joined[name] = wrap_like(targets[0][name], torch.cat(values))
    return joined
