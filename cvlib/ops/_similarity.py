"""Formulas of the IoU family in plain PyTorch, and the registration that its operators share.

Boxes have shape (..., 4) and broadcast. The order of operations is that of
``csrc/box_iou/iou_math.h``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cvlib._extension import library, refuse_gradient

# The kinds of csrc/box_iou/iou_math.h.
PLAIN, GENERALIZED, DISTANCE, COMPLETE = range(4)


def check_kind(kind: int) -> None:
    """Raises RuntimeError, as the kernels do, for an unknown kind."""
    if not PLAIN <= kind <= COMPLETE:
        raise RuntimeError(f"expected kind of IoU from 0 to 3, got {kind}")


def as_real(boxes: Tensor) -> Tensor:
    """Convert half types to float32, in which operators compute."""
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.zeros_like(values))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _shared_sides(a: Tensor, b: Tensor) -> Tensor:
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp(min=0)


def _hull_sides(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])


def _center_distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b)[..., :2] + (a - b)[..., 2:]) * 0.5


def _aspect_angle(boxes: Tensor) -> Tensor:
    """Angle of the diagonal, atan(width / height); 0 for a point."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    angle = _positive(torch.minimum(width, height) / torch.maximum(width, height)).atan()
    return torch.where(width > height, math.pi / 2 - angle, angle)


def _aspect_term(a: Tensor, b: Tensor, iou: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Difference of the angles of the diagonals, the aspect term v and its weight."""
    turn = _aspect_angle(a) - _aspect_angle(b)
    difference = 4 / math.pi**2 * turn**2
    return turn, difference, _positive(difference / (1 - iou + difference))


def similarity(a: Tensor, b: Tensor, kind: int) -> Tensor:
    """Return the IoU, or the variant of it that ``kind`` selects."""
    shared = _shared_sides(a, b).prod(-1)
    joined = _area(a) + _area(b) - shared
    iou = _positive(shared / joined)
    if kind == PLAIN:
        return iou
    hull = _hull_sides(a, b)
    if kind == GENERALIZED:
        return iou - _positive(1 - joined / hull.prod(-1))
    distance = _center_distance(a, b).square().sum(-1)
    value = iou - _positive(distance / hull.square().sum(-1))
    if kind == COMPLETE:
        _, difference, weight = _aspect_term(a, b, iou)
        value = value - weight * difference
    return value


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU matrix (N, M) of boxes (N, 4) and (M, 4)."""
    return similarity(a[:, None], b[None, :], PLAIN)


def _times(weight: Tensor, lengths: Tensor) -> Tensor:
    """Product in which a weight of 0 gives 0 even for an infinite length."""
    return torch.where(weight[..., None] == 0, 0, weight[..., None] * lengths)


def _is_measurable(areas: Tensor) -> Tensor:
    """Whether a gradient can be divided by these areas."""
    return (areas > 1000 * torch.finfo(areas.dtype).tiny) & areas.isfinite()


def similarity_gradient(grad: Tensor, a: Tensor, b: Tensor, kind: int) -> Tensor:
    """``grad`` x d(similarity) / d(corners of a), as ``add_gradient`` of the kernels.

    IoU = I / U with U = A + B - I; generalised IoU adds U / C, distance IoU subtracts D / E.
    """
    sides, size_a = _shared_sides(a, b), a[..., 2:] - a[..., :2]
    shared, total = sides.prod(-1), _area(a) + _area(b)
    union = total - shared
    overlap = (shared > 0) & _is_measurable(union)
    scale = torch.where(overlap, grad / union, 0)
    per_shared = torch.where(overlap, scale * (total / union), 0)
    per_area = torch.where(overlap, -scale * (shared / union), 0)
    half = (a == b) * 0.5
    inner = torch.cat([half[..., :2] + (a > b)[..., :2], half[..., 2:] + (a < b)[..., 2:]], dim=-1)
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=a.dtype, device=a.device)
    result = torch.zeros((*grad.shape, 4), dtype=a.dtype, device=a.device)
    if kind != PLAIN:
        hull = _hull_sides(a, b)
        if kind == GENERALIZED:
            area = hull.prod(-1)
            counts = _is_measurable(area)
            per_union = torch.where(counts, grad / area, 0)
            per_shared = per_shared - torch.where(overlap, per_union, 0)
            per_area = per_area + per_union
            per_hull = torch.where(counts, -per_union * (union / area), 0)
            per_side = _times(per_hull, hull.flip(-1))
        else:
            apart = _center_distance(a, b)
            diagonal = hull.square().sum(-1)
            counts = _is_measurable(diagonal)
            per_distance = torch.where(counts, -grad / diagonal, 0)
            share = torch.where(counts, apart.square().sum(-1) / diagonal, 0)
            per_side = _times(-per_distance * share * 2, hull)
            along = _times(per_distance, apart)
            result = result + torch.cat([along, along], dim=-1)
        # A corner that bounds the intersection does not bound the hull.
        result = result + torch.cat([per_side, per_side], dim=-1) * sign * (1 - inner)
    if kind == COMPLETE:
        turn, _, weight = _aspect_term(a, b, _positive(shared / union))
        square = size_a.square().sum(-1)
        counts = _is_measurable(square)
        per_turn = torch.where(counts, -grad * weight * (8 / math.pi**2) * turn / square, 0)
        along = _times(per_turn, size_a.flip(-1)) * torch.tensor([1.0, -1.0]).to(a)
        result = result + torch.cat([along, along], dim=-1) * sign
    along = _times(per_shared, sides.flip(-1))  # per unit of the shared width and height
    side = _times(per_area, size_a.flip(-1))
    both = torch.cat([along, along], dim=-1) * inner + torch.cat([side, side], dim=-1)
    return result + both * sign


def empty_gradients(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int = PLAIN
) -> tuple[Tensor, Tensor]:
    """Fake of the backward of every operator of the family."""
    return as_real(boxes1).new_empty(boxes1.shape), as_real(boxes2).new_empty(boxes2.shape)


def register_gradient(name: str) -> None:
    """Register ``cvlib::<name>_backward`` as the gradient of ``cvlib::<name>``."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        boxes1, boxes2, *ctx.kind = inputs
        ctx.save_for_backward(boxes1, boxes2)

    def gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes1, boxes2 = ctx.saved_tensors
        operator = getattr(torch.ops.cvlib, f"{name}_backward")
        grad1, grad2 = operator(grad, boxes1, boxes2, *ctx.kind)
        return grad1.to(boxes1.dtype), grad2.to(boxes2.dtype), *[None] * len(ctx.kind)

    torch.library.register_autograd(f"cvlib::{name}", gradient, setup_context=save, lib=library)
    refuse_gradient(f"{name}_backward")
