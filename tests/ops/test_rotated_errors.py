"""box_iou_rotated and paired_box_iou_rotated: errors."""

import pytest
import torch
from cases_rotated import inf, nan, random_boxes

from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated

BOXES = torch.tensor([[0.0, 0, 2, 2, 0], [1, 1, 3, 3, 10], [5, 5, 6, 6, 20]])


def with_value(row, column, value):
    boxes = BOXES.clone()
    boxes[row, column] = value
    return boxes


ERRORS = [
    (BOXES.tolist(), TypeError, r"to be a torch\.Tensor, got list"),
    (BOXES.int(), TypeError, r"of a floating-point dtype, got .*int32"),
    (BOXES[:, :4], ValueError, r"of shape \((N|M|\.\.\.), 5\), got \(3, 4\)"),
    (with_value(1, 0, nan), ValueError, r"without NaN, got boxes\d\[1\] = \(nan, 1, 3, 3, 10\)"),
    (with_value(1, 4, nan), ValueError, r"without NaN, got boxes\d\[1\] = \(1, 1, 3, 3, nan\)"),
    (with_value(2, 2, -1), ValueError, r"with w >= 0 and h >= 0, got boxes\d\[2\] = \(5, 5, -1"),
    (with_value(2, 3, -1), ValueError, r"with w >= 0 and h >= 0.*\(cx, cy, w, h, angle\), the ang"),
    (with_value(0, 4, inf), ValueError, r"with angles from -1e\+09 to 1e\+09 degrees, got .*inf\)"),
    (
        with_value(0, 4, -2e9),
        ValueError,
        r"with angles from -1e\+09 to 1e\+09 degrees, got .*e\+09",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_errors(function, wrong, error, message):
    name = function.__name__
    with pytest.raises(error, match=f"^{name}: expected boxes1 {message}"):
        function(wrong, BOXES)
    with pytest.raises(error, match=f"^{name}: expected boxes2 {message}"):
        function(BOXES, wrong)


def test_errors_of_shapes():
    for wrong in (BOXES[0], BOXES[None]):
        with pytest.raises(ValueError, match=r"expected boxes1 of shape \(N, 5\), got \("):
            box_iou_rotated(wrong, BOXES)
        with pytest.raises(ValueError, match=r"expected boxes2 of shape \(M, 5\), got \("):
            box_iou_rotated(BOXES, wrong)


@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_errors_of_two_kinds(function):
    with pytest.raises(TypeError, match=r"expected boxes2 of the dtype of boxes1 .*got .*float64"):
        function(BOXES, BOXES.double())
    with pytest.raises(ValueError, match=r"expected boxes2 on the device of boxes1 .*got meta"):
        function(BOXES, BOXES.to("meta"))


def test_pairs_of_two_shapes_are_an_error():
    message = (
        r"^paired_box_iou_rotated: expected boxes2 of the shape of boxes1 \(3, 5\), got \(2, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        paired_box_iou_rotated(BOXES, BOXES[:2])


@pytest.mark.parametrize("position", [0, 16, 63, 64, 199])
@pytest.mark.parametrize("column", range(5))
def test_one_bad_value_among_many_is_found(position, column, rng):
    boxes = random_boxes(rng, 200, "cpu")
    bad = boxes.clone()
    bad[position, column] = nan
    for function in (box_iou_rotated, paired_box_iou_rotated):
        with pytest.raises(ValueError, match=rf"without NaN, got boxes2\[{position}\]"):
            function(boxes, bad)
