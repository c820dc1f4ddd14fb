"""Sizes, tensors and comparison for the tests of the transposed convolution."""

import pytest
import torch

from cvlib._extension import has_kernels
from cvlib.ops.conv_transpose import conv_transpose2d
from cvlib.ops.conv_transpose_lessons import (
    conv_transpose2d_by_definition,
    conv_transpose2d_by_matrix,
)

nan, inf = float("nan"), float("inf")
FACES = [conv_transpose2d, conv_transpose2d_by_definition, conv_transpose2d_by_matrix]
# Sums of thousands of products of either sign, in float32.
CLOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-3}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}

# Input, weight, stride, padding, output_padding, groups; computed by the kernels of cvlib.
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
SMALL = ((1, 2, 2, 3), (2, 1, 16, 16), (4, 5), (7, 6), (1, 2), 1)
own_cases = pytest.mark.parametrize("case", OWN.values(), ids=OWN.keys())


def make(rng, case, device, dtype=torch.float64, *, has_bias=True):
    """Return [input, weight, bias], and the options that follow them."""
    image, weight, *options = case
    shapes = image, weight, (weight[1] * options[-1],)
    tensors = [torch.from_numpy(rng.normal(size=s)).to(device, dtype) for s in shapes]
    return (tensors if has_bias else [*tensors[:2], None]), options


def expects_own(device):
    """Whether cvlib's kernels must compute the sizes of OWN; on CUDA they compute some."""
    return device == "cpu" and has_kernels("cpu")


def as_arrays(*tensors):
    return [None if t is None else t.detach().cpu().double().numpy() for t in tensors]


def expect_close(actual, expected, dtype=None):
    expected = torch.as_tensor(expected).to(actual.device, torch.float64)
    tolerance = CLOSE[dtype or actual.dtype]
    torch.testing.assert_close(actual.detach().double(), expected, **tolerance)
