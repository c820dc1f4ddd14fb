"""Boxes and the oracle for the tests of the IoU of rotated boxes."""

import numpy as np
import oracles_rotated
import torch

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).reshape(-1, 5).to(dtype).to(device)


def random_boxes(rng, n, device, dtype=torch.float32, **options):
    return boxes_tensor(oracles_rotated.random_rotated_boxes(rng, n, **options), device, dtype)


def differentiable_boxes(rng, n, device, dtype=torch.float64):
    return random_boxes(rng, n, device, dtype, size=9, extent=8).requires_grad_()
