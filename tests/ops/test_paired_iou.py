"""The IoU family pair by pair: values, gradients, registration, errors."""

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.ops import (
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
    paired_box_iou,
    paired_complete_box_iou,
    paired_distance_box_iou,
    paired_generalized_box_iou,
)
from cvlib.ops.paired_iou import _paired_iou_backward_reference, _paired_iou_reference

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FUNCTIONS = (
    paired_box_iou,
    paired_generalized_box_iou,
    paired_distance_box_iou,
    paired_complete_box_iou,
)
OF_ALL_PAIRS = (box_iou, generalized_box_iou, distance_box_iou, complete_box_iou)
LOWEST = (0.0, -1.0, -1.0, -2.0)
SHAPES = [(), (0,), (1,), (17,), (37,), (3, 0), (0, 3), (2, 3), (2, 3, 5), (1, 1, 1, 1)]

every_kind = pytest.mark.parametrize(
    "kind", range(4), ids=["plain", "generalized", "distance", "complete"]
)


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).to(device)


def random_boxes(rng, shape, device, dtype=torch.float32, **options):
    shape = (shape,) if isinstance(shape, int) else shape
    rows = oracles.random_boxes(rng, int(np.prod(shape)), **options)
    return boxes_tensor(rows.reshape(*shape, 4), device, dtype)


def oracle(boxes1, boxes2, kind):
    arrays = oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)
    return torch.from_numpy(oracles_iou.of_pairs(*arrays, kind))


def assert_near(actual, expected, tolerance):
    actual, expected = (x.detach().cpu().double() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, **tolerance)


def assert_matches(boxes1, boxes2, kind, tolerances):
    iou = FUNCTIONS[kind](boxes1, boxes2)
    assert iou.dtype == (torch.float64 if boxes1.dtype == torch.float64 else torch.float32)
    assert iou.shape == boxes1.shape[:-1] and iou.device == boxes1.device
    assert_near(iou, oracle(boxes1, boxes2, kind), tolerances[iou.dtype])
    return iou


# --- matches the oracle -------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_oracle(device, kind, dtype, shape, rng, tolerances):
    a, b = (random_boxes(rng, shape, device, dtype, extent=100) for _ in range(2))
    assert_matches(a, b, kind, tolerances)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_oracle_for_every_rest_of_a_vector_register(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, 70, device, dtype, extent=100) for _ in range(2))
    expected = oracle(a, b, kind)
    for n in range(71):
        assert_near(FUNCTIONS[kind](a[:n], b[:n]), expected[:n], tolerances[dtype])


@every_kind
def test_matches_oracle_when_large(device, kind, rng, tolerances):
    a, b = (random_boxes(rng, (3, 70001), device, extent=100) for _ in range(2))
    iou = FUNCTIONS[kind](a, b)
    ends = slice(0, 70001, 69), slice(-40, None)
    for part in ends:
        expected = oracle(a[:, part], b[:, part], kind)
        assert_near(iou[:, part], expected, tolerances[a.dtype])


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_diagonal_of_all_pairs(device, kind, dtype, rng):
    a, b = (random_boxes(rng, 301, device, dtype, extent=100) for _ in range(2))
    b[:40] = a[:40]
    a[30:60, 2], a[50:90, 3] = a[30:60, 0], a[50:90, 1]
    assert torch.equal(FUNCTIONS[kind](a, b), OF_ALL_PAIRS[kind](a, b).diagonal())


