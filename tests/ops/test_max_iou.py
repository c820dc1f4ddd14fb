"""max_iou: the results of box_iou and max without the matrix."""

import oracles
import pytest
import torch
from cases_iou import (
    DTYPES,
    LAYOUTS,
    boxes_tensor,
    inf,
    nan,
    random_boxes,
)
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.ops import box_iou, max_iou, paired_box_iou
from cvlib.ops.iou import _max_iou_reference


def grid_boxes(rng, n, device, dtype=torch.float32):
    """Few different boxes, some without area: nearly every maximum is a tie."""
    corner = torch.from_numpy(rng.integers(0, 6, (n, 2)))
    sides = torch.from_numpy(rng.integers(0, 4, (n, 2)))
    return torch.cat([corner, corner + sides], 1).to(dtype).to(device)


def oracle(boxes1, boxes2):
    """Largest IoU of each row, and the first index that has it."""
    iou = oracles.box_iou(oracles.to_numpy(boxes1), oracles.to_numpy(boxes2))
    if len(boxes2) == 0:
        n = len(boxes1)
        return torch.from_numpy(iou).new_zeros(n), torch.full((n,), -1)
    return torch.from_numpy(iou.max(1)), torch.from_numpy(iou.argmax(1))


def assert_equal(results, expected):
    assert len(results) == len(expected) == 2
    for actual, other in zip(results, expected, strict=True):
        assert actual.dtype == other.dtype and torch.equal(actual.cpu(), other.cpu())


def assert_matches(boxes1, boxes2):
    values, indices = max_iou(boxes1, boxes2)
    assert values.dtype == (torch.float64 if boxes1.dtype == torch.float64 else torch.float32)
    assert indices.dtype == torch.int64 and values.device == indices.device == boxes1.device
    assert values.shape == indices.shape == (len(boxes1),)
    assert_equal((values, indices), oracle(boxes1, boxes2))
    if len(boxes2):
        assert_equal((values, indices), box_iou(boxes1, boxes2).max(dim=1))
    return values, indices


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 3), (3, 0), (700, 0), (1, 1), (1, 17), (17, 1), (37, 33), (33, 37)]
)
def test_matches_oracle(device, dtype, shape, rng):
    assert_matches(*(random_boxes(rng, n, device, dtype, extent=100) for n in shape))
    assert_matches(*(grid_boxes(rng, n, device, dtype) for n in shape))


