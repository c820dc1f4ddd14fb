"""Functions, boxes and oracles of the IoU family pair by pair, for its tests."""

import oracles
import oracles_iou
import pytest
import torch
from cases_iou import assert_near, boxes_tensor, inf

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


def oracle(boxes1, boxes2, kind):
    arrays = oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)
    return torch.from_numpy(oracles_iou.of_pairs(*arrays, kind))


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
