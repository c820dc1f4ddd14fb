"""upsample_bilinear: errors."""

import pytest
import torch
from cases_upsample import OPERATORS, inf, nan

from cvlib.ops.upsample import upsample_bilinear

GOOD = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("images", "keywords", "error", "message"),
    [
        ([[1.0]], {"size": 2}, TypeError, r"expected input to be a torch\.Tensor, got list"),
        (
            GOOD.long(),
            {"size": 2},
            TypeError,
            r"expected input of a floating-point dtype, got torch\.int64; convert with",
        ),
        (
            GOOD.to(torch.cfloat),
            {"size": 2},
            TypeError,
            r"expected input of a floating-point dtype, got torch\.complex64",
        ),
        (
            GOOD[0],
            {"size": 2},
            ValueError,
            r"expected input of shape \(N, C, H, W\), got \(2, 3, 4\)",
        ),
        (
            GOOD[:, :, :0],
            {"size": 2},
            ValueError,
            r"expected input with height and width of at least 1, got \(1, 2, 0, 4\)",
        ),
        (
            GOOD[..., :0],
            {"scale_factor": 2},
            ValueError,
            r"expected input with height and width of at least 1, got \(1, 2, 3, 0\)",
        ),
        (GOOD, {}, ValueError, "expected one of size and scale_factor, got neither"),
        (
            GOOD,
            {"size": 2, "scale_factor": 2},
            ValueError,
            "expected one of size and scale_factor, got both",
        ),
        (GOOD, {"size": (2, 0)}, ValueError, r"expected size of at least 1, got \(2, 0\)"),
        (GOOD, {"size": -1}, ValueError, r"expected size of at least 1, got \(-1, -1\)"),
        (
            GOOD,
            {"size": (1, 2, 3)},
            ValueError,
            r"expected size to be one or two integers, got \(1, 2, 3\)",
        ),
        (GOOD, {"size": 2.0}, TypeError, r"expected size to be one or two integers, got 2\.0"),
        (
            GOOD,
            {"size": (2, "3")},
            TypeError,
            r"expected size to be one or two integers, got \(2, '3'\)",
        ),
        (GOOD, {"size": True}, TypeError, "expected size to be one or two integers, got True"),
        (
            GOOD,
            {"scale_factor": (1.0,)},
            ValueError,
            r"expected scale_factor to be one or two numbers, got \(1\.0,\)",
        ),
        (
            GOOD,
            {"scale_factor": "2"},
            TypeError,
            "expected scale_factor to be one or two numbers, got 2",
        ),
        (
            GOOD,
            {"scale_factor": 0},
            ValueError,
            "expected scale_factor to be positive and finite, got 0",
        ),
        (
            GOOD,
            {"scale_factor": (2, -1.5)},
            ValueError,
            r"expected scale_factor to be positive and finite, got \(2, -1\.5\)",
        ),
        (
            GOOD,
            {"scale_factor": nan},
            ValueError,
            "expected scale_factor to be positive and finite, got nan",
        ),
        (
            GOOD,
            {"scale_factor": (inf, 1)},
            ValueError,
            r"expected scale_factor to be positive and finite, got \(inf, 1\)",
        ),
        (
            GOOD,
            {"scale_factor": 0.3},
            ValueError,
            r"expected scale_factor that gives a size of at least 1, got 0\.3 for \(3, 4\), which "
            r"gives \(0, 1\)",
        ),
        (
            GOOD,
            {"size": torch.tensor(1.5)},
            TypeError,
            r"expected size to be one or two integers, got tensor\(1\.5",
        ),
    ],
)
def test_errors(images, keywords, error, message):
    with pytest.raises(error, match="^upsample_bilinear: " + message):
        upsample_bilinear(images, **keywords)


@pytest.mark.parametrize("operator", ["upsample_bilinear", "upsample_bilinear_backward"])
def test_kernels_refuse_what_python_would_have_refused(operator):
    for images, size in ((GOOD[0], (2, 2)), (GOOD, (0, 2)), (GOOD[..., :0], (2, 2))):
        with pytest.raises(RuntimeError):
            getattr(OPERATORS, operator)(images, *size, 0.0, 0.0, False)
