"""box_iou_rotated and paired_box_iou_rotated: gradients."""

from functools import partial

import pytest
import torch
from cases_rotated import DTYPES, boxes_tensor, differentiable_boxes, inf, random_boxes
from torchvision.ops import box_convert

import cvlib
from cvlib.ops import rotated
from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated


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
    computed, reference = ([x.clone().requires_grad_() for x in (a, b)] for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=(7, 6))).to(device)
    grads = torch.autograd.grad(box_iou_rotated(*computed), computed, weight)
    corners = [box_convert(x[:, :4], "cxcywh", "xyxy") for x in reference]
    expected = torch.autograd.grad(cvlib.box_iou(*corners), reference, weight)
    for actual, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual[:, :4], other[:, :4], rtol=1e-10, atol=1e-12)


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
        for actual, other in zip(native(*values), reference(*values), strict=True):
            assert actual.dtype == other.dtype == real
            torch.testing.assert_close(actual, other, **tolerances[real])


def test_gradient_of_a_large_matrix_is_the_sum_of_those_of_pairs(device, rng, tolerances):
    a, b = (differentiable_boxes(rng, n, device) for n in (1100, 40))
    weight = torch.from_numpy(rng.normal(size=(1100, 40))).to(device)
    one, other = torch.meshgrid(torch.arange(1100), torch.arange(40), indexing="ij")
    computed = torch.autograd.grad(box_iou_rotated(a, b), (a, b), weight)
    pairs = paired_box_iou_rotated(a[one.flatten()], b[other.flatten()])
    reference = torch.autograd.grad(pairs, (a, b), weight.flatten())
    for actual, expected in zip(computed, reference, strict=True):
        torch.testing.assert_close(actual, expected, **tolerances[torch.float64])


def test_gradient_reaches_through_a_strided_weight(device, rng):
    a, b = (differentiable_boxes(rng, n, device) for n in (5, 6))
    weight = torch.from_numpy(rng.normal(size=(6, 5))).to(device)
    for strided in (weight.t(), torch.ones((), device=device, dtype=a.dtype).expand(5, 6)):
        actual = torch.autograd.grad(box_iou_rotated(a, b), (a, b), strided)
        plain = torch.autograd.grad(box_iou_rotated(a, b), (a, b), strided.contiguous())
        assert all(torch.equal(x, y) for x, y in zip(actual, plain, strict=True))
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
