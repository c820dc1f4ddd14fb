"""Metrics that agree with the official evaluators."""

from cvlib.metrics.anchors import AnchorMeter, AnchorMetrics
from cvlib.metrics.detection import BoxMetrics, GroundTruth, evaluate_boxes

__all__ = ["AnchorMeter", "AnchorMetrics", "BoxMetrics", "GroundTruth", "evaluate_boxes"]
