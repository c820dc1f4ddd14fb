"""The recipes: what happens to an image before a model sees it, by name."""

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
    Nudge,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
    Size,
    Transpose,
    VerticalFlip,
    ZoomOut,
    check_size,
)
from cvlib.data.transforms.multi_image import Chain, CopyPaste, Mosaic

_NONE = "Resizing alone."
RECIPES: dict[str, dict[str, str]] = {
    "detection": {
        "ssd": "Zoom-out, crops chosen by IoU, flips and strong changes of colour, as of SSD.",
        "light": "Flips in all directions, small shifts and changes of scale and colour.",
        "scale_jitter": "Half to twice the size, random crops or padding, flips, colour.",
        "mosaic": "Every other image is made of parts of four; flips, colour.",
        "lsj": "A tenth to twice the size and flips; objects of a second image are pasted in "
        "where the set has masks.",
        "letterbox": "Flips; the shape of the image is kept, with grey margins.",
        "none": _NONE,
    },
    "segmentation": {
        "segmentation": "Half to twice the size, random crops, flips, strong changes of colour; "
        "margins are void.",
        "light": "Flips from left to right, small shifts and changes of scale and colour.",
        "none": _NONE,
    },
    "classification": {
        "classification": "Random parts of 25 % to 100 % of the area, flips, small changes of "
        "colour; for validation the middle of the image.",
        "light": "Flips from left to right, small shifts and changes of scale and colour.",
        "none": _NONE,
    },
}
_SMALLEST_PART = 0.25


def make_transform(
    recipe: str, task: str, image_size: Size, *, train: bool
) -> Callable[..., tuple[Any, Any]]:
    """Makes the transform of a recipe.

    Every recipe ends at ``image_size``, and all but ``letterbox`` and ``classification`` show
    images in the shape in which `predict` shows them, stretched to that size.

    Args:
        recipe: A name in ``RECIPES[task]``.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        image_size: (height, width) of the result in pixels.
        train: True: random changes; False: only what brings an image to its size.

    Returns:
        Called as ``transform(image, target)`` with uint8 (3, H, W) and a target as datasets give
        it. Draws from torch's global generator; `TransformedDataset` seeds that. ``mosaic`` and
        ``lsj`` also take further samples, see `cvlib.data.transforms.multi_image`.

    Raises:
        ValueError: Unknown recipe or task, or a size that is none.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> transform = make_transform("ssd", "detection", (300, 300), train=True)
        >>> image, target = transform(*SyntheticBananas(1)[0])
        >>> image.shape
        torch.Size([3, 300, 300])
    """
    if task not in RECIPES:
        raise ValueError(
            f"make_transform: expected task to be one of {', '.join(RECIPES)}, got {task!r}"
        )
    if recipe not in RECIPES[task]:
        raise ValueError(
            f"make_transform: expected recipe for {task} to be one of {', '.join(RECIPES[task])}, "
            f"got {recipe!r}"
        )
    size = check_size("make_transform", image_size)
    if not train:
        resizers = {"letterbox": Letterbox, "classification": CenterCrop}
        return Geometry([resizers.get(recipe, Resize)(size)])
    if recipe == "mosaic":
        return Chain(Mosaic(size), ColourJitter())
    if recipe == "lsj":
        return CopyPaste(Geometry(_jitter(size, 0.1)))
    steps = _geometry(recipe, task, size)
    colour = {"ssd": PhotometricDistortion, "segmentation": PhotometricDistortion}
    if recipe in ("none", "letterbox"):
        return Geometry(steps)
    return v2.Compose([Geometry(steps), colour.get(recipe, ColourJitter)()])


def _geometry(recipe: str, task: str, size: Size) -> list[GeometricStep]:
    if recipe == "ssd":
        return [ZoomOut(), IoUCrop(), HorizontalFlip(), Resize(size)]
    if recipe == "letterbox":
        return [HorizontalFlip(), Letterbox(size)]
    if recipe in ("scale_jitter", "segmentation"):
        return _jitter(size, 0.5)
    if recipe == "classification":
        return [RandomResizedCrop(size, (_SMALLEST_PART, 1.0)), HorizontalFlip()]
    if recipe == "none":
        return [Resize(size)]
    # Streets and people have a top and a bottom; what detectors count often has none.
    turns = [VerticalFlip(), Transpose()] if task == "detection" else []
    return [Resize(size), HorizontalFlip(), *turns, Nudge()]


def _jitter(size: Size, smallest: float) -> list[GeometricStep]:
    return [Resize(size), ScaleJitter((smallest, 2.0)), FixedCrop(size), HorizontalFlip()]
