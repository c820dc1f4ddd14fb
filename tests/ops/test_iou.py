"""box_iou: values, gradients, errors."""

import oracles
import pytest
import torch
import torchvision
from cases_iou import (
    DTYPES,
    LAYOUTS,
    boxes_tensor,
    grid_boxes,
    inf,
    nan,
    random_boxes,
)
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

import cvlib
from cvlib.ops.iou import _box_iou_reference


def oracle(boxes1, boxes2):
    return torch.from_numpy(oracles.box_iou(oracles.to_numpy(boxes1), oracles.to_numpy(boxes2)))


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 17), (17, 1), (37, 33)])
def test_matches_oracle(device, dtype, shape, rng):
    a = random_boxes(rng, shape[0], device, dtype, extent=100)
    b = random_boxes(rng, shape[1], device, dtype, extent=100)
    iou = cvlib.box_iou(a, b)
    assert iou.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert iou.shape == shape and iou.device == a.device
    assert torch.equal(iou.cpu(), oracle(a, b))


@pytest.mark.parametrize("shape", [(1031, 257), (3, 5001), (5001, 3)])
def test_matches_oracle_when_large(device, shape, rng):
    a, b = (random_boxes(rng, n, device, extent=300) for n in shape)
    assert torch.equal(cvlib.box_iou(a, b).cpu(), oracle(a, b))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    a, b = (random_boxes(rng, n, device, extent=100) for n in (21, 18))
    expected = oracle(a, b)
    assert torch.equal(cvlib.box_iou(layout(a), b).cpu(), expected)
    assert torch.equal(cvlib.box_iou(a, layout(b)).cpu(), expected)


def test_expanded_boxes(device, rng):
    one, many = random_boxes(rng, 1, device, extent=50), random_boxes(rng, 9, device, extent=50)
    assert torch.equal(cvlib.box_iou(one.expand(5, 4), many).cpu(), oracle(one.expand(5, 4), many))
    assert torch.equal(cvlib.box_iou(many, one.expand(5, 4)).cpu(), oracle(many, one.expand(5, 4)))


@pytest.mark.parametrize(
    "boxes",
    [
        [[1, 1, 1, 1]],
        [[1, 1, 1, 5]],
        [[1, 1, 5, 1]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[-5, -5, -5, 5], [-5, 0, 5, 0]],
        [[1e-30, 1e-30, 2e-30, 2e-30]],  # the area underflows to 0 in float32
        [[inf, inf, inf, inf]],
        [[-inf, -inf, -inf, -inf], [-inf, 0, -inf, 5]],
        [[-inf, -inf, inf, inf]],
        [[0, 0, inf, 0]],
        [[0, 0, inf, 10], [0, 0, 10, inf]],
        [[0, 0, 3e38, 3e38]],
        [[-3e38, -1, 3e38, 1]],
    ],
)
def test_empty_and_unbounded_boxes_have_iou_zero_with_everything(device, boxes):
    odd = boxes_tensor(boxes, device)
    others = torch.cat([odd, boxes_tensor([[-10, -10, 10, 10], [0, 0, 5, 5]], device)])
    assert torch.equal(
        cvlib.box_iou(odd, others), torch.zeros(len(odd), len(others), device=device)
    )
    assert torch.equal(
        cvlib.box_iou(others, odd), torch.zeros(len(others), len(odd), device=device)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "exponent", [-45, -40, -38, -30, -23, -20, -19, -10, 0, 10, 18, 19, 25, 37]
)
def test_matches_oracle_at_every_scale(device, dtype, exponent, rng):
    boxes = oracles.random_boxes(rng, 23, size=3, extent=4) * float(f"1e{exponent}")
    boxes = boxes_tensor(boxes, device, dtype)
    iou = cvlib.box_iou(boxes, boxes)
    assert torch.equal(iou.cpu(), oracle(boxes, boxes))
    assert not iou.isnan().any() and iou.min() >= 0 and iou.max() <= 1


@pytest.mark.parametrize("offset", [-1e7, -1e6, 1e3, 1e6, 1e7])
def test_matches_oracle_far_from_the_origin(device, offset, rng):
    boxes = boxes_tensor(oracles.random_boxes(rng, 31, size=30, extent=60) + offset, device)
    assert torch.equal(cvlib.box_iou(boxes, boxes).cpu(), oracle(boxes, boxes))


