"""Cases of matching, targets and detections, against straightforward PyTorch code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

import cvlib
from bench_cases.case import Case, close, equal, random_boxes
from cvlib.anchors import multibox_prior
from cvlib.box_coding import VARIANCES, decode_boxes, encode_boxes
from cvlib.models.tiny_ssd import RATIOS, SIZES
from cvlib.ops.matching import _match_anchors_reference
from cvlib.ops.multibox import _multibox_detection_reference, _multibox_target_reference


def banana_anchors(device: str) -> Tensor:
    """Return the 5,444 anchors of TinySSD on 256 x 256 pixels."""
    levels = zip((32, 16, 8, 4, 1), SIZES, strict=True)
    return torch.cat([multibox_prior((n, n), s, RATIOS, device=device) for n, s in levels])


def assign_in_pytorch(anchors: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    """The book's assignment of anchors, for one image."""
    iou = torchvision.ops.box_iou(anchors, boxes)
    best, index = iou.max(dim=1)
    matched = torch.where(best >= threshold, index, -1)
    for _ in range(len(boxes)):
        flat = int(iou.argmax())
        anchor, gt = divmod(flat, len(boxes))
        matched[anchor] = gt
        iou[anchor, :] = -1
        iou[:, gt] = -1
    return matched


def assign_batch_in_pytorch(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The book's assignment of anchors, in a Python loop over the batch."""
    return torch.stack([assign_in_pytorch(anchors, image_boxes, 0.5) for image_boxes in boxes])


def target_in_pytorch(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The book's training targets, in a Python loop over the batch."""
    offsets, masks, classes = [], [], []
    for rows in labels:
        matched = assign_in_pytorch(anchors, rows[:, 1:], 0.5)
        positive = matched >= 0
        gt = rows[matched.clamp(min=0)]
        mask = positive[:, None].float().repeat(1, 4)
        offsets.append((encode_boxes(gt[:, 1:], anchors) * mask).flatten())
        masks.append(mask.flatten())
        classes.append(torch.where(positive, gt[:, 0].long() + 1, 0))
    return torch.stack(offsets), torch.stack(masks), torch.stack(classes)


def detect_in_pytorch(probabilities: Tensor, offsets: Tensor, anchors: Tensor) -> Tensor:
    """The book's detection, in a Python loop over the batch, with torchvision's suppression."""
    results = []
    for probability, offset in zip(probabilities, offsets.unflatten(1, (-1, 4)), strict=True):
        confidence, label = probability[1:].max(dim=0)
        boxes = decode_boxes(offset, anchors)
        kept = torchvision.ops.nms(boxes, confidence, 0.5)
        is_kept = torch.zeros_like(label, dtype=torch.bool).index_fill_(0, kept, True)
        order = torch.cat([kept, (~is_kept).nonzero()[:, 0]])
        low = confidence < 0.009999999
        classes = torch.where(is_kept & ~low, label, -1).float()
        confidence = torch.where(low, 1 - confidence, confidence)
        results.append(torch.cat([classes[:, None], confidence[:, None], boxes], dim=1)[order])
    return torch.stack(results)


def multibox_cases(device: str) -> Iterator[Case]:
    """Matching, targets and detections of a batch of 32 images on TinySSD's anchors."""
    generator = torch.Generator().manual_seed(3)
    anchors = banana_anchors(device)
    for count in (1, 20):
        boxes = random_boxes(32 * count, generator, device).clamp(0, 800) / 800
        boxes = boxes.view(32, count, 4)
        classes = torch.randint(5, (32, count, 1), generator=generator).to(device).float()
        labels = torch.cat([classes, boxes], dim=2)
        yield Case(
            "match_anchors",
            f"32 x 5444 x {count}",
            "per-image PyTorch",
            partial(cvlib.match_anchors, anchors, boxes),
            partial(assign_batch_in_pytorch, anchors, boxes),
            partial(_match_anchors_reference, anchors, boxes, 0.5),
            equal,
        )
        yield Case(
            "multibox_target",
            f"32 x 5444 x {count}",
            "per-image PyTorch",
            partial(cvlib.multibox_target, anchors, labels),
            partial(target_in_pytorch, anchors, labels),
            partial(_multibox_target_reference, anchors, labels, 0.5, *VARIANCES),
            close,
        )
    probabilities = (torch.randn(32, 2, 5444, generator=generator) * 3).softmax(dim=1).to(device)
    offsets = (torch.randn(32, 4 * 5444, generator=generator) * 0.3).to(device)
    settings = (0.5, 0.009999999, *VARIANCES)
    yield Case(
        "multibox_detection",
        "32 x 5444",
        "per-image PyTorch",
        partial(cvlib.multibox_detection, probabilities, offsets, anchors),
        partial(detect_in_pytorch, probabilities, offsets, anchors),
        partial(_multibox_detection_reference, probabilities, offsets, anchors, *settings),
        close,
    )
