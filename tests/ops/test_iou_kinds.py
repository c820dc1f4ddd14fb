"""Generalised, distance and complete IoU of all pairs: values, errors."""

import numpy as np
import oracles
import oracles_iou
import pytest
import torch
from cases_iou import (
    DTYPES,
    GOOD,
    LAYOUTS,
    assert_near,
    boxes_tensor,
    grid_boxes,
    inf,
    random_boxes,
)
from cases_iou_kinds import FUNCTIONS, THEIRS, every_kind, oracle, torchvision_tolerance
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.ops import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from cvlib.ops.iou import _box_iou_backward_reference, _box_iou_reference
from cvlib.ops.paired_iou import _paired_iou_backward_reference, _paired_iou_reference

LOWEST = {1: -1.0, 2: -1.0, 3: -2.0}


def assert_matches(boxes1, boxes2, kind, tolerances):
    iou = FUNCTIONS[kind](boxes1, boxes2)
    assert iou.dtype == (torch.float64 if boxes1.dtype == torch.float64 else torch.float32)
    assert iou.shape == (len(boxes1), len(boxes2)) and iou.device == boxes1.device
    assert_near(iou, oracle(boxes1, boxes2, kind), tolerances[iou.dtype])
    return iou


# --- matches the oracle


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 17), (17, 1), (37, 33)])
def test_matches_oracle(device, kind, dtype, shape, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, extent=100) for n in shape)
    assert_matches(a, b, kind, tolerances)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_oracle_for_every_rest_of_a_vector_register(device, kind, dtype, rng, tolerances):
    boxes = random_boxes(rng, 37, device, dtype, extent=150)
    expected = oracle(boxes, boxes, kind)
    for n in range(38):
        assert_near(FUNCTIONS[kind](boxes[:3], boxes[:n]), expected[:3, :n], tolerances[dtype])
        assert_near(FUNCTIONS[kind](boxes[:n], boxes[:2]), expected[:n, :2], tolerances[dtype])


@every_kind
@pytest.mark.parametrize("shape", [(1031, 257), (3, 5001), (5001, 3)])
def test_matches_oracle_when_large(device, kind, shape, rng, tolerances):
    a, b = (random_boxes(rng, n, device, extent=300) for n in shape)
    rows, columns = (torch.from_numpy(rng.integers(0, n, 4000)) for n in shape)
    rows[:2], columns[:2] = torch.tensor([0, shape[0] - 1]), torch.tensor([0, shape[1] - 1])
    pairs = oracles.to_numpy(a)[rows], oracles.to_numpy(b)[columns]
    expected = torch.from_numpy(oracles_iou.of_pairs(*pairs, kind))
    assert_near(FUNCTIONS[kind](a, b).cpu()[rows, columns], expected, tolerances[a.dtype])


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, kind, layout, rng, tolerances):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (21, 18))
    expected = assert_matches(a, b, kind, tolerances)
    assert torch.equal(FUNCTIONS[kind](layout(a), b), expected)
    assert torch.equal(FUNCTIONS[kind](a, layout(b)), expected)


@every_kind
def test_expanded_boxes(device, kind, rng):
    one, many = random_boxes(rng, 1, device, extent=50), random_boxes(rng, 9, device, extent=50)
    expected = FUNCTIONS[kind](many, one)
    assert torch.equal(FUNCTIONS[kind](many, one.expand(5, 4)), expected.expand(9, 5))
    assert torch.equal(FUNCTIONS[kind](one.expand(5, 4), many), expected.t().expand(5, 9))


POINTS_AND_LINES = [
    [1, 1, 1, 1],
    [1, 1, 1, 1],
    [1, 1, 1, 5],  # upright
    [1, 3, 1, 9],
    [1, 1, 5, 1],  # flat
    [7, 1, 8, 1],
    [-4, 1, 9, 1],
    [0, 0, 0, 0],
    [-2, 8, -2, 8],
    [0, 0, 5, 5],
    [1, 1, 5, 5],
    [1, 1, 2, 4],
    [-9, -9, 9, 9],
]


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [2.0**-12, 1.0, 2.0**9])
def test_points_and_lines_match_oracle(device, kind, dtype, scale, tolerances):
    boxes = boxes_tensor(np.array(POINTS_AND_LINES) * scale, device, dtype)
    assert_matches(boxes, boxes, kind, tolerances)


