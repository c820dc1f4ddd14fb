"""Losses of anchor-based detectors. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cvlib.box_coding import decode_boxes
from cvlib.targets import AnchorTargets

# Negatives that count for every positive anchor.
NEGATIVE_RATIO = 3
# Negatives that count in an image without objects, so that it teaches something too.
LEAST_NEGATIVES = 10
BOX_WEIGHT = 2.0


def generalized_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Gives the generalised IoU of boxes, pair by pair, in (-1, 1].

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2), with positive area.
        boxes2: Shape (..., 4), same unit, with positive area.

    Returns:
        Shape (...). Differentiable.

    References:
        Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1.
    """
    low, high = (
        torch.maximum(boxes1[..., :2], boxes2[..., :2]),
        torch.minimum(boxes1[..., 2:], boxes2[..., 2:]),
    )
    shared = (high - low).clamp(min=0).prod(-1)
    area1 = (boxes1[..., 2:] - boxes1[..., :2]).prod(-1)
    area2 = (boxes2[..., 2:] - boxes2[..., :2]).prod(-1)
    union = area1 + area2 - shared
    low, high = (
        torch.minimum(boxes1[..., :2], boxes2[..., :2]),
        torch.maximum(boxes1[..., 2:], boxes2[..., 2:]),
    )
    hull = (high - low).prod(-1)
    return shared / union - (hull - union) / hull


def hard_negatives(loss: Tensor, positive: Tensor) -> Tensor:
    """Chooses the background anchors that are hardest to tell, a few for every positive one.

    Args:
        loss: Shape (B, A), classification loss of every anchor.
        positive: Shape (B, A), bool.

    Returns:
        Shape (B, A), bool: `NEGATIVE_RATIO` negatives for every positive of the image, at least
        `LEAST_NEGATIVES`; equal losses at the border all count.

    References:
        Liu et al., "SSD" (2016), section 2.2, hard negative mining.
    """
    loss = loss.detach().masked_fill(positive, -1)
    wanted = (NEGATIVE_RATIO * positive.sum(1, keepdim=True)).clamp(LEAST_NEGATIVES, loss.shape[1])
    largest = int(wanted.max())
    border = loss.topk(largest, dim=1).values.gather(1, wanted - 1)
    return (loss >= border) & (loss >= 0)


def multibox_loss(
    class_logits: Tensor, offsets: Tensor, anchors: Tensor, targets: AnchorTargets
) -> dict[str, Tensor]:
    """Our loss: cross-entropy with hard negatives, and generalised IoU of the decoded boxes.

    Both are sums over the batch divided by its number of positive anchors (at least one).

    Args:
        class_logits: Shape (B, A, K + 1), background first.
        offsets: Shape (B, A, 4).
        anchors: Shape (A, 4), normalised to 0..1.
        targets: What the anchors shall predict.

    Returns:
        Scalars ``class`` and ``box``.
    """
    positive = targets.positive
    count = positive.sum().clamp(min=1)
    entropy = F.cross_entropy(class_logits.transpose(1, 2), targets.classes, reduction="none")
    chosen = positive | hard_negatives(entropy, positive)
    _, anchor = positive.nonzero(as_tuple=True)
    found = decode_boxes(offsets[positive], anchors[anchor])
    wanted = decode_boxes(targets.offsets[positive], anchors[anchor])
    return {
        "class": (entropy * chosen).sum() / count,
        "box": BOX_WEIGHT * (1 - generalized_iou(found, wanted)).sum() / count,
    }


def book_loss(
    class_logits: Tensor, offsets: Tensor, anchors: Tensor, targets: AnchorTargets
) -> dict[str, Tensor]:
    """The book's loss: cross-entropy averaged over all anchors, plus mean absolute offset error.

    Args:
        class_logits: Shape (B, A, K + 1), background first.
        offsets: Shape (B, A, 4).
        anchors: Not used; every loss has the same arguments.
        targets: What the anchors shall predict.

    Returns:
        Scalars ``class`` and ``box``.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.7.2.
    """
    mask = targets.positive[..., None]
    return {
        "class": F.cross_entropy(class_logits.transpose(1, 2), targets.classes),
        "box": ((offsets - targets.offsets) * mask).abs().mean(),
    }


Loss = Callable[[Tensor, Tensor, Tensor, AnchorTargets], dict[str, Tensor]]
LOSSES: dict[str, Loss] = {"multibox": multibox_loss, "book": book_loss}
