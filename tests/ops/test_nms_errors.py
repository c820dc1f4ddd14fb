"""nms and batched_nms: errors."""

import numpy as np
import pytest
import torch
from cases_suppression import BOXES, INVERTED, NAN_BOX, SCORES, inf, nan, tensors, uniform

import cvlib

LABELS = torch.tensor([0, 1, 0])
SHARED_ERRORS = [
    ({"boxes": BOXES.tolist()}, TypeError, r"expected boxes to be a torch\.Tensor, got list"),
    ({"scores": [0.9]}, TypeError, r"expected scores to be a torch\.Tensor, got list"),
    ({"boxes": BOXES.int()}, TypeError, r"expected boxes of a floating-point dtype, got .*int32"),
    ({"scores": SCORES.long()}, TypeError, r"expected scores of .*dtype.*, got .*int64"),
    ({"scores": SCORES.double()}, TypeError, r"expected scores of the dtype of boxes .*float64"),
    ({"boxes": BOXES[:, :3]}, ValueError, r"expected boxes of shape \(N, 4\), got \(3, 3\)"),
    ({"boxes": BOXES[0]}, ValueError, r"expected boxes of shape \(N, 4\), got \(4,\)"),
    ({"boxes": BOXES[None]}, ValueError, r"expected boxes of shape \(N, 4\), got \(1, 3, 4\)"),
    (
        {"scores": SCORES[:2]},
        ValueError,
        r"expected scores of shape \(N,\) with N = 3 .*got \(2,\)",
    ),
    ({"scores": SCORES[:, None]}, ValueError, r"expected scores of shape \(N,\), got \(3, 1\)"),
    ({"scores": SCORES.to("meta")}, ValueError, r"expected scores on the device .*cpu.*, got meta"),
    ({"iou_threshold": -0.1}, ValueError, r"expected iou_threshold in \[0, 1\], got -0\.1"),
    ({"iou_threshold": 1.5}, ValueError, r"expected iou_threshold in \[0, 1\], got 1\.5"),
    ({"iou_threshold": nan}, ValueError, r"expected iou_threshold in \[0, 1\], got nan"),
    ({"iou_threshold": inf}, ValueError, r"expected iou_threshold in \[0, 1\], got inf"),
    ({"iou_threshold": "half"}, TypeError, r"expected iou_threshold"),
    ({"iou_threshold": None}, TypeError, r"expected iou_threshold"),
    ({"max_output": -1}, ValueError, r"expected max_output >= 0 or None, got -1"),
    ({"max_output": 1.5}, TypeError, r"expected max_output"),
    (
        {"boxes": NAN_BOX},
        ValueError,
        r"expected boxes without NaN, got boxes\[1\] = \(1, 1, nan, 3\)",
    ),
    (
        {"boxes": INVERTED},
        ValueError,
        r"expected boxes with x1 <= x2 .*boxes\[2\] = \(30, 40, 20, 60\)",
    ),
    ({"scores": SCORES * nan}, ValueError, r"expected scores without NaN, got scores\[0\] = nan"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), SHARED_ERRORS)
def test_errors(wrong, error, message):
    arguments = {"boxes": BOXES, "scores": SCORES, "iou_threshold": 0.5, **wrong}
    with pytest.raises(error, match="^nms: " + message):
        cvlib.nms(**arguments)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *SHARED_ERRORS,
        (
            {"labels": LABELS.int()},
            TypeError,
            r"expected labels to be an int64 tensor, got .*int32",
        ),
        ({"labels": [0, 1, 0]}, TypeError, r"expected labels to be an int64 tensor, got list"),
        (
            {"labels": LABELS.float()},
            TypeError,
            r"expected labels to be an int64 tensor, got .*float32",
        ),
        (
            {"image_ids": LABELS > 0},
            TypeError,
            r"expected image_ids to be an int64 tensor, got .*bool",
        ),
        (
            {"labels": LABELS[:2]},
            ValueError,
            r"expected labels of shape \(N,\) with N = 3.*got \(2,\)",
        ),
        (
            {"image_ids": LABELS[None]},
            ValueError,
            r"expected image_ids of shape \(N,\).*got \(1, 3\)",
        ),
        (
            {"labels": LABELS.to("meta")},
            ValueError,
            r"expected labels on the device.*cpu.*got meta",
        ),
        (
            {"image_ids": LABELS.to("meta")},
            ValueError,
            r"expected image_ids on the device.*got meta",
        ),
    ],
)
def test_batched_nms_errors(wrong, error, message):
    arguments = {"boxes": BOXES, "scores": SCORES, "labels": LABELS, "iou_threshold": 0.5, **wrong}
    with pytest.raises(error, match="^batched_nms: " + message):
        cvlib.batched_nms(**arguments)


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("position", [0, 1, 9, 16, 19])
def test_one_bad_value_among_many_is_found(n, position, rng):
    boxes, scores = tensors(uniform(rng, n), rng.random(n), "cpu")
    position = n - 20 + position
    for column in range(4):
        bad = boxes.clone()
        bad[position, column] = nan
        with pytest.raises(
            ValueError, match=rf"^nms: expected boxes without NaN, got boxes\[{position}\]"
        ):
            cvlib.nms(bad, scores, 0.5)
    bad = boxes.clone()
    bad[position] = bad[position, [2, 1, 0, 3]]
    with pytest.raises(ValueError, match=rf"x1 <= x2 and y1 <= y2, got boxes\[{position}\]"):
        cvlib.nms(bad, scores, 0.5)
    scores[position] = nan
    with pytest.raises(ValueError, match=rf"expected scores without NaN, got scores\[{position}\]"):
        cvlib.nms(boxes, scores, 0.5)


def test_bad_values_are_found_even_when_the_output_is_limited(rng):
    boxes, scores = tensors(uniform(rng, 50), np.arange(50)[::-1], "cpu")
    boxes[49, 0] = nan
    with pytest.raises(ValueError, match="without NaN"):
        cvlib.nms(boxes, scores, 0.5, max_output=1)
