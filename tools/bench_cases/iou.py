"""Cases of the IoU family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

import cvlib
from bench_cases.case import Case, close, equal, random_boxes, size_in_bytes
from cvlib.ops._similarity import COMPLETE, DISTANCE, GENERALIZED
from cvlib.ops.iou import _box_iou_reference, _max_iou_reference

Similarity = Callable[..., Tensor]


def iou_cases(device: str) -> Iterator[Case]:
    """Pairwise IoU."""
    generator = torch.Generator().manual_seed(0)
    for n, m in ((2, 2), (1000, 1000), (8732, 50), (100_000, 100)):
        a, b = (random_boxes(count, generator, device) for count in (n, m))
        yield Case(
            "box_iou",
            f"{n} x {m}",
            "torchvision",
            partial(cvlib.box_iou, a, b),
            partial(torchvision.ops.box_iou, a, b),
            partial(_box_iou_reference, a, b),
            equal,
            bytes_moved=size_in_bytes(a, b) + 4 * n * m,
            operations=14 * n * m,
        )


def similarity_cases(device: str) -> Iterator[Case]:
    """Generalised, distance and complete IoU of all pairs."""
    generator = torch.Generator().manual_seed(5)
    a, b = (random_boxes(1000, generator, device) for _ in range(2))
    kinds: list[tuple[Similarity, Similarity, int]] = [
        (cvlib.ops.generalized_box_iou, torchvision.ops.generalized_box_iou, GENERALIZED),
        (cvlib.ops.distance_box_iou, torchvision.ops.distance_box_iou, DISTANCE),
        (cvlib.ops.complete_box_iou, torchvision.ops.complete_box_iou, COMPLETE),
    ]
    for own, peer, kind in kinds:
        yield Case(
            own.__name__,
            "1000 x 1000",
            "torchvision",
            partial(own, a, b),
            partial(peer, a, b),
            partial(_box_iou_reference, a, b, kind),
            close,
            bytes_moved=size_in_bytes(a, b) + 4 * 1_000_000,
            operations=30 * 1_000_000,
        )


def paired_cases(device: str) -> Iterator[Case]:
    """Losses of pairs of boxes and their gradients."""
    generator = torch.Generator().manual_seed(6)
    for n in (2, 100_000):
        targets = random_boxes(n, generator, device)
        moved = torch.randn(n, 2, generator=generator).repeat(1, 2).to(device) * 8
        boxes = (targets + moved).requires_grad_()
        kinds: list[tuple[Similarity, Similarity]] = [
            (cvlib.ops.paired_generalized_box_iou, torchvision.ops.generalized_box_iou_loss),
            (cvlib.ops.paired_distance_box_iou, torchvision.ops.distance_box_iou_loss),
            (cvlib.ops.paired_complete_box_iou, torchvision.ops.complete_box_iou_loss),
        ]
        for own, peer in kinds:
            yield Case(
                own.__name__,
                f"{n}, with gradient",
                "torchvision",
                partial(
                    _loss_and_gradient, lambda a, b, f=own: (1 - f(a, b)).sum(), boxes, targets
                ),
                partial(_loss_and_gradient, partial(peer, reduction="sum"), boxes, targets),
                None,
                close,
                # Boxes twice, the gradient of the loss and that of the boxes.
                bytes_moved=2 * size_in_bytes(boxes, targets) + 8 * n + 2 * size_in_bytes(boxes),
                operations=150 * n,
            )


def _loss_and_gradient(loss: Similarity, boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(boxes, targets)
    (gradient,) = torch.autograd.grad(value, boxes)
    return value.detach() / len(boxes), gradient


def max_iou_cases(device: str) -> Iterator[Case]:
    """The best ground truth of every anchor."""
    generator = torch.Generator().manual_seed(7)
    anchors, boxes = (random_boxes(n, generator, device) for n in (200_000, 50))
    yield Case(
        "max_iou",
        "200000 x 50",
        "torchvision's matrix",
        partial(cvlib.ops.max_iou, anchors, boxes),
        lambda: tuple(torchvision.ops.box_iou(anchors, boxes).max(dim=1)),
        partial(_max_iou_reference, anchors, boxes),
        lambda a, b: torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]),
        bytes_moved=size_in_bytes(anchors, boxes) + 12 * len(anchors),
        operations=14 * 50 * len(anchors),
    )
