"""Transposed convolution: values, gradients, its two explanations, registration, errors."""

import textwrap

import numpy as np
import oracles_conv_transpose
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from instruction_levels import ENVIRONMENTS, run_on_every_level
from torch.nn import functional

from cvlib._extension import has_kernels
from cvlib.ops.conv_transpose import (
    _backward_reference,
    _is_ours,
    _reference,
    conv_transpose2d,
)
from cvlib.ops.conv_transpose_lessons import (
    bilinear_kernel,
    conv_transpose2d_by_definition,
    conv_transpose2d_by_matrix,
    convolution_matrix,
)

nan, inf = float("nan"), float("inf")
FACES = [conv_transpose2d, conv_transpose2d_by_definition, conv_transpose2d_by_matrix]
# Sums of thousands of products of either sign, in float32.
CLOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-3}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}

# Input, weight, stride, padding, output_padding, groups; with dilation 1 all go to own kernels.
OWN = {
    "FCN-32s": ((1, 3, 4, 5), (3, 2, 64, 64), (32, 32), (16, 16), (0, 0), 1),
    "FCN-8s": ((2, 4, 5, 3), (4, 3, 16, 16), (8, 8), (4, 4), (0, 0), 1),
    "channels apart": ((2, 3, 5, 9), (3, 1, 16, 16), (8, 8), (4, 4), (0, 0), 3),
    "channels apart, short": ((1, 5, 6, 7), (5, 1, 8, 9), (4, 4), (2, 3), (1, 0), 5),
    "groups": ((2, 6, 3, 4), (6, 2, 17, 20), (5, 7), (3, 0), (4, 6), 2),
    "no overlap": ((1, 2, 3, 3), (2, 2, 16, 16), (16, 16), (0, 0), (0, 0), 1),
    "gaps": ((1, 2, 3, 4), (2, 2, 16, 17), (21, 19), (2, 3), (5, 11), 1),
    "three overlaps": ((1, 2, 6, 5), (2, 2, 18, 25), (6, 8), (17, 24), (0, 1), 1),
    "one pixel": ((1, 1, 1, 1), (1, 1, 16, 16), (4, 4), (7, 7), (0, 0), 1),
    "mostly cropped": ((1, 2, 2, 2), (2, 1, 16, 16), (4, 4), (9, 9), (0, 0), 1),
    "wide": ((1, 1, 1, 70), (1, 2, 16, 33), (4, 5), (1, 2), (0, 3), 1),
    "many channels": ((1, 19, 2, 2), (19, 23, 16, 16), (4, 4), (6, 6), (0, 0), 1),
}
own_cases = pytest.mark.parametrize("case", OWN.values(), ids=OWN.keys())


def make(rng, case, device, dtype=torch.float64, *, has_bias=True):
    """Input, weight and bias, and the options after them."""
    image, weight, *options = case
    shapes = image, weight, (weight[1] * options[-1],)
    tensors = [torch.from_numpy(rng.normal(size=s)).to(device, dtype) for s in shapes]
    return (tensors if has_bias else [*tensors[:2], None]), options


def expects_own(device):
    """Whether the sizes of OWN must reach own kernels; on CUDA only some do."""
    return device == "cpu" and has_kernels("cpu")


def as_arrays(*tensors):
    return [None if t is None else t.detach().cpu().double().numpy() for t in tensors]


def expect_close(actual, expected, dtype=None):
    expected = torch.as_tensor(expected).to(actual.device, torch.float64)
    tolerance = CLOSE[dtype or actual.dtype]
    torch.testing.assert_close(actual.detach().double(), expected, **tolerance)


# --- matches the oracle -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
@own_cases
def test_matches_oracle(device, dtype, has_bias, case, rng):
    tensors, options = make(rng, case, device, dtype, has_bias=has_bias)
    assert not expects_own(device) or _is_ours(*tensors[:2], options[0], (1, 1), options[-1])
    output = conv_transpose2d(*tensors, *options)
    assert output.dtype == dtype and output.device.type == device and output.is_contiguous()
    expect_close(output, oracles_conv_transpose.conv_transpose2d(*as_arrays(*tensors), *options))


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
    ours = torch.autograd.grad(output, (a, b), layout(grad))
    plain = torch.autograd.grad(
        conv_transpose2d(image.requires_grad_(), weight.requires_grad_(), bias, *options),
        (image, weight),
        grad,
    )
    for one, other in zip(ours, plain, strict=True):
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
    whole = conv_transpose2d(image, weight, bias, *options)
    for face in FACES:
        one = face(image[0], weight, bias, *options)
        assert one.dim() == 3
        expect_close(one, whole[0])


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


