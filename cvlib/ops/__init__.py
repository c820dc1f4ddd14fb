"""Operators: each with a native CPU and CUDA kernel and a plain-PyTorch reference."""

from cvlib.ops.iou import (
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    max_iou,
)
from cvlib.ops.matching import match_anchors
from cvlib.ops.multibox import multibox_detection, multibox_target
from cvlib.ops.nms import batched_nms, nms
from cvlib.ops.paired_iou import (
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)

__all__ = [
    "batched_nms",
    "box_iou",
    "complete_box_iou",
    "distance_box_iou",
    "generalized_box_iou",
    "match_anchors",
    "max_iou",
    "multibox_detection",
    "multibox_target",
    "nms",
    "paired_box_iou",
    "paired_complete_box_iou",
    "paired_distance_box_iou",
    "paired_generalized_box_iou",
]