LAYOUTS = {
    "every second row": lambda boxes: boxes.repeat_interleave(2, 1)[:, ::2],
    "every second image": lambda boxes: boxes.repeat_interleave(2, 0)[::2],
    "images last": lambda boxes: boxes.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "boxes before images": lambda boxes: boxes.transpose(0, 1).contiguous().transpose(0, 1),
    "coordinates first": lambda boxes: boxes.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "columns of a wider matrix": lambda boxes: torch.cat([boxes, boxes], 2)[..., 4:],
    "reversed memory": lambda boxes: boxes.flip(0, 1).contiguous().flip(0, 1),
    "offset in storage": lambda boxes: torch.cat([boxes[:1], boxes])[1:],
}


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, kind, layout, rng, tolerances):
    a, b = (random_boxes(rng, (3, 7), device, extent=100) for _ in range(2))
    expected = assert_matches(a, b, kind, tolerances)
    assert torch.equal(layout(a), a)
    assert torch.equal(FUNCTIONS[kind](layout(a), b), expected)
    assert torch.equal(FUNCTIONS[kind](a, layout(b)), expected)
    weight = torch.from_numpy(rng.normal(size=(3, 7))).float().to(device)
    expected = torch.ops.cvlib.paired_iou_backward(weight, a, b, kind)
    gradients = torch.ops.cvlib.paired_iou_backward(weight, layout(a), layout(b), kind)
    assert all(torch.equal(mine, other) for mine, other in zip(gradients, expected, strict=True))


@every_kind
def test_expanded_boxes(device, kind, rng):
    one, many = random_boxes(rng, (), device, extent=50), random_boxes(rng, 9, device, extent=50)
    expected = OF_ALL_PAIRS[kind](many, one[None])[:, 0]
    assert torch.equal(FUNCTIONS[kind](many, one.expand(9, 4)), expected)
    assert torch.equal(FUNCTIONS[kind](one.expand(9, 4), many), expected)


POINTS_AND_LINES = [
    [1, 1, 1, 1],
    [1, 1, 1, 5],
    [1, 3, 1, 9],
    [1, 1, 5, 1],
    [7, 1, 8, 1],
    [0, 0, 0, 0],
    [0, 0, 5, 5],
    [1, 1, 5, 5],
    [-9, -9, 9, 9],
]
HUGE_AND_INFINITE = [
    [-inf, -inf, inf, inf],
    [0, 0, inf, 0],
    [0, 0, inf, 10],
    [inf, inf, inf, inf],
    [-inf, 0, -inf, 5],
    [0, 0, 3e38, 3e38],
    [-3e38, -1, 3e38, 1],
    [0, 0, 1e25, 1e25],
    [0, 0, 0, 0],
    [1, 1, 1, 5],
    [0, 0, 5, 5],
    [1e-30, 1e-30, 2e-30, 2e-30],
]


def all_with_all(rows, device, dtype):
    boxes = boxes_tensor(rows, device, dtype)
    shape = len(rows), len(rows), 4
    return boxes[:, None].expand(shape), boxes[None].expand(shape)


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_points_and_lines_match_oracle(device, kind, dtype, tolerances):
    assert_matches(*all_with_all(POINTS_AND_LINES, device, dtype), kind, tolerances)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_huge_and_infinite_boxes_are_in_range(device, kind, dtype):
    a, b = all_with_all(HUGE_AND_INFINITE, device, dtype)
    iou = FUNCTIONS[kind](a, b)
    assert not iou.isnan().any()
    assert iou.min() >= LOWEST[kind] and iou.max() <= 1
    assert torch.equal(iou, OF_ALL_PAIRS[kind](a[:, 0], b[0]))


@every_kind
@pytest.mark.parametrize("exponent", [-18, -9, 0, 9, 15, 17])
def test_matches_oracle_at_every_scale(device, kind, exponent, rng, tolerances):
    boxes = oracles.random_boxes(rng, 200, size=3, extent=2) * float(f"1e{exponent}")
    boxes = boxes_tensor(boxes, device)
    assert_matches(boxes[:100], boxes[100:], kind, tolerances)


@every_kind
@pytest.mark.parametrize("offset", [-1e7, 1e3, 1e6, 1e7])
def test_matches_oracle_far_from_the_origin(device, kind, offset, rng, tolerances):
    boxes = boxes_tensor(oracles.random_boxes(rng, 200, size=30, extent=30) + offset, device)
    assert_matches(boxes[:100], boxes[100:], kind, tolerances)


@every_kind
def test_boxes_of_a_sample_give_a_plain_tensor(device, kind, rng):
    boxes = random_boxes(rng, 5, device, extent=50)
    sample = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(99, 99))
    for iou in (FUNCTIONS[kind](sample, boxes), FUNCTIONS[kind](boxes, sample)):
        assert type(iou) is torch.Tensor and torch.equal(iou, FUNCTIONS[kind](boxes, boxes))


