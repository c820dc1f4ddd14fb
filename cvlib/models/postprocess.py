"""What happens to boxes after suppression. Plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from cvlib.ops import box_iou

# Near boxes count by a high power of their score, so that a few confident ones decide.
SCORE_POWER = 8


def vote_boxes(kept: Tensor, boxes: Tensor, scores: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Refines each kept box to the weighted mean of the boxes that it stands for.

    Args:
        kept: Shape (K, 4), float32, (x1, y1, x2, y2): boxes that suppression has kept.
        boxes: Shape (N, 4), boxes of the same class and image before suppression, with the kept
            ones among them.
        scores: Shape (N,), in [0, 1].
        iou_threshold: Least IoU of a box that has a vote.

    Returns:
        Shape (K, 4). The weight of a vote is the score to the power of eight.

    References:
        Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware
        CNN model" (2015), section 4.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
        >>> vote_boxes(boxes[:1], boxes, torch.tensor([1.0, 1.0]))
        tensor([[ 0.0000,  0.0000, 10.0000,  9.5000]])
    """
    voters = box_iou(kept, boxes) >= iou_threshold  # (K, N)
    weights = voters * scores
    # Relative to the best voter, so that small scores do not vanish.
    weights = (weights / weights.amax(dim=1, keepdim=True)) ** SCORE_POWER
    total = weights.sum(dim=1, keepdim=True)
    # An infinite box overlaps nothing, so its weight is 0; but 0 times infinity is not.
    boxes = boxes.where(boxes.isfinite(), 0)
    # A box without area has no voters, not even itself, and its total is NaN.
    return (weights @ boxes / total).where(total > 0, kept)
