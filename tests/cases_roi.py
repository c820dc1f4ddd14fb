"""Maps and regions for the tests of roi_align, roi_pool and the pyramid."""

import numpy as np
import oracles_roi
import torch

nan, inf = float("nan"), float("inf")
REAL = [torch.float32, torch.float64]
DTYPES = [*REAL, torch.float16, torch.bfloat16]
FORMATS = [torch.contiguous_format, torch.channels_last]


def random_maps(rng, shape, device="cpu", dtype=torch.float32, memory_format=FORMATS[0]):
    maps = torch.from_numpy(rng.normal(size=shape)).to(dtype).to(device)
    return maps.contiguous(memory_format=memory_format)


def random_regions(rng, count, maps, scale=1.0, **options):
    extent = np.array([maps.shape[3], maps.shape[2]]) / scale
    rows = oracles_roi.random_regions(rng, count, maps.shape[0], extent, **options)
    return torch.from_numpy(rows).to(maps.dtype).to(maps.device)


def as_arrays(maps, regions):
    """Arrays in the dtype of the computation."""
    return [
        (one.float() if one.dtype in DTYPES[2:] else one).detach().cpu().numpy()
        for one in (maps, regions)
    ]


def close(actual, expected, dtype, tolerances):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(actual.detach().cpu().double(), expected, **tolerances[dtype])


MAPS = torch.zeros(2, 3, 8, 8)
GOOD = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 3, 3]])
