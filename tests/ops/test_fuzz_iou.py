"""Hundreds of small random calls of the IoU family, native and reference, against the oracles."""

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
from fuzzing import FACTOR, clear_of_overflow, random_dtype, random_grid_boxes, run

from cvlib.ops import (
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    max_iou,
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)
from cvlib.ops.iou import (
    _box_iou_backward_reference,
    _box_iou_reference,
    _max_iou_reference,
)
from cvlib.ops.paired_iou import _paired_iou_backward_reference, _paired_iou_reference

OF_ALL_PAIRS = (box_iou, generalized_box_iou, distance_box_iou, complete_box_iou)
OF_PAIRS = (
    paired_box_iou,
    paired_generalized_box_iou,
    paired_distance_box_iou,
    paired_complete_box_iou,
)
LOWEST = (0.0, -1.0, -1.0, -2.0)


def random_count(rng, largest=12):
    """Mostly few, so that a failure can be read; now and then a few times a vector register."""
    return int(rng.integers(0, largest)) if rng.random() < 0.97 else int(rng.integers(40, 70))


def random_boxes(rng, *shape):
    """Half of them on a grid: ties, equal boxes, points and lines. No square is subnormal."""
    if rng.random() < 0.5:
        return random_grid_boxes(rng, *shape, factor=2.0 ** rng.integers(-20, 20))
    corner = rng.normal(size=(*shape, 2)) * 10.0 ** rng.uniform(-1, 1)
    boxes = np.concatenate([corner, corner + 10.0 ** rng.uniform(-1, 1, (*shape, 2))], -1)
    if rng.random() < 0.3:  # some without one side, or without both
        no_width, no_height = rng.random((2, *shape)) < 0.3
        boxes[no_width, 2] = boxes[no_width, 0]
        boxes[no_height, 3] = boxes[no_height, 1]
    return boxes * 10.0 ** rng.uniform(-18, 15) + rng.choice([0, 0, 0, 1e5, -1e7])


def tensor(array, device, dtype):
    return torch.as_tensor(np.asarray(array, np.float64)).to(dtype).to(device)


def assert_near(actual, expected, tolerance, *, factor=1.0):
    actual, expected = (np.asarray(x.detach().cpu().double()) * factor for x in (actual, expected))
    np.testing.assert_allclose(actual, expected, **tolerance)


def fuzz_of_all_pairs(rng, device, tolerances):
    dtype, kind = random_dtype(rng), int(rng.integers(0, 4))
    n, m = random_count(rng), random_count(rng)
    rows = clear_of_overflow(random_boxes(rng, n + m), dtype)
    a, b = tensor(rows, device, dtype).split([n, m])
    arrays = oracles.to_numpy(a), oracles.to_numpy(b)
    expected = torch.from_numpy(oracles_iou.of_all_pairs(*arrays, kind))
    for iou in (OF_ALL_PAIRS[kind](a, b), _box_iou_reference(a, b, kind)):
        assert_near(iou, expected, tolerances[iou.dtype])
        assert ((iou >= LOWEST[kind]) & (iou <= 1)).all()
    if kind:
        assert (OF_ALL_PAIRS[kind](a, b) <= box_iou(a, b)).all()


def fuzz_of_pairs(rng, device, tolerances):
    dtype, kind = random_dtype(rng), int(rng.integers(0, 4))
    shape = [(random_count(rng, 40),), (), (2, random_count(rng))][rng.integers(0, 3)]
    rows = clear_of_overflow(random_boxes(rng, 2, *shape), dtype)
    a, b = tensor(rows, device, dtype)
    arrays = oracles.to_numpy(a), oracles.to_numpy(b)
    expected = torch.from_numpy(np.asarray(oracles_iou.of_pairs(*arrays, kind)))
    for iou in (OF_PAIRS[kind](a, b), _paired_iou_reference(a, b, kind)):
        assert iou.shape == shape
        assert_near(iou, expected, tolerances[iou.dtype])
    flat = a.reshape(-1, 4), b.reshape(-1, 4)
    native = OF_PAIRS[kind](a, b).flatten()
    assert torch.equal(native, OF_ALL_PAIRS[kind](*flat).diagonal())


def fuzz_max_iou(rng, device, tolerances):
    dtype = random_dtype(rng)
    n, m = random_count(rng), random_count(rng, 30)
    rows = clear_of_overflow(random_boxes(rng, n + m), dtype)
    a, b = tensor(rows, device, dtype).split([n, m])
    expected = oracles.box_iou(oracles.to_numpy(a), oracles.to_numpy(b))
    for values, indices in (max_iou(a, b), _max_iou_reference(a, b)):
        assert indices.tolist() == (expected.argmax(1).tolist() if m else [-1] * n)
        assert values.tolist() == (expected.max(1).tolist() if m else [0] * n)


def fuzz_gradients(rng, device, tolerances):
    """Boxes with an area, at scales where its square neither overflows nor is subnormal."""
    dtype = (torch.float32, torch.float64)[rng.integers(0, 2)]
    kind, n, m = int(rng.integers(0, 4)), random_count(rng), random_count(rng)
    if rng.random() < 0.5:
        rows, scale = random_grid_boxes(rng, n + m, smallest=1), 2.0 ** rng.integers(-20, 20)
    else:
        corner = rng.normal(size=(n + m, 2)) * 3
        rows = np.concatenate([corner, corner + rng.uniform(0.5, 5, (n + m, 2))], 1)
        scale = 10.0 ** rng.uniform(-8, 8)
    a, b = tensor(rows * scale, device, dtype).split([n, m])
    weight = tensor(rng.normal(size=(n, m)), device, dtype)
    wide = [boxes.cpu().double().requires_grad_() for boxes in (a, b)]
    formula = oracles_iou.differentiable_of_all_pairs(*wide, kind)
    expected = torch.autograd.grad(formula, wide, weight.cpu().double())
    for gradients in (
        torch.ops.cvlib.box_iou_backward(weight, a, b, kind),
        _box_iou_backward_reference(weight, a, b, kind),
    ):
        for mine, other in zip(gradients, expected, strict=True):
            assert_near(mine, other, tolerances[dtype], factor=scale)
    n = min(n, m)
    a, b, weight = a[:n], b[:n], weight.diagonal()
    wide = [boxes.cpu().double().requires_grad_() for boxes in (a, b)]
    formula = oracles_iou.differentiable(*wide, kind)
    expected = torch.autograd.grad(formula, wide, weight.cpu().double())
    for gradients in (
        torch.ops.cvlib.paired_iou_backward(weight, a, b, kind),
        _paired_iou_backward_reference(weight, a, b, kind),
    ):
        for mine, other in zip(gradients, expected, strict=True):
            assert_near(mine, other, tolerances[dtype], factor=scale)


# Calls of a test; together 750.
CALLS = {fuzz_of_all_pairs: 250, fuzz_of_pairs: 200, fuzz_max_iou: 150, fuzz_gradients: 150}


@pytest.mark.parametrize("fuzzer", CALLS, ids=lambda fuzzer: fuzzer.__name__)
def test_random_calls(device, fuzzer, tolerances):
    run(fuzzer, device, tolerances, calls=FACTOR * CALLS[fuzzer], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("fuzzer", CALLS, ids=lambda fuzzer: fuzzer.__name__)
def test_many_random_calls(device, fuzzer, tolerances):
    run(fuzzer, device, tolerances, calls=50 * CALLS[fuzzer], seed=1)
