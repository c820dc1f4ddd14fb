"""Cases of rotated boxes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from bench_cases.case import Case, equal, random_scores, size_in_bytes
from cvlib.ops.nms_rotated import _nms_rotated_reference, batched_nms_rotated, nms_rotated
from cvlib.ops.rotated import (
    _box_iou_rotated_reference,
    _paired_box_iou_rotated_reference,
    box_iou_rotated,
    paired_box_iou_rotated,
)


def random_rotated_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Draw boxes with sides of 16 to 144 pixels and any angle, in an 800 x 800 image."""
    center = torch.rand(count, 2, generator=generator) * 800
    sides = 16 + torch.rand(count, 2, generator=generator) * 128
    angle = torch.rand(count, 1, generator=generator) * 360 - 180
    return torch.cat([center, sides, angle], dim=1).to(device)


def aerial_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Draw ten boxes around each object of a 1024 x 1024 aerial image, long and of many sizes."""
    objects = count // 10
    length = 10 ** (1 + 1.2 * torch.rand(objects, 1, generator=generator))
    ratio = 1 + 3 * torch.rand(objects, 1, generator=generator)
    center = torch.rand(objects, 2, generator=generator) * 1024
    angle = torch.rand(objects, 1, generator=generator) * 180
    boxes = torch.cat([center, length * ratio.sqrt(), length / ratio.sqrt(), angle], dim=1)
    boxes = boxes[torch.randint(objects, (count,), generator=generator)]
    jitter = torch.randn(count, 5, generator=generator)
    boxes[:, :2] += jitter[:, :2] * boxes[:, 2:4] * 0.1
    boxes[:, 2:4] *= (jitter[:, 2:4] * 0.1).exp()
    boxes[:, 4] += jitter[:, 4] * 5
    return boxes.to(device)


def greedy_over_torchvision(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy suppression with torchvision's IoU; torchvision has no NMS of rotated boxes."""
    remaining, kept = scores.argsort(descending=True, stable=True), []
    while len(remaining):
        best, remaining = remaining[:1], remaining[1:]
        kept.append(best)
        iou = torchvision.ops.box_iou(boxes[best], boxes[remaining], fmt="cxcywhr")[0]
        remaining = remaining[iou <= threshold]
    return torch.cat(kept)


def greedy_class_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float
) -> Tensor:
    """Suppress each class on its own, then sort all kept boxes by score."""
    kept = []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        kept.append(rows[greedy_over_torchvision(boxes[rows], scores[rows], threshold)])
    keep = torch.cat(kept)
    return keep[scores[keep].argsort(descending=True, stable=True)]


def nearly_all_close(a: Tensor, b: Tensor) -> bool:
    """Whether all but one value in 10,000 are close: torchvision sometimes loses corners.

    The IoU of (25.61398, 31.14142, 136.42062, 136.948, -102.00162) and (19.465956, 9.053608,
    138.0786, 88.23143, 164.36057) is 0.5701; torchvision 0.29.1 returns 0.2278.
    """
    return bool(((a - b).abs() > 1e-4).sum() <= 1e-4 * a.numel())


def rotated_iou_cases(device: str) -> Iterator[Case]:
    """IoU of all pairs and of matching pairs."""
    generator = torch.Generator().manual_seed(0)
    for n, m, kind in (
        (1000, 1000, "random"),
        (5000, 100, "random"),
        (1000, 1000, "all overlap"),
        (2, 2, "tiny"),
    ):
        a, b = (random_rotated_boxes(count, generator, device) for count in (n, m))
        if kind == "all overlap":
            a[:, :2], b[:, :2] = a[:, :2] / 16, b[:, :2] / 16
        yield Case(
            "box_iou_rotated",
            f"{n} x {m} {kind}",
            "torchvision",
            partial(box_iou_rotated, a, b),
            partial(torchvision.ops.box_iou, a, b, fmt="cxcywhr"),
            partial(_box_iou_rotated_reference, a, b),
            nearly_all_close,
            bytes_moved=size_in_bytes(a, b) + 4 * n * m,
            operations=(200 if kind == "all overlap" else 8) * n * m,
        )
    for n in (10_000, 2):
        a, b = (random_rotated_boxes(n, generator, device) for _ in range(2))
        b[:, :2] = a[:, :2] + b[:, :2] / 16
        yield Case(
            "paired_box_iou_rotated",
            f"{n}",
            "torchvision, blocks of 4",
            partial(paired_box_iou_rotated, a, b),
            partial(pairs_from_torchvision, a, b),
            partial(_paired_box_iou_rotated_reference, a, b),
            nearly_all_close,
            bytes_moved=size_in_bytes(a, b) + 4 * n,
            operations=280 * n,
        )


def pairs_from_torchvision(a: Tensor, b: Tensor) -> Tensor:
    """IoU of pairs from the diagonals of small matrices: torchvision has no paired IoU."""
    blocks = zip(a.split(4), b.split(4), strict=True)
    matrices = (torchvision.ops.box_iou(x, y, fmt="cxcywhr") for x, y in blocks)
    return torch.cat([matrix.diagonal() for matrix in matrices])


def rotated_nms_cases(device: str) -> Iterator[Case]:
    """Suppression of random boxes and of boxes in an aerial image."""
    generator = torch.Generator().manual_seed(1)
    for n, kind, threshold in (
        (5000, "random", 0.5),
        (5000, "random", 0.1),
        (5000, "aerial", 0.5),
        (5000, "aerial", 0.1),
        (300, "aerial", 0.1),
        (3, "random", 0.5),
    ):
        make = random_rotated_boxes if kind == "random" else aerial_boxes
        boxes, scores = make(n, generator, device), random_scores(n, generator, device)
        yield Case(
            "nms_rotated",
            f"{n} {kind}, {threshold}",
            "greedy over torchvision",
            partial(nms_rotated, boxes, scores, threshold),
            partial(greedy_over_torchvision, boxes, scores, threshold),
            partial(_nms_rotated_reference, boxes, scores, None, None, threshold, -1),
            equal,
        )
    boxes, scores = aerial_boxes(5000, generator, device), random_scores(5000, generator, device)
    labels = torch.randint(15, (5000,), generator=generator).to(device)
    yield Case(
        "batched_nms_rotated",
        "5000 aerial, 15 classes, 0.1",
        "greedy over torchvision",
        partial(batched_nms_rotated, boxes, scores, labels, 0.1),
        partial(greedy_class_by_class, boxes, scores, labels, 0.1),
        partial(_nms_rotated_reference, boxes, scores, labels, None, 0.1, -1),
        equal,
    )
