"""Arithmetic of rotated boxes in plain PyTorch.

Mirrors ``csrc/rotated/rotated_math.h``, which explains it, operation by operation in float64, so
that the reference and the kernels take the same decisions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RADIANS_PER_DEGREE = 0.017453292519943295
LARGEST_ANGLE = 1e9
SMALLEST_SIDE = 1e-140
_STEEP = 1e150
_ROUNDING = 2.0**-48
_FACTORIALS_OF_SINE = (1307674368000, 6227020800, 39916800, 362880, 5040, 120, 6)
_FACTORIALS_OF_COSINE = (87178291200, 479001600, 3628800, 40320, 720, 24, 2)


class Rotated(NamedTuple):
    """Precomputed values of each box; all fields have dtype float64 and one shape."""

    x: Tensor
    y: Tensor
    half_w: Tensor
    half_h: Tensor
    cosine: Tensor
    sine: Tensor
    extent_x: Tensor
    extent_y: Tensor
    span: Tensor
    area: Tensor

    def select(self, index: object) -> Rotated:
        """Index every field."""
        return Rotated(*(field[index] for field in self))  # type: ignore[index]


def _horner(y: Tensor, first: int, factorials: tuple[int, ...], sign: float) -> Tensor:
    value = torch.full_like(y, 1.0 / first)
    for factorial in factorials:
        value = value * y + sign * (1.0 / factorial)
        sign = -sign
    return value


def sine_and_cosine(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return sine and cosine of angles in degrees, exact at multiples of 90 degrees."""
    turns = torch.floor(degrees / 90.0 + 0.5)
    x = (degrees - 90.0 * turns) * RADIANS_PER_DEGREE
    y = x * x
    s = x + x * (y * _horner(y, 355687428096000, _FACTORIALS_OF_SINE, -1.0))
    c = 1.0 + _horner(y, 20922789888000, _FACTORIALS_OF_COSINE, -1.0) * y
    quarter = turns - 4.0 * torch.floor(turns / 4.0)
    is_odd = (quarter == 1) | (quarter == 3)
    cosine, sine = torch.where(is_odd, s, c), torch.where(is_odd, c, s)
    cosine = torch.where((quarter == 1) | (quarter == 2), -cosine, cosine)
    return torch.where(quarter >= 2, -sine, sine), cosine


def are_rotated_boxes(boxes: Tensor) -> Tensor:
    """Whether each box (..., 5) has no NaN, no negative side and an angle within the limit."""
    has_sides = (boxes[..., 2:4] >= 0).all(-1)
    return has_sides & ~boxes[..., :2].isnan().any(-1) & (boxes[..., 4].abs() <= LARGEST_ANGLE)


def read_rotated_boxes(boxes: Tensor) -> Rotated:
    """Precompute the values of boxes (cx, cy, w, h, angle) of any dtype, shape (..., 5)."""
    x, y, w, h, angle = boxes.double().unbind(-1)
    half_w, half_h = 0.5 * w, 0.5 * h
    sine, cosine = sine_and_cosine(angle)
    c, s = cosine.abs(), sine.abs()
    is_large = (w >= SMALLEST_SIDE) & (h >= SMALLEST_SIDE)
    area = torch.where(is_large, w * h, 0.0)
    return Rotated(
        x=x,
        y=y,
        half_w=half_w,
        half_h=half_h,
        cosine=cosine,
        sine=sine,
        extent_x=half_w * c + half_h * s,
        extent_y=half_w * s + half_h * c,
        span=half_w + half_h,
        area=torch.where(are_rotated_boxes(boxes), area, torch.nan),
    )


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b < a, b, a)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a < b, b, a)


def _comes_first(a: Rotated, b: Rotated) -> Tensor:
    first = a.sine < b.sine
    for value_a, value_b in (
        (a.cosine, b.cosine),
        (a.half_h, b.half_h),
        (a.y, b.y),
        (a.x, b.x),
        (a.span, b.span),
    ):
        first = (value_a < value_b) | ((value_a == value_b) & first)
    return first