def test_hull_without_extent_has_no_penalty(device):
    point = boxes_tensor([[3, 4, 3, 4]], device)
    upright = boxes_tensor([[3, 4, 3, 9], [3, 20, 3, 21]], device)
    flat = boxes_tensor([[3, 4, 9, 4], [20, 4, 21, 4]], device)
    for function in FUNCTIONS.values():
        assert not function(point, point).any()
    for boxes in (upright, flat):
        assert not generalized_box_iou(boxes, boxes).any()
        assert not generalized_box_iou(boxes, point).any()
    # Two points: all of the diagonal lies between the centres, and neither has a shape.
    other = boxes_tensor([[-1, 7, -1, 7]], device)
    assert distance_box_iou(point, other).item() == complete_box_iou(point, other).item() == -1


HUGE_AND_INFINITE = [
    [-inf, -inf, inf, inf],
    [0, 0, inf, 0],
    [0, 0, inf, 10],
    [0, 0, 10, inf],
    [inf, inf, inf, inf],
    [-inf, -inf, -inf, -inf],
    [-inf, 0, -inf, 5],
    [0, 0, 3e38, 3e38],
    [-3e38, -3e38, 3e38, 3e38],
    [-3e38, -1, 3e38, 1],
    [3e38, 3e38, 3e38, 3e38],
    [0, 0, 1e25, 1e25],
    [-1e19, -1e19, 1e19, 1e19],
    [1e19, 0, 3e19, 1],
    [0, 0, 0, 0],
    [1, 1, 1, 5],
    [0, 0, 5, 5],
    [1e-30, 1e-30, 2e-30, 2e-30],
    [0, 0, 1e-20, 1e-20],
    [0, 0, 1e-45, 1e-45],
]


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_huge_and_infinite_boxes_are_in_range(device, kind, dtype):
    boxes = boxes_tensor(HUGE_AND_INFINITE, device, dtype)
    iou = FUNCTIONS[kind](boxes, boxes)
    assert not iou.isnan().any()
    assert iou.min() >= LOWEST[kind] and iou.max() <= 1


@every_kind
def test_overflow_means_the_same_in_every_dtype(device, kind, tolerances):
    # Areas and squares are infinite: the first in float32, the second in float64 and in the oracle.
    # What is infinite over infinite is no penalty.
    boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3], [-9, 2, -8, 3], [0, 7, 9, 8]])
    narrow = boxes_tensor(boxes * 2.0**70, device)
    wide = boxes_tensor(boxes * 2.0**600, device, torch.float64)
    expected = assert_matches(wide, wide, kind, tolerances)
    assert_near(FUNCTIONS[kind](narrow, narrow), expected, tolerances[torch.float32])


@pytest.mark.parametrize("kind", [1, 2], ids=["generalized", "distance"])
def test_small_boxes_whose_hull_overflows_are_far_apart(device, kind):
    small = boxes_tensor([[0, 0, 1, 1], [1, 2, 1, 2], [-5, -5, -5, 9]], device)
    distant = boxes_tensor([[1e19, 1e19, 1e19, 1e19], [-1e30, 1e30, -1e30, 1e30]], device)
    iou = FUNCTIONS[kind](small, distant)
    if kind == 1:
        assert torch.equal(iou, torch.full_like(iou, -1))
    else:  # the squared diagonal: 2e38 first, then infinite, as the squared distance
        expected = torch.tensor([-1.0, 0.0], device=device).expand(3, 2)
        torch.testing.assert_close(iou, expected, rtol=1e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [-18, -16, -12, -9, -4, 0, 4, 9, 12, 15, 17])
def test_matches_oracle_at_every_scale(device, kind, dtype, exponent, rng, tolerances):
    boxes = oracles.random_boxes(rng, 23, size=3, extent=4) * float(f"1e{exponent}")
    boxes = boxes_tensor(boxes, device, dtype)
    iou = assert_matches(boxes, boxes, kind, tolerances)
    assert iou.min() >= LOWEST[kind] and iou.max() == 1


