"""Matching of anchors to ground truths."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_boxes,
    check_fraction,
    check_same_dtype_and_device,
    explain_boxes,
    signal_bad_values,
)
from cvlib._extension import define
from cvlib.ops._similarity import as_real, pairwise_iou


def match_anchors(anchors: Tensor, gt_boxes: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Match anchors to ground truths as in Dive into Deep Learning.

    First every ground truth gets an anchor: repeatedly the largest IoU in the matrix of anchors and
    ground truths claims its row and column (ties: the lowest anchor, then the lowest ground truth),
    even when it is 0. Then every other anchor takes its best ground truth (ties: the lowest) if
    their IoU is at least ``iou_threshold``. With more ground truths than anchors, the last ones to
    be claimed get no anchor.

    Args:
        anchors: Shape (A, 4), floating point, (x1, y1, x2, y2).
        gt_boxes: Shape (B, M, 4), or (M, 4) for one image, in the unit of the anchors, padded with
            rows of -1.
        iou_threshold: In [0, 1].

    Returns:
        Shape (B, A), or (A,) for one image, int64: index of the ground truth in 0..M-1, or -1.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, a threshold outside [0, 1]; on the CPU also a
            NaN or corners out of order. On CUDA such a box has IoU 0 with every anchor.

    Note:
        Deterministic; CPU and CUDA agree exactly. Needs one IoU matrix of an image per thread in
        addition to the result.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.4.3.1; Liu et al., "SSD: Single Shot
        MultiBox Detector" (2016), section 2.2.

    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]])
        >>> match_anchors(anchors, torch.tensor([[0.0, 0.0, 2.0, 1.8]]))
        tensor([-1,  0])
    """
    is_single = isinstance(gt_boxes, Tensor) and gt_boxes.dim() == 2
    check_boxes("match_anchors", "anchors", anchors, "A", 4)
    check_boxes("match_anchors", "gt_boxes", gt_boxes, *(("M", 4) if is_single else ("B", "M", 4)))
    check_same_dtype_and_device("match_anchors", "anchors", anchors, "gt_boxes", gt_boxes)
    check_fraction("match_anchors", "iou_threshold", iou_threshold)
    batch = gt_boxes[None] if is_single else gt_boxes
    try:
        matched = torch.ops.cvlib.match_anchors(anchors, batch, iou_threshold)
    except RuntimeError as error:
        explain_boxes("match_anchors", error, anchors=anchors, gt_boxes=gt_boxes)
        raise
    return matched[0] if is_single else matched


def match_one_image(anchors: Tensor, gt_boxes: Tensor, iou_threshold: float) -> Tensor:
    """Reference for one image without padding: (A, 4), (K, 4) -> (A,)."""
    if not len(anchors) or not len(gt_boxes):
        return anchors.new_full((len(anchors),), -1, dtype=torch.int64)
    iou = pairwise_iou(anchors, gt_boxes)  # (A, K)
    best, matched = iou.max(dim=1)
    # max() may return any index at ties; argmax of the equality returns the lowest.
    matched = (iou == best[:, None]).int().argmax(dim=1)
    matched = torch.where(best.double() >= iou_threshold, matched, -1)
    for _ in range(min(iou.shape)):
        # The first of the largest entries in row-major order: lowest anchor, then lowest gt.
        flat = int((iou == iou.max()).flatten().int().argmax())
        anchor, gt = divmod(flat, iou.shape[1])
        matched[anchor] = gt
        iou[anchor] = -1
        iou[:, gt] = -1
    return matched


def _match_anchors_reference(anchors: Tensor, gt_boxes: Tensor, iou_threshold: float) -> Tensor:
    if anchors.device.type == "cpu":
        signal_bad_values(are_ordered(anchors), are_ordered(gt_boxes))
    anchors, gt_boxes = as_real(anchors), as_real(gt_boxes)
    matched = torch.full(
        (len(gt_boxes), len(anchors)), -1, dtype=torch.int64, device=anchors.device
    )
    for row, boxes in zip(matched, gt_boxes, strict=True):
        (valid,) = (boxes != -1).any(dim=1).nonzero(as_tuple=True)
        local = match_one_image(anchors, boxes[valid], iou_threshold)
        positive = local >= 0
        row[positive] = valid[local[positive]]
    return matched


def _match_anchors_fake(anchors: Tensor, gt_boxes: Tensor, iou_threshold: float) -> Tensor:
    return anchors.new_empty(gt_boxes.shape[0], anchors.shape[0], dtype=torch.int64)


define(
    "match_anchors(Tensor anchors, Tensor gt_boxes, float iou_threshold) -> Tensor",
    _match_anchors_reference,
    _match_anchors_fake,
)
