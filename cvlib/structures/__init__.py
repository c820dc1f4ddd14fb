"""Value objects: what models say of images, and what was there to be found."""

from cvlib.structures.classes import Classification, Segmentation
from cvlib.structures.masks import Masks, each_bitmap, mask_areas, resize_masks
from cvlib.structures.objects import Detections, GroundTruth

Result = Detections | Classification | Segmentation

__all__ = [
    "Classification",
    "Detections",
    "GroundTruth",
    "Masks",
    "Result",
    "Segmentation",
    "each_bitmap",
    "mask_areas",
    "resize_masks",
]
