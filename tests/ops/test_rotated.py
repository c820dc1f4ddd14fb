"""box_iou_rotated and paired_box_iou_rotated: values."""

from fractions import Fraction

import numpy as np
import oracles
import oracles_rotated
import pytest
import torch
import torchvision
from cases_rotated import DTYPES, boxes_tensor, inf, nan, random_boxes
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

import cvlib
from cvlib.ops import rotated
from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated

# IoUs are computed in float64 and rounded once; ten times the error of the oracle in float64.
ROUNDING = {torch.float64: 1e-14, torch.float32: 6e-8, torch.float16: 6e-8, torch.bfloat16: 6e-8}


def oracle(boxes1, boxes2, number=float):
    arrays = (oracles.to_numpy(boxes).astype(np.float64) for boxes in (boxes1, boxes2))
    return oracles_rotated.box_iou_rotated(*arrays, number)


def assert_iou(actual, expected, dtype):
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(
        actual.double().cpu().numpy(), expected, rtol=0, atol=ROUNDING[dtype]
    )


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 17), (17, 1), (37, 33)])
def test_matches_oracle(device, dtype, shape, rng):
    a, b = (random_boxes(rng, n, device, dtype, extent=100) for n in shape)
    iou = box_iou_rotated(a, b)
    assert iou.shape == shape and iou.device == a.device
    assert_iou(iou, oracle(a, b), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 63, 65, 300])
def test_pairs_match_oracle(device, dtype, n, rng):
    a, b = (random_boxes(rng, n, device, dtype, extent=60) for _ in range(2))
    iou = paired_box_iou_rotated(a, b)
    assert iou.shape == (n,) and iou.device == a.device
    arrays = (oracles.to_numpy(boxes).astype(np.float64) for boxes in (a, b))
    assert_iou(iou, [oracles_rotated.pair_iou(*pair) for pair in zip(*arrays, strict=True)], dtype)


@pytest.mark.parametrize("shape", [(1031, 7), (3, 2500), (140, 1100)])
def test_pairs_equal_the_matrix_when_large(device, shape, rng):
    a, b = (random_boxes(rng, n, device, extent=150) for n in shape)
    one, other = (i.flatten() for i in torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
    pairs = paired_box_iou_rotated(a[one], b[other])
    assert torch.equal(box_iou_rotated(a, b).flatten(), pairs)
    some = rng.permutation(len(pairs))[:300]
    arrays = (
        oracles.to_numpy(boxes).astype(np.float64) for boxes in (a[one[some]], b[other[some]])
    )
    expected = [oracles_rotated.pair_iou(*pair) for pair in zip(*arrays, strict=True)]
    assert_iou(pairs[some], expected, torch.float32)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0, 3), (2, 3, 4)])
def test_pairs_have_any_leading_dimensions(device, shape, rng):
    count = int(np.prod(shape))
    a, b = (random_boxes(rng, count, device, extent=60).requires_grad_() for _ in range(2))
    flat = paired_box_iou_rotated(a, b)
    iou = paired_box_iou_rotated(a.view(*shape, 5), b.view(*shape, 5))
    assert iou.shape == shape and torch.equal(iou.flatten(), flat)
    actual, expected = (torch.autograd.grad((x * x).sum(), (a, b)) for x in (iou, flat))
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))