# --- matches torchvision ------------------------------------------------------------------------

LOSSES = {
    1: torchvision.ops.generalized_box_iou_loss,
    2: torchvision.ops.distance_box_iou_loss,
    3: torchvision.ops.complete_box_iou_loss,
}


@pytest.mark.parametrize("kind", LOSSES, ids=["generalized", "distance", "complete"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_equals_torchvision(device, kind, dtype, rng, tolerances):
    # Theirs adds 1e-7 to every denominator: to areas of 100 and more, and to 1 - IoU + v.
    a, b = (
        random_boxes(rng, 300, device, dtype, size=200, extent=100).requires_grad_()
        for _ in range(2)
    )
    tolerance = tolerances[torch.float32]
    if dtype == torch.float64:
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if kind == 3 else {"rtol": 1e-8, "atol": 1e-8}
    ours, theirs = 1 - FUNCTIONS[kind](a, b), LOSSES[kind](a, b)
    assert_near(ours, theirs, tolerance)
    weight = torch.from_numpy(rng.normal(size=300)).to(device, dtype)
    pairs = (torch.autograd.grad(loss, (a, b), weight) for loss in (ours, theirs))
    for mine, other in zip(*pairs, strict=True):
        assert_near(mine, other, tolerance)


# --- CPU equals CUDA ----------------------------------------------------------------------------


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (4001,), (3, 0), (2, 3, 5)], ids=str)
def test_cpu_equals_cuda(cuda, kind, dtype, shape, rng, tolerances):
    a, b = (random_boxes(rng, shape, "cpu", dtype, extent=100) for _ in range(2))
    here, there = FUNCTIONS[kind](a, b), FUNCTIONS[kind](a.to(cuda), b.to(cuda))
    assert_near(there, here, tolerances[here.dtype])
    if kind == 0:
        assert torch.equal(there.cpu(), here)


@pytest.mark.cuda
@every_kind
def test_cpu_equals_cuda_for_degenerate_boxes(cuda, kind, tolerances):
    for rows in (POINTS_AND_LINES, HUGE_AND_INFINITE):
        here = FUNCTIONS[kind](*all_with_all(rows, "cpu", torch.float32))
        there = FUNCTIONS[kind](*all_with_all(rows, cuda, torch.float32))
        assert_near(there, here, tolerances[torch.float32])


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_on_the_cpu_equals_cuda(cuda, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, 4001, "cpu", dtype, extent=100) for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=4001)).to(dtype)
    here = torch.ops.cvlib.paired_iou_backward(weight, a, b, kind)
    there = torch.ops.cvlib.paired_iou_backward(weight.to(cuda), a.to(cuda), b.to(cuda), kind)
    for mine, other in zip(there, here, strict=True):
        assert_near(mine, other, tolerances[dtype])


# --- reference equals native --------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_equals_native(device, kind, dtype, shape, rng, tolerances):
    a, b = (random_boxes(rng, shape, device, dtype, extent=100) for _ in range(2))
    native = torch.ops.cvlib.paired_iou(a, b, kind)
    reference = _paired_iou_reference(a, b, kind)
    assert reference.dtype == native.dtype and reference.shape == native.shape == shape
    assert_near(reference, native, tolerances[native.dtype])
    if kind == 0:
        assert torch.equal(reference, native)
    weight = torch.from_numpy(np.asarray(rng.normal(size=shape))).to(device, native.dtype)
    natives = torch.ops.cvlib.paired_iou_backward(weight, a, b, kind)
    references = _paired_iou_backward_reference(weight, a, b, kind)
    for mine, other in zip(references, natives, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape == a.shape
        assert_near(mine, other, tolerances[mine.dtype])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_equals_native_for_degenerate_boxes(device, kind, dtype, tolerances):
    a, b = all_with_all(POINTS_AND_LINES, device, dtype)
    native = torch.ops.cvlib.paired_iou(a, b, kind)
    assert_near(_paired_iou_reference(a, b, kind), native, tolerances[dtype])
    natives = torch.ops.cvlib.paired_iou_backward(torch.ones_like(native), a, b, kind)
    references = _paired_iou_backward_reference(torch.ones_like(native), a, b, kind)
    for mine, other in zip(references, natives, strict=True):
        assert_near(mine, other, tolerances[dtype])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_reference_equals_native_for_huge_and_infinite_boxes(device, kind, dtype, tolerances):
    a, b = all_with_all(HUGE_AND_INFINITE, device, dtype)
    native, reference = torch.ops.cvlib.paired_iou(a, b, kind), _paired_iou_reference(a, b, kind)
    assert not reference.isnan().any()
    assert_near(reference, native, tolerances[native.dtype])


# --- properties ---------------------------------------------------------------------------------

grid_box = st.tuples(
    st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9)
).map(lambda row: [row[0], row[1], row[0] + row[2], row[1] + row[3]])
grid_pairs = st.lists(st.tuples(grid_box, grid_box), min_size=1, max_size=20).map(
    lambda pairs: torch.tensor(pairs).float().unbind(1)
)


