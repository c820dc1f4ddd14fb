"""box_iou_rotated and paired_box_iou_rotated: values, gradients, registration, errors."""

from fractions import Fraction
from functools import partial

import numpy as np
import oracles
import oracles_rotated
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

import cvlib
from cvlib.ops import rotated
from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# IoUs are computed in float64 and rounded once; ten times the error of the oracle in float64.
ROUNDING = {torch.float64: 1e-14, torch.float32: 6e-8, torch.float16: 6e-8, torch.bfloat16: 6e-8}


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).reshape(-1, 5).to(dtype).to(device)


def random_boxes(rng, n, device, dtype=torch.float32, **options):
    return boxes_tensor(oracles_rotated.random_rotated_boxes(rng, n, **options), device, dtype)


def oracle(boxes1, boxes2, number=float):
    arrays = (oracles.to_numpy(boxes).astype(np.float64) for boxes in (boxes1, boxes2))
    return oracles_rotated.box_iou_rotated(*arrays, number)


def assert_iou(actual, expected, dtype):
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(
        actual.double().cpu().numpy(), expected, rtol=0, atol=ROUNDING[dtype]
    )


# --- matches the oracle -------------------------------------------------------------------------


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
    ours, theirs = (torch.autograd.grad((x * x).sum(), (a, b)) for x in (iou, flat))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


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


# Where polygons of float32 fail: against fractions, to the last bit of float32.


def needles(rng, n):
    """1e5 long and down to 1e-3 wide, turned against each other by millionths of a degree."""
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
    a, b = (boxes_tensor(part, device, dtype) for part in scene(rng, 20).reshape(2, 10, 5))
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
    if box[2] != 1e-45:  # in float64 that is a box like others
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


# --- matches torchvision ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.skipif(
    not hasattr(torch.ops.torchvision, "box_iou_rotated"),
    reason="this torchvision has no IoU of rotated boxes",
)
def test_agrees_with_torchvision(dtype, rng):
    a, b = (random_boxes(rng, n, "cpu", dtype, extent=200) for n in (67, 71))
    expected = torchvision.ops.box_iou(a, b, fmt="cxcywhr")
    # It gives float32 for float64 boxes, too.
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


# --- CPU equals CUDA ----------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, rng):
    for dtype in DTYPES[:2]:
        a, b = (boxes_tensor(part, "cpu", dtype) for part in scene(rng, 200).reshape(2, 100, 5))
        for function in (box_iou_rotated, paired_box_iou_rotated):
            assert torch.equal(function(a, b), function(a.to(cuda), b.to(cuda)).cpu())


# --- reference equals native --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", HARD, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, rng):
    rows = scene(rng, 120).clip(-6e4, 6e4) if dtype == torch.float16 else scene(rng, 120)
    a, b = (boxes_tensor(part, device, dtype) for part in rows.reshape(2, 60, 5))
    expected = rotated._box_iou_rotated_reference(a, b)
    assert torch.equal(torch.ops.cvlib.box_iou_rotated(a, b), expected)
    expected = rotated._paired_box_iou_rotated_reference(a, b)
    assert torch.equal(torch.ops.cvlib.paired_box_iou_rotated(a, b), expected)


# --- properties ---------------------------------------------------------------------------------

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
    whole = torch.tensor([0.0, 0, 0, 0, 360 * turns], device=device)
    half = torch.tensor([0.0, 0, 0, 0, 180], device=device)
    assert torch.equal(box_iou_rotated(a, b), box_iou_rotated(a + whole, b))
    torch.testing.assert_close(
        box_iou_rotated(a, b), box_iou_rotated(a + half, b), rtol=0, atol=1e-7
    )


@given(a=small_boxes, b=small_boxes, angle=st.floats(-180, 180), dx=st.integers(-999, 999))
def test_is_invariant_to_turning_moving_and_scaling_the_picture(device, a, b, angle, dx):
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


# --- gradients ----------------------------------------------------------------------------------


def differentiable_boxes(rng, n, device, dtype=torch.float64):
    return random_boxes(rng, n, device, dtype, size=9, extent=8).requires_grad_()


@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (6, 6)])
def test_gradient_is_the_derivative(device, shape, rng):
    for _ in range(4):
        a, b = (differentiable_boxes(rng, n, device) for n in shape)
        assert torch.autograd.gradcheck(box_iou_rotated, (a, b))
        if shape[0] == shape[1]:
            assert torch.autograd.gradcheck(paired_box_iou_rotated, (a, b))
            fixed = a.detach()
            assert torch.autograd.gradcheck(partial(paired_box_iou_rotated, fixed), (b,))


