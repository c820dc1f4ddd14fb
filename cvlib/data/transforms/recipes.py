"""Recipes: named transforms for training and validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchvision.transforms import v2

from cvlib.data.transforms.base import GeometricStep, Geometry
from cvlib.data.transforms.colour import ColourJitter, PhotometricDistortion
from cvlib.data.transforms.geometric import (
    CenterCrop,
    FixedCrop,
    HorizontalFlip,
    IoUCrop,
    Letterbox,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
    ShiftScale,
    Size,
    Transpose,
    VerticalFlip,
    ZoomOut,
    check_size,
)
from cvlib.data.transforms.multi_image import Chain, CopyPaste, Mosaic

_NONE = "Resizing only."
RECIPES: dict[str, dict[str, str]] = {
    "detection": {
        "ssd": "Zoom-out, crops chosen by IoU, flips and strong changes of colour, as in SSD.",
        "light": "Flips in all directions, small shifts and changes of scale and colour.",
        "scale_jitter": "Scales of 0.5 to 2, random crops or padding, flips, changes of colour.",
        "mosaic": "Half of the images are mosaics of four; flips, changes of colour.",
        "lsj": "Scales of 0.1 to 2 and flips; copy-paste where the dataset has masks.",
        "letterbox": "Flips; keeps the aspect ratio, with grey margins.",
        "none": _NONE,
    },
    "segmentation": {
        "segmentation": "Scales of 0.5 to 2, random crops, flips, strong changes of colour; "
        "margins are void.",
        "light": "Horizontal flips, small shifts and changes of scale and colour.",
        "none": _NONE,
    },
    "classification": {
        "classification": "Random crops of 25 % to 100 % of the area, flips, small changes of "
        "colour; the centre of the image in validation.",
        "light": "Horizontal flips, small shifts and changes of scale and colour.",
        "none": _NONE,
    },
}
_MIN_CROP_AREA = 0.25


def make_transform(
    recipe: str, task: str, image_size: Size, *, train: bool
) -> Callable[..., tuple[Any, Any]]:
    """Create the transform of a recipe.

    Every recipe ends at ``image_size``, and all but ``letterbox`` and ``classification`` stretch
    images to that size, as `predict` does.

    Args:
        recipe: A name in ``RECIPES[task]``.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        image_size: Height and width of the result in pixels.
        train: Whether to apply random changes; if False, images are only resized.

    Returns:
        A transform called as ``transform(image, target)`` with a uint8 image of shape (3, H, W) and
        the target of a dataset. It draws from the global generator of torch, which
        `TransformedDataset` seeds. ``mosaic`` and ``lsj`` take additional samples, see
        `cvlib.data.transforms.multi_image`.

    Raises:
        ValueError: Unknown recipe or task, or an invalid size.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> transform = make_transform("ssd", "detection", (300, 300), train=True)
        >>> image, target = transform(*SyntheticBananas(1)[0])
        >>> image.shape
        torch.Size([3, 300, 300])
    """
    if task not in RECIPES:
        raise ValueError(
            f"make_transform: expected `task` to be one of {', '.join(RECIPES)}, got {task!r}"
        )
    if recipe not in RECIPES[task]:
        raise ValueError(
            f"make_transform: expected `recipe` for {task} to be one of "
            f"{', '.join(RECIPES[task])}, got {recipe!r}"
        )
    size = check_size("make_transform", image_size, "image_size")
    if not train:
        resizers = {"letterbox": Letterbox, "classification": CenterCrop}
        return Geometry([resizers.get(recipe, Resize)(size)])
    if recipe == "mosaic":
        return Chain(Mosaic(size), ColourJitter())
    if recipe == "lsj":
        return CopyPaste(Geometry(_jitter_steps(size, 0.1)))
    steps = _geometric_steps(recipe, task, size)
    if recipe in ("none", "letterbox"):
        return Geometry(steps)
    colour = PhotometricDistortion if recipe in ("ssd", "segmentation") else ColourJitter
    return v2.Compose([Geometry(steps), colour()])


def _geometric_steps(recipe: str, task: str, size: Size) -> list[GeometricStep]:
    if recipe == "ssd":
        return [ZoomOut(), IoUCrop(), HorizontalFlip(), Resize(size)]
    if recipe == "letterbox":
        return [HorizontalFlip(), Letterbox(size)]
    if recipe in ("scale_jitter", "segmentation"):
        return _jitter_steps(size, 0.5)
    if recipe == "classification":
        return [RandomResizedCrop(size, (_MIN_CROP_AREA, 1.0)), HorizontalFlip()]
    if recipe == "none":
        return [Resize(size)]
    # Street scenes and people are upright; objects that detectors count often are not.
    turns = [VerticalFlip(), Transpose()] if task == "detection" else []
    return [Resize(size), HorizontalFlip(), *turns, ShiftScale()]


def _jitter_steps(size: Size, min_scale: float) -> list[GeometricStep]:
    return [Resize(size), ScaleJitter((min_scale, 2.0)), FixedCrop(size), HorizontalFlip()]