@every_kind
@given(pairs=grid_pairs)
def test_is_symmetric_and_in_range(device, kind, pairs):
    a, b = (boxes.to(device) for boxes in pairs)
    iou = FUNCTIONS[kind](a, b)
    assert torch.equal(iou, FUNCTIONS[kind](b, a))
    assert iou.min() >= LOWEST[kind] and iou.max() <= 1
    assert torch.equal(iou, OF_ALL_PAIRS[kind](a, b).diagonal())


@every_kind
@given(pairs=grid_pairs)
def test_is_one_exactly_for_a_box_with_area_and_itself(device, kind, pairs):
    a = pairs[0]
    has_area = (a[:, 2] > a[:, 0]) & (a[:, 3] > a[:, 1])
    assert torch.equal(FUNCTIONS[kind](a.to(device), a.to(device)).cpu(), has_area.float())


@every_kind
@given(pairs=grid_pairs, dx=st.integers(-999, 999), dy=st.integers(-999, 999))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, kind, pairs, dx, dy):
    a, b = (boxes.to(device) for boxes in pairs)
    iou, shift = FUNCTIONS[kind](a, b), torch.tensor([dx, dy, dx, dy], device=device).float()
    assert torch.equal(iou, FUNCTIONS[kind](a + shift, b + shift))
    assert torch.equal(iou, FUNCTIONS[kind](a * 2, b * 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_penalty_is_negative(device, dtype, rng):
    # Any two boxes, boxes that share all edges but one, and neighbours that fill their hull.
    a = random_boxes(rng, 3000, device, torch.float64, size=40, extent=50)
    b = random_boxes(rng, 3000, device, torch.float64, size=40, extent=50)
    b[1000:] = a[1000:]
    edges = torch.from_numpy(rng.integers(0, 4, 1000)).to(device)
    moved = torch.arange(1000, 2000, device=device)
    b[moved, edges] += torch.where(edges < 2, -1, 1) * torch.rand(1000, device=device)
    b[2000:, 0], b[2000:, 2] = a[2000:, 2], a[2000:, 2] + torch.rand(1000, device=device)
    iou, giou, diou, ciou = (function(a.to(dtype), b.to(dtype)) for function in FUNCTIONS)
    assert (giou <= iou).all() and (diou <= iou).all() and (ciou <= diou).all()
    for values, lowest in zip((iou, giou, diou, ciou), LOWEST, strict=True):
        assert values.min() >= lowest and values.max() <= 1


@every_kind
def test_does_not_change_its_arguments(device, kind, rng):
    a, b = (random_boxes(rng, 9, device) for _ in range(2))
    copies = a.clone(), b.clone()
    FUNCTIONS[kind](a, b)
    torch.ops.cvlib.paired_iou_backward(torch.ones(9, device=device), a, b, kind)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


# --- gradients ----------------------------------------------------------------------------------

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


def gradients(function, boxes1, boxes2, weight=None):
    a, b = boxes1.detach().requires_grad_(), boxes2.detach().requires_grad_()
    iou = function(a, b)
    return torch.autograd.grad(iou, (a, b), torch.ones_like(iou) if weight is None else weight)


def expected_gradients(boxes1, boxes2, kind, weight=None):
    wide = boxes1.detach().cpu().double(), boxes2.detach().cpu().double()
    weight = None if weight is None else weight.cpu().double()
    return gradients(lambda a, b: oracles_iou.differentiable(a, b, kind), *wide, weight)


@pytest.mark.parametrize("kind", range(3), ids=["plain", "generalized", "distance"])
@pytest.mark.parametrize("shape", [(4,), (7, 4), (7, 1, 4)], ids=str)
def test_gradient_is_the_derivative(device, kind, shape):
    pairs = boxes_tensor(list(GENERIC.values()), device, torch.float64)
    pairs = pairs[0] if shape == (4,) else pairs.unbind(1)
    a, b = (boxes.clone().reshape(shape).requires_grad_() for boxes in pairs)
    assert torch.autograd.gradcheck(FUNCTIONS[kind], (a, b))
    assert torch.autograd.gradcheck(lambda a: FUNCTIONS[kind](a, b.detach()), (a,))
    assert torch.autograd.gradcheck(lambda b: FUNCTIONS[kind](a.detach(), b), (b,))


@every_kind
@pytest.mark.parametrize("pair", GENERIC.values(), ids=GENERIC.keys())
def test_gradient_equals_that_of_the_formula(device, kind, pair, tolerances):
    a, b = (boxes_tensor(box, device, torch.float64) for box in pair)
    expected = expected_gradients(a, b, kind)
    for mine, other in zip(gradients(FUNCTIONS[kind], a, b), expected, strict=True):
        assert_near(mine, other, tolerances[torch.float64])
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    one_sided = (
        torch.autograd.grad(FUNCTIONS[kind](x, b), x)[0],
        torch.autograd.grad(FUNCTIONS[kind](a, y), y)[0],
    )
    for mine, other in zip(one_sided, expected, strict=True):
        assert_near(mine, other, tolerances[torch.float64])


@every_kind
def test_ties_share_their_gradient(device, kind, tolerances):
    # Every way in which boxes of at most 3 x 3 share edges, corners or one side.
    sides = [(low, high) for low in range(4) for high in range(low + 1, 4)]
    rows = [[x1, y1, x2, y2] for x1, x2 in sides for y1, y2 in sides]
    a, b = (x.contiguous() for x in all_with_all(rows, device, torch.float64))
    weight = torch.rand(a.shape[:-1], dtype=torch.float64).to(device)
    expected = expected_gradients(a, b, kind, weight)
    for mine, other in zip(gradients(FUNCTIONS[kind], a, b, weight), expected, strict=True):
        assert_near(mine, other, tolerances[torch.float64])


@every_kind
@pytest.mark.parametrize("shape", [(301,), (5, 61), (2, 3, 5)], ids=str)
def test_gradient_equals_that_of_all_pairs(device, kind, shape, rng, tolerances):
    a, b = (random_boxes(rng, shape, device, torch.float64, extent=100) for _ in range(2))
    n = a[..., 0].numel()
    weight = torch.from_numpy(rng.normal(size=shape)).to(device)
    expected = torch.ops.cvlib.box_iou_backward(
        weight.flatten().diag(), a.reshape(n, 4), b.reshape(n, 4), kind
    )
    for mine, other in zip(gradients(FUNCTIONS[kind], a, b, weight), expected, strict=True):
        assert_near(mine, other.reshape(mine.shape), tolerances[torch.float64])


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
    for mine, other in zip(gradients(FUNCTIONS[kind], a, b), expected, strict=True):
        assert_near(mine.double() * scale, other * scale, tolerances[torch.float32])


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
        ours = gradients(FUNCTIONS[kind], a, b, strided)
        plain = gradients(FUNCTIONS[kind], a, b, strided.contiguous())
        assert all(torch.equal(mine, other) for mine, other in zip(ours, plain, strict=True))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_boxes_has_their_dtype(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, 40, device, dtype, size=5, extent=4) for _ in range(2))
    ours = gradients(FUNCTIONS[kind], a, b)
    for mine, other in zip(ours, expected_gradients(a, b, kind), strict=True):
        assert mine.dtype == dtype
        assert_near(mine, other, tolerances[dtype])


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


# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@every_kind
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
def test_opcheck(device, kind, shape, rng):
    a, b = (random_boxes(rng, shape, device).requires_grad_() for _ in range(2))
    torch.library.opcheck(torch.ops.cvlib.paired_iou.default, (a, b, kind))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_opcheck_of_the_backward(device, kind, dtype, rng):
    a, b = (random_boxes(rng, (2, 3), device, dtype) for _ in range(2))
    arguments = torch.ones(2, 3, device=device), a, b, kind
    torch.library.opcheck(torch.ops.cvlib.paired_iou_backward.default, arguments)


@every_kind
def test_compiles_whole_with_dynamic_shapes(device, kind, rng, fresh_compiler):
    compiled = torch.compile(FUNCTIONS[kind], fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in (5, 12):
        a, b = (random_boxes(rng, shape, device, extent=100) for _ in range(2))
        assert torch.equal(compiled(a, b), FUNCTIONS[kind](a, b))
        ours, eager = gradients(compiled, a, b), gradients(FUNCTIONS[kind], a, b)
        assert all(torch.equal(mine, other) for mine, other in zip(ours, eager, strict=True))


@every_kind
def test_shape_is_known_without_data(kind):
    a = torch.empty(2, 3, 4, device="meta")
    assert FUNCTIONS[kind](a, a).shape == (2, 3)
    assert FUNCTIONS[kind](a[0, 0], a[0, 0]).shape == ()
    assert FUNCTIONS[kind](a.half(), a.half()).dtype == torch.float32
    assert FUNCTIONS[kind](a.double(), a.double()).dtype == torch.float64


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_float32(device, kind, dtype, rng):
    a, b = (random_boxes(rng, 9, device, dtype, extent=100) for _ in range(2))
    expected = FUNCTIONS[kind](a, b), *gradients(FUNCTIONS[kind], a, b)
    with torch.autocast(device, torch.bfloat16):
        results = FUNCTIONS[kind](a, b), *gradients(FUNCTIONS[kind], a, b)
    assert results[0].dtype == torch.float32
    for mine, other in zip(results, expected, strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)


# --- independence of threads --------------------------------------------------------------------


@every_kind
def test_number_of_threads_does_not_matter(thread_counts, kind, rng):
    a, b = (random_boxes(rng, 150001, "cpu", extent=100).requires_grad_() for _ in range(2))
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        iou = FUNCTIONS[kind](a, b)
        results.append((iou, *torch.autograd.grad((iou * iou).sum(), (a, b))))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel -------------------------------------------------------------------


def test_kind_reaches_the_kernel(device, rng):
    a, b = (random_boxes(rng, 50, device, extent=100) for _ in range(2))
    values = [torch.ops.cvlib.paired_iou(a, b, kind) for kind in range(4)]
    results = [
        torch.ops.cvlib.paired_iou_backward(torch.ones(50, device=device), a, b, kind)
        for kind in range(4)
    ]
    for kind, function in enumerate(FUNCTIONS):
        assert torch.equal(values[kind], function(a, b))
        assert not torch.allclose(values[kind], values[kind - 1])
        for mine, other in zip(gradients(function, a, b), results[kind], strict=True):
            assert torch.equal(mine, other)
        assert not torch.allclose(results[kind][0], results[kind - 1][0])


# --- errors -------------------------------------------------------------------------------------

GOOD = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])
FORMAT_HINT = r'boxes are \(x1, y1, x2, y2\), for xywh use box_convert\(boxes, "xywh", "xyxy"\)'


