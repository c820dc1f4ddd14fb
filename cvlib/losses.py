"""Losses of anchor-based detectors. Plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cvlib._distributed import mean_over_ranks
from cvlib.box_coding import decode_boxes
from cvlib.targets import AnchorTargets

# How strongly anchors that are right already are left alone.
FOCUS = 2.0
BOX_WEIGHT = 2.0


def paired_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Gives IoU and generalised IoU of boxes, pair by pair.

    Args:
        boxes1: Shape (..., 4), floating point, (x1, y1, x2, y2), with positive area.
        boxes2: Shape (..., 4), same unit, with positive area.

    Returns:
        Two tensors of shape (...): in [0, 1] and in (-1, 1]. Differentiable.

    References:
        Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1.
    """
    low1, high1 = boxes1[..., :2], boxes1[..., 2:]
    low2, high2 = boxes2[..., :2], boxes2[..., 2:]
    shared = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(-1)
    union = (high1 - low1).prod(-1) + (high2 - low2).prod(-1) - shared
    hull = (torch.maximum(high1, high2) - torch.minimum(low1, low2)).prod(-1)
    iou = shared / union
    return iou, iou - (hull - union) / hull


def quality_focal_loss(
    class_logits: Tensor, classes: Tensor, quality: Tensor, focus: float = FOCUS
) -> Tensor:
    """Cross-entropy with the quality of the box as target, focused on what is wrong.

    A matched anchor shall give its class the probability ``quality`` and background the rest; the
    others shall give background all. Each anchor's entropy is weighted by the distance between
    wanted and given probability to the power of ``focus``.

    Args:
        class_logits: Shape (..., K + 1), floating point, background first.
        classes: Shape (...), int64; 0 is background, k + 1 is class k.
        quality: Shape (...), in [0, 1]: IoU of the predicted box with its ground truth; not read
            where the anchor is background.
        focus: The focal loss's gamma, at least 0.

    Returns:
        Shape (...).

    References:
        Li et al., "Generalized Focal Loss" (2020), equation 1, with softmax in place of sigmoid.
    """
    log_probability = class_logits.log_softmax(dim=-1)
    own = log_probability.gather(-1, classes[..., None])[..., 0]
    wanted = torch.where(classes > 0, quality, 1)
    entropy = -(wanted * own + (1 - wanted) * log_probability[..., 0])
    return entropy * (wanted - own.exp()).abs() ** focus


def multibox_loss(
    class_logits: Tensor, offsets: Tensor, anchors: Tensor, targets: AnchorTargets
) -> dict[str, Tensor]:
    """Our loss: quality focal loss, and generalised IoU of the decoded boxes.

    Scores learn to say how well the box fits, so that suppression keeps the best one. Both are sums
    over the batch divided by its number of matched anchors (at least one), in all processes
    together.

    Args:
        class_logits: Shape (B, A, K + 1), background first.
        offsets: Shape (B, A, 4).
        anchors: Shape (A, 4), normalised to 0..1.
        targets: What the anchors shall predict.

    Returns:
        Scalars ``class`` and ``box``.
    """
    positive = targets.positive
    count = mean_over_ranks(positive.sum(), least=1)
    _, anchor = positive.nonzero(as_tuple=True)
    found = decode_boxes(offsets[positive], anchors[anchor])
    wanted = decode_boxes(targets.offsets[positive], anchors[anchor])
    iou, generalized = paired_iou(found, wanted)
    quality = torch.zeros_like(class_logits[..., 0])
    quality[positive] = iou.detach()
    return {
        "class": quality_focal_loss(class_logits, targets.classes, quality).sum() / count,
        "box": BOX_WEIGHT * (1 - generalized).sum() / count,
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
    images = torch.tensor(float(len(offsets)), device=offsets.device)
    share = images / mean_over_ranks(images)  # 1, unless processes have unequal shares
    return {
        "class": F.cross_entropy(class_logits.transpose(1, 2), targets.classes) * share,
        "box": ((offsets - targets.offsets) * mask).abs().mean() * share,
    }


Loss = Callable[[Tensor, Tensor, Tensor, AnchorTargets], dict[str, Tensor]]
LOSSES: dict[str, Loss] = {"multibox": multibox_loss, "book": book_loss}
