"""Benchmark cases, one file for each family of operators."""

from bench_cases.iou import iou_cases, max_iou_cases, paired_cases, similarity_cases
from bench_cases.losses import focal_cases, ssd_loss_cases
from bench_cases.masks import mask_iou_cases, masks_to_boxes_cases, paste_cases, rle_cases
from bench_cases.multibox import multibox_cases
from bench_cases.nms import batched_nms_cases, nms_cases

FAMILIES = (
    iou_cases,
    similarity_cases,
    paired_cases,
    max_iou_cases,
    nms_cases,
    batched_nms_cases,
    multibox_cases,
    paste_cases,
    masks_to_boxes_cases,
    mask_iou_cases,
    rle_cases,
    focal_cases,
    ssd_loss_cases,
)
