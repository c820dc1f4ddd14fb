"""Losses of anchor-based detectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cvlib._distributed import mean_over_ranks
from cvlib.box_coding import decode_boxes
from cvlib.ops.paired_iou import paired_box_iou, paired_generalized_box_iou
from cvlib.targets import AnchorTargets

# Exponent of the focal weight, gamma in the paper.
FOCUS = 2.0
BOX_WEIGHT = 2.0


def quality_focal_loss(
    class_logits: Tensor, classes: Tensor, quality: Tensor, focus: float = FOCUS
) -> Tensor:
    """Focal cross-entropy with the quality of the predicted box as target.

    The target probabilities of a matched anchor are ``quality`` for its class and the remainder for
    background; those of other anchors are 1 for background. The cross-entropy of each anchor is
    weighted by the distance between target and predicted probability to the power of ``focus``.

    Args:
        class_logits: Shape (..., K + 1), floating point, background first.
        classes: Shape (...), int64; 0 is background, k + 1 is class k.
        quality: Shape (...), in [0, 1]: IoU of the predicted box with its ground truth; ignored
            where the anchor is background.
        focus: Gamma of the focal loss, at least 0.

    Returns:
        Loss of each anchor, shape (...).

    References:
        Li et al., "Generalized Focal Loss" (2020), equation 1, with softmax in place of sigmoid.
    """
    log_probability = class_logits.log_softmax(dim=-1)
    log_class = log_probability.gather(-1, classes[..., None])[..., 0]
    target = torch.where(classes > 0, quality, 1)
    entropy = -(target * log_class + (1 - target) * log_probability[..., 0])
    return entropy * (target - log_class.exp()).abs() ** focus


def multibox_loss(
    class_logits: Tensor, offsets: Tensor, anchors: Tensor, targets: AnchorTargets
) -> dict[str, Tensor]:
    """Quality focal loss and generalised IoU loss of the decoded boxes.

    Scores learn how well the box fits, so that suppression keeps the best one. Both losses are sums
    over the batch divided by its number of matched anchors (at least one) over all processes.

    Args:
        class_logits: Shape (B, A, K + 1), background first.
        offsets: Shape (B, A, 4).
        anchors: Shape (A, 4), normalised to 0..1.
        targets: Training targets of the anchors.

    Returns:
        Scalars ``class`` and ``box``.
    """
    positive = targets.positive
    count = mean_over_ranks(positive.sum(), least=1)
    _, anchor = positive.nonzero(as_tuple=True)
    predicted = decode_boxes(offsets[positive], anchors[anchor])
    target = decode_boxes(targets.offsets[positive], anchors[anchor])
    # The operators refuse NaN, but a diverged model must show as a loss that is not finite.
    is_finite = predicted.isfinite().all(-1)
    predicted = predicted.where(is_finite[:, None], target)
    quality = torch.zeros_like(class_logits[..., 0])
    quality[positive] = paired_box_iou(predicted.detach(), target).to(quality.dtype)
    generalized = paired_generalized_box_iou(predicted, target).where(is_finite, torch.nan)
    return {
        "class": quality_focal_loss(class_logits, targets.classes, quality).sum() / count,
        "box": BOX_WEIGHT * (1 - generalized).sum() / count,
    }


def book_loss(
    class_logits: Tensor, offsets: Tensor, anchors: Tensor, targets: AnchorTargets
) -> dict[str, Tensor]:
    """Loss of Dive into Deep Learning: mean cross-entropy and mean absolute offset error.

    Args:
        class_logits: Shape (B, A, K + 1), background first.
        offsets: Shape (B, A, 4).
        anchors: Not used; all losses have the same arguments.
        targets: Training targets of the anchors.

    Returns:
        Scalars ``class`` and ``box``.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.7.2.
    """
    mask = targets.positive[..., None]
    images = torch.tensor(float(len(offsets)), device=offsets.device)
    share = images / mean_over_ranks(images)  # 1 unless the batches of processes differ in size
    return {
        "class": F.cross_entropy(class_logits.transpose(1, 2), targets.classes) * share,
        "box": ((offsets - targets.offsets) * mask).abs().mean() * share,
    }


Loss = Callable[[Tensor, Tensor, Tensor, AnchorTargets], dict[str, Tensor]]
LOSSES: dict[str, Loss] = {"multibox": multibox_loss, "book": book_loss}