@pytest.mark.cuda
def test_invalid_boxes_have_iou_zero_on_cuda(cuda):
    good = boxes_tensor([[0, 0, 10, 10], [2, 2, 5, 5]], cuda)
    rows = [[0, 0, 10, 10] for _ in range(4)]
    for column, row in enumerate(rows):
        row[column] = nan
    invalid = boxes_tensor([*rows, [nan] * 4, [10, 10, 0, 0], [0, 10, 10, 0]], cuda)
    assert not cvlib.box_iou(good, invalid).any()
    assert not cvlib.box_iou(invalid, good).any()
    assert not cvlib.box_iou(invalid, invalid).any()


def test_boxes_of_a_sample_give_a_plain_tensor(device, rng):
    # Boxes of a sample are tv_tensors; their IoU is a plain tensor.
    boxes = random_boxes(rng, 5, device, extent=50)
    sample = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(99, 99))
    iou = cvlib.box_iou(sample, boxes)
    assert type(iou) is torch.Tensor and torch.equal(iou, cvlib.box_iou(boxes, boxes))


# --- matches torchvision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_equals_torchvision(device, dtype, scale, rng):
    a = boxes_tensor(oracles.random_boxes(rng, 67, extent=200) * scale, device, dtype)
    b = boxes_tensor(oracles.random_boxes(rng, 71, extent=200) * scale, device, dtype)
    assert torch.equal(cvlib.box_iou(a, b), torchvision.ops.box_iou(a, b))


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_equals_cuda(cuda, dtype, rng):
    a, b = (random_boxes(rng, n, "cpu", dtype, extent=100) for n in (301, 203))
    assert torch.equal(cvlib.box_iou(a, b), cvlib.box_iou(a.to(cuda), b.to(cuda)).cpu())


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_equals_native(device, dtype, rng):
    a, b = (random_boxes(rng, n, device, dtype, extent=100) for n in (41, 77))
    a[3:5, 2] = a[3:5, 0]
    assert torch.equal(_box_iou_reference(a, b), torch.ops.cvlib.box_iou(a, b))


# --- properties


@given(a=grid_boxes, b=grid_boxes)
def test_is_symmetric_and_in_the_unit_interval(device, a, b):
    a, b = a.to(device), b.to(device)
    iou = cvlib.box_iou(a, b)
    assert torch.equal(iou, cvlib.box_iou(b, a).t())
    assert iou.min() >= 0 and iou.max() <= 1


@given(a=grid_boxes)
def test_is_one_exactly_for_a_box_with_area_and_itself(device, a):
    has_area = cvlib.box_area(a) > 0
    assert torch.equal(cvlib.box_iou(a.to(device), a.to(device)).diagonal().cpu(), has_area.float())


@given(a=grid_boxes, b=grid_boxes, dx=st.integers(-999, 999), dy=st.integers(-999, 999))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, a, b, dx, dy):
    a, b = a.to(device), b.to(device)
    iou, shift = cvlib.box_iou(a, b), torch.tensor([dx, dy, dx, dy], device=device).float()
    assert torch.equal(iou, cvlib.box_iou(a + shift, b + shift))
    assert torch.equal(iou, cvlib.box_iou(a * 2, b * 2))


def test_does_not_change_its_arguments(device, rng):
    a, b = random_boxes(rng, 9, device), random_boxes(rng, 8, device)
    copies = a.clone(), b.clone()
    cvlib.box_iou(a, b)
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


# --- gradients


def differentiable_boxes(rng, n, device, dtype=torch.float64):
    return random_boxes(rng, n, device, dtype, size=5, extent=4).requires_grad_()


@pytest.mark.parametrize("shape", [(4, 3), (1, 1)])
def test_gradient_is_the_derivative(device, shape, rng):
    a, b = (differentiable_boxes(rng, n, device) for n in shape)
    assert torch.autograd.gradcheck(cvlib.box_iou, (a, b))


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0, 0)])
def test_gradient_without_pairs_is_zero(device, shape):
    a, b = (torch.ones(n, 4, device=device, requires_grad=True) for n in shape)
    cvlib.box_iou(a, b).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a)) and torch.equal(b.grad, torch.zeros_like(b))


