"""Cases of the IoU family."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision

import cvlib
from bench_cases.case import Case, equal, random_boxes, size_in_bytes
from cvlib.ops.iou import _box_iou_reference


def iou_cases(device: str) -> Iterator[Case]:
    """Pairwise IoU."""
    generator = torch.Generator().manual_seed(0)
    for n, m in ((1000, 1000), (8732, 50), (100_000, 100)):
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
