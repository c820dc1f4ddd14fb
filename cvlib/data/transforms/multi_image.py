"""Transforms that make one sample of several: mosaic and copy-paste.

Such a transform has two methods. ``partners()`` draws how many further samples it wants now, 0 when
it will do without; then it is called as ``transform(image, target, *partners)`` with that many
pairs ``(image, target)``, or none. `TransformedDataset` does both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from cvlib.data.transforms.base import Plan, Sample, check_image, draw, move_sample
from cvlib.data.transforms.geometric import (
    FixedCrop,
    HorizontalFlip,
    Resize,
    ScaleJitter,
    Size,
    check_share,
    check_size,
)
from cvlib.data.transforms.targets import (
    MIN_VISIBILITY,
    PER_OBJECT,
    Target,
    are_thick,
    boxes_around,
    boxes_of,
    count_pixels,
    select_objects,
    wrap_like,
)
from cvlib.geometry.pixels import to_image, to_rows


class SeveralSamples(Protocol):
    """What a transform of several samples looks like."""

    def partners(self) -> int:
        """Draws how many further samples the next call shall be given."""

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Makes one sample of all."""


class Chain:
    """A transform of several samples, followed by transforms of one.

    Args:
        first: `Mosaic`, `CopyPaste` or another one.
        *rest: Called as ``transform(image, target)``, in order.
    """

    def __init__(self, first: SeveralSamples, *rest: Callable[..., Any]) -> None:
        self.first, self.rest = first, rest

    def partners(self) -> int:
        """Asks the first transform."""
        return self.first.partners()

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Makes one sample of all."""
        sample = self.first(image, target, *partners)
        for transform in self.rest:
            sample = transform(*sample)
        return sample

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, (self.first, *self.rest)))})"


class Mosaic:
    """Four images side by side in one, cut at a random cross.

    Each image is stretched to the shape of the mosaic, mirrored or not, and scaled so that a
    random part of it fills its quarter. Objects become smaller and stand in new surroundings, and a
    batch shows four times as many images.

    Args:
        size: (height, width) of the mosaic in pixels.
        scales: Least and largest scale of an image; at 1 it just covers its quarter.
        p: How often; else one image covers everything alone.

    References:
        Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection" (2020).
    """

    smallest_share = 0.3

    def __init__(
        self, size: Size, scales: tuple[float, float] = (1.0, 1.5), p: float = 0.5
    ) -> None:
        self.size = check_size("Mosaic", size)
        self.p = check_share("Mosaic", p)
        self.scales = ScaleJitter(scales).scales

    def partners(self) -> int:
        """Three, or none."""
        return 3 if draw(1)[0] < self.p else 0

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Makes the mosaic."""
        samples = [(image, target), *partners]
        height, width = self.size
        if len(samples) == 1:
            return self._show_part(samples[0], self.size)
        if len(samples) != 4:
            raise ValueError(f"Mosaic: expected 3 partners or none, got {len(partners)}")
        margin = self.smallest_share
        x, y = (round(side * (margin + (1 - 2 * margin) * share))
                for side, share in zip((width, height), draw(2), strict=True))  # fmt: skip
        canvas = np.empty((height, width, 3), np.uint8)
        targets = []
        regions = (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)
        for sample, (left, top, right, bottom) in zip(samples, regions, strict=True):
            part, moved = self._show_part(sample, (bottom - top, right - left))
            canvas[top:bottom, left:right] = to_rows(part)
            targets.append(_move_into(moved, (left, top), self.size))
        return tv_tensors.Image(to_image(canvas)), join_targets(targets)

    def _show_part(self, sample: Sample, size: Size) -> tuple[Tensor, Target]:
        image, target = sample
        check_image("Mosaic", image)
        if "boxes" not in target:
            raise ValueError(f"Mosaic: expected targets with boxes, got {', '.join(target)}")
        plan = Plan((image.shape[1], image.shape[2]), boxes_of(target))
        cover = max(part / whole for part, whole in zip(size, self.size, strict=True))
        scales = cover * self.scales[0], cover * self.scales[1]
        steps = Resize(self.size), HorizontalFlip(), ScaleJitter(scales), FixedCrop(size)
        for step in steps:
            step.plan(plan)
        return move_sample(sample, plan)

    def __repr__(self) -> str:
        return f"Mosaic(size={self.size}, scales={self.scales}, p={self.p})"