def _reciprocal(value: Tensor) -> Tensor:
    return torch.where(value.abs() > 1.0 / _STEEP, 1.0 / value, _STEEP)


class _Edges(NamedTuple):
    dx: Tensor
    dy: Tensor
    per_x: Tensor
    per_y: Tensor
    reach_x: Tensor
    reach_y: Tensor


def _edges(dx: Tensor, dy: Tensor, half_w: Tensor, half_h: Tensor) -> _Edges:
    per_x, per_y = _reciprocal(dx), _reciprocal(dy)
    return _Edges(dx, dy, per_x, per_y, half_w * per_x.abs(), half_h * per_y.abs())


def _clamp_to(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _smaller(_larger(value, low), high)


def _integral_along(x: Tensor, y: Tensor, edge: _Edges, half_h: Tensor) -> Tensor:
    centre_x, centre_y = -x * edge.per_x, -y * edge.per_y
    zero, one = torch.zeros_like(centre_x), torch.ones_like(centre_x)
    begin = _clamp_to(centre_x - edge.reach_x, zero, one)
    end = _clamp_to(centre_x + edge.reach_x, zero, one)
    enter = _clamp_to(centre_y - edge.reach_y, begin, end)
    leave = _clamp_to(centre_y + edge.reach_y, begin, end)
    both = enter + leave
    within = (leave - enter) * (y + 0.5 * both * edge.dy)
    beyond = (begin + end - both) * torch.where(edge.dy < 0, -half_h, half_h)
    return edge.dx * (within + beyond)


def _largest_intersection(a: Rotated, b: Rotated) -> Tensor:
    sides = []
    for center_a, extent_a, center_b, extent_b in (
        (a.x, a.extent_x, b.x, b.extent_x),
        (a.y, a.extent_y, b.y, b.extent_y),
    ):
        side = extent_a + extent_b - (center_a - center_b).abs()
        side = _smaller(side, 2.0 * _smaller(extent_a, extent_b))
        sides.append(_larger(side, torch.zeros_like(side)))
    return _smaller(sides[0] * sides[1], _smaller(a.area, b.area))


class _Relative(NamedTuple):
    x: Tensor
    y: Tensor
    wx: Tensor
    wy: Tensor
    hx: Tensor
    hy: Tensor


def _in_axes_of(frame: Rotated, other: Rotated) -> _Relative:
    dx, dy = other.x - frame.x, other.y - frame.y
    cosine = other.cosine * frame.cosine + other.sine * frame.sine
    sine = other.sine * frame.cosine - other.cosine * frame.sine
    return _Relative(
        x=dx * frame.cosine - dy * frame.sine,
        y=dx * frame.sine + dy * frame.cosine,
        wx=other.half_w * cosine,
        wy=-(other.half_w * sine),
        hx=other.half_h * sine,
        hy=other.half_h * cosine,
    )


def _choose(first: Tensor, a: Rotated, b: Rotated) -> Rotated:
    return Rotated(*(torch.where(first, p, q) for p, q in zip(a, b, strict=True)))


def _intersection(a: Rotated, b: Rotated) -> Tensor:
    in_order = _comes_first(a, b)
    frame, other = _choose(in_order, a, b), _choose(in_order, b, a)
    r = _in_axes_of(frame, other)
    along_w = _edges(2.0 * r.wx, 2.0 * r.wy, frame.half_w, frame.half_h)
    along_h = _edges(2.0 * r.hx, 2.0 * r.hy, frame.half_w, frame.half_h)
    left_x, left_y, right_x, right_y = r.x - r.wx, r.y - r.wy, r.x + r.wx, r.y + r.wy
    top = _integral_along(left_x - r.hx, left_y - r.hy, along_w, frame.half_h)
    bottom = _integral_along(left_x + r.hx, left_y + r.hy, along_w, frame.half_h)
    left = _integral_along(left_x - r.hx, left_y - r.hy, along_h, frame.half_h)
    right = _integral_along(right_x - r.hx, right_y - r.hy, along_h, frame.half_h)
    shared = (bottom - top) + (left - right)
    rounding = _ROUNDING * (frame.span + other.span) * frame.span
    return torch.where(shared > rounding, _smaller(shared, _largest_intersection(a, b)), 0.0)


def _broadcast(a: Rotated, b: Rotated) -> tuple[Rotated, Rotated]:
    pairs = [torch.broadcast_tensors(p, q) for p, q in zip(a, b, strict=True)]
    return Rotated(*(p for p, _ in pairs)), Rotated(*(q for _, q in pairs))


def rotated_iou(a: Rotated, b: Rotated) -> Tensor:
    """IoU of boxes whose fields broadcast, float64; NaN becomes 0."""
    a, b = _broadcast(a, b)
    shared = _intersection(a, b)
    value = shared / (a.area + b.area - shared)
    return torch.where(value > 0, value, 0.0)


def _part_inside(
    x: Tensor, y: Tensor, edge: _Edges, length: Tensor, other: Rotated, slack: Tensor
) -> tuple[Tensor, Tensor]:
    centre_x, centre_y = -x * edge.per_x, -y * edge.per_y
    begin = _larger(centre_x - edge.reach_x, centre_y - edge.reach_y).clamp(min=0)
    end = _smaller(centre_x + edge.reach_x, centre_y + edge.reach_y).clamp(max=1)
    on_x = (edge.dx.abs() <= slack) & ((x.abs() - other.half_w).abs() <= slack)
    on_y = (edge.dy.abs() <= slack) & ((y.abs() - other.half_h).abs() <= slack)
    inside = (end - begin).clamp(min=0) * length
    counted = torch.where(on_x | on_y, 0.5 * inside, inside)
    return counted, counted * length * (0.5 * (begin + end) - 0.5)


def rotated_iou_gradient(box: Rotated, other: Rotated) -> Tensor:
    """Derivative (..., 5) of the IoU by the first box, as in ``rotated_gradient.h``."""
    box, other = _broadcast(box, other)
    shared = _intersection(box, other)
    total = box.area + other.area
    joined = total - shared
    slack = 4.0 * _ROUNDING * (box.span + other.span)
    r = _in_axes_of(other, box)
    wide, high = other.half_w + slack, other.half_h + slack
    along_w = _edges(2.0 * r.wx, 2.0 * r.wy, wide, high)
    along_h = _edges(2.0 * r.hx, 2.0 * r.hy, wide, high)
    w, h = 2.0 * box.half_w, 2.0 * box.half_h
    left_x, left_y, right_x, right_y = r.x - r.wx, r.y - r.wy, r.x + r.wx, r.y + r.wy
    top, top_moment = _part_inside(left_x - r.hx, left_y - r.hy, along_w, w, other, slack)
    bottom, bottom_moment = _part_inside(left_x + r.hx, left_y + r.hy, along_w, w, other, slack)
    left, left_moment = _part_inside(left_x - r.hx, left_y - r.hy, along_h, h, other, slack)
    right, right_moment = _part_inside(right_x - r.hx, right_y - r.hy, along_h, h, other, slack)
    counts = (shared > 0) & (joined > 0) & (total < torch.inf)
    per_shared, per_area = total / joined / joined, shared / joined / joined
    along_width, along_height = right - left, bottom - top
    turn = (right_moment - left_moment) - (bottom_moment - top_moment)
    result = torch.stack(
        [
            per_shared * (along_width * box.cosine + along_height * box.sine),
            per_shared * (along_height * box.cosine - along_width * box.sine),
            per_shared * (0.5 * (right + left)) - per_area * h,
            per_shared * (0.5 * (bottom + top)) - per_area * w,
            per_shared * turn * RADIANS_PER_DEGREE,
        ],
        dim=-1,
    )
    return torch.where(counts[..., None], result, 0.0)
