"""multibox_prior."""

import numpy as np
import oracles
import pytest
import torch

from cvlib.anchors import multibox_prior

nan = float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("feature_size", [(1, 1), (1, 5), (5, 1), (4, 7), (32, 32)])
@pytest.mark.parametrize(
    ("sizes", "ratios"),
    [([0.5], [1]), ([0.2, 0.272], [1, 2, 0.5]), ([0.75, 0.5, 0.25], [3]), ([1.0], [0.5, 1, 2, 3])],
)
def test_matches_oracle(device, dtype, feature_size, sizes, ratios, tolerances):
    anchors = multibox_prior(feature_size, sizes, ratios, dtype=dtype, device=device)
    expected = oracles.multibox_prior(feature_size, sizes, ratios)
    assert anchors.dtype == dtype and anchors.device.type == device
    torch.testing.assert_close(
        anchors.cpu().double(), torch.from_numpy(expected), **tolerances[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types(device, dtype, tolerances):
    anchors = multibox_prior((4, 4), [0.5, 0.25], [1, 2], dtype=dtype, device=device)
    expected = torch.from_numpy(oracles.multibox_prior((4, 4), [0.5, 0.25], [1, 2]))
    assert anchors.dtype == dtype
    torch.testing.assert_close(anchors.cpu().double(), expected, **tolerances[dtype])


def test_sizes_and_ratios_may_be_any_sequence():
    expected = multibox_prior((3, 2), [0.5, 0.25], [1.0, 2.0])
    assert torch.equal(multibox_prior((3, 2), (0.5, 0.25), (1, 2)), expected)
    assert torch.equal(multibox_prior([3, 2], np.array([0.5, 0.25]), np.array([1, 2])), expected)


def test_defaults_are_float32_on_the_cpu():
    anchors = multibox_prior((2, 2), [0.5], [1])
    assert anchors.dtype == torch.float32 and anchors.device.type == "cpu"
    assert anchors.is_contiguous() and not anchors.requires_grad


def test_anchors_are_ordered_by_row_column_and_shape():
    anchors = multibox_prior((3, 4), [0.2, 0.1], [1, 2, 0.5], dtype=torch.float64).view(3, 4, 4, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    for row in range(3):
        for column in range(4):
            expected = torch.tensor([(column + 0.5) / 4, (row + 0.5) / 3], dtype=torch.float64)
            torch.testing.assert_close(centres[row, column], expected.expand(4, 2))


def test_anchors_are_square_in_an_image_of_the_shape_of_the_feature_map():
    for height, width in ((4, 8), (9, 3)):
        anchors = multibox_prior((height, width), [0.5], [1])
        sides = anchors[:, 2:] - anchors[:, :2]
        torch.testing.assert_close(sides[:, 0] * width, sides[:, 1] * height)


def test_anchors_are_not_clipped():
    anchors = multibox_prior((2, 2), [1.0], [1])
    assert anchors.min() < 0 and anchors.max() > 1


def test_number_of_anchors_of_the_book_for_a_photograph():
    # Section 14.4.1: five anchors for each pixel of 561 x 728.
    anchors = multibox_prior((561, 728), [0.75, 0.5, 0.25], [1, 2, 0.5])
    assert anchors.shape == (2042040, 4)
    # The book prints the first anchor of pixel (250, 250) as (0.06, 0.07, 0.63, 0.82).
    first = anchors.view(561, 728, 5, 4)[250, 250, 0]
    torch.testing.assert_close(first, torch.tensor([0.06, 0.07, 0.63, 0.82]), rtol=0, atol=0.01)


def test_compiles_without_graph_breaks_and_with_dynamic_shapes(device, fresh_compiler):
    def prior(feature_map):
        return multibox_prior(
            feature_map.shape[-2:], [0.5, 0.25], [1, 2], device=feature_map.device
        )

    compiled = torch.compile(prior, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 4), (5, 7)):
        feature_map = torch.zeros(1, *shape, device=device)
        torch.testing.assert_close(compiled(feature_map), prior(feature_map))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"feature_size": (0, 4)},
            r"expected `feature_size` to be at least \(1, 1\), got \(0, 4\)",
        ),
        (
            {"feature_size": (4, -1)},
            r"expected `feature_size` to be at least \(1, 1\), got \(4, -1\)",
        ),
        ({"sizes": []}, r"expected `sizes` to be positive numbers, got \[\]"),
        ({"sizes": [0.5, 0]}, r"expected `sizes` to be positive numbers, got \[0\.5, 0\]"),
        ({"sizes": [nan]}, r"expected `sizes` to be positive numbers, got \[nan\]"),
        ({"ratios": []}, r"expected `ratios` to be positive numbers, got \[\]"),
        ({"ratios": [1, -2]}, r"expected `ratios` to be positive numbers, got \[1, -2\]"),
        ({"ratios": [nan]}, r"expected `ratios` to be positive numbers, got \[nan\]"),
    ],
)
def test_errors(wrong, message):
    arguments = {"feature_size": (4, 4), "sizes": [0.5], "ratios": [1], **wrong}
    with pytest.raises(ValueError, match="^multibox_prior: " + message):
        multibox_prior(**arguments)


def test_by_hand(device):
    # One cell, centre (1/2, 1/2): a square of 1/2; then of ratio 4: twice as wide, half as high.
    anchors = multibox_prior((1, 1), [0.5], [1, 4], device=device)
    expected = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0, 0.375, 1, 0.625]], device=device)
    assert torch.equal(anchors, expected)
    # Two cells side by side: the square of the image's pixels is half as wide in its own units.
    anchors = multibox_prior((1, 2), [0.5], [1], device=device)
    expected = torch.tensor([[0.125, 0.25, 0.375, 0.75], [0.625, 0.25, 0.875, 0.75]], device=device)
    assert torch.equal(anchors, expected)
