"""Bananas drawn on the fly: a detection dataset without a download."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib.data.datasets.base import describe
from cvlib.data.synthetic.banana_painter import (
    Banana,
    Peel,
    Pose,
    bounding_box,
    paint,
    place,
    random_peel,
    random_pose,
)
from cvlib.data.synthetic.scene_painter import (
    fill_polygon,
    paint_background,
    paint_distractor,
    photograph,
    random_distractor,
)
from cvlib.ops import masks_to_boxes

_EMPTY_SHARE = 0.07
_SMALLEST, _LARGEST = 0.2, 0.6  # longer side of a box relative to the image
_MIN_ASPECT = 0.4  # thinner boxes would be missed by common anchors, with ratios of 1/2 to 2
_MIN_VISIBLE = 0.6  # share of a banana's pixels that are visible
_MAX_BOX_IOU = 0.35  # larger overlaps would lose boxes in non-maximum suppression at .5
_TRIES = 8
_OCCLUDER = 255
_PEEL_STREAM = 2**32  # beyond any index, so that peels never share a random stream with an image
_PEELS = 512  # different bananas of one seed; drawing new ones would take a fifth of the time


class SyntheticBananas(Dataset[Any]):
    """Bananas of many shapes, colours and sizes on random backgrounds, drawn on access.

    An image has 0 to ``max_objects`` bananas (about 7 % of images have none) whose longer sides
    are .2 to .6 of the image's, among convex distractors, many of them yellow. At least 60 % of
    each banana is visible, and no two boxes have an IoU above .35.

    A box is the extent of the banana within the image, including occluded parts. With masks it is
    the extent of the mask, which covers the visible part.

    Image ``i`` depends only on ``seed``, ``image_size``, ``max_objects`` and ``i``: not on the
    order of access, the worker, the number of threads or ``length``. Use different seeds for
    different splits.

    Args:
        length: Number of images, at least 0.
        image_size: Height and width in pixels, at least 32.
        seed: Random seed, 0 to 2**32 - 1.
        max_objects: Maximum number of bananas in an image, 1 to 16; crowded images may have fewer
            than drawn if there is no free place.
        masks: Add ``masks`` to targets.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; returns the pair of the sample.

    Attributes:
        classes: ``("banana",)``.
        task: ``"detection"``.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is out of range.

    Note:
        An image of 256 x 256 takes about 1 ms on one core. Requires OpenCV.

    Example:
        >>> bananas = SyntheticBananas(8, image_size=64, seed=1)
        >>> image, target = bananas[3]
        >>> image.shape, target["image_id"]
        (torch.Size([3, 64, 64]), 3)
    """

    task: ClassVar[str] = "detection"

    def __init__(
        self,
        length: int,
        *,
        image_size: int = 256,
        seed: int = 0,
        max_objects: int = 4,
        masks: bool = False,
        transform: Callable[..., Any] | None = None,
    ) -> None:
        self._length = _checked_integer("length", length, 0, 2**31 - 1)
        self._image_size = _checked_integer("image_size", image_size, 32, 4096)
        self._seed = _checked_integer("seed", seed, 0, 2**32 - 1)
        self._max_objects = _checked_integer("max_objects", max_objects, 1, 16)
        self._masks = bool(masks)
        self._transform = transform
        self.classes: tuple[str, ...] = ("banana",)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._length

    def __repr__(self) -> str:
        return f"<SyntheticBananas: {describe(self)}>"

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Draw an image.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, S, S) RGB; target with ``boxes`` float32 (N, 4)
            xyxy pixels, ``labels`` int64 (N,) zeros, ``image_id`` int (the index), ``area``
            float32 (N,) of the boxes, ``iscrowd`` int64 (N,) zeros. With masks also ``masks`` uint8
            (N, S, S), and ``area`` is that of the masks.

        Raises:
            IndexError: ``index`` is out of range.
        """
        index = operator.index(index)
        if not -self._length <= index < self._length:
            raise IndexError(f"SyntheticBananas: expected index below {self._length}, got {index}")
        index %= self._length
        scene = _compose_scene(self._seed, index, self._image_size, self._max_objects)
        image = tv_tensors.Image(torch.from_numpy(scene.image))
        target = _target(scene.boxes, index, self._image_size)
        if self._masks:
            target |= _mask_target(scene)
        return (image, target) if self._transform is None else self._transform(image, target)


def _target(boxes: list[tuple[float, ...]], image_id: int, size: int) -> dict[str, Any]:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    return {
        "boxes": tv_tensors.BoundingBoxes(tensor, format="XYXY", canvas_size=(size, size)),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "image_id": image_id,
        "area": torch.tensor(areas, dtype=torch.float32),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
    }


def _mask_target(scene: _Scene) -> dict[str, Any]:
    """Return masks of the visible parts, with their boxes and areas."""
    numbers = torch.arange(1, len(scene.boxes) + 1, dtype=torch.uint8)
    masks = (torch.from_numpy(scene.owners) == numbers[:, None, None]).to(torch.uint8)  # (N, S, S)
    size = scene.owners.shape
    return {
        "boxes": tv_tensors.BoundingBoxes(masks_to_boxes(masks), format="XYXY", canvas_size=size),
        "area": masks.flatten(1).sum(1).to(torch.float32),
        "masks": tv_tensors.Mask(masks),
    }


