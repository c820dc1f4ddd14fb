"""Benchmark cases, one file for each family of operators."""

from bench_cases.iou import iou_cases, max_iou_cases, paired_cases, similarity_cases
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
)
