"""Metrics that agree with the official evaluators."""

from cvlib.metrics.anchors import AnchorMeter, AnchorMetrics
from cvlib.metrics.classification import (
    ClassificationMeter,
    ClassificationMetrics,
    ImageClassMetrics,
)
from cvlib.metrics.coco import (
    ClassMetrics,
    CocoMeter,
    CocoMetrics,
    evaluate_boxes,
    evaluate_masks,
)
from cvlib.metrics.confusion import ConfusionMatrix, DetectionConfusionMeter
from cvlib.metrics.curves import PrecisionRecall, PrecisionRecallMeter
from cvlib.metrics.errors import ErrorMeter, ErrorSplit, ImageErrors
from cvlib.metrics.images import ImageMeter
from cvlib.metrics.plots import plot_confusion, plot_errors, plot_precision_recall
from cvlib.metrics.segmentation import (
    PixelClassMetrics,
    SegmentationMeter,
    SegmentationMetrics,
)
from cvlib.metrics.voc import VocMeter, VocMetrics
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
    "DetectionConfusionMeter",
    "ErrorMeter",
    "ErrorSplit",
    "GroundTruth",
    "ImageClassMetrics",
    "ImageErrors",
    "ImageMeter",
    "PixelClassMetrics",
    "PrecisionRecall",
    "PrecisionRecallMeter",
    "SegmentationMeter",
    "SegmentationMetrics",
    "VocMeter",
    "VocMetrics",
    "evaluate_boxes",
    "evaluate_masks",
    "plot_confusion",
    "plot_errors",
    "plot_precision_recall",
]
