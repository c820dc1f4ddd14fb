"""Refinement of boxes after suppression, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib.ops import paired_box_iou

# Votes count by a high power of their score, so that a few confident boxes decide.
SCORE_POWER = 8
# Pairs of kept box and voter that are compared at a time; bounds memory at about 200 MB.
_PAIRS_AT_A_TIME = 2_000_000


def vote_boxes(
    kept: Tensor,
    kept_groups: Tensor,
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float = 0.5,
) -> Tensor:
    """Refine each kept box to the weighted mean of the boxes that it suppressed.

    Args:
        kept: Boxes that suppression kept, shape (K, 4), float32, (x1, y1, x2, y2).
        kept_groups: Group of each kept box, shape (K,), int64, such as a number for each image and
            class; only boxes of the same group vote.
        boxes: Boxes before suppression, the kept ones included, shape (N, 4).
        scores: Their scores in [0, 1], shape (N,).
        groups: Their groups, shape (N,), int64.
        iou_threshold: Minimum IoU of a voter with the kept box.

    Returns:
        Refined boxes, shape (K, 4). A vote weighs the score to the power of eight.

    References:
        Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware
        CNN model" (2015), section 4.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
        >>> group = torch.zeros(2, dtype=torch.int64)
        >>> vote_boxes(boxes[:1], group[:1], boxes, torch.tensor([1.0, 1.0]), group)
        tensor([[ 0.0000,  0.0000, 10.0000,  9.5000]])
    """
    if not len(kept):
        return kept
    groups, order = groups.sort(stable=True)
    boxes, scores = boxes[order], scores[order]
    starts = torch.searchsorted(groups, kept_groups)
    counts = torch.searchsorted(groups, kept_groups, right=True) - starts
    refined, voters_so_far = [], counts.cumsum(0) // _PAIRS_AT_A_TIME
    for part in voters_so_far.unique_consecutive():  # one, unless there are very many boxes
        rows = voters_so_far == part
        refined.append(_vote(kept[rows], starts[rows], counts[rows], boxes, scores, iou_threshold))
    return torch.cat(refined)


def _vote(
    kept: Tensor,
    starts: Tensor,
    counts: Tensor,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
) -> Tensor:
    """Vote on boxes whose voters are ``boxes[start : start + count]``."""
    row = torch.repeat_interleave(counts)  # (P,): the kept box of each pair
    voter = torch.arange(len(row), device=row.device) + (starts - counts.cumsum(0) + counts)[row]
    boxes, scores = boxes[voter], scores[voter]
    weights = scores.where(paired_box_iou(kept[row], boxes) >= iou_threshold, 0)
    # Relative to the best voter, so that small scores do not vanish.
    best = torch.segment_reduce(weights, "max", lengths=counts, initial=0)
    weights = (weights / best[row]) ** SCORE_POWER
    # Infinite boxes overlap nothing and weigh 0, but 0 times infinity is NaN.
    boxes = boxes.where(boxes.isfinite(), 0)
    values = torch.cat([weights[:, None] * boxes, weights[:, None]], dim=1)
    sums = torch.segment_reduce(values, "sum", lengths=counts, axis=0)
    total = sums[:, 4:]
    # A box without area has no voters, not even itself, and its total is NaN.
    return (sums[:, :4] / total).where(total > 0, kept)
