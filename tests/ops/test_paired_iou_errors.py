"""The IoU family pair by pair: errors."""

import pytest
import torch
from cases_iou import FORMAT_HINT, GOOD, WRONG_KINDS, WRONG_VALUES, nan, random_boxes
from cases_paired_iou import FUNCTIONS, every_kind


@every_kind
@pytest.mark.parametrize(
    ("boxes1", "boxes2", "error", "message"),
    [
        *WRONG_KINDS,
        (GOOD[:, :3], GOOD[:, :3], ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(2,"),
        (torch.zeros(()), GOOD, ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(\)"),
        (torch.zeros(0), GOOD, ValueError, r"expected boxes1 of shape \(\.\.\., 4\), got \(0,\)"),
        (GOOD, GOOD[:1], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(1, 4\)"),
        (GOOD, GOOD[0], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(4,\)"),
        (GOOD, GOOD[None], ValueError, r"expected boxes2 of the shape .*, got \(1, 2, 4\)"),
        (GOOD, GOOD[:0], ValueError, r"expected boxes2 of the shape .*\(2, 4\), got \(0, 4\)"),
        (
            GOOD.reshape(2, 1, 4),
            GOOD.reshape(1, 2, 4),
            ValueError,
            r"expected boxes2 of the shape .*\(2, 1, 4\), got \(1, 2, 4\)",
        ),
        *WRONG_VALUES[:2],
        (
            GOOD,
            torch.tensor([[0.0, 0, 1, 1], [30, 40, 20, 60]]),
            ValueError,
            r"expected boxes2 with x1 <= x2 and y1 <= y2, got boxes2\[1\] = \(30, 40, 20, 60\); "
            + FORMAT_HINT,
        ),
        (
            torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 1]], [[0, 3, 1, 1], [0, 0, 1, 1]]]),
            GOOD.expand(2, 2, 4),
            ValueError,
            r"expected boxes1 with x1 <= x2 and y1 <= y2, got boxes1\[1, 0\] = \(0, 3, 1, 1\)",
        ),
        (
            GOOD[0],
            torch.tensor([0.0, nan, 1, 1]),
            ValueError,
            r"expected boxes2 without NaN, got boxes2 = \(0, nan, 1, 1\)",
        ),
    ],
)
def test_errors(kind, boxes1, boxes2, error, message):
    with pytest.raises(error, match=f"^{FUNCTIONS[kind].__name__}: {message}"):
        FUNCTIONS[kind](boxes1, boxes2)


@every_kind
@pytest.mark.parametrize("position", [0, 7, 16, 2500, 19999])
def test_one_bad_box_among_many_is_found(kind, position, rng):
    good = random_boxes(rng, 20000, "cpu")
    bad = good.clone()
    bad[position, 3] = nan
    for arguments, name in (((bad, good), "boxes1"), ((good, bad), "boxes2")):
        with pytest.raises(ValueError, match=rf"without NaN, got {name}\[{position}\]"):
            FUNCTIONS[kind](*arguments)