LAYOUTS = {
    "every second row": lambda boxes: boxes.repeat_interleave(2, 0)[::2],
    "column-major": lambda boxes: boxes.t().contiguous().t(),
    "columns of a wider matrix": lambda boxes: torch.cat([boxes, boxes], 1)[:, 5:],
    "offset in storage": lambda boxes: torch.cat([boxes[:1], boxes])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    a, b = (random_boxes(rng, 19, device, extent=100) for _ in range(2))
    for function in (box_iou_rotated, paired_box_iou_rotated):
        expected = function(a, b)
        assert torch.equal(function(layout(a), b), expected)
        assert torch.equal(function(a, layout(b)), expected)
        assert torch.equal(function(a, b[:1].expand(19, 5)), function(a, b[:1].repeat(19, 1)))


# Boxes on which polygons in float32 fail, compared with fractions to the last bit.


def needles(rng, n):
    """Boxes 1e5 long and down to 1e-3 wide, at angles that differ by millionths of a degree."""
    boxes = oracles_rotated.random_rotated_boxes(rng, n, extent=0.1)
    boxes[:, 2], boxes[:, 3] = 10 ** rng.uniform(2, 5, n), 10 ** rng.uniform(-3, 0, n)
    boxes[:, 4] = 30 + rng.normal(size=n) * 1e-5
    return boxes


def all_sizes(rng, n):
    boxes = oracles_rotated.random_rotated_boxes(rng, n)
    boxes[:, 2:4] = 10 ** rng.uniform(-3, 5, (n, 2))
    boxes[:, :2] = rng.normal(size=(n, 2)) * 10 ** rng.uniform(-3, 4, (n, 1))
    return boxes


def nearly_identical(rng, n):
    box = oracles_rotated.random_rotated_boxes(rng, 1)
    return box + rng.normal(size=(n, 5)) * 10.0 ** rng.uniform(-14, -2, (n, 1))


def far_from_the_origin(rng, n):
    far = np.array([1e7, -1e7, 0, 0, 0])
    return oracles_rotated.random_rotated_boxes(rng, n, extent=90) + far


def many_turns(rng, n):
    return oracles_rotated.random_rotated_boxes(rng, n, extent=60, turns=1e5)


def on_a_grid(rng, n):
    """Shared edges and corners, identical and empty boxes, octagons."""
    place, sides = rng.integers(-2, 3, (n, 2)), rng.integers(0, 5, (n, 2))
    return np.concatenate([place, sides, rng.integers(-20, 20, (n, 1)) * 45], 1)


def microscopic(rng, n):
    return oracles_rotated.random_rotated_boxes(rng, n, extent=90) * [1e-9, 1e-9, 1e-9, 1e-9, 1]


def gigantic(rng, n):
    return oracles_rotated.random_rotated_boxes(rng, n, extent=90) * [1e30, 1e30, 1e30, 1e30, 1]


HARD = [needles, all_sizes, nearly_identical, far_from_the_origin, many_turns, on_a_grid]
HARD += [microscopic, gigantic]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_matches_exact_arithmetic(device, scene, dtype, rng):
    a, b = (boxes_tensor(part, device, dtype) for part in scene(rng, 14).reshape(2, 7, 5))
    tolerance = 1e-7 if dtype == torch.float32 else 1e-11 if scene is needles else 1e-13
    exact = oracle(a, b, Fraction)
    np.testing.assert_allclose(
        box_iou_rotated(a, b).double().cpu().numpy(), exact, rtol=1e-6, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_is_symmetric_to_the_last_bit_and_never_leaves_the_unit_interval(device, scene, dtype, rng):
    boxes = boxes_tensor(scene(rng, 60), device, dtype)
    boxes = torch.cat([boxes, boxes[:9]])
    iou = box_iou_rotated(boxes, boxes)
    assert torch.equal(iou, iou.t())
    assert iou.min() >= 0 and iou.max() <= 1 and not iou.isnan().any()
    has_area = boxes[:, 2:4].prod(1) > 0
    assert ((iou.diagonal() - has_area.to(iou)).abs() < 1e-14).all()


@pytest.mark.parametrize("tilt", [0, 1e-12, 1e-7, 1e-4, 30, 45, 89.99999, 90, 1234.5])
def test_touching_boxes_have_iou_zero(device, tilt):
    # A square of side 2, and squares that touch it at an edge, along half an edge and at a corner.
    angle = np.radians(tilt)
    right, down = (np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))
    places = [(2, 0), (0, 2), (-2, 0), (2, 1), (2, 2), (-2, 2)]
    others = [[*(u * np.array(right) + v * np.array(down)), 2, 2, tilt] for u, v in places]
    iou = box_iou_rotated(
        boxes_tensor([0, 0, 2, 2, tilt], device, torch.float64),
        boxes_tensor(others, device, torch.float64),
    )
    assert not iou.any()


def test_upright_boxes_equal_box_iou(device, rng):
    corner = torch.from_numpy(rng.integers(0, 60, (90, 2)))
    upright = torch.cat([corner, corner + torch.from_numpy(rng.integers(0, 30, (90, 2)))], 1)
    upright = upright.float().to(device)
    center = box_convert(upright, "xyxy", "cxcywh")
    turns = torch.from_numpy(rng.integers(-8, 8, (90, 1))).float().to(device)
    sides = torch.where(turns % 2 == 0, center[:, 2:], center[:, 2:].flip(1))
    boxes = torch.cat([center[:, :2], sides, 90 * turns], 1)
    assert torch.equal(box_iou_rotated(boxes, boxes), cvlib.box_iou(upright, upright))


@pytest.mark.parametrize(
    "box",
    [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 5, 30],
        [1, 1, 5, 0, 45],
        [1, 1, 1e-45, 1e-45, 10],
        [inf, 0, 5, 5, 0],
        [0, -inf, 5, 5, 20],
        [inf, inf, inf, inf, 30],
        [0, 0, inf, 5, 30],
        [0, 0, inf, 0, 0],
    ],
)
def test_empty_and_infinite_boxes_have_iou_zero_with_everything(device, box):
    odd = boxes_tensor([box], device)
    others = torch.cat([odd, boxes_tensor([[0, 0, 10, 10, 7], [1, 1, 5, 5, 30]], device)])
    if box[2] != 1e-45:  # an ordinary box in float64
        assert not box_iou_rotated(odd, others).any() and not box_iou_rotated(others, odd).any()
        assert not paired_box_iou_rotated(odd.expand(3, 5), others).any()
    assert not box_iou_rotated(odd, others[1:]).any()
    assert not box_iou_rotated(others, others).isnan().any()


