"""Transposed convolution: registration, threads, scalars."""

import pytest
import torch
from cases_conv_transpose import OWN, SMALL, expect_close, make, own_cases
from torch.nn import functional

from cvlib._extension import has_kernels
from cvlib.ops.conv_transpose import _backward_reference, conv_transpose2d

# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("has_bias", [False, True])
def test_opcheck(device, has_bias, rng):
    tensors, options = make(rng, SMALL, device, torch.float32, has_bias=has_bias)
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    numbers = (*options[0], *options[1], *options[2], 1)
    torch.library.opcheck(torch.ops.cvlib.conv_transpose2d.default, (*tensors, *numbers))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_opcheck_of_the_backward(device, needs, rng):
    (image, weight, _), options = make(rng, SMALL, device, torch.float32)
    grad = torch.ones_like(conv_transpose2d(image, weight, None, *options))
    tensors = [t.requires_grad_() for t in (grad, image, weight)]
    torch.library.opcheck(
        torch.ops.cvlib.conv_transpose2d_backward.default,
        (*tensors, *options[0], *options[1], 1, *needs),
    )


def test_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    def enlarge(image, weight, bias):
        return conv_transpose2d(image, weight, bias, 8, 4)

    compiled = torch.compile(enlarge, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 4, 5, 3), (1, 4, 2, 7)):
        tensors, _ = make(rng, (size, (4, 3, 16, 16), 1), device)
        tensors = [t.requires_grad_() for t in tensors]
        output, expected = compiled(*tensors), enlarge(*tensors)
        assert torch.equal(output, expected)
        for one, other in zip(
            torch.autograd.grad(output.square().sum(), tensors),
            torch.autograd.grad(expected.square().sum(), tensors),
            strict=True,
        ):
            expect_close(one, other)


def test_shape_is_known_without_data():
    image, weight = torch.empty(2, 4, 5, 6, device="meta"), torch.empty(4, 3, 16, 17, device="meta")
    output = conv_transpose2d(image, weight, None, (8, 7), (4, 3), (2, 1))
    assert output.shape == (2, 3, 42, 47)
    operator = torch.ops.cvlib.conv_transpose2d
    assert operator(image, weight, None, 8, 7, 4, 3, 2, 1, 1).shape == output.shape
    backward = torch.ops.cvlib.conv_transpose2d_backward
    grads = backward(output, image, weight, 8, 7, 4, 3, 1, True, False)
    assert grads[0].shape == image.shape and grads[1].shape == (0,)


def test_autocast_is_pytorchs(device, rng):
    tensors, options = make(rng, OWN["FCN-8s"], device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        output = conv_transpose2d(*tensors, *options)
        expected = functional.conv_transpose2d(*tensors, *options)
        mixed = conv_transpose2d(tensors[0].bfloat16(), *tensors[1:], *options)
    assert output.dtype == torch.bfloat16 and torch.equal(output, expected)
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap(device, in_dims, rng):
    image = torch.from_numpy(rng.normal(size=(3, 2, 3, 4, 4))).to(device)
    weight = torch.from_numpy(rng.normal(size=(3, 3, 3, 16, 16))).to(device)
    image = image if in_dims[0] is not None else image[0]
    weight = weight if in_dims[1] is not None else weight[0]

    if in_dims == (2, 1):
        image, weight = image.movedim(0, 2), weight.movedim(0, 1)
    outputs = torch.func.vmap(lambda a, b: conv_transpose2d(a, b, None, 8, 4), in_dims)
    others = torch.func.vmap(lambda a, b: functional.conv_transpose2d(a, b, None, 8, 4), in_dims)
    torch.testing.assert_close(outputs(image, weight), others(image, weight))
    backward = torch.ops.cvlib.conv_transpose2d_backward
    grad = torch.from_numpy(rng.normal(size=(2, 3, 32, 32))).to(device)
    numbers = (8, 8, 4, 4, 1, True, True)
    ours = torch.func.vmap(lambda a, b: backward(grad, a, b, *numbers), in_dims)
    plain = torch.func.vmap(lambda a, b: _backward_reference(grad, a, b, *numbers), in_dims)
    for one, other in zip(ours(image, weight), plain(image, weight), strict=True):
        torch.testing.assert_close(one, other)


def test_inference_mode(rng):
    tensors, options = make(rng, OWN["FCN-8s"], "cpu")
    with torch.inference_mode():
        output = conv_transpose2d(*tensors, *options)
    assert torch.equal(output, conv_transpose2d(*tensors, *options))


# --- independence of threads ----------------------------------------------------------------------


@own_cases
def test_number_of_threads_does_not_matter(thread_counts, case, rng):
    if not has_kernels("cpu"):
        pytest.skip("PyTorch does not promise it")
    tensors, options = make(rng, case, "cpu", torch.float32)
    tensors = [t.requires_grad_() for t in tensors]
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        output = conv_transpose2d(*tensors, *options)
        results.append((output, *torch.autograd.grad(output.square().sum(), tensors[:2])))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel as they are -------------------------------------------------------


@pytest.mark.parametrize("position", range(7))
def test_each_scalar_reaches_the_kernel(device, position, rng):
    # stride, padding, output_padding (y, x) and groups: each changed alone, against PyTorch.
    numbers = [5, 7, 2, 3, 1, 2, 1]
    numbers[position] += 1
    groups = numbers[-1]
    shapes = (2, 4, 3, 4), (4, 4 // groups, 9, 11)
    image, weight = (torch.from_numpy(rng.normal(size=s)).to(device) for s in shapes)
    output = torch.ops.cvlib.conv_transpose2d(image, weight, None, *numbers)
    options = numbers[:2], numbers[2:4], numbers[4:6], groups
    expect_close(output, functional.conv_transpose2d(image, weight, None, *options))
    arguments = output, image, weight, *numbers[:4], groups, True, True
    for one, other in zip(
        torch.ops.cvlib.conv_transpose2d_backward(*arguments),
        _backward_reference(*arguments),
        strict=True,
    ):
        expect_close(one, other)
