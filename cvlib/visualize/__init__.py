"""Drawings of samples, anchors, training targets and results."""

from cvlib.visualize.anchors import show_anchors, show_targets
from cvlib.visualize.drawing import draw_truth
from cvlib.visualize.results import draw
from cvlib.visualize.samples import show_batch, show_transforms
from cvlib.visualize.segmentation import draw_segmentation

__all__ = [
    "draw",
    "draw_segmentation",
    "draw_truth",
    "show_anchors",
    "show_batch",
    "show_targets",
    "show_transforms",
]
