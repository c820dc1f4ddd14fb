"""Transforms of samples, from flips to whole recipes, on top of ``torchvision.transforms.v2``."""

from cvlib.data.transforms.base import GeometricStep, Geometry
from cvlib.data.transforms.colour import ColourJitter, PhotometricDistortion
from cvlib.data.transforms.dataset import TransformedDataset
from cvlib.data.transforms.geometric import (
    HorizontalFlip,
    IoUCrop,
    Letterbox,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
    VerticalFlip,
    ZoomOut,
)
from cvlib.data.transforms.multi_image import CopyPaste, Mosaic
from cvlib.data.transforms.recipes import RECIPES, make_transform

__all__ = [
    "RECIPES",
    "ColourJitter",
    "CopyPaste",
    "GeometricStep",
    "Geometry",
    "HorizontalFlip",
    "IoUCrop",
    "Letterbox",
    "Mosaic",
    "PhotometricDistortion",
    "RandomResizedCrop",
    "Resize",
    "ScaleJitter",
    "TransformedDataset",
    "VerticalFlip",
    "ZoomOut",
    "make_transform",
]