def test_gradient_of_upright_boxes_equals_that_of_box_iou(device, rng):
    a, b = (random_boxes(rng, n, device, torch.float64, size=9, extent=8) for n in (7, 6))
    a[:, 4] = b[:, 4] = 0
    ours, theirs = ([x.clone().requires_grad_() for x in (a, b)] for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=(7, 6))).to(device)
    grads = torch.autograd.grad(box_iou_rotated(*ours), ours, weight)
    corners = [box_convert(x[:, :4], "cxcywh", "xyxy") for x in theirs]
    expected = torch.autograd.grad(cvlib.box_iou(*corners), theirs, weight)
    for mine, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine[:, :4], other[:, :4], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_the_reference_equals_the_native_one(device, dtype, rng, tolerances):
    a, b = (random_boxes(rng, n, device, dtype, extent=60) for n in (31, 29))
    real = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.from_numpy(rng.normal(size=(31, 29))).to(device, real)
    pairs = [
        (torch.ops.cvlib.box_iou_rotated_backward, rotated._box_iou_rotated_backward_reference),
        (
            torch.ops.cvlib.paired_box_iou_rotated_backward,
            rotated._paired_box_iou_rotated_backward_reference,
        ),
    ]
    arguments = [(weight, a, b), (weight[0], a[:29], b)]
    for (native, reference), values in zip(pairs, arguments, strict=True):
        for mine, other in zip(native(*values), reference(*values), strict=True):
            assert mine.dtype == other.dtype == real
            torch.testing.assert_close(mine, other, **tolerances[real])


def test_gradient_of_a_large_matrix_is_the_sum_of_those_of_pairs(device, rng, tolerances):
    a, b = (differentiable_boxes(rng, n, device) for n in (1100, 40))
    weight = torch.from_numpy(rng.normal(size=(1100, 40))).to(device)
    one, other = torch.meshgrid(torch.arange(1100), torch.arange(40), indexing="ij")
    ours = torch.autograd.grad(box_iou_rotated(a, b), (a, b), weight)
    pairs = paired_box_iou_rotated(a[one.flatten()], b[other.flatten()])
    theirs = torch.autograd.grad(pairs, (a, b), weight.flatten())
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, **tolerances[torch.float64])


def test_gradient_reaches_through_a_strided_weight(device, rng):
    a, b = (differentiable_boxes(rng, n, device) for n in (5, 6))
    weight = torch.from_numpy(rng.normal(size=(6, 5))).to(device)
    for strided in (weight.t(), torch.ones((), device=device, dtype=a.dtype).expand(5, 6)):
        ours = torch.autograd.grad(box_iou_rotated(a, b), (a, b), strided)
        plain = torch.autograd.grad(box_iou_rotated(a, b), (a, b), strided.contiguous())
        assert all(torch.equal(x, y) for x, y in zip(ours, plain, strict=True))
        one = torch.autograd.grad(paired_box_iou_rotated(a, b[:5]), (a, b), strided[:, 0])
        two = torch.autograd.grad(
            paired_box_iou_rotated(a, b[:5]), (a, b), strided[:, 0].contiguous()
        )
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0, 0)])
def test_gradient_without_pairs_is_zero(device, shape):
    a, b = (torch.ones(n, 5, device=device, requires_grad=True) for n in shape)
    box_iou_rotated(a, b).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a)) and torch.equal(b.grad, torch.zeros_like(b))


def test_gradient_of_identical_empty_distant_and_infinite_boxes_is_finite(device):
    rows = [[0, 0, 4, 4, 9], [0, 0, 4, 4, 9], [0, 0, 4, 4, 99], [2, 2, 0, 3, 0], [2, 2, 0, 0, 0]]
    rows += [[50, 50, 9, 9, 3], [0, 0, inf, 5, 0], [0, 0, 1e30, 1e30, 1], [4, 0, 4, 4, 0]]
    a = boxes_tensor(rows, device).requires_grad_()
    box_iou_rotated(a, a).sum().backward()
    assert a.grad.isfinite().all()
    assert not a.grad[[3, 4, 6]].any()
    # Moving or turning one of two identical boxes loses as much either way; so does resizing one.
    b = boxes_tensor(rows[:1], device).requires_grad_()
    paired_box_iou_rotated(b, b.detach()).sum().backward()
    assert b.grad.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_boxes_has_their_dtype(device, dtype, rng, tolerances):
    a = differentiable_boxes(rng, 5, device, dtype)
    b = random_boxes(rng, 6, device, dtype, size=9, extent=8)
    box_iou_rotated(a, b).sum().backward()
    assert a.grad.dtype == dtype
    wide = a.detach().double().requires_grad_()
    box_iou_rotated(wide, b.double()).sum().backward()
    torch.testing.assert_close(a.grad.double(), wide.grad, **tolerances[dtype])


