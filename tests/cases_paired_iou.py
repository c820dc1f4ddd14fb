"""Functions, boxes and oracles of the IoU family pair by pair, for its tests."""

import numpy as np
import oracles
import oracles_iou
import pytest
import torch

from cvlib.ops import (
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FUNCTIONS = (
    paired_box_iou,
    paired_generalized_box_iou,
    paired_distance_box_iou,
    paired_complete_box_iou,
)
OF_ALL_PAIRS = (box_iou, generalized_box_iou, distance_box_iou, complete_box_iou)
LOWEST = (0.0, -1.0, -1.0, -2.0)
SHAPES = [(), (0,), (1,), (17,), (37,), (3, 0), (0, 3), (2, 3), (2, 3, 5), (1, 1, 1, 1)]
every_kind = pytest.mark.parametrize(
    "kind", range(4), ids=["plain", "generalized", "distance", "complete"]
)


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).to(device)


def random_boxes(rng, shape, device, dtype=torch.float32, **options):
    shape = (shape,) if isinstance(shape, int) else shape
    rows = oracles.random_boxes(rng, int(np.prod(shape)), **options)
    return boxes_tensor(rows.reshape(*shape, 4), device, dtype)


def oracle(boxes1, boxes2, kind):
    arrays = oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)
    return torch.from_numpy(oracles_iou.of_pairs(*arrays, kind))


def assert_near(actual, expected, tolerance):
    actual, expected = (x.detach().cpu().double() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, **tolerance)


def assert_matches(boxes1, boxes2, kind, tolerances):
    iou = FUNCTIONS[kind](boxes1, boxes2)
    assert iou.dtype == (torch.float64 if boxes1.dtype == torch.float64 else torch.float32)
    assert iou.shape == boxes1.shape[:-1] and iou.device == boxes1.device
    assert_near(iou, oracle(boxes1, boxes2, kind), tolerances[iou.dtype])
    return iou


POINTS_AND_LINES = [
    [1, 1, 1, 1],
    [1, 1, 1, 5],
    [1, 3, 1, 9],
    [1, 1, 5, 1],
    [7, 1, 8, 1],
    [0, 0, 0, 0],
    [0, 0, 5, 5],
    [1, 1, 5, 5],
    [-9, -9, 9, 9],
]
HUGE_AND_INFINITE = [
    [-inf, -inf, inf, inf],
    [0, 0, inf, 0],
    [0, 0, inf, 10],
    [inf, inf, inf, inf],
    [-inf, 0, -inf, 5],
    [0, 0, 3e38, 3e38],
    [-3e38, -1, 3e38, 1],
    [0, 0, 1e25, 1e25],
    [0, 0, 0, 0],
    [1, 1, 1, 5],
    [0, 0, 5, 5],
    [1e-30, 1e-30, 2e-30, 2e-30],
]


def all_with_all(rows, device, dtype):
    boxes = boxes_tensor(rows, device, dtype)
    shape = len(rows), len(rows), 4
    return boxes[:, None].expand(shape), boxes[None].expand(shape)


def gradients(function, boxes1, boxes2, weight=None):
    a, b = boxes1.detach().requires_grad_(), boxes2.detach().requires_grad_()
    iou = function(a, b)
    return torch.autograd.grad(iou, (a, b), torch.ones_like(iou) if weight is None else weight)
