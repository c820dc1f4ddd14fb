"""Operators: native kernels for CPU and CUDA, and a reference in plain PyTorch for each."""

from cvlib.ops.conv_transpose import conv_transpose2d
from cvlib.ops.conv_transpose_lessons import (
    bilinear_kernel,
    conv_transpose2d_by_definition,
    conv_transpose2d_by_matrix,
    convolution_matrix,
)
from cvlib.ops.focal import sigmoid_focal_loss
from cvlib.ops.fusion import weighted_boxes_fusion
from cvlib.ops.iou import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou, max_iou
from cvlib.ops.masks import mask_iou, masks_to_boxes
from cvlib.ops.matching import match_anchors
from cvlib.ops.matrix_nms import matrix_nms
from cvlib.ops.multibox import multibox_detection, multibox_target
from cvlib.ops.multibox_loss import ssd_loss
from cvlib.ops.multiclass_nms import multiclass_nms
from cvlib.ops.multiscale_roi import MultiScaleRoIAlign, multiscale_roi_align
from cvlib.ops.nms import batched_nms, nms
from cvlib.ops.nms_rotated import batched_nms_rotated, nms_rotated
from cvlib.ops.paired_iou import (
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)
from cvlib.ops.paste import paste_masks
from cvlib.ops.paste_rle import paste_masks_rle
from cvlib.ops.rle import masks_to_rle, polygons_to_masks, rle_to_masks
from cvlib.ops.roi import roi_align
from cvlib.ops.roi_pool import roi_pool
from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated
from cvlib.ops.soft_nms import soft_nms
from cvlib.ops.upsample import upsample_bilinear

__all__ = [
    "MultiScaleRoIAlign",
    "batched_nms",
    "batched_nms_rotated",
    "bilinear_kernel",
    "box_iou",
    "box_iou_rotated",
    "complete_box_iou",
    "conv_transpose2d",
    "conv_transpose2d_by_definition",
    "conv_transpose2d_by_matrix",
    "convolution_matrix",
    "distance_box_iou",
    "generalized_box_iou",
    "mask_iou",
    "masks_to_boxes",
    "masks_to_rle",
    "match_anchors",
    "matrix_nms",
    "max_iou",
    "multibox_detection",
    "multibox_target",
    "multiclass_nms",
    "multiscale_roi_align",
    "nms",
    "nms_rotated",
    "paired_box_iou",
    "paired_box_iou_rotated",
    "paired_complete_box_iou",
    "paired_distance_box_iou",
    "paired_generalized_box_iou",
    "paste_masks",
    "paste_masks_rle",
    "polygons_to_masks",
    "rle_to_masks",
    "roi_align",
    "roi_pool",
    "sigmoid_focal_loss",
    "soft_nms",
    "ssd_loss",
    "upsample_bilinear",
    "weighted_boxes_fusion",
]