@dataclass
class _Scene:
    """An image being painted.

    Attributes:
        image: Shape (S, S, 3) while painting, (3, S, S) when finished; uint8.
        owners: Banana (1, 2, ...) at each pixel, 255 for an occluder and 0 otherwise, shape
            (S, S), uint8.
        boxes: (x1, y1, x2, y2) of each banana.
        pixels: Number of pixels of each banana, including occluded ones and those outside the
            image.
    """

    image: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)

    def shows_enough(self, owners: NDArray[np.uint8]) -> bool:
        """Whether enough of every banana is visible with these owners."""
        for number, ((x1, y1, x2, y2), total) in enumerate(
            zip(self.boxes, self.pixels, strict=True), start=1
        ):
            window = owners[int(y1) : int(y2), int(x1) : int(x2)]
            if np.count_nonzero(window == number) < _MIN_VISIBLE * total:
                return False
        return True


def _compose_scene(seed: int, index: int, size: int, max_objects: int) -> _Scene:
    rng = np.random.default_rng((seed, index))
    scene = _Scene(paint_background(rng, size), np.zeros((size, size), np.uint8))
    for _ in range(int(rng.integers(0, 7))):
        paint_distractor(rng, scene.image, random_distractor(rng, size))
    empty, crowding = rng.random(2)
    count = 0 if empty < _EMPTY_SHARE else 1 + int(max_objects * crowding**2)
    for _ in range(count):
        peel = _cached_peel(seed, int(rng.integers(_PEELS)))
        _add_banana(rng, scene, peel, _LARGEST if count < 3 else 0.75 * _LARGEST)
    for _ in range(int(rng.integers(0, 4)) if count else 0):
        _add_occluder(rng, scene)
    scene.image = photograph(rng, scene.image)
    return scene


@lru_cache(maxsize=2 * _PEELS)
def _cached_peel(seed: int, number: int) -> Peel:
    return random_peel(np.random.default_rng((seed, _PEEL_STREAM, number)))


def _add_banana(rng: np.random.Generator, scene: _Scene, peel: Peel, largest: float) -> None:
    size = len(scene.owners)
    pose, unit = _random_pose(rng, peel)
    side = size * _SMALLEST * (largest / _SMALLEST) ** rng.random()
    half = (unit[2:] - unit[:2]) * (side / (unit[2:] - unit[:2]).max() / 2)
    for _ in range(_TRIES):
        center = 0.45 * side + (size - 0.9 * side) * rng.random(2)
        box = np.concatenate([center - half, center + half])
        if not _collides(box.tolist(), scene.boxes):
            banana = place(peel, pose, box)
            if _claim(scene, banana):
                _blend(scene.image, banana, paint(banana, peel))
                return


def _random_pose(rng: np.random.Generator, peel: Peel) -> tuple[Pose, NDArray[np.float64]]:
    """Draw a pose with a box that is not too thin; return it with the box for length 1."""
    for _ in range(_TRIES):
        pose = random_pose(rng)
        unit = bounding_box(peel, pose)
        sides = unit[2:] - unit[:2]
        if sides.min() > _MIN_ASPECT * sides.max():
            break
    return pose, unit


def _add_occluder(rng: np.random.Generator, scene: _Scene) -> None:
    corners = random_distractor(rng, len(scene.owners))
    owners = scene.owners.copy()
    fill_polygon(owners, corners, _OCCLUDER)
    if scene.shows_enough(owners):
        scene.owners = owners
        paint_distractor(rng, scene.image, corners)


def _collides(box: Sequence[float], others: list[tuple[float, ...]]) -> bool:
    area = (box[2] - box[0]) * (box[3] - box[1])
    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0:
            overlap = width * height
            union = area + (other[2] - other[0]) * (other[3] - other[1]) - overlap
            if overlap > _MAX_BOX_IOU * union:
                return True
    return False


def _claim(scene: _Scene, banana: Banana) -> bool:
    """Add a banana's box and mask to the scene, unless it would hide too much of another."""
    import cv2

    rows, columns, inner_rows, inner_columns = _overlap(banana, len(scene.owners))
    mask = banana.mask[inner_rows, inner_columns]
    x, y, width, height = cv2.boundingRect(mask)
    x, y = x + columns.start, y + rows.start
    box = (float(x), float(y), float(x + width), float(y + height))
    if _collides(box, scene.boxes):
        return False
    owners = scene.owners.copy()
    owners[rows, columns][mask > 0] = len(scene.boxes) + 1
    scene.boxes.append(box)
    scene.pixels.append(cv2.countNonZero(banana.mask))
    if not scene.shows_enough(owners):
        del scene.boxes[-1], scene.pixels[-1]
        return False
    scene.owners = owners
    return True


def _blend(image: NDArray[np.uint8], banana: Banana, colours: NDArray[np.uint8]) -> None:
    import cv2

    rows, columns, inner_rows, inner_columns = _overlap(banana, len(image))
    alpha = banana.alpha[inner_rows, inner_columns]
    view = image[rows, columns]
    view[:] = cv2.blendLinear(view, colours[inner_rows, inner_columns], 1 - alpha, alpha)


def _overlap(banana: Banana, size: int) -> tuple[slice, slice, slice, slice]:
    """Return rows and columns of a banana within the image, in the image and in its window."""
    height, width = banana.mask.shape
    top, left = max(banana.top, 0), max(banana.left, 0)
    bottom, right = min(banana.top + height, size), min(banana.left + width, size)
    return (
        slice(top, bottom),
        slice(left, right),
        slice(top - banana.top, bottom - banana.top),
        slice(left - banana.left, right - banana.left),
    )


def _checked_integer(name: str, value: int, least: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"SyntheticBananas: expected `{name}` to be an integer, got {type(value).__name__}"
        ) from None
    if not least <= number <= most:
        raise ValueError(
            f"SyntheticBananas: expected `{name}` from {least} to {most}, got {number}"
        )
    return number