class CopyPaste:
    """Cuts objects out of a second image along their masks and pastes them into the first.

    Both images are first changed by ``each``. About half of the second one's objects are taken,
    crowds excepted. What they hide is cut from the masks below; an object of which less than a
    quarter stays visible is removed. Samples without masks are only changed by ``each``.

    Args:
        each: Called as ``transform(image, target)``; must give images of one size.
        p: How often, in [0, 1].

    References:
        Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
        Segmentation" (2021).
    """

    def __init__(self, each: Callable[..., Any], p: float = 0.5) -> None:
        self.each, self.p = each, check_share("CopyPaste", p)

    def partners(self) -> int:
        """One, or none."""
        return 1 if draw(1)[0] < self.p else 0

    def __call__(self, image: Tensor, target: Mapping[str, Any], *partners: Sample) -> Sample:
        """Pastes."""
        if len(partners) > 1:
            raise ValueError(f"CopyPaste: expected one partner or none, got {len(partners)}")
        below = self.each(image, target)
        if not partners or "masks" not in target or "masks" not in partners[0][1]:
            return below
        above = self.each(*partners[0])
        if above[0].shape != below[0].shape:
            raise ValueError(
                "CopyPaste: expected each to give images of one size, got "
                f"{tuple(below[0].shape[1:])} and {tuple(above[0].shape[1:])}"
            )
        objects = above[1]
        wanted = (torch.rand(len(objects["labels"])) < 0.5).numpy()
        if "iscrowd" in objects:
            wanted &= (objects["iscrowd"] == 0).numpy()
        wanted &= count_pixels(objects["masks"]) > 0
        objects = select_objects(objects, wanted)
        return _paste(below, (above[0], objects)) if wanted.any() else below

    def __repr__(self) -> str:
        return f"CopyPaste(each={self.each!r}, p={self.p})"


def _paste(below: Sample, above: Sample) -> Sample:
    """Puts the objects of an image over another image of the same size."""
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


def _move_into(target: Target, corner: tuple[int, int], canvas: Size) -> Target:
    """Places a target of a part of an image on the whole; ``corner`` is the part's (x, y)."""
    x, y = corner
    moved = dict(target)
    boxes = target["boxes"].as_subclass(Tensor) + torch.tensor([x, y, x, y], dtype=torch.float32)
    moved["boxes"] = wrap_like(target["boxes"], boxes, canvas)
    if "masks" in target:
        masks = target["masks"].as_subclass(Tensor)
        whole = torch.zeros(len(masks), *canvas, dtype=masks.dtype)
        whole[:, y : y + masks.shape[1], x : x + masks.shape[2]] = masks
        moved["masks"] = wrap_like(target["masks"], whole)
    return moved


def join_targets(targets: Sequence[Mapping[str, Any]]) -> Target:
    """Puts the objects of several targets of one canvas together; the rest is that of the first.

    Raises:
        ValueError: They do not hold the same things for each object.
    """
    names = [[name for name in PER_OBJECT if name in target] for target in targets]
    if any(one != names[0] for one in names):
        raise ValueError(
            f"join_targets: expected the same keys in all targets, got "
            f"{' and '.join(', '.join(one) for one in names)}"
        )
    joined = dict(targets[0])
    for name in names[0]:
        values = [target[name].as_subclass(Tensor) for target in targets]
        joined[name] = wrap_like(targets[0][name], torch.cat(values))
    return joined
