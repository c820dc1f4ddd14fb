"""Boxes, scenes and wrong arguments for the tests of match_anchors and multibox_*."""

import numpy as np
import torch

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
VARIANCES = (0.1, 0.1, 0.2, 0.2)


def to_tensor(values, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(values, np.float64)).to(dtype).to(device)


def real_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def grid_boxes(rng, *shape, smallest=0):
    """Corners on a grid of 1/16, exact in every dtype."""
    corner = rng.integers(0, 11, (*shape, 2))
    return np.concatenate([corner, corner + rng.integers(smallest, 6, (*shape, 2))], -1) / 16


ANCHORS = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
