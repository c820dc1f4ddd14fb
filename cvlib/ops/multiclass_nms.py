"""Detections of a whole batch: threshold, selection and suppression of every class in one call."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_fraction,
    check_number,
    check_same_kind,
    check_shape,
    check_tensor,
    signal_bad_values,
)
from cvlib._extension import define
from cvlib.ops._similarity import as_real
from cvlib.ops._suppression import as_limit, check_count, explain_scored_boxes
from cvlib.ops.nms import _nms_reference

_NAME = "multiclass_nms"


class MulticlassDetections(NamedTuple):
    """What `multiclass_nms` gives for B images, D rows each, best first, then padding.

    Attributes:
        boxes: Shape (B, D, 4), dtype of the input; padding 0.
        scores: Shape (B, D), dtype of the input; padding 0.
        labels: Shape (B, D), int64, in 0..K-1; padding -1.
        indices: Shape (B, D), int64, in 0..N-1: rows of the input; padding -1.
        counts: Shape (B,), int64: how many rows of each image are no padding.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    indices: Tensor
    counts: Tensor


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    max_candidates: int | None = None,
    max_output: int = 100,
) -> MulticlassDetections:
    """Gives the best detections of every image, suppressing each class on its own.

    For each image and class: the boxes with a score of at least ``score_threshold``, of these the
    best ``max_candidates``, of these what `nms` keeps. Of all classes of an image the best
    ``max_output``. Higher scores come first; equal scores: lower box index, then lower class.

    Args:
        boxes: Shape (B, N, 4), or (B, N, K, 4) with a box for each class, floating point,
            (x1, y1, x2, y2) in any one unit.
        scores: Shape (B, N, K), same dtype and device; higher is better. Without the background:
            a slice like ``probabilities[..., 1:]`` costs no copy on the CPU.
        score_threshold: Any number, compared as given.
        iou_threshold: In [0, 1]; a box is dropped when its IoU with a kept one is greater.
        max_candidates: At most this many boxes of each image and class enter suppression;
            ``None``: all.
        max_output: D, the number of rows of each image.

    Returns:
        `MulticlassDetections`. Shapes depend on no values.

    Raises:
        TypeError: Not tensors, not floating point, or of two dtypes.
        ValueError: Wrong shapes, two devices, numbers out of range; on the CPU also a NaN or
            corners out of order. On CUDA a box with a NaN coordinate or score is no candidate.

    Note:
        Differentiable in boxes and scores: both results are gathered. Deterministic; CPU and CUDA
        keep the same boxes. Extra memory on the CPU: the candidates; on CUDA: the sorted scores.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), and Ren et al., "Faster R-CNN"
        (2015), whose last step this is.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8]]])
        >>> scores = torch.tensor([[[0.9, 0.3], [0.8, 0.0]]])
        >>> found = multiclass_nms(boxes, scores, max_output=3)
        >>> found.scores, found.labels, found.counts
        (tensor([[0.9000, 0.3000, 0.0000]]), tensor([[ 0,  1, -1]]), tensor([2]))
    """
    _check_arguments(boxes, scores)
    check_number(_NAME, "score_threshold", score_threshold, -math.inf)
    check_fraction(_NAME, "iou_threshold", iou_threshold)
    candidates = as_limit(_NAME, "max_candidates", max_candidates)
    check_count(_NAME, "max_output", max_output)
    try:
        indices, labels, counts = torch.ops.cvlib.multiclass_nms(
            boxes, scores, score_threshold, iou_threshold, candidates, max_output
        )
    except RuntimeError as error:
        explain_scored_boxes(_NAME, error, boxes, scores)
        raise
    return MulticlassDetections(*_gather(boxes, scores, indices, labels), labels, indices, counts)


def _gather(
    boxes: Tensor, scores: Tensor, indices: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes (B, D, 4) and scores (B, D), by operations that have a gradient."""
    batch, rows, classes = scores.shape
    if rows == 0 or classes == 0:
        return boxes.new_zeros(*labels.shape, 4), scores.new_zeros(labels.shape)
    image = torch.arange(batch, device=labels.device)[:, None]
    is_real = labels >= 0
    row, label = indices.clamp(min=0), labels.clamp(min=0)
    found = boxes[image, row] if boxes.dim() == 3 else boxes[image, row, label]
    return torch.where(is_real[..., None], found, 0), torch.where(
        is_real, scores[image, row, label], 0
    )


def _check_arguments(boxes: Tensor, scores: Tensor) -> None:
    check_tensor(_NAME, "boxes", boxes)
    check_tensor(_NAME, "scores", scores)
    check_shape(_NAME, "scores", scores, "(B, N, K)")
    if boxes.shape != (*scores.shape[:2], 4) and boxes.shape != (*scores.shape, 4):
        raise ValueError(
            f"{_NAME}: expected boxes of shape (B, N, 4) or (B, N, K, 4) with (B, N, K) = "
            f"{tuple(scores.shape)} as in scores, got {tuple(boxes.shape)}"
        )
    check_same_kind(_NAME, "boxes", boxes, "scores", scores)


def _multiclass_nms_reference(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_candidates: int,
    max_output: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~scores.isnan())
    boxes, scores = as_real(boxes), as_real(scores)
    batch, _, classes = scores.shape
    indices = torch.full((batch, max_output), -1, dtype=torch.int64, device=boxes.device)
    labels, counts = torch.full_like(indices, -1), indices.new_zeros(batch)
    boxes = boxes if boxes.dim() == 4 else boxes[:, :, None].expand(-1, -1, classes, -1)
    for image in range(batch):
        own_boxes, own_scores = boxes[image].reshape(-1, 4), scores[image].reshape(-1)
        counting = (own_scores.double() >= score_threshold) & ~own_boxes.isnan().any(1)
        order = torch.sort(own_scores, descending=True, stable=True).indices
        order = order[counting[order]]
        if max_candidates >= 0:
            order = order[_rank_within_class(order % classes, classes) < max_candidates]
        keep = order[
            _nms_reference(
                own_boxes[order],
                own_scores[order],
                order % classes,
                None,
                iou_threshold,
                max_output,
            )
        ]
        indices[image, : len(keep)] = keep // classes
        labels[image, : len(keep)] = keep % classes
        counts[image] = len(keep)
    return indices, labels, counts


def _rank_within_class(labels: Tensor, classes: int) -> Tensor:
    """How many before each have the same label."""
    rank = torch.empty_like(labels)
    for label in range(classes):
        (own,) = (labels == label).nonzero(as_tuple=True)
        rank[own] = torch.arange(len(own), device=labels.device)
    return rank


def _multiclass_nms_fake(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_candidates: int,
    max_output: int,
) -> tuple[Tensor, Tensor, Tensor]:
    indices = scores.new_empty(scores.shape[0], max_output, dtype=torch.int64)
    return indices, torch.empty_like(indices), indices.new_empty(scores.shape[0])


define(
    "multiclass_nms(Tensor boxes, Tensor scores, float score_threshold, float iou_threshold, "
    "int max_candidates, SymInt max_output) -> (Tensor, Tensor, Tensor)",
    _multiclass_nms_reference,
    _multiclass_nms_fake,
)
