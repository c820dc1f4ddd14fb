"""Matrix non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import are_ordered, check_choice, check_number, signal_bad_values
from cvlib._extension import define, refuse_gradient
from cvlib.ops._similarity import as_real, pairwise_iou
from cvlib.ops._suppression import (
    METHODS,
    check_groups,
    check_scored_boxes,
    exp_of_nonpositive,
    explain_scored_boxes,
)


def matrix_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    image_ids: Tensor | None = None,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> Tensor:
    """Lower the score of every box by its overlap with better boxes, all in parallel.

    With o(i, j) the IoU of two boxes and c(i) the largest IoU of box i with a better one (0 if
    there is none), the score of box j is multiplied by the least f(o(i, j)) / f(c(i)) over all
    better boxes i, and by 1 if that is greater. f(o) is ``exp(-sigma * o**2)`` or, linear,
    ``1 - o``. A box is better if its score is higher, or equal with a lower index. Threshold the
    result to drop boxes.

    Args:
        boxes: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        scores: Shape (N,), same dtype and device; higher is better, at least 0.
        labels: Shape (N,), int64, any values; boxes of different labels ignore each other.
            ``None``: one class.
        image_ids: Shape (N,), int64, any values; see ``labels``. ``None``: one image.
        kernel: ``"gaussian"`` or ``"linear"``.
        sigma: In [0, 1e6]; used by the gaussian kernel. Larger suppresses more.

    Returns:
        Lowered scores in input order, shape (N,), float32 for half types.

    Raises:
        TypeError: Not tensors, not floating point, different dtypes; ids that are not int64.
        ValueError: Wrong shapes, different devices, numbers out of range; on the CPU also a NaN or
            corners out of order. On CUDA a box with a NaN coordinate keeps its score, and a NaN
            score stays NaN; neither lowers other scores.
        RuntimeError: On backward to the boxes.

    Note:
        Differentiable in the scores: each result is its score times a factor. Deterministic,
        and bit-identical on CPU and CUDA. Memory is linear in N; no N x N matrix is stored. Where
        the linear quotient is 0 / 0 (duplicates of a duplicate) it is ignored: the first of the
        duplicates has already brought the factor to 0.

    References:
        Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation" (2020).

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [3.0, 3.0, 4.0, 4.0]])
        >>> matrix_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), kernel="linear")
        tensor([0.9000, 0.4000, 0.7000])
    """
    check_scored_boxes("matrix_nms", boxes, scores)
    check_choice("matrix_nms", "kernel", kernel, METHODS)
    check_number("matrix_nms", "sigma", sigma, 0, 1e6)
    check_groups("matrix_nms", boxes, labels, image_ids)
    gaussian = kernel == "gaussian"
    # Only the order of the scores counts here, and that has no derivative.
    order = scores.detach() if scores.requires_grad else scores
    try:
        factors = torch.ops.cvlib.matrix_nms(boxes, order, labels, image_ids, gaussian, sigma)
    except RuntimeError as error:
        explain_scored_boxes("matrix_nms", error, boxes, scores)
        raise
    return scores * factors


# Size limit of the largest matrix of the reference, in bytes.
_REFERENCE_BYTES = 1 << 26


def _matrix_nms_reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    gaussian: bool,
    sigma: float,
) -> Tensor:
    if boxes.device.type == "cpu":
        signal_bad_values(are_ordered(boxes), ~scores.isnan())
    boxes, scores = as_real(boxes), as_real(scores)
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[~scores.isnan()[order]]
    rank = torch.full_like(scores, -1, dtype=torch.int64)
    rank[order] = torch.arange(len(order), device=boxes.device)
    largest, factors = torch.zeros_like(scores), torch.ones_like(scores)
    rows = max(1, _REFERENCE_BYTES // (16 * len(boxes) + 1))
    blocks = torch.arange(len(boxes), device=boxes.device).split(rows) if len(boxes) else ()

    def overlaps_with_better(block: Tensor) -> Tensor:
        """IoU (block, N) with better boxes of the same group, 0 for all other pairs."""
        better = (rank >= 0) & (rank < rank[block, None])
        for ids in (labels, image_ids):
            if ids is not None:
                better &= ids[block, None] == ids
        return torch.where(better, pairwise_iou(boxes[block], boxes), 0)

    for block in blocks:
        largest[block] = overlaps_with_better(block).amax(1)
    for block in blocks:
        iou = overlaps_with_better(block)
        if gaussian:
            excess = (iou * iou - largest * largest).amax(1).clamp(min=0)
            factors[block] = exp_of_nonpositive(-(excess * sigma))
        else:
            quotient = (1 - iou) / (1 - largest)
            factors[block] = torch.where(quotient.isnan(), 1, quotient).amin(1).clamp(max=1)
    return factors


def _matrix_nms_fake(boxes: Tensor, *_: object) -> Tensor:
    return as_real(boxes).new_empty(boxes.shape[0])


define(
    "matrix_nms(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, bool gaussian, "
    "float sigma) -> Tensor",
    _matrix_nms_reference,
    _matrix_nms_fake,
)
refuse_gradient("matrix_nms")
