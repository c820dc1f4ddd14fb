"""Operators: each with a native CPU and CUDA kernel and a plain-PyTorch reference."""

from cvlib.ops.iou import box_iou
from cvlib.ops.matching import match_anchors
from cvlib.ops.multibox import multibox_detection, multibox_target
from cvlib.ops.nms import batched_nms, nms

__all__ = [
    "batched_nms",
    "box_iou",
    "match_anchors",
    "multibox_detection",
    "multibox_target",
    "nms",
]