@every_kind
@pytest.mark.parametrize("offset", [-1e7, -1e6, 1e3, 1e6, 1e7])
def test_matches_oracle_far_from_the_origin(device, kind, offset, rng, tolerances):
    # float32 has no halves at 1e7: a centre that is rounded there is off by a pixel.
    boxes = boxes_tensor(oracles.random_boxes(rng, 31, size=30, extent=60) + offset, device)
    assert_matches(boxes, boxes, kind, tolerances)


@every_kind
def test_matches_oracle_for_slender_boxes_and_almost_equal_ones(device, kind, rng, tolerances):
    boxes = oracles.random_boxes(rng, 8, size=50, extent=60)
    wide, high = boxes.copy(), boxes.copy()
    wide[:, 3] = wide[:, 1] + 1e-3
    high[:, 2] = high[:, 0] + 1e-3
    near = boxes * (1 + 1e-6 * rng.normal(size=boxes.shape))
    boxes = boxes_tensor(np.concatenate([boxes, wide, high, near]), device)
    assert_matches(boxes, boxes, kind, tolerances)


@every_kind
def test_boxes_of_a_sample_give_a_plain_tensor(device, kind, rng):
    boxes = random_boxes(rng, 5, device, extent=50)
    sample = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(99, 99))
    iou = FUNCTIONS[kind](sample, boxes)
    assert type(iou) is torch.Tensor and torch.equal(iou, FUNCTIONS[kind](boxes, boxes))


# --- matches torchvision


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [10.0, 1e3])
def test_equals_torchvision(device, kind, dtype, scale, rng, tolerances):
    a, b = (
        boxes_tensor(oracles.random_boxes(rng, n, extent=200) * scale, device, dtype)
        for n in (67, 71)
    )
    tolerance = torchvision_tolerance(dtype, kind, tolerances)
    assert_near(FUNCTIONS[kind](a, b), THEIRS[kind](a, b), tolerance)


# --- CPU equals CUDA


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_equals_cuda(cuda, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, "cpu", dtype, extent=100) for n in (301, 203))
    a[:9, 2], a[5:12, 3] = a[:9, 0], a[5:12, 1]
    here, there = FUNCTIONS[kind](a, b), FUNCTIONS[kind](a.to(cuda), b.to(cuda))
    assert_near(there, here, tolerances[here.dtype])


@pytest.mark.cuda
@every_kind
def test_cpu_equals_cuda_for_huge_and_infinite_boxes(cuda, kind, tolerances):
    boxes = boxes_tensor(HUGE_AND_INFINITE, "cpu")
    here, there = (FUNCTIONS[kind](x, x) for x in (boxes, boxes.to(cuda)))
    assert_near(there, here, tolerances[here.dtype])


# --- reference equals native


@every_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_equals_native(device, kind, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, extent=100) for n in (41, 77))
    a[3:5, 2], a[4:6, 3] = a[3:5, 0], a[4:6, 1]
    b[:9] = a[:9]
    native, reference = torch.ops.cvlib.box_iou(a, b, kind), _box_iou_reference(a, b, kind)
    assert reference.dtype == native.dtype
    assert_near(reference, native, tolerances[native.dtype])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_reference_equals_native_for_huge_and_infinite_boxes(device, kind, dtype, tolerances):
    boxes = boxes_tensor(HUGE_AND_INFINITE, device, dtype)
    native = torch.ops.cvlib.box_iou(boxes, boxes, kind)
    reference = _box_iou_reference(boxes, boxes, kind)
    assert not reference.isnan().any()
    assert_near(reference, native, tolerances[native.dtype])


# --- properties


@every_kind
@given(a=grid_boxes, b=grid_boxes)
def test_is_symmetric_and_in_range(device, kind, a, b):
    a, b = a.to(device), b.to(device)
    iou = FUNCTIONS[kind](a, b)
    assert torch.equal(iou, FUNCTIONS[kind](b, a).t())
    assert iou.min() >= LOWEST[kind] and iou.max() <= 1


