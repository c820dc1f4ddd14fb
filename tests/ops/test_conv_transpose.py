"""Transposed convolution: values, its two explanations, bilinear enlargement."""

import numpy as np
import oracles_conv_transpose
import pytest
import torch
from cases_conv_transpose import (
    FACES,
    OWN,
    as_arrays,
    expect_close,
    expects_own,
    make,
    nan,
    own_cases,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from cvlib.ops.conv_transpose import (
    _backward_reference,
    _has_kernels_for,
    _reference,
    conv_transpose2d,
)
from cvlib.ops.conv_transpose_lessons import bilinear_kernel, convolution_matrix

# --- matches the oracle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@own_cases
def test_matches_oracle(device, dtype, has_bias, case, rng):
    tensors, options = make(rng, case, device, dtype, has_bias=has_bias)
    arguments = *tensors[:2], options[0], (1, 1), options[-1]
    assert not expects_own(device) or _has_kernels_for(*arguments)
    output = conv_transpose2d(*tensors, *options)
    assert output.dtype == dtype and output.device.type == device and output.is_contiguous()
    expect_close(output, oracles_conv_transpose.conv_transpose2d(*as_arrays(*tensors), *options))


LAYOUTS = {
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "every second column": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "offset in storage": lambda t: torch.cat([t[:1], t])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    (image, weight, bias), options = make(rng, OWN["FCN-8s"], device)
    expected = conv_transpose2d(image, weight, bias, *options)
    a, b = layout(image).requires_grad_(), layout(weight).requires_grad_()
    output = conv_transpose2d(a, b, bias, *options)
    expect_close(output, expected)
    grad = torch.from_numpy(rng.normal(size=output.shape)).to(device)
    actual = torch.autograd.grad(output, (a, b), layout(grad))
    plain = torch.autograd.grad(
        conv_transpose2d(image.requires_grad_(), weight.requires_grad_(), bias, *options),
        (image, weight),
        grad,
    )
    for one, other in zip(actual, plain, strict=True):
        expect_close(one, other)


def test_expanded_tensors(device, rng):
    (image, _, bias), options = make(rng, OWN["channels apart"], device)
    kernel = torch.from_numpy(rng.normal(size=(1, 1, 16, 16))).to(device).requires_grad_()
    weight, images = kernel.expand(3, 1, 16, 16), image[:1].expand(4, 3, 5, 9)
    output = conv_transpose2d(images, weight, bias, *options)
    expected = conv_transpose2d(images.contiguous(), weight.contiguous(), bias, *options)
    assert torch.equal(output, expected)
    (grad,) = torch.autograd.grad(output.sum(), kernel)  # an expanded gradient, too
    every = torch.ones_like(output)
    plain = _backward_reference(every, images, weight, *options[0], *options[1], 3, False, True)[1]
    expect_close(grad, plain.sum(0, keepdim=True))


def test_no_images(device, rng):
    (_, weight, bias), options = make(rng, OWN["FCN-8s"], device)
    image = torch.zeros(0, 4, 5, 3, device=device, dtype=torch.float64, requires_grad=True)
    output = conv_transpose2d(image, weight.requires_grad_(), bias.requires_grad_(), *options)
    assert output.shape == (0, 3, 40, 24)
    grads = torch.autograd.grad(output.sum(), (image, weight, bias))
    for grad, tensor in zip(grads, (image, weight, bias), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))


def test_one_image_without_batch(device, rng):
    (image, weight, bias), options = make(rng, OWN["FCN-8s"], device)
    complete = conv_transpose2d(image, weight, bias, *options)
    for face in FACES:
        one = face(image[0], weight, bias, *options)
        assert one.dim() == 3
        expect_close(one, complete[0])


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_denormal_and_huge_values(device, scale, rng):
    (image, weight, _), options = make(rng, OWN["FCN-8s"], device, torch.float32)
    # A power of two scales without rounding while nothing underflows.
    output = conv_transpose2d((image.double() * scale).float(), weight, None, *options)
    expected = oracles_conv_transpose.conv_transpose2d(
        *as_arrays((image.double() * scale).float(), weight), None, *options
    )
    np.testing.assert_allclose(
        output.cpu().numpy(), expected, rtol=1e-4, atol=max(1e-4 * scale, 1e-43)
    )


def test_a_nan_stays_where_its_pixel_reaches(device, rng):
    (image, weight, bias), options = make(rng, OWN["FCN-8s"], device)
    image[1, 2, 2, 1] = nan
    output = conv_transpose2d(image, weight, bias, *options)
    touched = torch.zeros(40, 24, dtype=torch.bool, device=device)
    touched[12:28, 4:20] = True
    assert not output[0].isnan().any()
    assert torch.equal(output[1].isnan(), touched.expand(3, 40, 24))


def test_does_not_change_its_arguments(device, rng):
    tensors, options = make(rng, OWN["groups"], device)
    copies = [t.clone() for t in tensors]
    conv_transpose2d(*tensors, *options)
    assert all(torch.equal(t, c) for t, c in zip(tensors, copies, strict=True))


# --- matches PyTorch

THEIRS = {
    "short kernel": ((2, 3, 7, 6), (3, 4, 4, 4), 2, 1, 0, 1, 1),
    "dilation": ((1, 3, 5, 5), (3, 2, 16, 16), 4, (3, 5), 1, 1, (2, 3)),
    "output padding below dilation": ((1, 2, 4, 4), (2, 2, 3, 3), 1, 0, 1, 1, 2),
    "groups": ((2, 4, 5, 6), (4, 3, 3, 2), (2, 1), (1, 0), (1, 0), 2, 1),
    "no overlap": ((3, 8, 7, 7), (8, 8, 2, 2), 2, 0, 0, 1, 1),
    "stride 2": ((1, 3, 9, 8), (3, 3, 16, 16), 2, 7, 0, 1, 1),
}


@pytest.mark.parametrize("case", THEIRS.values(), ids=THEIRS.keys())
def test_is_pytorchs_for_all_else(device, case, rng):
    image, weight, stride, padding, output_padding, groups, dilation = case
    x, w = (torch.from_numpy(rng.normal(size=s)).to(device).float() for s in (image, weight))
    options = stride, padding, output_padding, groups, dilation
    expected = functional.conv_transpose2d(x, w, None, *options)
    assert torch.equal(conv_transpose2d(x, w, None, *options), expected)


@own_cases
def test_equals_pytorch(device, case, rng):
    tensors, options = make(rng, case, device)
    for tensor in tensors:
        tensor.requires_grad_()
    actual = conv_transpose2d(*tensors, *options)
    expected = functional.conv_transpose2d(*tensors, *options)
    expect_close(actual, expected)
    grad = torch.from_numpy(rng.normal(size=actual.shape)).to(device)
    for one, other in zip(
        torch.autograd.grad(actual, tensors, grad),
        torch.autograd.grad(expected, tensors, grad),
        strict=True,
    ):
        expect_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_pytorchs(device, dtype, rng):
    tensors, options = make(rng, OWN["FCN-8s"], device, dtype)
    output = conv_transpose2d(*tensors, *options)
    assert output.dtype == dtype
    assert torch.equal(output, functional.conv_transpose2d(*tensors, *options))


def test_numbers_may_be_single_or_in_pairs(device, rng):
    (image, weight, bias), _ = make(rng, OWN["FCN-8s"], device)
    expected = conv_transpose2d(image, weight, bias, (8, 8), (4, 4), (1, 1))
    for options in ((8, 4, 1), ([8], [4], [1]), ([8, 8], [4, 4], [1, 1])):
        assert torch.equal(conv_transpose2d(image, weight, bias, *options), expected)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@own_cases
def test_cpu_equals_cuda(cuda, dtype, case, rng):
    tensors, options = make(rng, case, "cpu", dtype)
    numbers = (*options[0], *options[1], *options[2], options[-1])
    operator = torch.ops.cvlib.conv_transpose2d
    on_cuda = operator(*[t.to(cuda) for t in tensors], *numbers)
    expect_close(on_cuda.cpu(), operator(*tensors, *numbers))
    repeated = operator(*[t.to(cuda) for t in tensors], *numbers)
    assert torch.equal(on_cuda, repeated)


# --- reference equals native


@own_cases
def test_reference_equals_native(device, case, rng):
    (image, weight, bias), options = make(rng, case, device)
    numbers = (*options[0], *options[1], *options[2], options[-1])
    output = torch.ops.cvlib.conv_transpose2d(image, weight, bias, *numbers)
    expect_close(output, _reference(image, weight, bias, *numbers))
    grad = torch.from_numpy(rng.normal(size=output.shape)).to(device)
    for needs in ((True, True), (True, False), (False, True), (False, False)):
        arguments = grad, image, weight, *options[0], *options[1], options[-1], *needs
        actual = torch.ops.cvlib.conv_transpose2d_backward(*arguments)
        for one, other in zip(actual, _backward_reference(*arguments), strict=True):
            assert one.shape == other.shape
            expect_close(one, other)


# --- properties


@st.composite
def calls(draw):
    """Sizes and options of a call that leaves some output."""
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    size, kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs), draw(pairs)
    extra = tuple(draw(st.integers(0, max(stride[d], dilation[d]) - 1)) for d in range(2))
    full = [
        (size[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 + extra[d] for d in range(2)
    ]
    padding = tuple(draw(st.integers(0, (full[d] - 1) // 2)) for d in range(2))
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    image = draw(st.integers(1, 2)), groups * inputs, *size
    return image, (groups * inputs, outputs, *kernel), stride, padding, extra, groups, dilation


@given(call=calls(), seed=st.integers(0, 99))
def test_three_faces_agree(device, call, seed):
    tensors, options = make(
        np.random.default_rng(seed), (*call[:5], call[6], call[5]), device, has_bias=False
    )
    options = (*call[2:5], call[5], call[6])
    bias = torch.arange(call[1][1] * call[5], dtype=torch.float64, device=device)
    expected = functional.conv_transpose2d(*tensors[:2], bias, *options)
    for face in FACES:
        expect_close(face(*tensors[:2], bias, *options), expected)


@given(call=calls(), seed=st.integers(0, 99))
def test_is_the_adjoint_of_convolution(device, call, seed):
    rng = np.random.default_rng(seed)
    _, weight, stride, padding, _, groups, dilation = call
    weight = torch.from_numpy(rng.normal(size=weight)).to(device)
    size = [dilation[d] * (weight.shape[2 + d] - 1) + 1 + int(rng.integers(0, 6)) for d in range(2)]
    x = torch.from_numpy(rng.normal(size=(1, groups * weight.shape[1], *size))).to(device)
    image = functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    y = torch.from_numpy(rng.normal(size=image.shape)).to(device)
    extra = tuple(
        (size[d] + 2 * padding[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) % stride[d]
        for d in range(2)
    )
    back = conv_transpose2d(y, weight, None, stride, padding, extra, groups, dilation)
    assert back.shape == x.shape
    torch.testing.assert_close((image * y).sum(), (x * back).sum())
    matrix = convolution_matrix(weight, size, stride, padding, groups, dilation)
    expect_close((matrix @ x.flatten()).view_as(image), image)
    expect_close((matrix.t() @ y.flatten()).view_as(x), back)


@own_cases
def test_is_linear_and_adjoint_with_own_kernels(device, case, rng):
    (image, weight, _), options = make(rng, case, device, has_bias=False)
    output = conv_transpose2d(image, weight, None, *options)
    y = torch.from_numpy(rng.normal(size=output.shape)).to(device)
    gathered = functional.conv2d(y, weight, None, *options[:2], 1, options[-1])
    gathered = gathered[:, :, : image.shape[2], : image.shape[3]]
    torch.testing.assert_close((output * y).sum(), (image * gathered).sum())
    doubled = conv_transpose2d(2 * image, weight, None, *options)
    assert torch.equal(doubled, 2 * output)


# --- bilinear enlargement


@pytest.mark.parametrize("stride", [2, 4, 8, 32])
@pytest.mark.parametrize("is_apart", [False, True])
def test_bilinear_kernel_enlarges_as_interpolate_does(device, stride, is_apart, rng):
    image = torch.from_numpy(rng.normal(size=(2, 3, 6, 7))).to(device)
    kernel = bilinear_kernel(3, 3, 2 * stride, dtype=image.dtype, device=device)
    if is_apart:
        kernel = kernel[:1, :1].expand(3, 1, -1, -1)
    groups = 3 if is_apart else 1
    output = conv_transpose2d(image, kernel, None, stride, stride // 2, groups=groups)
    expected = functional.interpolate(image, scale_factor=stride, mode="bilinear")
    assert output.shape == expected.shape
    inner = slice(stride, -stride)
    expect_close(output[..., inner, inner], expected[..., inner, inner])


@pytest.mark.parametrize("kernel_size", [4, 16])
def test_a_ramp_is_enlarged_exactly(device, kernel_size):
    stride = kernel_size // 2
    kernel = bilinear_kernel(2, 2, kernel_size, dtype=torch.float64, device=device)
    ramp = torch.arange(9, dtype=torch.float64, device=device).expand(1, 2, 8, 9)
    output = conv_transpose2d(ramp, kernel, None, stride, stride // 2)
    x = (torch.arange(9 * stride, dtype=torch.float64, device=device) + 0.5) / stride - 0.5
    inner = slice(stride, -stride)
    expect_close(output[..., inner, inner], x[inner].expand_as(output[..., inner, inner]))
    constant = conv_transpose2d(torch.ones_like(ramp), kernel, None, stride, stride // 2)
    expect_close(constant[..., inner, inner], torch.ones_like(constant[..., inner, inner]))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 64])
def test_bilinear_kernel_is_the_books(kernel_size):
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    og = (torch.arange(kernel_size).reshape(-1, 1), torch.arange(kernel_size).reshape(1, -1))
    filt = (1 - torch.abs(og[0] - center) / factor) * (1 - torch.abs(og[1] - center) / factor)
    weight = torch.zeros((3, 3, kernel_size, kernel_size))
    weight[range(3), range(3), :, :] = filt
    actual = bilinear_kernel(3, 3, kernel_size)
    assert actual.dtype == torch.float32 and torch.equal(actual, weight)


def test_bilinear_kernel_of_two_sizes_has_a_diagonal():
    weight = bilinear_kernel(2, 3, 4, dtype=torch.float64)
    assert weight.shape == (2, 3, 4, 4) and weight.dtype == torch.float64
    assert weight.flatten(2).any(2).tolist() == [[True, False, False], [False, True, False]]


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
    actual = torch.func.vmap(lambda a, b: backward(grad, a, b, *numbers), in_dims)
    plain = torch.func.vmap(lambda a, b: _backward_reference(grad, a, b, *numbers), in_dims)
    for one, other in zip(actual(image, weight), plain(image, weight), strict=True):
        torch.testing.assert_close(one, other)


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


# --- worked examples


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_by_hand(device, face):
    # Stride 2, kernel 3: pixel 1 adds the kernel at column 0, pixel 2 adds twice the kernel at 2.
    #   1 2 3            the kernel
    #       2 4 6        twice the kernel
    #   1 2 5 4 6        sum; padding 1 cuts off the ends, output_padding 1 puts one end back
    image = torch.tensor([[[1.0, 2.0]]], device=device)
    kernel = torch.tensor([[[[1.0, 2.0, 3.0]]]], device=device)
    expected = torch.tensor([[[1.0, 2, 5, 4, 6]]], device=device)
    assert torch.equal(face(image, kernel, None, (1, 2)), expected)
    assert torch.equal(face(image, kernel, None, (1, 2), (0, 1)), expected[..., 1:4])
    assert torch.equal(face(image, kernel, None, (1, 2), (0, 1), (0, 1)), expected[..., 1:])


def test_own_kernels_by_hand(device):
    # Two pixels, 1 and 10, whose kernels of ones overlap on 4 of 20 columns.
    image = torch.tensor([[[1.0, 10.0]]], device=device)
    output = conv_transpose2d(image, torch.ones(1, 1, 16, 16, device=device), None, (16, 12))
    expected = torch.tensor([1.0] * 12 + [11.0] * 4 + [10.0] * 12, device=device)
    assert torch.equal(output, expected.expand(1, 16, 28))
