"""Cases of non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision

import cvlib
from bench_cases.case import (
    Case,
    clustered_boxes,
    equal,
    random_boxes,
    random_scores,
    size_in_bytes,
)
from cvlib.ops.nms import _nms_reference

# The reference takes one Python step per kept box.
_MAX_REFERENCE_BOXES = 10_000


def nms_cases(device: str) -> Iterator[Case]:
    """Suppression of random and clustered boxes, with and without a limit."""
    generator = torch.Generator().manual_seed(1)
    kinds = [("random", random_boxes, n) for n in (10, 100, 1000, 10_000, 50_000)]
    kinds += [("clustered", clustered_boxes, n) for n in (10_000, 50_000)]
    for kind, make, n in kinds:
        boxes = make(n, generator, device)
        scores = random_scores(n, generator, device)
        reference = partial(_nms_reference, boxes, scores, None, None, 0.5, -1)
        yield Case(
            "nms",
            f"{n} {kind}",
            "torchvision",
            partial(cvlib.nms, boxes, scores, 0.5),
            partial(torchvision.ops.nms, boxes, scores, 0.5),
            reference if n <= _MAX_REFERENCE_BOXES else None,
            equal,
            bytes_moved=size_in_bytes(boxes, scores),
        )
    boxes, scores = (make(50_000, generator, device) for make in (random_boxes, random_scores))
    yield Case(
        "nms",
        "50000 random, best 300",
        "torchvision, sliced",
        partial(cvlib.nms, boxes, scores, 0.5, max_output=300),
        lambda: torchvision.ops.nms(boxes, scores, 0.5)[:300],
        None,
        equal,
        bytes_moved=size_in_bytes(boxes, scores),
    )


def batched_nms_cases(device: str) -> Iterator[Case]:
    """Suppression per class."""
    generator = torch.Generator().manual_seed(2)
    for n in (1000, 10_000, 50_000):
        boxes = random_boxes(n, generator, device)
        scores = random_scores(n, generator, device)
        labels = torch.randint(80, (n,), generator=generator).to(device)
        reference = partial(_nms_reference, boxes, scores, labels, None, 0.5, -1)
        yield Case(
            "batched_nms",
            f"{n}, 80 classes",
            "torchvision",
            partial(cvlib.batched_nms, boxes, scores, labels, 0.5),
            partial(torchvision.ops.batched_nms, boxes, scores, labels, 0.5),
            reference if n <= _MAX_REFERENCE_BOXES else None,
            equal,
            bytes_moved=size_in_bytes(boxes, scores, labels),
        )
