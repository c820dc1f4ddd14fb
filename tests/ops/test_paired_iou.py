"""The IoU family pair by pair: values."""

import numpy as np
import oracles
import pytest
import torch
import torchvision
from cases_iou import DTYPES, assert_near, boxes_tensor, gradients, random_boxes
from cases_paired_iou import (
    FUNCTIONS,
    HUGE_AND_INFINITE,
    LOWEST,
    OF_ALL_PAIRS,
    POINTS_AND_LINES,
    SHAPES,
    all_with_all,
    assert_matches,
    every_kind,
    oracle,
)
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.ops.paired_iou import _paired_iou_backward_reference, _paired_iou_reference

# --- matches the oracle


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
    results = torch.ops.cvlib.paired_iou_backward(weight, layout(a), layout(b), kind)
    assert all(torch.equal(actual, other) for actual, other in zip(results, expected, strict=True))


@every_kind
def test_expanded_boxes(device, kind, rng):
    one, many = random_boxes(rng, (), device, extent=50), random_boxes(rng, 9, device, extent=50)
    expected = OF_ALL_PAIRS[kind](many, one[None])[:, 0]
    assert torch.equal(FUNCTIONS[kind](many, one.expand(9, 4)), expected)
    assert torch.equal(FUNCTIONS[kind](one.expand(9, 4), many), expected)


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


# --- matches torchvision

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
    computed, expected = 1 - FUNCTIONS[kind](a, b), LOSSES[kind](a, b)
    assert_near(computed, expected, tolerance)
    weight = torch.from_numpy(rng.normal(size=300)).to(device, dtype)
    pairs = (torch.autograd.grad(loss, (a, b), weight) for loss in (computed, expected))
    for actual, other in zip(*pairs, strict=True):
        assert_near(actual, other, tolerance)


# --- CPU equals CUDA


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


# --- reference equals native


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
    for actual, other in zip(references, natives, strict=True):
        assert actual.dtype == other.dtype and actual.shape == other.shape == a.shape
        assert_near(actual, other, tolerances[actual.dtype])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_equals_native_for_degenerate_boxes(device, kind, dtype, tolerances):
    a, b = all_with_all(POINTS_AND_LINES, device, dtype)
    native = torch.ops.cvlib.paired_iou(a, b, kind)
    assert_near(_paired_iou_reference(a, b, kind), native, tolerances[dtype])
    natives = torch.ops.cvlib.paired_iou_backward(torch.ones_like(native), a, b, kind)
    references = _paired_iou_backward_reference(torch.ones_like(native), a, b, kind)
    for actual, other in zip(references, natives, strict=True):
        assert_near(actual, other, tolerances[dtype])


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_reference_equals_native_for_huge_and_infinite_boxes(device, kind, dtype, tolerances):
    a, b = all_with_all(HUGE_AND_INFINITE, device, dtype)
    native, reference = torch.ops.cvlib.paired_iou(a, b, kind), _paired_iou_reference(a, b, kind)
    assert not reference.isnan().any()
    assert_near(reference, native, tolerances[native.dtype])


# --- properties

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


# --- scalars reach the kernel


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
        for actual, other in zip(gradients(function, a, b), results[kind], strict=True):
            assert torch.equal(actual, other)
        assert not torch.allclose(results[kind][0], results[kind - 1][0])


# --- worked examples


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
