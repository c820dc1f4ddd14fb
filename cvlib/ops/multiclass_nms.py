"""Non-maximum suppression per class for a batch of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_fraction,
    check_integer,
    check_number,
    check_same_dtype_and_device,
    check_shape,
    check_tensor,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define
from cvlib.ops._similarity import as_real
from cvlib.ops._suppression import as_limit, explain_scored_boxes
from cvlib.ops.nms import _nms_reference

_NAME = "multiclass_nms"


class MulticlassDetections(NamedTuple):
    """Result of `multiclass_nms` for B images: D rows each, best first, then padding.

    Attributes:
        boxes: Shape (B, D, 4), dtype of the input; padding 0.
        scores: Shape (B, D), dtype of the input; padding 0.
        labels: Shape (B, D), int64, in 0..K-1; padding -1.
        indices: Shape (B, D), int64, in 0..N-1: rows of the input; padding -1.
        counts: Shape (B,), int64: number of rows of each image before the padding.
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
    """Return the best detections of every image, suppressing each class separately.

    For each image and class, `nms` runs over the best ``max_candidates`` boxes with a score of at
    least ``score_threshold``. Of all kept boxes of an image the best ``max_output`` are returned,
    by descending score (ties: lower box index, then lower class).

    Args:
        boxes: Shape (B, N, 4), or (B, N, K, 4) with a box for each class, floating point,
            (x1, y1, x2, y2) in any unit.
        scores: Shape (B, N, K), same dtype and device, without background; higher is better. A
            slice like ``probabilities[..., 1:]`` is not copied on the CPU.
        score_threshold: Any number, compared as given.
        iou_threshold: In [0, 1]; a box is dropped when its IoU with a kept one is greater.
        max_candidates: Maximum number of boxes per image and class that enter suppression;
            ``None``: no limit.
        max_output: D, the number of rows per image.

    Returns:
        `MulticlassDetections`. Its shapes do not depend on values.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, numbers out of range; on the CPU also a NaN or
            corners out of order. On CUDA a box with a NaN coordinate or score is ignored.

    Note:
        Differentiable in boxes and scores: both results are gathered. Deterministic; CPU and CUDA
        keep the same boxes. Needs memory for the candidates on the CPU, for sorted scores on CUDA.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), and Ren et al., "Faster R-CNN"
        (2015), whose last step this is.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.8]]])
        >>> scores = torch.tensor([[[0.9, 0.3], [0.8, 0.0]]])
        >>> result = multiclass_nms(boxes, scores, max_output=3)
        >>> result.scores, result.labels, result.counts
        (tensor([[0.9000, 0.3000, 0.0000]]), tensor([[ 0,  1, -1]]), tensor([2]))
    """
    _check_arguments(boxes, scores)
    check_number(_NAME, "score_threshold", score_threshold)
    check_fraction(_NAME, "iou_threshold", iou_threshold)
    candidates = as_limit(_NAME, "max_candidates", max_candidates)
    check_integer(_NAME, "max_output", max_output, 0)
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
    """Gather boxes (B, D, 4) and scores (B, D) by differentiable operations."""
    batch, rows, classes = scores.shape
    if rows == 0 or classes == 0:
        return boxes.new_zeros(*labels.shape, 4), scores.new_zeros(labels.shape)
    image = torch.arange(batch, device=labels.device)[:, None]
    is_real = labels >= 0
    row, label = indices.clamp(min=0), labels.clamp(min=0)
    chosen = boxes[image, row] if boxes.dim() == 3 else boxes[image, row, label]
    chosen_scores = torch.where(is_real, scores[image, row, label], 0)
    return torch.where(is_real[..., None], chosen, 0), chosen_scores


def _check_arguments(boxes: Tensor, scores: Tensor) -> None:
    check_tensor(_NAME, "boxes", boxes)
    check_tensor(_NAME, "scores", scores)
    check_shape(_NAME, "scores", scores, "B", "N", "K")
    shapes = (*scores.shape[:2], 4), (*scores.shape, 4)
    if boxes.shape not in shapes:
        requirement = f"have shape {shapes[0]} or {shapes[1]} to match `scores`"
        raise ValueError(mismatch(_NAME, "boxes", requirement, tuple(boxes.shape)))
    check_same_dtype_and_device(_NAME, "boxes", boxes, "scores", scores)


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
        image_boxes, image_scores = boxes[image].reshape(-1, 4), scores[image].reshape(-1)
        counting = (image_scores.double() >= score_threshold) & ~image_boxes.isnan().any(1)
        order = torch.sort(image_scores, descending=True, stable=True).indices
        order = order[counting[order]]
        if max_candidates >= 0:
            order = order[_rank_within_class(order % classes, classes) < max_candidates]
        keep = order[
            _nms_reference(
                image_boxes[order],
                image_scores[order],
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
    """Number of earlier entries with the same label."""
    rank = torch.empty_like(labels)
    for label in range(classes):
        (members,) = (labels == label).nonzero(as_tuple=True)
        rank[members] = torch.arange(len(members), device=labels.device)
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
