"""Random calls of the transposed convolution, native and reference, against the oracle."""

import oracles_conv_transpose
import torch
from fuzzing import make_tests

from cvlib.ops.conv_transpose import _backward_reference, _reference, conv_transpose2d
from cvlib.ops.conv_transpose_lessons import (
    conv_transpose2d_by_definition,
    conv_transpose2d_by_matrix,
)

TOLERANCES = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
}


def pair(rng, low, high):
    return tuple(int(n) for n in rng.integers(low, high, 2))


def random_padding(rng, size, kernel, stride, output_padding, dilation=(1, 1)):
    """Leaves at least one output pixel."""
    full = [
        (size[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 + output_padding[d]
        for d in range(2)
    ]
    return tuple(int(rng.integers(0, (full[d] - 1) // 2 + 1)) for d in range(2))


def random_tensors(rng, device, dtype, *shapes):
    return [torch.from_numpy(rng.normal(size=shape)).to(device, dtype) for shape in shapes]


def random_call(rng, device, *, kernels, strides, dilations):
    """Input, weight, bias and the options of one call."""
    groups = int(rng.integers(1, 4)) if rng.random() < 0.4 else 1
    inputs, outputs = (1, 1) if rng.random() < 0.3 else pair(rng, 1, 4)
    kernel, size = pair(rng, *kernels), pair(rng, 1, 4)
    stride, dilation = pair(rng, *strides), pair(rng, *dilations)
    output_padding = tuple(
        int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)
    )
    padding = random_padding(rng, size, kernel, stride, output_padding, dilation)
    dtype = torch.float64 if rng.random() < 0.5 else torch.float32
    tensors = random_tensors(
        rng,
        device,
        dtype,
        (int(rng.integers(0, 3)), groups * inputs, *size),
        (groups * inputs, outputs, *kernel),
        (groups * outputs,),
    )
    if rng.random() < 0.3:
        tensors[2] = None
    return tensors, (stride, padding, output_padding, groups, dilation)


def as_arrays(tensors):
    return [None if t is None else t.detach().cpu().double().numpy() for t in tensors]


def expect_close(actual, expected, dtype):
    torch.testing.assert_close(
        actual.detach().cpu().double(), torch.from_numpy(expected), **TOLERANCES[dtype]
    )


def fuzz_kernels(rng, device):
    """The operators themselves, for sizes that the public function would give to PyTorch too."""
    tensors, options = random_call(rng, device, kernels=(1, 14), strides=(1, 9), dilations=(1, 2))
    image, weight, bias = tensors
    stride, padding, output_padding, groups, _ = options
    numbers = (*stride, *padding, *output_padding, groups)
    expected = oracles_conv_transpose.conv_transpose2d(*as_arrays(tensors), *options)
    for call in (torch.ops.cvlib.conv_transpose2d, _reference):
        expect_close(call(image, weight, bias, *numbers), expected, image.dtype)
    (grad,) = random_tensors(rng, device, image.dtype, expected.shape)
    expected = oracles_conv_transpose.conv_transpose2d_gradients(
        *as_arrays([grad, image, weight]), stride, padding, groups
    )
    needs = bool(rng.random() < 0.8), bool(rng.random() < 0.8)
    for call in (torch.ops.cvlib.conv_transpose2d_backward, _backward_reference):
        found = call(grad, image, weight, *stride, *padding, groups, *needs)
        for is_needed, one, other in zip(needs, found, expected, strict=False):
            if is_needed:
                expect_close(one, other, image.dtype)
            else:
                assert one.numel() == 0


def fuzz_faces(rng, device):
    """The three public functions agree with the oracle for all options."""
    tensors, options = random_call(rng, device, kernels=(1, 6), strides=(1, 5), dilations=(1, 4))
    expected = oracles_conv_transpose.conv_transpose2d(*as_arrays(tensors), *options)
    for face in (conv_transpose2d, conv_transpose2d_by_definition, conv_transpose2d_by_matrix):
        expect_close(face(*tensors, *options), expected, tensors[0].dtype)


def fuzz_gradients(rng, device):
    """Through the public function, with sizes that own kernels serve."""
    tensors, options = random_call(rng, device, kernels=(16, 20), strides=(4, 17), dilations=(1, 2))
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    output = conv_transpose2d(*tensors, *options)
    (grad,) = random_tensors(rng, device, output.dtype, output.shape)
    output.backward(grad)
    stride, padding, _, groups, _ = options
    expected = oracles_conv_transpose.conv_transpose2d_gradients(
        *as_arrays([grad, tensors[0], tensors[1]]), stride, padding, groups
    )
    for tensor, one in zip(tensors, expected, strict=True):
        if tensor is not None:
            expect_close(tensor.grad, one, output.dtype)


CALLS = {fuzz_kernels: 100, fuzz_faces: 100, fuzz_gradients: 30}

test_random_calls, test_many_random_calls = make_tests(CALLS)
