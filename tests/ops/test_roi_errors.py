"""roi_align and roi_pool: errors."""

import numpy as np
import pytest
import torch
from cases_roi import GOOD, MAPS, inf, nan, random_maps, random_regions

from cvlib.ops.roi import roi_align
from cvlib.ops.roi_pool import roi_pool


def with_value(column, value):
    boxes = GOOD.clone()
    boxes[1, column] = value
    return boxes


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize(
    ("maps", "boxes", "error", "message"),
    [
        ([1], GOOD, TypeError, r"expected input to be a torch\.Tensor, got list"),
        (
            MAPS.int(),
            GOOD,
            TypeError,
            r"expected input of a floating-point dtype, got torch",
        ),
        (MAPS[0], GOOD, ValueError, r"expected input of shape \(N, C, H, W\), got \(3, 8, 8\)"),
        (MAPS, GOOD.long(), TypeError, r"expected boxes of a floating-point dtype"),
        (MAPS, GOOD[:, 1:], ValueError, r"expected boxes of shape \(K, 5\), got \(2, 4\)"),
        (MAPS, GOOD.double(), TypeError, r"expected boxes of the dtype of input \(torch.float32\)"),
        (MAPS, GOOD.to("meta"), ValueError, r"expected boxes on the device of input \(cpu\)"),
        (MAPS, 3, TypeError, r"expected boxes to be a torch\.Tensor of shape .* got int"),
        (
            MAPS,
            [GOOD[:, 1:]],
            ValueError,
            r"expected boxes to be a list of N = 2 .* got 1",
        ),
        (
            MAPS,
            [GOOD[:, 1:], GOOD],
            ValueError,
            r"expected boxes\[1\] of shape \(L, 4\), got \(2, 5\)",
        ),
        (MAPS, [GOOD[:, 1:], 3], TypeError, r"expected boxes\[1\] to be a torch\.Tensor, got int"),
        (
            MAPS,
            GOOD.clone().requires_grad_(),
            RuntimeError,
            r"expected boxes that do not require a gradient, .* detach them",
        ),
        (
            MAPS,
            [GOOD[:, 1:].clone().requires_grad_(), GOOD[:, 1:]],
            RuntimeError,
            r"expected boxes that do not require a gradient",
        ),
        (MAPS, with_value(0, 2), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = 2"),
        (MAPS, with_value(0, -1), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = -1"),
        (MAPS, with_value(0, nan), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = nan"),
        (MAPS, with_value(2, nan), ValueError, r"expected boxes without NaN, got boxes\[1\]"),
        (
            MAPS,
            with_value(3, 0.5),
            ValueError,
            r"expected boxes with x1 <= x2 and y1 <= y2, got boxes\[1\] = \(1, 1, 0.5, 3\)",
        ),
        (
            MAPS,
            with_value(3, inf),
            ValueError,
            r"expected boxes with coordinates of at most 2\*\*30 pixels .* \(1, 1, inf, 3\)",
        ),
        (MAPS, with_value(2, -2.0e9), ValueError, r"expected boxes with coordinates of at most"),
        (
            MAPS,
            [GOOD[:, 1:], with_value(4, inf)[:, 1:]],
            ValueError,
            r"expected boxes\[1\] with coordinates of at most .* got boxes\[1\]\[1\]",
        ),
    ],
)
def test_errors(operator, maps, boxes, error, message):
    with pytest.raises(error, match=f"^{operator.__name__}: .*" + message):
        operator(maps, boxes, 2)


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize(
    ("size", "scale", "error", "message"),
    [
        (0, 1.0, ValueError, r"expected output_size >= 1, got 0"),
        ((2, -1), 1.0, ValueError, r"expected output_size >= 1, got \(2, -1\)"),
        ((2, 2, 2), 1.0, TypeError, r"expected output_size to be an int or a pair"),
        (2.5, 1.0, TypeError, r"expected output_size to be an int or a pair of them, got 2.5"),
        (2, 0.0, ValueError, r"expected spatial_scale to be positive and finite, got 0.0"),
        (2, nan, ValueError, r"expected spatial_scale to be positive and finite, got nan"),
        (2, inf, ValueError, r"expected spatial_scale to be positive and finite, got inf"),
        (True, 1.0, TypeError, r"expected output_size to be an int or a pair of them, got True"),
        (2, "a", TypeError, r"expected spatial_scale to be a number, got str"),
        (2, None, TypeError, r"expected spatial_scale to be a number, got NoneType"),
    ],
)
def test_errors_of_numbers(operator, size, scale, error, message):
    with pytest.raises(error, match=f"^{operator.__name__}: " + message):
        operator(MAPS, GOOD, size, scale)


@pytest.mark.parametrize("ratio", [0.5, np.float32(0.5), torch.tensor(1.5), None])
def test_sampling_ratio_is_whole(ratio):
    with pytest.raises(TypeError, match=r"^roi_align: expected sampling_ratio to be an int"):
        roi_align(MAPS, GOOD, 2, 1.0, ratio)


@pytest.mark.parametrize("position", [0, 15, 16, 500, 998])
def test_one_bad_box_among_many_is_found(position, rng):
    maps = random_maps(rng, (2, 1, 8, 8))
    regions = random_regions(rng, 999, maps)
    regions[position, 2] = nan
    for operator in (roi_align, roi_pool):
        with pytest.raises(ValueError, match=rf"without NaN, got boxes\[{position}\]"):
            operator(maps, regions, 2)