@every_kind
@pytest.mark.parametrize(
    ("boxes1", "boxes2", "error", "message"),
    [
        ([[0, 0, 1, 1]], GOOD, TypeError, r"expected boxes1 to be a torch\.Tensor, got list"),
        (GOOD, None, TypeError, r"expected boxes2 to be a torch\.Tensor, got NoneType"),
        (GOOD.long(), GOOD, TypeError, r"expected boxes1 of a floating-point dtype, got .*int64"),
        (GOOD, GOOD > 1, TypeError, r"expected boxes2 of a floating-point dtype, got torch\.bool"),
        (
            GOOD,
            GOOD.double(),
            TypeError,
            r"expected boxes2 of the dtype .*float32\), got .*float64",
        ),
        (GOOD[:, :3], GOOD[:, :3], ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(2,"),
        (torch.zeros(()), GOOD, ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(\)"),
        (torch.zeros(0), GOOD, ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(0,\)"),
        (GOOD, GOOD[:1], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(1, 4\)"),
        (GOOD, GOOD[0], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(4,\)"),
        (GOOD, GOOD[None], ValueError, r"expected boxes2 of the shape .*, got \(1, 2, 4\)"),
        (GOOD, GOOD[:0], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(0, 4\)"),
        (
            GOOD.reshape(2, 1, 4),
            GOOD.reshape(1, 2, 4),
            ValueError,
            r"expected boxes2 of the shape .*\(2, 1, 4\), got \(1, 2, 4\)",
        ),
        (GOOD, GOOD.to("meta"), ValueError, r"expected boxes2 on the device .*\(cpu\), got meta"),
        (
            torch.tensor([[0.0, 0, 1, 1], [0, nan, 1, 1]]),
            GOOD,
            ValueError,
            rf"expected boxes1 without NaN, got boxes1\[1\] = \(0, nan, 1, 1\); {FORMAT_HINT}",
        ),
        (
            GOOD,
            torch.tensor([[0.0, 0, 1, 1], [30, 40, 20, 60]]),
            ValueError,
            r"expected boxes2 with x1 <= x2 and y1 <= y2, got boxes2\[1\] = \(30, 40, 20, 60\); "
            + FORMAT_HINT,
        ),
        (
            torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 1]], [[0, 3, 1, 1], [0, 0, 1, 1]]]),
            GOOD.expand(2, 2, 4),
            ValueError,
            r"expected boxes1 with x1 <= x2 and y1 <= y2, got boxes1\[1, 0\] = \(0, 3, 1, 1\)",
        ),
        (
            GOOD[0],
            torch.tensor([0.0, nan, 1, 1]),
            ValueError,
            r"expected boxes2 without NaN, got boxes2 = \(0, nan, 1, 1\)",
        ),
    ],
)
def test_errors(kind, boxes1, boxes2, error, message):
    with pytest.raises(error, match=f"^{FUNCTIONS[kind].__name__}: {message}"):
        FUNCTIONS[kind](boxes1, boxes2)


@every_kind
@pytest.mark.parametrize("position", [0, 7, 16, 2500, 19999])
def test_one_bad_box_among_many_is_found(kind, position, rng):
    good = random_boxes(rng, 20000, "cpu")
    bad = good.clone()
    bad[position, 3] = nan
    for arguments, name in (((bad, good), "boxes1"), ((good, bad), "boxes2")):
        with pytest.raises(ValueError, match=rf"without NaN, got {name}\[{position}\]"):
            FUNCTIONS[kind](*arguments)


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # +---+---+       two 2 x 1 boxes share a 1 x 1 square: IoU = 1 / (2 + 2 - 1); their hull is
    # | a |a b| b |   3 x 1 and full; their centres are 1 apart, its diagonal is sqrt(9 + 1)
    # +---+---+---+   the second pair: a 1 x 1 square in the corner of a 2 x 2 square
    a = boxes_tensor([[0, 0, 2, 1], [0, 0, 2, 2]], device)
    b = boxes_tensor([[1, 0, 3, 1], [0, 0, 1, 1]], device)
    expected = (
        [1 / 3, 1 / 4],
        [1 / 3, 1 / 4],
        [1 / 3 - 1 / 10, 1 / 4 - 0.5 / 8],
        [1 / 3 - 1 / 10, 1 / 4 - 0.5 / 8],  # one shape
    )
    for function, values in zip(FUNCTIONS, expected, strict=True):
        assert function(a, b).tolist() == pytest.approx(values, abs=1e-6)