def test_gradient_with_one_differentiable_argument(device, rng):
    a, b = (differentiable_boxes(rng, n, device) for n in (3, 4))
    assert torch.autograd.gradcheck(lambda a: cvlib.box_iou(a, b.detach()), (a,))
    assert torch.autograd.gradcheck(lambda b: cvlib.box_iou(a.detach(), b), (b,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_equals_torchvision(device, dtype, rng, tolerances):
    a, b = (differentiable_boxes(rng, n, device, dtype) for n in (61, 47))
    weight = torch.from_numpy(rng.normal(size=(61, 47))).to(device, dtype)
    computed = torch.autograd.grad(cvlib.box_iou(a, b), (a, b), weight)
    expected = torch.autograd.grad(torchvision.ops.box_iou(a, b), (a, b), weight)
    for actual, other in zip(computed, expected, strict=True):
        torch.testing.assert_close(actual, other, **tolerances[dtype])


def test_gradient_of_a_large_matrix_equals_torchvision(device, rng, tolerances):
    a = random_boxes(rng, 1203, device, torch.float64, extent=300).requires_grad_()
    b = random_boxes(rng, 305, device, torch.float64, extent=300).requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(1203, 305))).to(device)
    computed = torch.autograd.grad(cvlib.box_iou(a, b), (a, b), weight)
    expected = torch.autograd.grad(torchvision.ops.box_iou(a, b), (a, b), weight)
    for actual, other in zip(computed, expected, strict=True):
        torch.testing.assert_close(actual, other, **tolerances[torch.float64])


def test_gradient_reaches_through_a_strided_weight(device, rng, tolerances):
    a, b = (differentiable_boxes(rng, n, device) for n in (5, 6))
    weight = torch.from_numpy(rng.normal(size=(6, 5))).to(device)
    for strided in (weight.t(), torch.ones((), device=device, dtype=a.dtype).expand(5, 6)):
        computed = torch.autograd.grad(cvlib.box_iou(a, b), (a, b), strided)
        plain = torch.autograd.grad(cvlib.box_iou(a, b), (a, b), strided.contiguous())
        for actual, other in zip(computed, plain, strict=True):
            torch.testing.assert_close(actual, other, **tolerances[torch.float64])


def test_gradient_of_identical_empty_and_distant_boxes_is_finite(device):
    rows = [[0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2], [2, 2, 2, 2], [1, 1, 1, 3], [50, 50, 60, 60]]
    a = boxes_tensor(rows, device).requires_grad_()
    cvlib.box_iou(a, a).sum().backward()
    assert a.grad.isfinite().all()
    assert torch.equal(a.grad[2:].cpu(), torch.zeros(4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_boxes_has_their_dtype(device, dtype, rng, tolerances):
    a = differentiable_boxes(rng, 5, device, dtype)
    b = random_boxes(rng, 6, device, dtype, size=5, extent=4)
    cvlib.box_iou(a, b).sum().backward()
    assert a.grad.dtype == dtype
    wide = a.detach().double().requires_grad_()
    torchvision.ops.box_iou(wide, b.double()).sum().backward()
    torch.testing.assert_close(a.grad.double(), wide.grad, **tolerances[dtype])


def test_second_derivative_is_refused(device, rng):
    a, b = (differentiable_boxes(rng, n, device) for n in (3, 4))
    (first,) = torch.autograd.grad(cvlib.box_iou(a, b).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="box_iou_backward is not differentiable"):
        first.sum().backward()


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # +---+---+       two 2 x 1 boxes share a 1 x 1 square: 1 / (2 + 2 - 1)
    # | a |a b| b |
    # +---+---+---+
    a = boxes_tensor([[0, 0, 2, 1]], device)
    b = boxes_tensor([[1, 0, 3, 1], [0, 0, 2, 1], [0, 0, 1, 1], [2, 0, 4, 1]], device)
    expected = torch.tensor([[1 / 3, 1, 0.5, 0]], device=device)
    assert torch.equal(cvlib.box_iou(a, b), expected)
