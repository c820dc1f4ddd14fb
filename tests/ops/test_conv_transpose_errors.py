"""Transposed convolution: errors."""

import pytest
import torch
from cases_conv_transpose import FACES

from cvlib._extension import has_kernels
from cvlib.ops.conv_transpose_lessons import convolution_matrix

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
        ({"stride": 2.5}, TypeError, r"expected stride to be one or two integers, got 2\.5"),
        ({"padding": "a"}, TypeError, r"expected padding to be one or two integers, got 'a'"),
        (
            {"dilation": (1, None)},
            TypeError,
            r"expected dilation to be one or two integers, got \(1, None\)",
        ),
        ({"groups": 1.5}, TypeError, r"expected groups to be an int, got float"),
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
        ((WEIGHT, 20.0), TypeError, r"expected input_size to be one or two integers, got 20\.0"),
        ((WEIGHT, (20, 20), 1, 0, "a"), TypeError, r"expected groups to be an int, got str"),
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