def test_areas_beyond_float64_have_iou_zero(device):
    sizes = [1e-200, 1e-141, 1e-140, 1e-100, 1.0, 1e100, 1e150, 1e200, 1e300]
    boxes = boxes_tensor([[0, 0, s, s, 30] for s in sizes], device, torch.float64)
    assert box_iou_rotated(boxes, boxes).diagonal().tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.cuda
def test_invalid_boxes_have_iou_zero_on_cuda(cuda):
    good = [2.0, 2, 5, 5, 30]
    rows = [[nan if i == j else v for j, v in enumerate(good)] for i in range(5)]
    rows += [[2, 2, -5, 5, 0], [2, 2, 5, -5, 0], [2, 2, 5, 5, inf], [2, 2, 5, 5, 2e9]]
    invalid, boxes = boxes_tensor(rows, cuda), boxes_tensor([good, [1, 1, 9, 9, 0]], cuda)
    assert not box_iou_rotated(boxes, invalid).any()
    assert not box_iou_rotated(invalid, boxes).any()
    assert not box_iou_rotated(invalid, invalid).any()
    assert not paired_box_iou_rotated(invalid, invalid).any()


# --- matches torchvision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.skipif(
    not hasattr(torch.ops.torchvision, "box_iou_rotated"),
    reason="this torchvision has no IoU of rotated boxes",
)
def test_agrees_with_torchvision(dtype, rng):
    a, b = (random_boxes(rng, n, "cpu", dtype, extent=200) for n in (67, 71))
    expected = torchvision.ops.box_iou(a, b, fmt="cxcywhr")
    # It returns float32 for float64 boxes too.
    torch.testing.assert_close(box_iou_rotated(a, b).float(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0, -20.0, 400.0])
def test_turns_boxes_as_torchvision_does(device, angle):
    # The quarter of a box at its right end, and at its lower side, as torchvision has the corners.
    box = torch.tensor([[10.0, 20.0, 8.0, 4.0, angle]])
    polygon = box_convert(box, "cxcywhr", "xyxyxyxy").view(4, 2)
    right = (polygon[1] + polygon[2]) / 2, polygon.mean(0), polygon[2] - polygon[1]
    low = (polygon[2] + polygon[3]) / 2
    quarter_right = [*((3 * right[0] + right[1]) / 4), 2, 4, angle]
    quarter_low = [*((3 * low + right[1]) / 4), 8, 1, angle]
    parts = boxes_tensor([quarter_right, quarter_low], device)
    iou = box_iou_rotated(parts, box.to(device))
    torch.testing.assert_close(iou.cpu(), torch.full((2, 1), 0.25), rtol=0, atol=1e-5)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, rng):
    for dtype in DTYPES[:2]:
        a, b = (boxes_tensor(part, "cpu", dtype) for part in scene(rng, 200).reshape(2, 100, 5))
        for function in (box_iou_rotated, paired_box_iou_rotated):
            assert torch.equal(function(a, b), function(a.to(cuda), b.to(cuda)).cpu())


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, rng):
    rows = scene(rng, 120).clip(-6e4, 6e4) if dtype == torch.float16 else scene(rng, 120)
    a, b = (boxes_tensor(part, device, dtype) for part in rows.reshape(2, 60, 5))
    expected = rotated._box_iou_rotated_reference(a, b)
    assert torch.equal(torch.ops.cvlib.box_iou_rotated(a, b), expected)
    expected = rotated._paired_box_iou_rotated_reference(a, b)
    assert torch.equal(torch.ops.cvlib.paired_box_iou_rotated(a, b), expected)


