"""Transposed convolution: gradients."""

import oracles_conv_transpose
import pytest
import torch
from cases_conv_transpose import FACES, SMALL, as_arrays, expect_close, expects_own, make, own_cases
from torch.nn import functional

from cvlib.ops.conv_transpose import _has_kernels_for, conv_transpose2d

# --- matches the oracle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@own_cases
def test_gradients_match_oracle(device, dtype, case, rng):
    tensors, options = make(rng, case, device, dtype)
    for tensor in tensors:
        tensor.requires_grad_()
    output = conv_transpose2d(*tensors, *options)
    grad = torch.from_numpy(rng.normal(size=output.shape)).to(device, dtype)
    output.backward(grad)
    expected = oracles_conv_transpose.conv_transpose2d_gradients(
        *as_arrays(grad, *tensors[:2]), *options[:2], options[-1]
    )
    for tensor, one in zip(tensors, expected, strict=True):
        assert tensor.grad.shape == tensor.shape
        expect_close(tensor.grad, one)


# --- gradients


def test_gradient_is_the_derivative_twice(device, rng):
    tensors, options = make(rng, SMALL, device)
    tensors = [t.requires_grad_() for t in tensors]
    assert not expects_own(device) or _has_kernels_for(*tensors[:2], options[0], (1, 1), 1)
    assert torch.autograd.gradcheck(lambda *t: conv_transpose2d(*t, *options), tensors)
    assert torch.autograd.gradgradcheck(
        lambda *t: conv_transpose2d(*t, *options), tensors, fast_mode=True
    )


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_gradient_of_some_arguments(device, which, rng):
    tensors, options = make(rng, SMALL, device)
    expected = [t.clone().requires_grad_() for t in tensors]
    functional.conv_transpose2d(*expected, *options).square().sum().backward()
    for index in which:
        tensors[index].requires_grad_()
    conv_transpose2d(*tensors, *options).square().sum().backward()
    for index, tensor in enumerate(tensors):
        if index in which:
            expect_close(tensor.grad, expected[index].grad)
        else:
            assert tensor.grad is None


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_second_gradient_of_some_arguments(device, which, rng):
    (image, weight, _), options = make(rng, SMALL, device, has_bias=False)
    results = []
    for function in (conv_transpose2d, functional.conv_transpose2d):
        pair = [t.clone().requires_grad_() for t in (image, weight)]
        first = torch.autograd.grad(
            function(*pair, None, *options).pow(3).sum(),
            [pair[i] for i in which],
            create_graph=True,
        )
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), pair))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("face", FACES[1:], ids=lambda face: face.__name__)
def test_explanations_are_differentiable(device, face, rng):
    case = ((1, 2, 2, 3), (2, 1, 3, 2), (2, 1), (1, 0), (1, 0), 2, (1, 2))
    tensors, options = make(rng, (*case[:5], case[6], case[5]), device)
    options, tensors = case[2:], [t.requires_grad_() for t in tensors]
    output, expected = (f(*tensors, *options) for f in (face, functional.conv_transpose2d))
    weight = torch.from_numpy(rng.normal(size=output.shape)).to(device)
    for one, other in zip(
        torch.autograd.grad(output, tensors, weight),
        torch.autograd.grad(expected, tensors, weight),
        strict=True,
    ):
        expect_close(one, other)
