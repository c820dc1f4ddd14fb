"""Benchmark cases, one file per family of operators."""

from bench_cases.conv_transpose import conv_transpose_cases
from bench_cases.iou import iou_cases, max_iou_cases, paired_cases, similarity_cases
from bench_cases.losses import focal_cases, ssd_loss_cases
from bench_cases.masks import mask_iou_cases, masks_to_boxes_cases, paste_cases, rle_cases
from bench_cases.multibox import multibox_cases
from bench_cases.nms import batched_nms_cases, nms_cases
from bench_cases.roi import multiscale_roi_cases, roi_cases
from bench_cases.rotated import rotated_iou_cases, rotated_nms_cases
from bench_cases.suppression import (
    fusion_cases,
    matrix_nms_cases,
    multiclass_nms_cases,
    soft_nms_cases,
)
from bench_cases.upsample import upsample_cases

FAMILIES = (
    iou_cases,
    similarity_cases,
    paired_cases,
    max_iou_cases,
    nms_cases,
    batched_nms_cases,
    soft_nms_cases,
    matrix_nms_cases,
    fusion_cases,
    multiclass_nms_cases,
    rotated_iou_cases,
    rotated_nms_cases,
    multibox_cases,
    roi_cases,
    multiscale_roi_cases,
    paste_cases,
    masks_to_boxes_cases,
    mask_iou_cases,
    rle_cases,
    upsample_cases,
    conv_transpose_cases,
    focal_cases,
    ssd_loss_cases,
)
