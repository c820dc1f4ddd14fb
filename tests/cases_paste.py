"""Masks, boxes and the oracle for the tests of paste_masks."""

import numpy as np
import oracles
import oracles_masks
import torch

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
HEIGHT, WIDTH = 23, 31


def random_scene(rng, n, cells=(7, 5), device="cpu", dtype=torch.float32, size=(HEIGHT, WIDTH)):
    """Masks and boxes of all sizes, many of them partly or completely outside the canvas."""
    extent = np.array([size[1], size[0]], np.float64)
    corner = rng.uniform(-0.6, 1.1, (n, 2)) * extent
    sides = rng.choice([0.02, 0.3, 1.0, 2.0], (n, 1)) * rng.random((n, 2)) * extent
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1)).to(device)
    masks = torch.from_numpy(rng.random((n, *cells))).to(device, dtype)
    return masks, boxes.to(torch.float64 if dtype == torch.float64 else torch.float32)


def oracle(masks, boxes, size, threshold=None):
    values, inside = oracles_masks.paste_masks(
        oracles.to_numpy(masks), oracles.to_numpy(boxes), size
    )
    if threshold is not None:
        values = (values.astype(np.float64) >= threshold) & inside
    return torch.from_numpy(values)
