"""Metrics that agree with the official evaluators."""

from cvlib.metrics.anchors import AnchorMeter, AnchorMetrics
from cvlib.metrics.classification import (
    ClassificationMeter,
    ClassificationMetrics,
    PictureClassMetrics,
)
from cvlib.metrics.coco import (
    ClassMetrics,
    CocoMeter,
    CocoMetrics,
    evaluate_boxes,
    evaluate_masks,
)
from cvlib.metrics.confusion import ConfusionMatrix
from cvlib.metrics.pictures import PictureMeter
from cvlib.metrics.segmentation import (
    PixelClassMetrics,
    SegmentationMeter,
    SegmentationMetrics,
)
from cvlib.structures import GroundTruth

__all__ = [
    "AnchorMeter",
    "AnchorMetrics",
    "ClassMetrics",
    "ClassificationMeter",
    "ClassificationMetrics",
    "CocoMeter",
    "CocoMetrics",
    "ConfusionMatrix",
    "GroundTruth",
    "PictureClassMetrics",
    "PictureMeter",
    "PixelClassMetrics",
    "SegmentationMeter",
    "SegmentationMetrics",
    "evaluate_boxes",
    "evaluate_masks",
]
