"""The other kinds of IoU and their oracle, for the tests of values and of gradients."""

import oracles
import oracles_iou
import pytest
import torch
import torchvision

from cvlib.ops import complete_box_iou, distance_box_iou, generalized_box_iou

FUNCTIONS = {1: generalized_box_iou, 2: distance_box_iou, 3: complete_box_iou}
THEIRS = {
    1: torchvision.ops.generalized_box_iou,
    2: torchvision.ops.distance_box_iou,
    3: torchvision.ops.complete_box_iou,
}
every_kind = pytest.mark.parametrize(
    "kind", FUNCTIONS, ids=lambda kind: FUNCTIONS[kind].__name__.removesuffix("_box_iou")
)


def oracle(boxes1, boxes2, kind):
    arrays = oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)
    return torch.from_numpy(oracles_iou.of_all_pairs(*arrays, kind))


def torchvision_tolerance(dtype, kind, tolerances):
    """Looser for complete IoU: torchvision adds 1e-7 to the denominator of the weight as well."""
    return (
        {"rtol": 1e-6, "atol": 1e-6} if (dtype, kind) == (torch.float64, 3) else tolerances[dtype]
    )
