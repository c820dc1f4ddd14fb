"""What a benchmark case is, the boxes that cases are made of, and when two results agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One measurement: cvlib's call, the peer's and the reference's, and when two results agree.

    ``bytes_moved`` and ``operations`` say what the task itself asks for, however it is done: every
    input byte read once and every output byte written once; multiplications and additions. From
    them follows how long a perfect kernel would take on the machine.
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
    """Bytes of all these tensors."""
    return sum(one.numel() * one.element_size() for one in tensors)


def random_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Boxes of 16 to 144 pixels anywhere in an 800 x 800 image."""
    center = torch.rand(count, 2, generator=generator) * 800
    side = 16 + torch.rand(count, 2, generator=generator) * 128
    return torch.cat([center - side / 2, center + side / 2], dim=1).to(device)


def random_scores(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Scores without ties, because torchvision's order of ties depends on the number of boxes."""
    return (torch.randperm(count, generator=generator) / count).to(device)


def clustered_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Boxes jittered around 500 objects, as a detector gives them before suppression."""
    objects = random_boxes(500, generator, "cpu")[torch.randint(500, (count,), generator=generator)]
    jitter = torch.randn(count, 4, generator=generator) * 0.05
    sides = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    moved = objects + jitter * sides
    return torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2])], dim=1).to(device)


def close(a: Any, b: Any) -> bool:
    """Tensors, or tuples of them, that agree but for rounding; decisions must be equal."""
    try:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    except AssertionError:
        return False
    return True


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit."""
    return torch.equal(a, b)
