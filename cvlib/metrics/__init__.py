"""Metrics of detection, segmentation and classification, equal to the official evaluators."""

from cvlib.metrics.anchors import AnchorMeter
from cvlib.metrics.classification import ClassificationMeter
from cvlib.metrics.coco import CocoMeter, CocoMetrics, evaluate_boxes, evaluate_masks
from cvlib.metrics.confusion import ConfusionMatrix, DetectionConfusionMeter
from cvlib.metrics.curves import PrecisionRecallMeter
from cvlib.metrics.errors import ErrorMeter
from cvlib.metrics.plots import plot_confusion, plot_errors, plot_precision_recall
from cvlib.metrics.segmentation import SegmentationMeter
from cvlib.metrics.voc import VocMeter

__all__ = [
    "AnchorMeter",
    "ClassificationMeter",
    "CocoMeter",
    "CocoMetrics",
    "ConfusionMatrix",
    "DetectionConfusionMeter",
    "ErrorMeter",
    "PrecisionRecallMeter",
    "SegmentationMeter",
    "VocMeter",
    "evaluate_boxes",
    "evaluate_masks",
    "plot_confusion",
    "plot_errors",
    "plot_precision_recall",
]
