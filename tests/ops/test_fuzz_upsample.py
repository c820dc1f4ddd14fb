"""Hundreds of small random calls of upsample_bilinear, native and reference, against the oracle."""

import numpy as np
import oracles_upsample
import pytest
import torch
from fuzzing import FACTOR, random_dtype, run

from cvlib.ops.upsample import _backward_reference, _reference, upsample_bilinear

FACTORS = [1 / 3, 0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.0000001, 3.0, 4.0]


def random_side(rng):
    """Mostly few pixels, so that a failure can be read; now and then several vector registers."""
    return int(rng.integers(1, 9) if rng.random() < 0.9 else rng.integers(30, 80))


def random_images(rng, device, dtype):
    channels = int(rng.choice([0, 1, 2, 3, 5, 16, 19], p=[0.02, 0.3, 0.2, 0.2, 0.1, 0.1, 0.08]))
    shape = int(rng.integers(0, 4)), channels, random_side(rng), random_side(rng)
    layout = rng.integers(5)
    if layout == 0:  # a crop of a larger image
        images = torch.from_numpy(rng.normal(size=(*shape[:2], shape[2] + 2, shape[3] + 3)))
        images = images[:, :, 1:-1, 2:-1]
    elif layout == 1:  # rows that are not dense
        images = torch.from_numpy(rng.normal(size=(*shape[:2], shape[3], shape[2]))).mT
    else:
        images = torch.from_numpy(rng.normal(size=shape))
    images = images.to(device, dtype)
    return images.contiguous(memory_format=torch.channels_last) if layout > 2 else images


def random_resize(rng, images):
    """Arguments of the public function, and what the operators make of them."""
    height, width = images.shape[2:]
    if rng.random() < 0.5:
        size = random_side(rng), random_side(rng)
        return {"size": size}, size, (0.0, 0.0)
    factors = tuple(float(one) for one in rng.choice(FACTORS, 2))
    size = int(height * factors[0]), int(width * factors[1])
    if min(size) < 1:
        return {"size": (1, 1)}, (1, 1), (0.0, 0.0)
    return {"scale_factor": factors}, size, factors


def as_array(tensor):
    return (tensor.float() if tensor.element_size() == 2 else tensor).cpu().numpy()


def fuzz_upsample_bilinear(rng, device, tolerances):
    dtype = random_dtype(rng)
    images, align_corners = random_images(rng, device, dtype), bool(rng.integers(2))
    keywords, size, factors = random_resize(rng, images)
    images.requires_grad_()
    resized = upsample_bilinear(images, align_corners=align_corners, **keywords)
    weight = torch.from_numpy(rng.normal(size=resized.shape)).to(device, dtype)
    (grad,) = torch.autograd.grad(resized, images, weight)
    images = images.detach()
    expected = oracles_upsample.upsample_bilinear(as_array(images), size, factors, align_corners)
    expected_grad = oracles_upsample.upsample_bilinear_backward(
        as_array(weight), tuple(images.shape[2:]), factors, align_corners
    )
    plain = _reference(images, *size, *factors, align_corners)
    plain_grad = _backward_reference(weight, *images.shape[2:], *factors, align_corners)
    for mine, oracle in (
        (resized, expected),
        (plain, expected),
        (grad, expected_grad),
        (plain_grad, expected_grad),
    ):
        assert mine.dtype == dtype
        actual = as_array(mine.detach()).astype(np.float64)
        np.testing.assert_allclose(actual, oracle, **tolerances[dtype])


def test_random_calls(device, tolerances):
    run(fuzz_upsample_bilinear, device, tolerances, calls=FACTOR * 300, seed=0)


@pytest.mark.slow
def test_many_random_calls(device, tolerances):
    run(fuzz_upsample_bilinear, device, tolerances, calls=50 * 300, seed=1)
