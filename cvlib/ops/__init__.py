"""Operators: each with a native CPU and CUDA kernel and a plain-PyTorch reference."""

from cvlib.ops.focal import sigmoid_focal_loss
from cvlib.ops.iou import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou, max_iou
from cvlib.ops.masks import mask_iou, masks_to_boxes
from cvlib.ops.matching import match_anchors
from cvlib.ops.multibox import multibox_detection, multibox_target
from cvlib.ops.multibox_loss import ssd_loss
from cvlib.ops.nms import batched_nms, nms
from cvlib.ops.paired_iou import (
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)
from cvlib.ops.paste import paste_masks
from cvlib.ops.paste_rle import paste_masks_rle
from cvlib.ops.rle import masks_to_rle, polygons_to_masks, rle_to_masks

__all__ = [
    "batched_nms",
    "box_iou",
    "complete_box_iou",
    "distance_box_iou",
    "generalized_box_iou",
    "mask_iou",
    "masks_to_boxes",
    "masks_to_rle",
    "match_anchors",
    "max_iou",
    "multibox_detection",
    "multibox_target",
    "nms",
    "paired_box_iou",
    "paired_complete_box_iou",
    "paired_distance_box_iou",
    "paired_generalized_box_iou",
    "paste_masks",
    "paste_masks_rle",
    "polygons_to_masks",
    "rle_to_masks",
    "sigmoid_focal_loss",
    "ssd_loss",
]