@pytest.mark.parametrize("n", [15, 16, 17, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025])
def test_matches_oracle_at_the_boundaries_of_chunks(device, n, rng):
    a, b = grid_boxes(rng, n, device), grid_boxes(rng, 1025, device)
    iou = box_iou(a, b)
    for m in (1, 3, 16, 511, 512, 513, 1023, 1024, 1025):
        values, indices = max_iou(a, b[:m])
        assert_equal((values, indices), iou[:, :m].max(dim=1))
        assert_equal((values[-3:], indices[-3:]), oracle(a[-3:], b[:m]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_oracle_for_every_rest_of_a_vector_register(device, dtype, rng):
    a, b = (grid_boxes(rng, 37, device, dtype) for _ in range(2))
    iou = box_iou(a, b)
    for n in range(1, 38):
        assert_equal(max_iou(a[:n], b[:5]), iou[:n, :5].max(dim=1))
        assert_equal(max_iou(a[:5], b[:n]), iou[:5, :n].max(dim=1))


@pytest.mark.parametrize("shape", [(3, 70001), (70001, 3), (5001, 401)])
def test_matches_oracle_when_large(device, shape, rng):
    a, b = (random_boxes(rng, n, device, extent=300) for n in shape)
    results = max_iou(a, b)
    assert_equal(results, box_iou(a, b).max(dim=1))
    if len(a) == 3:
        assert_equal(results, oracle(a, b))


def test_a_million_boxes(device, rng):
    a, b = random_boxes(rng, 1_000_000, device), random_boxes(rng, 3, device, size=900)
    assert_equal(max_iou(a, b), box_iou(a, b).max(dim=1))


@pytest.mark.parametrize("n", [1, 8, 16, 33, 1000])
@pytest.mark.parametrize(
    "places", [(0, 1), (0, 1024), (7, 8), (8, 15, 16), (511, 512), (1023, 1024)]
)
def test_of_equals_the_first_wins(device, n, places):
    boxes = boxes_tensor([[10.0, 10, 20, 20]], device)
    others = boxes_tensor([[10.0, 10, 20, 19]], device).repeat(1025, 1)
    others[list(places)] = boxes
    values, indices = max_iou(boxes.repeat(n, 1), others)
    assert (values == 1).all() and (indices == places[0]).all()
    values, indices = max_iou(boxes.repeat(n, 1), others.flip(0))
    assert (values == 1).all() and (indices == 1024 - places[-1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_unit_in_the_last_place_decides(device, dtype):
    # The IoUs are 1 - k ulp: none may be taken for a tie.
    size = 4096.0
    ulp = torch.finfo(dtype).eps * size
    box = boxes_tensor([[0, 0, size, 1]], device, dtype)
    others = box.repeat(4, 1)
    others[:, 2] -= torch.tensor([3, 1, 2, 1], device=device) * ulp
    values, indices = assert_matches(box.repeat(40, 1), others)
    assert (indices == 1).all() and (values < 1).all()


@pytest.mark.parametrize("m", [1, 2, 16, 17, 1025])
def test_without_overlap_the_first_wins(device, m, rng):
    a, b = random_boxes(rng, 50, device), random_boxes(rng, m, device) + 5000
    values, indices = max_iou(a, b)
    assert not values.any() and not indices.any()
    assert not values.signbit().any()
    points = b.clone()
    points[:, 2:] = points[:, :2]
    assert_matches(points, points)


def test_without_partners_there_is_none(device):
    for n in (0, 1, 17, 513):
        values, indices = max_iou(torch.ones(n, 4, device=device), torch.ones(0, 4, device=device))
        assert torch.equal(values, torch.zeros(n, device=device))
        assert torch.equal(indices, torch.full((n,), -1, device=device))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (21, 18))
    expected = oracle(a, b)
    assert_equal(max_iou(layout(a), b), expected)
    assert_equal(max_iou(a, layout(b)), expected)


def test_expanded_boxes(device, rng):
    one, many = random_boxes(rng, 1, device, extent=50), random_boxes(rng, 9, device, extent=50)
    assert_matches(one.expand(600, 4), many)
    assert_matches(many, one.expand(600, 4))


HUGE_AND_INFINITE = [
    [inf, inf, inf, inf],
    [-inf, -inf, inf, inf],
    [-inf, 0, -inf, 5],
    [0, 0, inf, 0],
    [0, 0, inf, 10],
    [0, 0, 3e38, 3e38],
    [-3e38, -1, 3e38, 1],
    [0, 0, 1e-30, 1e-30],
    [0, 0, 0, 0],
    [0, 0, 5, 5],
    [1, 1, 1, 5],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_huge_and_infinite_boxes_match_oracle(device, dtype):
    boxes = boxes_tensor(HUGE_AND_INFINITE, device, dtype)
    values, _ = assert_matches(boxes, boxes)
    assert values.min() >= 0 and values.max() <= 1


@pytest.mark.cuda
def test_invalid_boxes_have_iou_zero_on_cuda(cuda):
    good = boxes_tensor([[0, 0, 10, 10], [2, 2, 5, 5]], cuda)
    invalid = boxes_tensor([[nan] * 4, [0, 0, nan, 10], [10, 10, 0, 0]], cuda)
    for a, b in ((good, invalid), (invalid, good), (invalid, invalid)):
        values, indices = max_iou(a, b)
        assert not values.any() and not indices.any()
    values, indices = max_iou(good, torch.cat([invalid, good]))
    assert (values == 1).all() and indices.tolist() == [3, 4]


def test_boxes_of_a_sample_give_plain_tensors(device, rng):
    boxes = random_boxes(rng, 5, device, extent=50)
    sample = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(99, 99))
    for results in (max_iou(sample, boxes), max_iou(boxes, sample)):
        assert all(type(result) is torch.Tensor for result in results)
        assert_equal(results, max_iou(boxes, boxes))


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 5001), (5001, 1), (1025, 513)])
def test_cpu_equals_cuda(cuda, dtype, shape, rng):
    for make in (grid_boxes, random_boxes):
        a, b = (make(rng, n, "cpu", dtype) for n in shape)
        assert_equal(max_iou(a.to(cuda), b.to(cuda)), max_iou(a, b))


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (41, 77), (1025, 513), (9000, 3)])
def test_reference_equals_native(device, dtype, shape, rng):
    for make in (grid_boxes, random_boxes):
        a, b = (make(rng, n, device, dtype) for n in shape)
        assert_equal(_max_iou_reference(a, b), torch.ops.cvlib.max_iou(a, b))


