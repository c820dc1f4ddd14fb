"""Transforms of samples, from flips to whole recipes, on top of ``torchvision.transforms.v2``."""

from cvlib.data.transforms.base import GeometricStep, Geometry
from cvlib.data.transforms.colour import ColourChange, ColourJitter, PhotometricDistortion
from cvlib.data.transforms.dataset import TransformedDataset
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
    Transpose,
    VerticalFlip,
    ZoomOut,
)
from cvlib.data.transforms.multi_image import Chain, CopyPaste, Mosaic
from cvlib.data.transforms.recipes import RECIPES, make_transform
from cvlib.geometry.view import VOID, View

__all__ = [
    "RECIPES",
    "VOID",
    "CenterCrop",
    "Chain",
    "ColourChange",
    "ColourJitter",
    "CopyPaste",
    "FixedCrop",
    "GeometricStep",
    "Geometry",
    "HorizontalFlip",
    "IoUCrop",
    "Letterbox",
    "Mosaic",
    "Nudge",
    "PhotometricDistortion",
    "RandomResizedCrop",
    "Resize",
    "ScaleJitter",
    "TransformedDataset",
    "Transpose",
    "VerticalFlip",
    "View",
    "ZoomOut",
    "make_transform",
]