@every_kind
@given(a=grid_boxes)
def test_is_one_exactly_for_a_box_with_area_and_itself(device, kind, a):
    has_area = (a[:, 2] > a[:, 0]) & (a[:, 3] > a[:, 1])
    iou = FUNCTIONS[kind](a.to(device), a.to(device))
    assert torch.equal(iou.diagonal().cpu(), has_area.float())


@every_kind
@given(a=grid_boxes, b=grid_boxes)
def test_is_one_for_equal_boxes_alone(device, kind, a, b):
    has_area = (a[:, 2] > a[:, 0]) & (a[:, 3] > a[:, 1])
    equal = (a[:, None] == b[None]).all(-1) & has_area[:, None]
    assert torch.equal(FUNCTIONS[kind](a.to(device), b.to(device)).cpu() == 1, equal)


@every_kind
@given(a=grid_boxes, b=grid_boxes, dx=st.integers(-999, 999), dy=st.integers(-999, 999))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, kind, a, b, dx, dy):
    a, b = a.to(device), b.to(device)
    iou, shift = FUNCTIONS[kind](a, b), torch.tensor([dx, dy, dx, dy], device=device).float()
    assert torch.equal(iou, FUNCTIONS[kind](a + shift, b + shift))
    assert torch.equal(iou, FUNCTIONS[kind](a * 2, b * 2))


@every_kind
@given(a=grid_boxes, b=grid_boxes)
def test_is_invariant_to_reflection_and_transposition(device, kind, tolerances, a, b):
    a, b = a.to(device), b.to(device)
    iou = FUNCTIONS[kind](a, b)
    for axes in ((2, 1, 0, 3), (0, 3, 2, 1)):
        signs = torch.tensor([-1 if axes[i] != i else 1 for i in range(4)], device=device)
        assert torch.equal(iou, FUNCTIONS[kind](a[:, axes] * signs, b[:, axes] * signs))
    # A point counts as upright, whichever axis comes first.
    a, b = (boxes[(boxes[:, 2:] > boxes[:, :2]).any(1)] for boxes in (a, b))
    axes = (1, 0, 3, 2)
    transposed = FUNCTIONS[kind](a[:, axes], b[:, axes])
    assert_near(transposed, FUNCTIONS[kind](a, b), tolerances[torch.float32])


def assert_in_order(a, b):
    iou, giou = box_iou(a, b), generalized_box_iou(a, b)
    diou, ciou = distance_box_iou(a, b), complete_box_iou(a, b)
    assert (giou <= iou).all() and (diou <= iou).all() and (ciou <= diou).all()


