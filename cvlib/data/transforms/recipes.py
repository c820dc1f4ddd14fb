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
    Frame,
    HorizontalFlip,
    IoUCrop,
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
from cvlib.geometry.framing import Framing

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
    recipe: str, task: str, framing: Framing | Size, *, train: bool
) -> Callable[..., tuple[Any, Any]]:
    """Create the transform of a recipe.

    Recipes end at the framing of the model, so that training shows objects as `predict` does.
    Recipes that crop at random (``scale_jitter``, ``mosaic``, ``lsj``, ``segmentation`` and
    ``classification``) end at its size, and ``letterbox`` always letterboxes.

    Args:
        recipe: A name in ``RECIPES[task]``.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        framing: Framing of the model; or the (height, width) that images are stretched to.
        train: Whether to apply random changes; if False, images are only framed.

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
    framing = _to_framing(recipe, framing)
    size = framing.nominal_size
    if not train:
        return Geometry([Frame(framing)])
    if recipe == "mosaic":
        return Chain(Mosaic(size), ColourJitter())
    if recipe == "lsj":
        return CopyPaste(Geometry(_jitter_steps(size, 0.1)))
    steps = _geometric_steps(recipe, task, framing)
    if recipe in ("none", "letterbox"):
        return Geometry(steps)
    colour = PhotometricDistortion if recipe in ("ssd", "segmentation") else ColourJitter
    return v2.Compose([Geometry(steps), colour()])


def _to_framing(recipe: str, framing: Framing | Size) -> Framing:
    if isinstance(framing, Framing):
        return Framing("letterbox", framing.nominal_size) if recipe == "letterbox" else framing
    size = check_size("make_transform", framing, "framing")
    if recipe == "classification":
        return Framing("crop", size, crop_share=CenterCrop(size).fraction)
    return Framing("letterbox" if recipe == "letterbox" else "stretch", size)


def _geometric_steps(recipe: str, task: str, framing: Framing) -> list[GeometricStep]:
    if recipe == "ssd":
        return [ZoomOut(), IoUCrop(), HorizontalFlip(), Frame(framing)]
    if recipe == "letterbox":
        return [HorizontalFlip(), Frame(framing)]
    if recipe in ("scale_jitter", "segmentation"):
        return _jitter_steps(framing.nominal_size, 0.5)
    if recipe == "classification":
        crop = RandomResizedCrop(framing.nominal_size, (_MIN_CROP_AREA, 1.0))
        return [crop, HorizontalFlip()]
    if recipe == "none":
        return [Frame(framing)]
    # Street scenes and people are upright; objects that detectors count often are not.
    turns = [VerticalFlip(), Transpose()] if task == "detection" else []
    return [Frame(framing), HorizontalFlip(), *turns, ShiftScale()]


def _jitter_steps(size: Size, min_scale: float) -> list[GeometricStep]:
    return [Resize(size), ScaleJitter((min_scale, 2.0)), FixedCrop(size), HorizontalFlip()]
