"""Generators shared by the fuzzers: dtypes, thresholds, counts and boxes."""

import numpy as np
import torch

_DTYPES = [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]
_ROUND_THRESHOLDS = [0.0, 1 / 7, 0.2, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.7, 1.0]


def random_dtype(rng):
    return _DTYPES[rng.integers(len(_DTYPES))]


def random_threshold(rng):
    return float(rng.choice(_ROUND_THRESHOLDS) if rng.random() < 0.7 else rng.random())


def random_count(rng, limit, *, small=0.97, large=(60, 110)):
    """Usually below `limit`, so that failures are readable; otherwise several registers long."""
    return int(rng.integers(0, limit)) if rng.random() < small else int(rng.integers(*large))


def random_limit(rng, limit):
    return None if rng.random() < 0.5 else int(rng.integers(0, limit))


def random_ids(rng, count, device):
    return None if rng.random() < 0.5 else torch.from_numpy(rng.integers(-1, 2, count)).to(device)


def random_grid_boxes(rng, *shape, smallest=0, factor=1.0):
    corner = rng.integers(-5, 9, (*shape, 2))
    return np.concatenate([corner, corner + rng.integers(smallest, 7, (*shape, 2))], -1) * factor


def random_boxes(rng, *shape, smallest=-2, flat=0.0):
    """Half of them on a grid: ties, equal boxes, points and lines.

    Args:
        rng: Generator.
        shape: Shape of the batch.
        smallest: Exponent of the smallest side before scaling.
        flat: Probability that some boxes lose one or both sides.
    """
    if rng.random() < 0.5:
        return random_grid_boxes(rng, *shape, factor=2.0 ** rng.integers(-20, 20))
    corner = rng.normal(size=(*shape, 2)) * 10.0 ** rng.uniform(-1, 1)
    boxes = np.concatenate([corner, corner + 10.0 ** rng.uniform(smallest, 1, (*shape, 2))], -1)
    if flat and rng.random() < flat:
        no_width, no_height = rng.random((2, *shape)) < flat
        boxes[no_width, 2] = boxes[no_width, 0]
        boxes[no_height, 3] = boxes[no_height, 1]
    return boxes * 10.0 ** rng.uniform(-18, 15) + rng.choice([0, 0, 0, 1e5, -1e7])


def tensors(arrays, device, dtype):
    """Convert arrays; values are clipped to the range of float16, whose overflow is not tested."""
    arrays = [np.asarray(array, np.float64) for array in arrays]
    if dtype == torch.float16:
        arrays = [array.clip(-6e4, 6e4) for array in arrays]
    return [torch.from_numpy(array).to(dtype).to(device) for array in arrays]
