"""The IoU family pair by pair: gradients."""

from functools import partial

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
from cases_iou import (
    DTYPES,
    assert_gradients,
    assert_near,
    boxes_tensor,
    check_derivative,
    formula_gradients,
    gradients,
    random_boxes,
)
from cases_paired_iou import (
    FUNCTIONS,
    HUGE_AND_INFINITE,
    POINTS_AND_LINES,
    all_with_all,
    every_kind,
)

# --- CPU equals CUDA


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_on_the_cpu_equals_cuda(cuda, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, 4001, "cpu", dtype, extent=100) for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=4001)).to(dtype)
    here = torch.ops.cvlib.paired_iou_backward(weight, a, b, kind)
    there = torch.ops.cvlib.paired_iou_backward(weight.to(cuda), a.to(cuda), b.to(cuda), kind)
    for actual, other in zip(there, here, strict=True):
        assert_near(actual, other, tolerances[dtype])


# --- gradients

# No two edges of a pair are equal.
GENERIC = {
    "overlapping": ([0.1, 0.2, 3.1, 2.5], [0.7, 0.4, 4.2, 3.3]),
    "contained": ([0.1, 0.2, 7.1, 8.5], [2.7, 1.4, 4.2, 3.3]),
    "containing": ([2.7, 1.4, 4.2, 3.3], [0.1, 0.2, 7.1, 8.5]),
    "disjoint": ([0.1, 0.2, 1.1, 2.5], [3.7, 4.4, 5.2, 6.3]),
    "disjoint in x": ([3.7, 0.4, 5.2, 2.3], [0.1, 0.2, 1.1, 2.5]),
    "disjoint in y": ([0.1, 0.2, 2.5, 1.1], [0.4, 3.7, 2.3, 5.2]),
    "crossing": ([0.1, 2.2, 9.1, 3.5], [4.7, 0.4, 5.2, 8.3]),
}


def expected_gradients(boxes1, boxes2, kind, weight=None):
    formula = partial(oracles_iou.differentiable, kind=kind)
    return formula_gradients(formula, boxes1, boxes2, weight)


@pytest.mark.parametrize("kind", range(3), ids=["plain", "generalized", "distance"])
@pytest.mark.parametrize("shape", [(4,), (7, 4), (7, 1, 4)], ids=str)
def test_gradient_is_the_derivative(device, kind, shape):
    pairs = boxes_tensor(list(GENERIC.values()), device, torch.float64)
    pairs = pairs[0] if shape == (4,) else pairs.unbind(1)
    a, b = (boxes.reshape(shape) for boxes in pairs)
    check_derivative(FUNCTIONS[kind], a, b)


@every_kind
@pytest.mark.parametrize("pair", GENERIC.values(), ids=GENERIC.keys())
def test_gradient_equals_that_of_the_formula(device, kind, pair, tolerances):
    a, b = (boxes_tensor(box, device, torch.float64) for box in pair)
    expected = expected_gradients(a, b, kind)
    assert_gradients(FUNCTIONS[kind], a, b, expected, tolerances[torch.float64])


@every_kind
def test_ties_share_their_gradient(device, kind, tolerances):
    # Every way in which boxes of at most 3 x 3 share edges, corners or one side.
    sides = [(low, high) for low in range(4) for high in range(low + 1, 4)]
    rows = [[x1, y1, x2, y2] for x1, x2 in sides for y1, y2 in sides]
    a, b = (x.contiguous() for x in all_with_all(rows, device, torch.float64))
    weight = torch.rand(a.shape[:-1], dtype=torch.float64).to(device)
    expected = expected_gradients(a, b, kind, weight)
    for actual, other in zip(gradients(FUNCTIONS[kind], a, b, weight), expected, strict=True):
        assert_near(actual, other, tolerances[torch.float64])


@every_kind
@pytest.mark.parametrize("shape", [(301,), (5, 61), (2, 3, 5)], ids=str)
def test_gradient_equals_that_of_all_pairs(device, kind, shape, rng, tolerances):
    a, b = (random_boxes(rng, shape, device, torch.float64, extent=100) for _ in range(2))
    n = a[..., 0].numel()
    weight = torch.from_numpy(rng.normal(size=shape)).to(device)
    expected = torch.ops.cvlib.box_iou_backward(
        weight.flatten().diag(), a.reshape(n, 4), b.reshape(n, 4), kind
    )
    for actual, other in zip(gradients(FUNCTIONS[kind], a, b, weight), expected, strict=True):
        assert_near(actual, other.reshape(actual.shape), tolerances[torch.float64])


