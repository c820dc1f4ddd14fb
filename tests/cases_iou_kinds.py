"""The kinds of IoU, boxes and their oracle, for the tests of values and of gradients."""

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
import torchvision

from cvlib.ops import complete_box_iou, distance_box_iou, generalized_box_iou

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FUNCTIONS = {1: generalized_box_iou, 2: distance_box_iou, 3: complete_box_iou}
every_kind = pytest.mark.parametrize(
    "kind", FUNCTIONS, ids=lambda kind: FUNCTIONS[kind].__name__.removesuffix("_box_iou")
)


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).to(device)


def random_boxes(rng, n, device, dtype=torch.float32, **options):
    return boxes_tensor(oracles.random_boxes(rng, n, **options).reshape(n, 4), device, dtype)


def oracle(boxes1, boxes2, kind):
    arrays = oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)
    return torch.from_numpy(oracles_iou.of_all_pairs(*arrays, kind))


def assert_near(actual, expected, tolerance, label=None):
    torch.testing.assert_close(
        actual.detach().cpu().double(),
        expected.detach().cpu().double(),
        **tolerance,
        msg=None if label is None else lambda text: f"{label}: {text}",
    )


LAYOUTS = {
    "every second row": lambda boxes: boxes.repeat_interleave(2, 0)[::2],
    "column-major": lambda boxes: boxes.t().contiguous().t(),
    "columns of a wider matrix": lambda boxes: torch.cat([boxes, boxes], 1)[:, 4:],
    "reversed memory": lambda boxes: boxes.flip(0).contiguous().flip(0),
    "offset in storage": lambda boxes: torch.cat([boxes[:1], boxes])[1:],
}
THEIRS = {
    1: torchvision.ops.generalized_box_iou,
    2: torchvision.ops.distance_box_iou,
    3: torchvision.ops.complete_box_iou,
}


def torchvision_tolerance(dtype, kind, tolerances):
    """Looser for complete IoU: torchvision adds 1e-7 to the denominator of the weight as well."""
    return (
        {"rtol": 1e-6, "atol": 1e-6} if (dtype, kind) == (torch.float64, 3) else tolerances[dtype]
    )


def gradients(function, boxes1, boxes2, weight=None):
    a, b = boxes1.detach().requires_grad_(), boxes2.detach().requires_grad_()
    iou = function(a, b)
    return torch.autograd.grad(iou, (a, b), torch.ones_like(iou) if weight is None else weight)