@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_second_derivative_is_refused(device, function, rng):
    a, b = (differentiable_boxes(rng, 3, device) for _ in range(2))
    (first,) = torch.autograd.grad(function(a, b).sum(), a, create_graph=True)
    message = f"{function.__name__}_backward is not differentiable"
    with pytest.raises(RuntimeError, match=message):
        first.sum().backward()


def test_gradient_descent_lays_one_box_over_the_other(device):
    target = boxes_tensor([[5, 5, 8, 3, 40]], device, torch.float64)
    unit = torch.tensor([1.0, 1, 1, 1, 10], device=device, dtype=torch.float64)
    box = boxes_tensor([[6, 4, 6, 4, 2]], device, torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([box], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (1 - paired_box_iou_rotated(box * unit, target)).sum().backward()
        optimizer.step()
    assert paired_box_iou_rotated(box * unit, target) > 0.95


# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(device, rng):
    a, b = (differentiable_boxes(rng, n, device, torch.float32) for n in (3, 4))
    torch.library.opcheck(torch.ops.cvlib.box_iou_rotated.default, (a, b))
    torch.library.opcheck(torch.ops.cvlib.paired_box_iou_rotated.default, (a, b[:3]))


def test_opcheck_of_the_backwards(device, rng):
    a, b = (random_boxes(rng, n, device) for n in (3, 4))
    weight = torch.ones(3, 4, device=device)
    torch.library.opcheck(torch.ops.cvlib.box_iou_rotated_backward.default, (weight, a, b))
    torch.library.opcheck(
        torch.ops.cvlib.paired_box_iou_rotated_backward.default, (weight[:, 0], a, b[:3])
    )


def test_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    def both(a, b):
        return box_iou_rotated(a, b), paired_box_iou_rotated(a, a.flip(0))

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((5, 7), (12, 3)):
        a, b = (differentiable_boxes(rng, n, device, torch.float32) for n in shape)
        ours, eager = compiled(a, b), both(a, b)
        assert all(torch.equal(x, y) for x, y in zip(ours, eager, strict=True))
        (own,) = torch.autograd.grad(sum(x.sum() for x in ours), a)
        (expected,) = torch.autograd.grad(sum(x.sum() for x in eager), a)
        assert torch.equal(own, expected)


def test_exports(rng):
    class Module(torch.nn.Module):
        def forward(self, a, b):
            return box_iou_rotated(a, b)

    a, b = (random_boxes(rng, n, "cpu") for n in (5, 6))
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(Module(), (a, b), dynamic_shapes=(rows, None))
    assert torch.equal(program.module()(a[:3], b), box_iou_rotated(a[:3], b))


@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_vmap_equals_a_loop(device, function, rng):
    a, b = (random_boxes(rng, 12, device, extent=60).view(3, 4, 5) for _ in range(2))
    expected = torch.stack([function(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.equal(torch.func.vmap(function)(a, b), expected)
    shared = torch.func.vmap(function, in_dims=(1, None))(a.transpose(0, 1), b[0])
    assert torch.equal(shared[2], function(a[2], b[0]))
    a.requires_grad_()
    (ours,) = torch.autograd.grad(torch.func.vmap(function)(a, b).sum(), a)
    loop = torch.stack([function(x, y) for x, y in zip(a, b, strict=True)])
    (theirs,) = torch.autograd.grad(loop.sum(), a)
    torch.testing.assert_close(ours, theirs)


def test_shape_is_known_without_data():
    a, b = torch.empty(3, 5, device="meta"), torch.empty(7, 5, device="meta")
    assert box_iou_rotated(a, b).shape == (3, 7)
    assert paired_box_iou_rotated(a, a).shape == (3,)
    assert box_iou_rotated(a.half(), b.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_from_the_values_as_given(device, dtype, rng):
    a, b = (random_boxes(rng, 9, device, dtype, extent=100).requires_grad_() for _ in range(2))
    for function in (box_iou_rotated, paired_box_iou_rotated):
        expected = function(a, b)
        with torch.autocast(device, torch.bfloat16):
            iou = function(a, b)
            mixed = function(a, b.float())
        assert iou.dtype == torch.float32 and torch.equal(iou, expected)
        assert torch.equal(mixed, expected)
        iou.sum().backward()


# --- independence of threads --------------------------------------------------------------------


def test_number_of_threads_does_not_matter(thread_counts, rng):
    a, b = (random_boxes(rng, n, "cpu", extent=300).requires_grad_() for n in (1501, 401))
    pairs = torch.arange(15010) % 401
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        iou = box_iou_rotated(a, b)
        paired = paired_box_iou_rotated(a.repeat(10, 1), b[pairs])
        grads = [torch.autograd.grad((x * x).sum(), (a, b)) for x in (iou, paired)]
        results.append((iou, paired, *grads[0]))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- errors -------------------------------------------------------------------------------------

BOXES = torch.tensor([[0.0, 0, 2, 2, 0], [1, 1, 3, 3, 10], [5, 5, 6, 6, 20]])


def with_value(row, column, value):
    boxes = BOXES.clone()
    boxes[row, column] = value
    return boxes


ERRORS = [
    (BOXES.tolist(), TypeError, r"to be a torch\.Tensor, got list"),
    (BOXES.int(), TypeError, r"of a floating-point dtype, got .*int32"),
    (BOXES[:, :4], ValueError, r"of shape \((N|M|\.\.\.), 5\), got \(3, 4\)"),
    (with_value(1, 0, nan), ValueError, r"without NaN, got boxes\d\[1\] = \(nan, 1, 3, 3, 10\)"),
    (with_value(1, 4, nan), ValueError, r"without NaN, got boxes\d\[1\] = \(1, 1, 3, 3, nan\)"),
    (with_value(2, 2, -1), ValueError, r"with w >= 0 and h >= 0, got boxes\d\[2\] = \(5, 5, -1"),
    (with_value(2, 3, -1), ValueError, r"with w >= 0 and h >= 0.*\(cx, cy, w, h, angle\), the ang"),
    (with_value(0, 4, inf), ValueError, r"with angles from -1e\+09 to 1e\+09 degrees, got .*inf\)"),
    (
        with_value(0, 4, -2e9),
        ValueError,
        r"with angles from -1e\+09 to 1e\+09 degrees, got .*e\+09",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_errors(function, wrong, error, message):
    name = function.__name__
    with pytest.raises(error, match=f"^{name}: expected boxes1 {message}"):
        function(wrong, BOXES)
    with pytest.raises(error, match=f"^{name}: expected boxes2 {message}"):
        function(BOXES, wrong)


def test_errors_of_shapes():
    for wrong in (BOXES[0], BOXES[None]):
        with pytest.raises(ValueError, match=r"expected boxes1 of shape \(N, 5\), got \("):
            box_iou_rotated(wrong, BOXES)
        with pytest.raises(ValueError, match=r"expected boxes2 of shape \(M, 5\), got \("):
            box_iou_rotated(BOXES, wrong)


@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_errors_of_two_kinds(function):
    with pytest.raises(TypeError, match=r"expected boxes2 of the dtype of boxes1 .*got .*float64"):
        function(BOXES, BOXES.double())
    with pytest.raises(ValueError, match=r"expected boxes2 on the device of boxes1 .*got meta"):
        function(BOXES, BOXES.to("meta"))


def test_pairs_of_two_shapes_are_an_error():
    message = (
        r"^paired_box_iou_rotated: expected boxes2 of the shape of boxes1 \(3, 5\), got \(2, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        paired_box_iou_rotated(BOXES, BOXES[:2])


@pytest.mark.parametrize("position", [0, 16, 63, 64, 199])
@pytest.mark.parametrize("column", range(5))
def test_one_bad_value_among_many_is_found(position, column, rng):
    boxes = random_boxes(rng, 200, "cpu")
    bad = boxes.clone()
    bad[position, column] = nan
    for function in (box_iou_rotated, paired_box_iou_rotated):
        with pytest.raises(ValueError, match=rf"without NaN, got boxes2\[{position}\]"):
            function(boxes, bad)


def test_the_largest_angle_is_allowed(device):
    a = boxes_tensor([[0, 0, 4, 2, 1e9], [0, 0, 4, 2, -1e9]], device, torch.float64)
    b = boxes_tensor([[0, 0, 4, 2, 1e9 % 360], [0, 0, 4, 2, -1e9 % 360]], device, torch.float64)
    torch.testing.assert_close(paired_box_iou_rotated(a, b).cpu(), torch.ones(2).double())


# --- by hand ------------------------------------------------------------------------------------


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
