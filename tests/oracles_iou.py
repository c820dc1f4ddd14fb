"""The IoU family, one pair of boxes at a time, in float64, from the definitions in the papers.

Jaccard (1912): IoU. Rezatofighi et al. (2019), algorithm 1: generalised IoU. Zheng et al. (2020),
equations 6 and 7: distance IoU, equations 8 to 11: complete IoU. Where a definition divides 0 by 0
or infinity by infinity, cvlib defines the quotient as 0. Nothing here overflows where the boxes'
own dtype would not, as long as their sides are between about 1e-18 and 1e18.
"""

from __future__ import annotations

import math

import numpy as np
import torch

IOU, GENERALIZED, DISTANCE, COMPLETE = range(4)


def ratio(numerator: float, denominator: float) -> float:
    quotient = numerator / denominator if denominator != 0 else 0.0
    return 0.0 if math.isnan(quotient) else quotient


def length(low: float, high: float) -> float:
    """Extent of an interval; 0 where it is empty, or where both ends are the same infinity."""
    return high - low if high > low else 0.0


def iou_and_union(a, b) -> tuple[float, float]:
    width = length(max(a[0], b[0]), min(a[2], b[2]))
    height = length(max(a[1], b[1]), min(a[3], b[3]))
    intersection = width * height
    area_a = length(a[0], a[2]) * length(a[1], a[3])
    area_b = length(b[0], b[2]) * length(b[1], b[3])
    union = area_a + area_b - intersection
    return ratio(intersection, union), union


def hull_sides(a, b) -> tuple[float, float]:
    return (
        length(min(a[0], b[0]), max(a[2], b[2])),
        length(min(a[1], b[1]), max(a[3], b[3])),
    )


def generalized_iou(a, b) -> float:
    iou, union = iou_and_union(a, b)
    width, height = hull_sides(a, b)
    hull = width * height
    return iou - ratio(hull - union, hull)


def distance_iou(a, b) -> float:
    iou, _ = iou_and_union(a, b)
    width, height = hull_sides(a, b)
    # Between the centres. Differences first: far from the origin, sums would lose small boxes.
    dx = ((a[0] - b[0]) + (a[2] - b[2])) / 2
    dy = ((a[1] - b[1]) + (a[3] - b[3])) / 2
    return iou - ratio(dx * dx + dy * dy, width * width + height * height)


def complete_iou(a, b) -> float:
    iou, _ = iou_and_union(a, b)
    angle_a = math.atan2(length(a[0], a[2]), length(a[1], a[3]))  # atan(width / height); a point: 0
    angle_b = math.atan2(length(b[0], b[2]), length(b[1], b[3]))
    v = (2 / math.pi * (angle_a - angle_b)) ** 2
    return distance_iou(a, b) - ratio(v, 1 - iou + v) * v


OF_PAIR = (lambda a, b: iou_and_union(a, b)[0], generalized_iou, distance_iou, complete_iou)


def of_pairs(boxes1: np.ndarray, boxes2: np.ndarray, kind: int) -> np.ndarray:
    """IoU of boxes (..., 4) pair by pair: shape (...), in float64."""
    shape = boxes1.shape[:-1]
    rows1, rows2 = (boxes.astype(np.float64).reshape(-1, 4).tolist() for boxes in (boxes1, boxes2))
    values = [OF_PAIR[kind](a, b) for a, b in zip(rows1, rows2, strict=True)]
    return np.array(values, np.float64).reshape(shape)


def of_all_pairs(boxes1: np.ndarray, boxes2: np.ndarray, kind: int) -> np.ndarray:
    """IoU of boxes (N, 4) and (M, 4): shape (N, M), in float64."""
    n, m = len(boxes1), len(boxes2)
    return of_pairs(np.repeat(boxes1, m, 0), np.tile(boxes2, (n, 1)), kind).reshape(n, m)


def differentiable(boxes1: torch.Tensor, boxes2: torch.Tensor, kind: int) -> torch.Tensor:
    """Differentiable IoU in PyTorch, for boxes with an area and broadcast shapes (..., 4).

    ``minimum`` and ``maximum`` split the gradient between equal arguments. The weight of
    the aspect term is a constant, as in the paper's code; boxes that only touch have no gradient
    of their intersection.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = boxes1.unbind(-1), boxes2.unbind(-1)
    width = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
    height = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    overlap = (width > 0) & (height > 0)
    intersection = torch.where(overlap, width * height, torch.zeros_like(width))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    iou = intersection / union
    if kind == IOU:
        return iou
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == GENERALIZED:
        hull = hull_width * hull_height
        return iou - (hull - union) / hull
    dx, dy = ((ax1 - bx1) + (ax2 - bx2)) / 2, ((ay1 - by1) + (ay2 - by2)) / 2
    diou = iou - (dx**2 + dy**2) / (hull_width**2 + hull_height**2)
    if kind == DISTANCE:
        return diou
    angles = torch.atan2(ax2 - ax1, ay2 - ay1) - torch.atan2(bx2 - bx1, by2 - by1)
    v = 4 / math.pi**2 * angles**2
    weight = (v / (1 - iou + v)).detach()
    return diou - torch.where(v > 0, weight, torch.zeros_like(weight)) * v


def differentiable_of_all_pairs(boxes1, boxes2, kind: int) -> torch.Tensor:
    return differentiable(boxes1[:, None], boxes2[None], kind)
