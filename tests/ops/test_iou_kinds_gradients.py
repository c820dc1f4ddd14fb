"""Generalised, distance and complete IoU of all pairs: gradients."""

import math
from functools import partial

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
from cases_iou import (
    DTYPES,
    LAYOUTS,
    assert_gradients,
    assert_near,
    boxes_tensor,
    check_derivative,
    formula_gradients,
    gradients,
    inf,
    random_boxes,
)
from cases_iou_kinds import FUNCTIONS, THEIRS, every_kind, oracle, torchvision_tolerance
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from cvlib.ops.iou import _box_iou_backward_reference

# --- matches torchvision


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_equals_torchvision(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, extent=200).requires_grad_() for n in (61, 47))
    weight = torch.from_numpy(rng.normal(size=(61, 47))).to(device, dtype)
    computed = torch.autograd.grad(FUNCTIONS[kind](a, b), (a, b), weight)
    expected = torch.autograd.grad(THEIRS[kind](a, b), (a, b), weight)
    for actual, other in zip(computed, expected, strict=True):
        assert_near(actual, other, torchvision_tolerance(dtype, kind, tolerances))


# --- CPU equals CUDA


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_on_the_cpu_equals_cuda(cuda, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, "cpu", dtype, extent=300) for n in (301, 203))
    weight = torch.from_numpy(rng.normal(size=(301, 203))).to(dtype)
    here = torch.ops.cvlib.box_iou_backward(weight, a, b, kind)
    there = torch.ops.cvlib.box_iou_backward(weight.to(cuda), a.to(cuda), b.to(cuda), kind)
    for actual, other in zip(there, here, strict=True):
        assert_near(actual, other, tolerances[dtype])


# --- reference equals native


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_of_the_backward_equals_native(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, extent=200) for n in (41, 77))
    b[:20] = a[:20]
    a[30:33, 2], a[32:35, 3] = a[30:33, 0], a[32:35, 1]
    weight = torch.from_numpy(rng.normal(size=(41, 77))).to(device)
    weight = weight.to(torch.float64 if dtype == torch.float64 else torch.float32)
    native = torch.ops.cvlib.box_iou_backward(weight, a, b, kind)
    reference = _box_iou_backward_reference(weight, a, b, kind)
    for actual, other, boxes in zip(reference, native, (a, b), strict=True):
        assert actual.dtype == other.dtype and actual.shape == other.shape == boxes.shape
        assert_near(actual, other, tolerances[actual.dtype])


@pytest.mark.parametrize("kind", range(4))
def test_reference_of_the_backward_equals_native_on_a_grid(device, kind, tolerances):
    # Every way in which two small boxes share edges, corners or one side, and those without area.
    sides = [(low, high) for low in range(4) for high in range(low, 4)]
    rows = [[x1, y1, x2, y2] for x1, x2 in sides for y1, y2 in sides]
    boxes = boxes_tensor(rows, device, torch.float64)
    weight = torch.rand(len(rows), len(rows), device=device, dtype=torch.float64)
    native = torch.ops.cvlib.box_iou_backward(weight, boxes, boxes, kind)
    reference = _box_iou_backward_reference(weight, boxes, boxes, kind)
    for actual, other in zip(reference, native, strict=True):
        assert other.isfinite().all()
        assert_near(actual, other, tolerances[torch.float64])


# --- gradients


# No two edges are equal.
POSITIONS = {
    "overlapping": ([[0.1, 0.2, 3.1, 2.5], [1.3, 0.9, 4.2, 5.1]], [[0.7, 0.4, 2.2, 3.3]]),
    "contained": ([[0.1, 0.2, 7.1, 8.5], [0.3, 0.1, 9.2, 6.1]], [[2.7, 1.4, 4.2, 3.3]]),
    "containing": ([[2.7, 1.4, 4.2, 3.3]], [[0.1, 0.2, 7.1, 8.5], [0.3, 0.1, 9.2, 6.1]]),
    "disjoint": ([[0.1, 0.2, 1.1, 2.5], [9.3, 9.1, 9.9, 9.7]], [[3.7, 4.4, 5.2, 6.3]]),
    "disjoint in x": ([[0.1, 0.2, 1.1, 2.5]], [[3.7, 0.4, 5.2, 2.3], [-3.7, 0.1, -2.2, 2.6]]),
    "disjoint in y": ([[0.1, 0.2, 2.5, 1.1]], [[0.4, 3.7, 2.3, 5.2], [0.05, -3.7, 2.6, -2.2]]),
    "crossing": ([[0.1, 2.2, 9.1, 3.5]], [[4.7, 0.4, 5.2, 8.3]]),
}