# --- matches PyTorch ----------------------------------------------------------------------------

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
    ours = conv_transpose2d(*tensors, *options)
    theirs = functional.conv_transpose2d(*tensors, *options)
    expect_close(ours, theirs)
    grad = torch.from_numpy(rng.normal(size=ours.shape)).to(device)
    for one, other in zip(
        torch.autograd.grad(ours, tensors, grad),
        torch.autograd.grad(theirs, tensors, grad),
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


# --- CPU equals CUDA ----------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@own_cases
def test_cpu_equals_cuda(cuda, dtype, case, rng):
    tensors, options = make(rng, case, "cpu", dtype)
    numbers = (*options[0], *options[1], *options[2], options[-1])
    operator = torch.ops.cvlib.conv_transpose2d
    on_cuda = operator(*[t.to(cuda) for t in tensors], *numbers)
    expect_close(on_cuda.cpu(), operator(*tensors, *numbers))
    again = operator(*[t.to(cuda) for t in tensors], *numbers)
    assert torch.equal(on_cuda, again)


# --- reference equals native --------------------------------------------------------------------


@own_cases
def test_reference_equals_native(device, case, rng):
    (image, weight, bias), options = make(rng, case, device)
    numbers = (*options[0], *options[1], *options[2], options[-1])
    output = torch.ops.cvlib.conv_transpose2d(image, weight, bias, *numbers)
    expect_close(output, _reference(image, weight, bias, *numbers))
    grad = torch.from_numpy(rng.normal(size=output.shape)).to(device)
    for needs in ((True, True), (True, False), (False, True), (False, False)):
        arguments = grad, image, weight, *options[0], *options[1], options[-1], *needs
        ours = torch.ops.cvlib.conv_transpose2d_backward(*arguments)
        for one, other in zip(ours, _backward_reference(*arguments), strict=True):
            assert one.shape == other.shape
            expect_close(one, other)


# --- properties ---------------------------------------------------------------------------------


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


# --- bilinear enlargement -----------------------------------------------------------------------


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
    ours = bilinear_kernel(3, 3, kernel_size)
    assert ours.dtype == torch.float32 and torch.equal(ours, weight)


def test_bilinear_kernel_of_two_sizes_has_a_diagonal():
    weight = bilinear_kernel(2, 3, 4, dtype=torch.float64)
    assert weight.shape == (2, 3, 4, 4) and weight.dtype == torch.float64
    assert weight.flatten(2).any(2).tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "kernel_size"])
def test_bilinear_kernel_refuses_nothing(name):
    numbers = {"in_channels": 1, "out_channels": 1, "kernel_size": 1, name: 0}
    with pytest.raises(ValueError, match=f"^bilinear_kernel: expected {name} of at least 1, got 0"):
        bilinear_kernel(**numbers)


# --- gradients ----------------------------------------------------------------------------------

SMALL = ((1, 2, 2, 3), (2, 1, 16, 16), (4, 5), (7, 6), (1, 2), 1)


def test_gradient_is_the_derivative_twice(device, rng):
    tensors, options = make(rng, SMALL, device)
    tensors = [t.requires_grad_() for t in tensors]
    assert not expects_own(device) or _is_ours(*tensors[:2], options[0], (1, 1), 1)
    assert torch.autograd.gradcheck(lambda *t: conv_transpose2d(*t, *options), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: conv_transpose2d(*t, *options), tensors)


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


# --- independence of threads and instruction sets -----------------------------------------------


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


DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.conv_transpose import conv_transpose2d

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}
    for dtype in (torch.float32, torch.float64):
        for channels in (1, 2, 7, 13):
            for groups in {1, channels}:
                for kernel, stride, width in ((16, 4, 1), (17, 8, 8), (33, 5, 3), (64, 32, 2)):
                    shapes = (2, channels, 2, width), (channels, channels // groups, kernel, kernel)
                    x, w = (torch.from_numpy(rng.normal(size=s)).to(dtype) for s in shapes)
                    x.requires_grad_(), w.requires_grad_()
                    y = conv_transpose2d(x, w, None, stride, kernel // 4, 1, groups)
                    grad = torch.from_numpy(rng.normal(size=y.shape)).to(dtype)
                    for name, one in zip("yxw", (y, *torch.autograd.grad(y, (x, w), grad))):
                        key = f"{name} {channels} {groups} {kernel} {stride} {width} {dtype}"
                        results[key] = one.detach().numpy() / kernel
    np.savez(sys.argv[1], **results)
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "default"])
def test_results_are_close_for_every_instruction_set(digests, name):
    assert digests["default"] and digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        tolerance = 1e-4 if "float32" in key else 1e-12
        np.testing.assert_allclose(
            digests[name][key], expected, rtol=tolerance, atol=tolerance, err_msg=key
        )


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


# --- errors -------------------------------------------------------------------------------------

