"""paste_masks: gradients."""

import numpy as np
import pytest
import torch
from cases_paste import DTYPES, HEIGHT, WIDTH, nan, oracle, random_scene

from cvlib.ops.paste import _paste_mask_values_backward_reference, paste_masks


def values_of(boxes, size=(6, 7)):
    return lambda masks: paste_masks(masks, boxes, size, threshold=None)


@pytest.mark.parametrize("cells", [(1, 1), (3, 4), (7, 2)])
def test_gradient_is_the_derivative(device, cells, rng):
    masks, boxes = random_scene(rng, 3, cells, device, torch.float64, size=(6, 7))
    boxes[0] = torch.tensor([1.0, 1.5, 6, 5])
    boxes[1] = torch.tensor([-1e9, -1e9, 1e9, 1e9])
    masks.requires_grad_()
    assert torch.autograd.gradcheck(values_of(boxes), (masks,))
    assert torch.autograd.gradgradcheck(values_of(boxes), (masks,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_equals_that_of_the_oracle(device, dtype, rng, tolerances):
    masks, boxes = random_scene(rng, 7, (5, 6), device, dtype, size=(40, 50))
    masks.requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(7, 40, 50)))
    values = paste_masks(masks, boxes, (40, 50), threshold=None)
    (values * weight.to(device, values.dtype)).sum().backward()
    assert masks.grad.dtype == dtype
    # Pasting is linear: the gradient of a cell is what its pixels add up to when it alone is 1.
    expected = torch.zeros(7, 5, 6, dtype=torch.float64)
    for k, j in np.ndindex(5, 6):
        one = torch.zeros(7, 5, 6, dtype=torch.float64)
        one[:, k, j] = 1
        expected[:, k, j] = (oracle(one, boxes, (40, 50)) * weight).sum((1, 2))
    scale = tolerances[dtype] if dtype in (torch.float16, torch.bfloat16) else {
        "rtol": 1e-5, "atol": 1e-4 if dtype == torch.float32 else 1e-10
    }  # fmt: skip
    torch.testing.assert_close(masks.grad.cpu().double(), expected, **scale)


def test_backward_of_the_reference_equals_native(device, rng):
    masks, boxes = random_scene(rng, 9, (6, 5), device, torch.float64, size=(40, 50))
    grad = torch.from_numpy(rng.normal(size=(9, 40, 50))).to(device)
    native = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, 6, 5)
    reference = _paste_mask_values_backward_reference(grad, boxes, 6, 5)
    torch.testing.assert_close(native, reference, rtol=1e-10, atol=1e-10)
    assert native.shape == masks.shape


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0), (4, 4)])
@pytest.mark.parametrize("n", [0, 2])
def test_gradient_without_pixels_is_zero(device, n, size):
    masks = torch.ones(n, 3, 3, device=device, requires_grad=True)
    boxes = torch.tensor([[50.0, 50, 60, 60]], device=device).expand(n, 4)
    paste_masks(masks, boxes, size, threshold=None).sum().backward()
    assert torch.equal(masks.grad, torch.zeros_like(masks))


def test_gradient_ignores_what_lies_outside_of_boxes(device):
    masks = torch.ones(1, 2, 2, device=device, requires_grad=True)
    boxes = torch.tensor([[1.0, 1, 3, 3]], device=device)
    grad = torch.full((1, 5, 5), nan, device=device)
    grad[:, 1:3, 1:3] = 1
    for strided in (grad, grad.mT):
        values = paste_masks(masks, boxes, (5, 5), threshold=None)
        (actual,) = torch.autograd.grad(values, masks, strided)
        assert torch.equal(actual, torch.ones_like(actual))
        assert torch.equal(_paste_mask_values_backward_reference(strided, boxes, 2, 2), actual)


def test_gradient_of_boxes_is_refused(device, rng):
    masks, boxes = random_scene(rng, 3, device=device)
    masks.requires_grad_(), boxes.requires_grad_()
    values = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    with pytest.raises(
        RuntimeError, match="paste_masks is not differentiable in boxes; pass boxes"
    ):
        values.sum().backward()
    grad = torch.ones(3, HEIGHT, WIDTH, device=device, requires_grad=True)
    repeated = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, 7, 5)
    with pytest.raises(RuntimeError, match="paste_masks is not differentiable in boxes"):
        repeated.sum().backward()


def test_decisions_have_no_gradient(device, rng):
    masks, boxes = random_scene(rng, 3, device=device)
    assert not paste_masks(masks.requires_grad_(), boxes, (HEIGHT, WIDTH)).requires_grad