def expected_gradients(boxes1, boxes2, kind, weight=None):
    formula = partial(oracles_iou.differentiable_of_all_pairs, kind=kind)
    return formula_gradients(formula, boxes1, boxes2, weight)


@pytest.mark.parametrize("kind", range(4))
def test_differentiable_oracle_equals_the_oracle(kind, rng):
    boxes = random_boxes(rng, 30, "cpu", torch.float64, size=9, extent=9)
    boxes[:9] = boxes[:9].round()
    boxes[:9, 2:] += 1
    formula = oracles_iou.differentiable_of_all_pairs(boxes, boxes, kind)
    assert_near(formula, oracle(boxes, boxes, kind), {"rtol": 1e-12, "atol": 1e-12})


@pytest.mark.parametrize("kind", [1, 2], ids=["generalized", "distance"])
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS.keys())
def test_gradient_is_the_derivative(device, kind, position):
    a, b = (boxes_tensor(rows, device, torch.float64) for rows in position)
    check_derivative(FUNCTIONS[kind], a, b)


@every_kind
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS.keys())
def test_gradient_equals_that_of_the_formula(device, kind, position, tolerances):
    a, b = (boxes_tensor(rows, device, torch.float64) for rows in position)
    expected = expected_gradients(a, b, kind)
    assert_gradients(FUNCTIONS[kind], a, b, expected, tolerances[torch.float64])