# --- properties

small_boxes = st.lists(
    st.tuples(
        st.integers(-9, 9),
        st.integers(-9, 9),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(-720, 720),
    ),
    min_size=1,
    max_size=8,
).map(lambda rows: torch.tensor(rows).float())


@given(a=small_boxes, b=small_boxes)
def test_a_quarter_turn_exchanges_the_sides(device, a, b):
    a, b = a.to(device), b.to(device)
    turned = a[:, [0, 1, 3, 2, 4]] + torch.tensor([0.0, 0, 0, 0, 90], device=device)
    torch.testing.assert_close(box_iou_rotated(a, b), box_iou_rotated(turned, b), rtol=0, atol=1e-7)


@given(a=small_boxes, b=small_boxes, turns=st.integers(-1000, 1000))
def test_half_turns_change_no_bit(device, a, b, turns):
    a, b = a.to(device), b.to(device)
    complete = torch.tensor([0.0, 0, 0, 0, 360 * turns], device=device)
    half = torch.tensor([0.0, 0, 0, 0, 180], device=device)
    assert torch.equal(box_iou_rotated(a, b), box_iou_rotated(a + complete, b))
    torch.testing.assert_close(
        box_iou_rotated(a, b), box_iou_rotated(a + half, b), rtol=0, atol=1e-7
    )


@given(a=small_boxes, b=small_boxes, angle=st.floats(-180, 180), dx=st.integers(-999, 999))
def test_is_invariant_to_turning_moving_and_scaling_the_image(device, a, b, angle, dx):
    a, b = a.double().to(device), b.double().to(device)
    iou = box_iou_rotated(a, b)
    shift = torch.tensor([dx, -dx, 0, 0, 0], device=device)
    assert torch.equal(iou, box_iou_rotated(a + shift, b + shift))
    scale = torch.tensor([2, 2, 2, 2, 1], device=device)
    assert torch.equal(iou, box_iou_rotated(a * scale, b * scale))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))

    def turn(boxes):
        x, y, w, h, r = boxes.unbind(1)
        return torch.stack([x * c + y * s, y * c - x * s, w, h, r + angle], 1)

    torch.testing.assert_close(iou, box_iou_rotated(turn(a), turn(b)), rtol=0, atol=1e-12)


def test_does_not_change_its_arguments(device, rng):
    a, b = (random_boxes(rng, 9, device) for _ in range(2))
    copies = a.clone(), b.clone()
    box_iou_rotated(a, b), paired_box_iou_rotated(a, b)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


# --- errors


def test_the_largest_angle_is_allowed(device):
    a = boxes_tensor([[0, 0, 4, 2, 1e9], [0, 0, 4, 2, -1e9]], device, torch.float64)
    b = boxes_tensor([[0, 0, 4, 2, 1e9 % 360], [0, 0, 4, 2, -1e9 % 360]], device, torch.float64)
    torch.testing.assert_close(paired_box_iou_rotated(a, b).cpu(), torch.ones(2).double())


# --- worked examples


def test_by_hand(device):
    # A square of side 2, and the same turned by 45 degrees: they share a regular octagon.
    #
    #          .            Each corner of one sticks out as a triangle of height sqrt 2 - 1 and
    #      +--/-\--+        base twice that: 4 triangles of area (sqrt 2 - 1)^2.
    #      | /   \ |
    #      |/     \|        Shared: 4 - 4 (3 - 2 sqrt 2) = 8 (sqrt 2 - 1).
    #     <|       |>       IoU: shared / (8 - shared) = 1 / sqrt 2.
    #      |\     /|
    #      +-\---/-+        A 4 x 2 box turned by 90 degrees is a 2 x 4 box: the IoU with itself
    #          '            unturned is 4 / 12.
    boxes = boxes_tensor([[3, 3, 2, 2, 0], [3, 3, 2, 2, 45], [9, 9, 4, 2, 0]], device)
    iou = box_iou_rotated(boxes, torch.cat([boxes, boxes_tensor([[9, 9, 4, 2, 90]], device)]))
    r = 0.5**0.5
    expected = torch.tensor([[1, r, 0, 0], [r, 1, 0, 0], [0, 0, 1, 1 / 3]])
    torch.testing.assert_close(iou.cpu(), expected, rtol=0, atol=1e-7)
