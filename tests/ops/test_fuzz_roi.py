"""Hundreds of random calls of the RoI operators, native and reference, against the oracles."""

import numpy as np
import oracles_roi
import torch
from fuzzing import make_tests

from cvlib.ops.multiscale_roi import _choose_levels, multiscale_roi_align
from cvlib.ops.roi import _roi_align_reference, roi_align
from cvlib.ops.roi_pool import _roi_pool_reference, roi_pool


def random_scene(rng, device):
    """Maps that may be smaller or larger than a register, and regions on a grid or anywhere."""
    dtype = [torch.float32, torch.float64, torch.float16][rng.integers(3)]
    images, channels = int(rng.integers(1, 4)), int(rng.choice([1, 2, 7, 8, 9, 16, 17]))
    height, width = (int(rng.choice([1, 2, 3, 7, 16, 19])) for _ in range(2))
    maps = torch.from_numpy(rng.integers(-8, 9, (images, channels, height, width)) / 4)
    scale = float(rng.choice([1.0, 0.5, 0.3, 2.0]))
    extent = np.array([width, height]) / scale
    count = int(rng.integers(0, 4))
    rows = oracles_roi.random_regions(rng, count, images, extent, largest=1.3)
    if rng.random() < 0.3:
        rows = np.round(rows)
    maps = maps.to(dtype).to(device)
    if rng.random() < 0.5:
        maps = maps.to(memory_format=torch.channels_last)
    regions = torch.from_numpy(rows).to(dtype).to(device)
    bins = tuple(int(rng.choice([1, 2, 3, 7])) for _ in range(2))
    return maps, regions, bins, scale


def arrays(*tensors):
    return [
        (one.float() if one.dtype == torch.float16 else one).detach().cpu().numpy()
        for one in tensors
    ]


def assert_close(actual, expected):
    half = actual.dtype == torch.float16
    tolerance = 1e-2 if half else (1e-5 if actual.dtype == torch.float32 else 1e-10)
    actual = actual.detach().cpu().double().numpy()
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def fuzz_roi_align(rng, device):
    maps, regions, bins, scale = random_scene(rng, device)
    ratio, aligned = int(rng.choice([-1, 0, 1, 2, 3])), bool(rng.random() < 0.5)
    rule = scale, ratio, aligned
    expected = oracles_roi.roi_align(*arrays(maps, regions), bins, *rule)
    reference = _roi_align_reference(maps, regions, *bins, *rule)
    maps.requires_grad_()
    pooled = roi_align(maps, regions, bins, *rule)
    assert_close(pooled, expected)
    assert_close(reference, expected)
    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    expected = oracles_roi.roi_align_gradient(*arrays(weight, regions), maps.shape, *rule)
    assert_close(grad, expected)


def fuzz_roi_pool(rng, device):
    maps, regions, bins, scale = random_scene(rng, device)
    expected, places = oracles_roi.roi_pool(*arrays(maps, regions), bins, scale)
    reference, argmax = _roi_pool_reference(maps, regions, *bins, scale, True)
    assert np.array_equal(argmax.cpu().numpy(), places)
    assert_close(reference, expected)
    assert_close(roi_pool(maps, regions, bins, scale), expected)
    pooled = roi_pool(maps.requires_grad_(), regions, bins, scale)
    assert_close(pooled, expected)
    weight = torch.from_numpy(rng.integers(-8, 9, pooled.shape) / 4).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    weight, rows = arrays(weight, regions)
    assert_close(grad, oracles_roi.roi_pool_gradient(weight, places, rows, maps.shape))


def fuzz_multiscale(rng, device):
    maps, regions, bins, _ = random_scene(rng, device)
    features = [maps, maps[:, :, ::2, ::2], -maps]
    levels = sorted(int(one) for one in rng.choice(np.arange(-3, 4), 3, replace=False))
    numbers = float(rng.choice([1, 3, 10.5])), int(rng.integers(-1, 2))
    chosen = oracles_roi.choose_levels(*arrays(regions.double()), levels, *numbers)
    # At the edge of a level rounding decides, in another way in float16 than in float64.
    if regions.dtype == torch.float64:
        assert _choose_levels(regions, levels, *numbers).tolist() == chosen
        options = {"canonical_scale": numbers[0], "canonical_level": numbers[1]}
        pooled = multiscale_roi_align(features, regions, bins, levels, 2, **options)
        for k, index in enumerate(chosen):
            feature = arrays(features[index])[0]
            rows = arrays(regions[k : k + 1])[0]
            scale = 2.0 ** -levels[index]
            assert_close(pooled[k : k + 1], oracles_roi.roi_align(feature, rows, bins, scale, 2))


CALLS = {fuzz_roi_align: 120, fuzz_roi_pool: 120, fuzz_multiscale: 120}

test_random_calls, test_many_random_calls = make_tests(CALLS)
