"""Benchmark case, random boxes and comparisons of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Calls of cvlib, a peer and the reference that compute one result.

    ``bytes_moved`` and ``operations`` are what the task itself requires: each input byte read once
    and each output byte written once; multiplications and additions. They give the time that a
    perfect kernel would take on the machine.
    """

    operator: str
    name: str
    peer_name: str
    own: Call
    peer: Call
    reference: Call | None
    agree: Callable[[Any, Any], bool]
    bytes_moved: int = 0
    operations: int = 0


def size_in_bytes(*tensors: Tensor) -> int:
    """Return the total size of the tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def random_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Draw boxes of 16 to 144 pixels anywhere in an 800 x 800 image."""
    center = torch.rand(count, 2, generator=generator) * 800
    side = 16 + torch.rand(count, 2, generator=generator) * 128
    return torch.cat([center - side / 2, center + side / 2], dim=1).to(device)


def random_scores(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Draw scores without ties, whose order in torchvision depends on the number of boxes."""
    return (torch.randperm(count, generator=generator) / count).to(device)


def clustered_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Draw boxes jittered around 500 objects, like a detector's output before suppression."""
    objects = random_boxes(500, generator, "cpu")[torch.randint(500, (count,), generator=generator)]
    jitter = torch.randn(count, 4, generator=generator) * 0.05
    sides = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    moved = objects + jitter * sides
    return torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2])], dim=1).to(device)


def close(a: Any, b: Any) -> bool:
    """Whether tensors, or tuples of tensors, agree up to rounding."""
    try:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    except AssertionError:
        return False
    return True


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the last bit."""
    return torch.equal(a, b)