def test_weight_of_the_aspect_term_is_a_constant(device):
    # Equal centres and one box within the other: the rest of the gradient is the IoU's.
    a, b = ([[-3.0, -1, 3, 1]], [[-1.0, -2.5, 1, 2.5]])
    a, b = boxes_tensor(a, device, torch.float64), boxes_tensor(b, device, torch.float64)
    iou, angle = box_iou(a, b).item(), math.atan(6 / 2) - math.atan(2 / 5)
    v = (2 / math.pi * angle) ** 2
    weight = v / (1 - iou + v)
    aspect = gradients(complete_box_iou, a, b)[0] - gradients(distance_box_iou, a, b)[0]
    # atan(w / h) changes with w by h / (w^2 + h^2), and with h by -w / (w^2 + h^2).
    slope = -weight * 8 / math.pi**2 * angle
    dw, dh = slope * 2 / 40, slope * -6 / 40
    expected = torch.tensor([[-dw, -dh, dw, dh]], dtype=torch.float64)
    torch.testing.assert_close(aspect.cpu(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", range(4))
@given(data=st.data())
def test_ties_share_their_gradient(device, kind, data):
    # Equal edges, equal boxes, touching boxes: all on a grid, all with an area.
    with_area = st.tuples(*[st.integers(-4, 4)] * 2, *[st.integers(1, 4)] * 2)
    a, b = (
        torch.tensor(
            [
                [x, y, x + w, y + h]
                for x, y, w, h in data.draw(st.lists(with_area, min_size=1, max_size=6))
            ]
        ).double()
        for _ in range(2)
    )
    weight = torch.arange(1, len(a) * len(b) + 1).reshape(len(a), len(b)).double() / 8
    function = FUNCTIONS.get(kind, box_iou)
    computed = gradients(function, a.to(device), b.to(device), weight.to(device))
    for actual, other in zip(computed, expected_gradients(a, b, kind, weight), strict=True):
        torch.testing.assert_close(actual.cpu(), other, rtol=1e-10, atol=1e-10)


def test_ties_by_hand(device):
    # Equal unit squares: what either direction of an edge would cost is halved, and cancels.
    one = boxes_tensor([[0, 0, 1, 1]], device, torch.float64)
    for function in (box_iou, *FUNCTIONS.values()):
        for grad in gradients(function, one, one):
            assert torch.equal(grad.cpu(), torch.zeros(1, 4).double())
    # Touching squares: the intersection has no gradient, so IoU has none at all.
    touching = boxes_tensor([[1, 0, 2, 1]], device, torch.float64)
    for grad in gradients(box_iou, one, touching):
        assert not grad.any()
    # GIoU = U / C - 1 with U = C = 2. In (x1, y1, x2, y2) of the left square dU = (-1, -1, 1, 1);
    # dC = (-1, -2/2, 0, 2/2), as the hull shares its top and bottom edge among both squares.
    # Together (dU - dC) / 2.
    left, right = gradients(generalized_box_iou, one, touching)
    assert torch.equal(left.cpu(), torch.tensor([[0, 0, 0.5, 0]]).double())
    assert torch.equal(right.cpu(), torch.tensor([[-0.5, 0, 0, 0]]).double())


DEGENERATE = {
    "identical": [[0, 0, 4, 4], [0, 0, 4, 4], [1, 2, 3, 9], [1, 2, 3, 9]],
    "points": [[2, 2, 2, 2], [2, 2, 2, 2], [5, 1, 5, 1], [0, 0, 4, 4]],
    "upright lines": [[1, 1, 1, 3], [1, 1, 1, 3], [1, 2, 1, 9], [0, 0, 4, 4], [2, 2, 2, 2]],
    "flat lines": [[1, 1, 3, 1], [1, 1, 3, 1], [2, 1, 9, 1], [0, 0, 4, 4], [2, 2, 2, 2]],
    "crossed lines": [[0, 2, 4, 2], [2, 0, 2, 4], [1, 1, 1, 1]],
    "far apart": [[0, 0, 1, 1], [1e6, 1e6, 1e6 + 1, 1e6 + 1], [-1e6, 0, -1e6 + 1, 1]],
}
UNBOUNDED = {
    "infinite": [[0, 0, inf, inf], [0, 0, 4, 4]],
    "all of the plane": [[-inf, -inf, inf, inf], [0, 0, 4, 4]],
    "at infinity": [[inf, inf, inf, inf], [0, 0, 4, 4]],
    "infinite strip": [[-inf, 0, inf, 1], [0, 0, 4, 4]],
    "infinite line": [[0, 0, inf, 0], [0, 0, 4, 4]],
    "area overflows": [[0, 0, 1e25, 1e25], [0, 0, 4, 4]],
    "square of the area overflows": [[0, 0, 1e13, 1e13], [1e12, 0, 2e13, 1e13]],
    "hull overflows": [[0, 0, 1, 1], [1e25, 1e25, 1.0001e25, 1.0001e25]],
    "tiny": [[0, 0, 1e-18, 1e-18], [0, 0, 1e-18, 1e-18], [0, 0, 4, 4]],
    "area is subnormal": [[0, 0, 1e-20, 1e-20], [0, 0, 1e-20, 1e-20]],
    "area underflows": [[0, 0, 1e-25, 1e-25], [0, 0, 1e-25, 1e-25], [0, 0, 4, 4]],
}


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("rows", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_at_degenerate_positions_is_finite(device, kind, rows, dtype):
    boxes = boxes_tensor(np.clip(rows, -6e4, 6e4), device, dtype)
    for grad in gradients(FUNCTIONS.get(kind, box_iou), boxes, boxes):
        assert grad.dtype == dtype and grad.isfinite().all()


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("rows", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_gradient_of_unbounded_and_tiny_boxes_is_finite(device, kind, rows):
    boxes = boxes_tensor(rows, device)
    for grad in gradients(FUNCTIONS.get(kind, box_iou), boxes, boxes):
        assert grad.isfinite().all()


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [-17, -9, -3, 0, 3, 9, 15])
def test_gradient_at_every_scale(device, kind, dtype, exponent, rng, tolerances):
    # Boxes that grow tenfold have a tenth of the gradient.
    scale = float(f"1e{exponent}")
    boxes = oracles.random_boxes(rng, 23, size=3, extent=4) * scale
    a, b = boxes_tensor(boxes[:11], device, dtype), boxes_tensor(boxes[11:], device, dtype)
    expected = expected_gradients(a, b, kind)
    for actual, other in zip(gradients(FUNCTIONS[kind], a, b), expected, strict=True):
        assert_near(actual.double() * scale, other * scale, tolerances[dtype])


@every_kind
def test_gradient_of_a_large_matrix_equals_that_of_the_formula(device, kind, rng, tolerances):
    a, b = (random_boxes(rng, n, device, torch.float64, extent=300) for n in (1203, 105))
    weight = torch.from_numpy(rng.normal(size=(1203, 105))).to(device)
    computed = gradients(FUNCTIONS[kind], a, b, weight)
    for actual, other in zip(computed, expected_gradients(a, b, kind, weight), strict=True):
        assert_near(actual, other, tolerances[torch.float64])


@every_kind
@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0, 0)])
def test_gradient_without_pairs_is_zero(device, kind, shape):
    a, b = (torch.ones(n, 4, device=device) for n in shape)
    for grad, boxes in zip(gradients(FUNCTIONS[kind], a, b), (a, b), strict=True):
        assert torch.equal(grad, torch.zeros_like(boxes))