DEGENERATE = {
    "points and lines": POINTS_AND_LINES,
    "identical": [[0, 0, 4, 4], [0, 0, 4, 4], [1, 2, 3, 9], [1, 2, 3, 9]],
    "far apart": [[0, 0, 1, 1], [1e6, 1e6, 1e6 + 1, 1e6 + 1], [-1e6, 0, -1e6 + 1, 1]],
}


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_gradient_at_degenerate_positions_is_finite(device, kind, rows, dtype):
    a, b = all_with_all(np.clip(rows, -6e4, 6e4), device, dtype)
    for grad in gradients(FUNCTIONS[kind], a, b):
        assert grad.dtype == dtype and grad.isfinite().all()


@every_kind
def test_gradient_of_huge_and_infinite_boxes_is_finite(device, kind):
    a, b = all_with_all(HUGE_AND_INFINITE, device, torch.float32)
    for grad in gradients(FUNCTIONS[kind], a, b):
        assert grad.isfinite().all()


@every_kind
@pytest.mark.parametrize("exponent", [-17, -9, 0, 9, 15])
def test_gradient_at_every_scale(device, kind, exponent, rng, tolerances):
    scale = float(f"1e{exponent}")
    boxes = boxes_tensor(oracles.random_boxes(rng, 200, size=3, extent=2) * scale, device)
    a, b = boxes[:100], boxes[100:]
    expected = expected_gradients(a, b, kind)
    for actual, other in zip(gradients(FUNCTIONS[kind], a, b), expected, strict=True):
        assert_near(actual.double() * scale, other * scale, tolerances[torch.float32])


@every_kind
def test_gradient_of_boxes_with_themselves_is_the_sum_of_both(device, kind, rng):
    boxes = random_boxes(rng, 7, device)
    leaf = boxes.clone().requires_grad_()
    (both,) = torch.autograd.grad(FUNCTIONS[kind](leaf, leaf.flip(0)).sum(), leaf)
    first, second = gradients(FUNCTIONS[kind], boxes, boxes.flip(0))
    torch.testing.assert_close(both, first + second.flip(0), rtol=1e-6, atol=1e-6)


@every_kind
def test_gradient_of_expanded_boxes_is_their_sum(device, kind, rng, tolerances):
    one = random_boxes(rng, (), device, torch.float64, extent=50).requires_grad_()
    many = random_boxes(rng, (3, 4), device, torch.float64, extent=50)
    (grad,) = torch.autograd.grad(FUNCTIONS[kind](one.expand(3, 4, 4), many).sum(), one)
    each = gradients(FUNCTIONS[kind], one.detach().expand(3, 4, 4).clone(), many)[0]
    assert_near(grad, each.sum((0, 1)), tolerances[torch.float64])


@every_kind
def test_gradient_reaches_through_a_strided_weight(device, kind, rng):
    a, b = (random_boxes(rng, (5, 6), device, size=5, extent=4) for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=(6, 5))).float().to(device)
    for strided in (
        weight.t(),
        weight[:1].t().expand(5, 6),
        torch.ones((), device=device).expand(5, 6),
    ):
        computed = gradients(FUNCTIONS[kind], a, b, strided)
        plain = gradients(FUNCTIONS[kind], a, b, strided.contiguous())
        assert all(
            torch.equal(actual, other) for actual, other in zip(computed, plain, strict=True)
        )


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_boxes_has_their_dtype(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, 40, device, dtype, size=5, extent=4) for _ in range(2))
    computed = gradients(FUNCTIONS[kind], a, b)
    for actual, other in zip(computed, expected_gradients(a, b, kind), strict=True):
        assert actual.dtype == dtype
        assert_near(actual, other, tolerances[dtype])


@every_kind
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)], ids=str)
def test_gradient_without_pairs_is_empty(device, kind, shape):
    a, b = (torch.ones(*shape, 4, device=device) for _ in range(2))
    assert all(grad.shape == a.shape for grad in gradients(FUNCTIONS[kind], a, b))


@every_kind
def test_second_derivative_is_refused(device, kind, rng):
    a, b = (random_boxes(rng, 3, device, extent=50).requires_grad_() for _ in range(2))
    (first,) = torch.autograd.grad(FUNCTIONS[kind](a, b).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="paired_iou_backward is not differentiable"):
        first.sum().backward()