def test_reference_equals_native_for_huge_and_infinite_boxes(device):
    boxes = boxes_tensor(HUGE_AND_INFINITE, device)
    assert_equal(_max_iou_reference(boxes, boxes), torch.ops.cvlib.max_iou(boxes, boxes))


# --- properties

some_boxes = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 4), st.integers(0, 4)),
    min_size=1,
    max_size=40,
).map(lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows]).float())


@given(a=some_boxes, b=some_boxes)
def test_equals_the_maximum_of_the_matrix(device, a, b):
    assert_matches(a.to(device), b.to(device))


@given(a=some_boxes, b=some_boxes)
def test_more_partners_change_nothing_but_to_the_better(device, a, b):
    a, b = a.to(device), b.to(device)
    values, indices = max_iou(a, b[: len(b) // 2 + 1])
    more, choices = max_iou(a, b)
    assert (more >= values).all()
    assert torch.equal(choices[more == values], indices[more == values])


@given(a=some_boxes)
def test_a_box_with_area_finds_itself_or_its_first_twin(device, a):
    a = a.to(device)
    values, indices = max_iou(a, a)
    has_area = (a[:, 2:] > a[:, :2]).all(1)
    assert torch.equal(values, has_area.float())
    assert torch.equal(a[indices[has_area]], a[has_area])
    assert (indices[has_area] <= torch.arange(len(a), device=device)[has_area]).all()


def test_does_not_change_its_arguments(device, rng):
    a, b = random_boxes(rng, 9, device), random_boxes(rng, 8, device)
    copies = a.clone(), b.clone()
    max_iou(a, b)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


# --- gradients


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)], ids=str)
def test_gradient_is_refused(device, sides, rng):
    a, b = (random_boxes(rng, 5, device).requires_grad_(wanted) for wanted in sides)
    values, indices = max_iou(a, b)
    assert values.requires_grad and not indices.requires_grad
    with pytest.raises(RuntimeError, match="max_iou is not differentiable"):
        values.sum().backward()
    with torch.no_grad():
        assert not max_iou(a, b)[0].requires_grad


def test_gradient_of_the_best_pairs(device, rng, tolerances):
    # The alternative in the docstring.
    a, b = (random_boxes(rng, n, device, torch.float64, extent=100) for n in (30, 20))
    a.requires_grad_()
    values, indices = max_iou(a.detach(), b)
    best = paired_box_iou(a, b[indices])
    assert torch.equal(best, values)
    (actual,) = torch.autograd.grad(best.sum(), a)
    (expected,) = torch.autograd.grad(box_iou(a, b).max(dim=1).values.sum(), a)
    torch.testing.assert_close(actual, expected, **tolerances[torch.float64])


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # +---+---+---+   a reaches from 0 to 2 and b from 1 to 3: they share a third; c and d, the left
    # | c | d |   |   and the right half of a, have half of it; e is elsewhere
    # +---+---+---+
    a, e = [0, 0, 2, 1], [90, 90, 91, 91]
    b, c, d = [1, 0, 3, 1], [0, 0, 1, 1], [1, 0, 2, 1]
    values, indices = max_iou(boxes_tensor([a, e], device), boxes_tensor([b, c, d], device))
    assert values.tolist() == [0.5, 0] and indices.tolist() == [1, 0]