@every_kind
def test_gradient_of_boxes_with_themselves_is_the_sum_of_both(device, kind, rng, tolerances):
    boxes = random_boxes(rng, 7, device, torch.float64, size=5, extent=4)
    leaf = boxes.clone().requires_grad_()
    (both,) = torch.autograd.grad(FUNCTIONS[kind](leaf, leaf).sum(), leaf)
    first, second = gradients(FUNCTIONS[kind], boxes, boxes)
    assert_near(both, first + second, tolerances[torch.float64])


@every_kind
def test_gradient_reaches_through_a_strided_weight(device, kind, rng, tolerances):
    a, b = (random_boxes(rng, n, device, torch.float64, size=5, extent=4) for n in (5, 6))
    weight = torch.from_numpy(rng.normal(size=(6, 5))).to(device)
    for strided in (weight.t(), torch.ones((), device=device, dtype=a.dtype).expand(5, 6)):
        computed = gradients(FUNCTIONS[kind], a, b, strided)
        plain = gradients(FUNCTIONS[kind], a, b, strided.contiguous())
        for actual, other in zip(computed, plain, strict=True):
            assert_near(actual, other, tolerances[torch.float64])


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_gradient_does_not_depend_on_memory_layout(device, kind, layout, rng):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (21, 18))
    weight = torch.ones(21, 18, device=device)
    expected = torch.ops.cvlib.box_iou_backward(weight, a, b, kind)
    for computed in (
        torch.ops.cvlib.box_iou_backward(weight, layout(a), layout(b), kind),
        torch.ops.cvlib.box_iou_backward(layout(weight), a, b, kind)
        if layout is not LAYOUTS["columns of a wider matrix"]
        else expected,
    ):
        assert all(
            torch.equal(actual, other) for actual, other in zip(computed, expected, strict=True)
        )


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_boxes_has_their_dtype(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, size=5, extent=4) for n in (5, 6))
    computed = gradients(FUNCTIONS[kind], a, b)
    for actual, other in zip(computed, expected_gradients(a, b, kind), strict=True):
        assert actual.dtype == dtype
        assert_near(actual, other, tolerances[dtype])


@every_kind
def test_changed_boxes_have_no_gradient(device, kind, rng):
    # What backward would compute from them is the derivative elsewhere.
    a, b = (random_boxes(rng, n, device) for n in (3, 4))
    leaf = a.clone().requires_grad_()
    moved = leaf * 1
    iou = FUNCTIONS[kind](moved, b)
    with torch.no_grad():
        moved += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        iou.sum().backward()


@every_kind
def test_second_derivative_is_refused(device, kind, rng):
    a, b = (
        random_boxes(rng, n, device, torch.float64, size=5, extent=4).requires_grad_()
        for n in (3, 4)
    )
    (first,) = torch.autograd.grad(FUNCTIONS[kind](a, b).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="box_iou_backward is not differentiable"):
        first.sum().backward()


# --- scalars reach the kernel


def test_kind_reaches_the_backward(device, rng):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (9, 8))
    weight = torch.ones(9, 8, device=device)
    results = [torch.ops.cvlib.box_iou_backward(weight, a, b, kind) for kind in range(4)]
    for kind, function in {0: box_iou, **FUNCTIONS}.items():
        actual = gradients(function, a, b)
        assert all(torch.equal(x, y) for x, y in zip(actual, results[kind], strict=True))
        assert not torch.allclose(results[kind][0], results[kind - 1][0])