@given(a=grid_boxes, b=grid_boxes)
def test_no_penalty_is_negative(device, a, b):
    assert_in_order(a.to(device), b.to(device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_penalty_is_negative_where_hull_and_union_are_almost_equal(device, dtype, rng):
    # Boxes that share all edges but one, and neighbours that fill their hull.
    a = oracles.random_boxes(rng, 200, size=40, extent=50)
    b = np.repeat(a, 4, 0).reshape(200, 4, 4)
    for edge in range(4):
        b[:, edge, edge] += rng.uniform(0, 9, 200) * (-1 if edge < 2 else 1)
    right = a.copy()
    right[:, 0], right[:, 2] = a[:, 2], a[:, 2] + rng.uniform(1, 9, 200)
    for i in range(0, 200, 20):
        others = np.concatenate([b[i], right[i : i + 1]])
        assert_in_order(
            boxes_tensor(a[i : i + 1], device, dtype), boxes_tensor(others, device, dtype)
        )


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("kind", [1, 2], ids=["generalized", "distance"])
@given(a=sides, b=sides, dx=st.integers(-20, 20), dy=st.integers(-20, 20))
def test_falls_as_disjoint_boxes_move_apart(device, kind, a, b, dx, dy):
    # b moves away on the line through both centres.
    assume(abs(dx) >= a[0] + b[0] or abs(dy) >= a[1] + b[1])
    one = torch.tensor([[-a[0], -a[1], a[0], a[1]]]).double()
    step = torch.tensor([dx, dy, dx, dy]) * torch.tensor([1, 1.5, 2, 10, 1000]).double()[:, None]
    others = torch.tensor([-b[0], -b[1], b[0], b[1]]) + step
    iou = FUNCTIONS[kind](one.to(device), others.to(device))[0]
    assert (iou.diff() < 0).all() and iou[-1] > -1


@every_kind
def test_does_not_change_its_arguments(device, kind, rng):
    a, b = random_boxes(rng, 9, device), random_boxes(rng, 8, device)
    copies = a.clone(), b.clone()
    FUNCTIONS[kind](a, b)
    torch.ops.cvlib.box_iou_backward(torch.ones(9, 8, device=device), a, b, kind)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


# --- scalars reach the kernel


def test_kind_reaches_the_kernel(device, rng, tolerances):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (9, 8))
    assert torch.equal(torch.ops.cvlib.box_iou(a, b), box_iou(a, b))
    assert torch.equal(torch.ops.cvlib.box_iou(a, b, 0), box_iou(a, b))
    values = [torch.ops.cvlib.box_iou(a, b, kind) for kind in range(4)]
    for kind, function in FUNCTIONS.items():
        assert torch.equal(values[kind], function(a, b))
        assert torch.equal(torch.ops.cvlib.box_iou(a, b, kind=kind), function(a, b))
        assert not torch.allclose(values[kind], values[kind - 1])


# --- errors


# 2**32 and its relatives would be kinds in 32 bits.
@pytest.mark.parametrize("kind", [-1, 4, 2**32, 2**32 + 3, -(2**32), 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("count", [0, 2])
def test_unknown_kinds_are_refused(device, kind, count):
    boxes = GOOD[:count].to(device)
    matrix, pairs = torch.ones(count, count, device=device), torch.ones(count, device=device)
    calls = (
        (torch.ops.cvlib.box_iou, _box_iou_reference, (boxes, boxes)),
        (torch.ops.cvlib.paired_iou, _paired_iou_reference, (boxes, boxes)),
        (
            torch.ops.cvlib.box_iou_backward,
            _box_iou_backward_reference,
            (matrix, boxes, boxes),
        ),
        (
            torch.ops.cvlib.paired_iou_backward,
            _paired_iou_backward_reference,
            (pairs, boxes, boxes),
        ),
    )
    for native, reference, arguments in calls:
        for function in (native, reference):
            with pytest.raises(RuntimeError, match=f"expected kind of IoU from 0 to 3, got {kind}"):
                function(*arguments, kind)


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # +---+---+       two 2 x 1 boxes share a 1 x 1 square: IoU = 1 / (2 + 2 - 1); their hull is
    # | a |a b| b |   3 x 1 and full; their centres are 1 apart, its diagonal is sqrt(9 + 1)
    # +---+---+---+
    a, b = boxes_tensor([[0, 0, 2, 1]], device), boxes_tensor([[1, 0, 3, 1]], device)
    for function, expected in (
        (generalized_box_iou, 1 / 3 - 0 / 3),
        (distance_box_iou, 1 / 3 - 1 / 10),
        (complete_box_iou, 1 / 3 - 1 / 10),  # one shape
    ):
        assert function(a, b).item() == pytest.approx(expected, abs=1e-6)
    # +---+           a 2 x 2 square and the point (3, 3): the hull is 3 x 3 and 4/9 full; their
    # | a |           centres are 2 sqrt(2) apart, its diagonal is 3 sqrt(2)
    # +---+
    #       .
    square, point = boxes_tensor([[0, 0, 2, 2]], device), boxes_tensor([[3, 3, 3, 3]], device)
    assert generalized_box_iou(square, point).item() == pytest.approx(-5 / 9, abs=1e-6)
    assert distance_box_iou(square, point).item() == pytest.approx(-8 / 18, abs=1e-6)
    # The square's angle is pi / 4, the point's counts as 0: v = 1/4, weight 1/4 / (1 + 1/4).
    expected = -8 / 18 - (1 / 4) / (5 / 4) / 4
    assert complete_box_iou(square, point).item() == pytest.approx(expected, abs=1e-6)
    # Flat against upright line: angles pi / 2 and 0, v = 1, weight 1 / 2.
    flat, upright = boxes_tensor([[0, 1, 2, 1]], device), boxes_tensor([[1, 0, 1, 2]], device)
    assert complete_box_iou(flat, upright).item() == pytest.approx(-1 / 2, abs=1e-6)