IMAGE, WEIGHT = torch.zeros(1, 4, 3, 3), torch.zeros(4, 2, 16, 16)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": [[1.0]]}, TypeError, r"expected input to be a torch\.Tensor, got list"),
        ({"weight": None}, TypeError, r"expected weight to be a torch\.Tensor, got NoneType"),
        (
            {"input": IMAGE.long()},
            TypeError,
            r"expected input of a floating-point dtype, got torch\.int64",
        ),
        (
            {"weight": WEIGHT.double()},
            TypeError,
            r"expected weight of the dtype of input \(torch\.float32\), got torch\.float64",
        ),
        (
            {"weight": WEIGHT.to("meta")},
            ValueError,
            r"expected weight on the device of input \(cpu\), got meta",
        ),
        (
            {"input": IMAGE[0, 0]},
            ValueError,
            r"expected input of shape \(N, C, H, W\) or \(C, H, W\), got \(3, 3\)",
        ),
        (
            {"weight": WEIGHT[0]},
            ValueError,
            r"expected weight of shape \(C, O / groups, K, L\), got \(2, 16, 16\)",
        ),
        (
            {"weight": WEIGHT[:3]},
            ValueError,
            r"expected weight with as many rows as input has channels \(4\), got weight of shape "
            r"\(3, 2, 16, 16\); a transposed convolution's weight is \(in, out / groups, K, L\)",
        ),
        (
            {"groups": 3},
            ValueError,
            r"expected groups to divide the 4 channels of input, got 3",
        ),
        (
            {"groups": 0},
            ValueError,
            r"expected groups to divide the 4 channels of input, got 0",
        ),
        ({"bias": 1.0}, TypeError, r"expected bias to be a torch\.Tensor, got float"),
        (
            {"bias": torch.zeros(2).double()},
            TypeError,
            r"expected bias of the dtype of input \(torch\.float32\), got torch\.float64",
        ),
        (
            {"bias": torch.zeros(2), "groups": 2},
            ValueError,
            r"expected bias of shape \(4,\), one for each output channel, got \(2,\)",
        ),
        (
            {"output_padding": (7, 8)},
            ValueError,
            r"expected output_padding less than the stride or the dilation "
            r"\(\(8, 8\), \(1, 1\)\), got \(7, 8\)",
        ),
        (
            {"stride": 0},
            ValueError,
            r"expected stride to be one or two integers of at least 1, got 0",
        ),
        (
            {"padding": (1, -1)},
            ValueError,
            r"expected padding to be one or two integers of at least 0, got \(1, -1\)",
        ),
        (
            {"output_padding": -1},
            ValueError,
            r"expected output_padding to be one or two integers of at least 0, got -1",
        ),
        (
            {"dilation": (1, 1, 1)},
            ValueError,
            r"expected dilation to be one or two integers of at least 1, got \(1, 1, 1\)",
        ),
        (
            {"padding": 16},
            ValueError,
            r"expected an output with pixels, got input \(1, 4, 3, 3\), weight \(4, 2, 16, 16\), "
            r"stride \(8, 8\) and padding \(16, 16\)",
        ),
        (
            {"input": IMAGE[:, :, :0]},
            ValueError,
            r"expected an output with pixels, got input \(1, 4, 0, 3\)",
        ),
    ],
)
def test_errors(face, changes, error, message):
    arguments = {"input": IMAGE, "weight": WEIGHT, "stride": 8} | changes
    with pytest.raises(error, match=f"^{face.__name__}: {message}"):
        face(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, (3, 3)), TypeError, r"expected weight to be a torch\.Tensor, got NoneType"),
        ((WEIGHT[0], (3, 3)), ValueError, r"expected weight of shape \(O, C / groups, K, L\)"),
        (
            (WEIGHT, (20, 20), 1, 0, 3),
            ValueError,
            r"expected groups to divide the 4 rows of weight, got 3",
        ),
        (
            (WEIGHT, (20, 0)),
            ValueError,
            r"expected input_size to be one or two integers of at least 1, got \(20, 0\)",
        ),
        (
            (WEIGHT, (20, 20), 0),
            ValueError,
            r"expected stride to be one or two integers of at least 1, got 0",
        ),
        (
            (WEIGHT, (20, 9), 1, 3),
            ValueError,
            r"expected a kernel that fits into the padded image, got weight \(4, 2, 16, 16\), "
            r"input_size \(20, 9\), padding \(3, 3\), dilation \(1, 1\)",
        ),
    ],
)
def test_errors_of_the_matrix(arguments, error, message):
    with pytest.raises(error, match="^convolution_matrix: " + message):
        convolution_matrix(*arguments)


def test_kernels_check_shapes_themselves():
    operator = torch.ops.cvlib.conv_transpose2d
    if not has_kernels("cpu"):
        pytest.skip("without kernels PyTorch checks")
    for weight, numbers in (
        (WEIGHT[:3], (8, 8, 0, 0, 0, 0, 1)),
        (WEIGHT, (8, 8, 0, 0, 0, 0, 3)),
        (WEIGHT, (0, 8, 0, 0, 0, 0, 1)),
        (WEIGHT, (8, 8, -1, 0, 0, 0, 1)),
        (WEIGHT, (8, 8, 0, 0, -1, 0, 1)),
        (WEIGHT, (8, 8, 99, 0, 0, 0, 1)),
    ):
        with pytest.raises(RuntimeError, match="conv_transpose2d: expected"):
            operator(IMAGE, weight, None, *numbers)


# --- by hand ------------------------------------------------------------------------------------


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
