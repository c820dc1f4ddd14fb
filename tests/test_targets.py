"""Training targets of anchors, and labels that are refused."""

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.anchors import multibox_prior
from cvlib.box_coding import VARIANCES
from cvlib.models import TinySSD
from cvlib.targets import assign_targets, check_targets

HEIGHT, WIDTH = 64, 96
GOOD = (4.0, 5.0, 20.0, 30.0)
NAN, INF = float("nan"), float("inf")


def batch_with(box=GOOD, label=0):
    """Two images with two rows each; the last row is the one under test."""
    boxes = torch.tensor([[GOOD, (-1,) * 4], [GOOD, box]])
    return boxes, torch.tensor([[0, -1], [1, label]])


BAD = {
    "label too large": ({"label": 2}, r"`labels` to be in 0\.\.1 .*labels\[1, 1\] = 2"),
    "label below the padding": ({"label": -2}, r"`labels` to be in 0\.\.1 .*labels\[1, 1\] = -2"),
    "nan": ({"box": (4, NAN, 20, 30)}, r"without NaN, got boxes\[1, 1\]"),
    "only nan": ({"box": (NAN,) * 4}, r"without NaN, got boxes\[1, 1\]"),
    "inverted x": ({"box": (20, 5, 4, 30)}, r"x1 <= x2 and y1 <= y2, got boxes\[1, 1\]"),
    "inverted y": ({"box": (4, 30, 20, 5)}, r"x1 <= x2 and y1 <= y2, got boxes\[1, 1\]"),
    "beyond the right edge": ({"box": (4, 5, WIDTH + 2, 30)}, r"inside the image.*\[1, 1\]"),
    "beyond the lower edge": ({"box": (4, 5, 20, HEIGHT + 2)}, r"inside the image.*\[1, 1\]"),
    "beyond the left edge": ({"box": (-2, 5, 20, 30)}, r"inside the image.*\[1, 1\]"),
    "beyond the upper edge": ({"box": (4, -2, 20, 30)}, r"inside the image.*\[1, 1\]"),
    "far away": ({"box": (1000, 1000, 1010, 1010)}, r"inside the image.*\[1, 1\]"),
    "infinite": ({"box": (4, 5, INF, INF)}, r"inside the image.*\[1, 1\]"),
    "no width": ({"box": (4, 5, 4, 30)}, r"positive width and height.*\[1, 1\]"),
    "no height": ({"box": (4, 5, 20, 5)}, r"positive width and height.*\[1, 1\]"),
    "a point": ({"box": (0, 0, 0, 0)}, r"positive width and height.*\[1, 1\]"),
    "padding with a label": ({"box": (-1, -1, -1, -1)}, r"positive width and height.*\[1, 1\]"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_wrong_labels_are_refused_with_image_and_row(change, message):
    boxes, labels = batch_with(**change)
    with pytest.raises(ValueError, match=message):
        check_targets(boxes, labels, 2, (HEIGHT, WIDTH))


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD.keys())
def test_a_model_refuses_wrong_labels(change, message):
    model, anchors = TinySSD(("cat", "dog"), (HEIGHT, WIDTH)), torch.rand(4, 4).sort(dim=1).values
    with pytest.raises(ValueError, match=message):
        model.assign(anchors, *batch_with(**change), (HEIGHT, WIDTH))


def test_normalised_boxes_are_refused():
    boxes, labels = batch_with()
    boxes = torch.where(labels[..., None] >= 0, boxes / torch.tensor([WIDTH, HEIGHT] * 2), -1.0)
    with pytest.raises(ValueError, match=f"multiply x by {WIDTH} and y by {HEIGHT}"):
        check_targets(boxes, labels, 2, (HEIGHT, WIDTH))


def test_right_labels_pass():
    boxes, labels = batch_with()
    check_targets(boxes, labels, 2, (HEIGHT, WIDTH))


def test_a_box_may_fill_the_image_and_stick_out_by_rounding():
    for box in ((0, 0, WIDTH, HEIGHT), (-0.5, -0.5, WIDTH + 0.5, HEIGHT + 0.5)):
        check_targets(*batch_with(box), 2, (HEIGHT, WIDTH))


def test_a_batch_without_objects_passes():
    check_targets(torch.full((2, 1, 4), -1.0), torch.full((2, 1), -1), 1, (HEIGHT, WIDTH))
    check_targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), 1, (HEIGHT, WIDTH))


@pytest.mark.parametrize("content", [-1.0, 0.0, NAN, 1e9])
def test_padding_may_hold_anything(content):
    boxes, labels = batch_with((content,) * 4, label=-1)
    check_targets(boxes, labels, 2, (HEIGHT, WIDTH))


@given(seed=st.integers(0, 10**6))
def test_targets_match_the_oracle(seed):
    torch.manual_seed(seed)
    anchors = multibox_prior((3, 4), (0.3, 0.5), (1, 2))
    count = int(torch.randint(0, 4, ()))
    corners = torch.rand(2, count, 2) * torch.tensor([WIDTH / 2, HEIGHT / 2])
    sides = (0.1 + torch.rand(2, count, 2)) * torch.tensor([WIDTH / 4, HEIGHT / 4])
    boxes = torch.cat([corners, corners + sides], dim=-1)
    labels = torch.randint(0, 3, (2, count))
    if count:
        boxes[1, -1], labels[1, -1] = -1, -1
    targets = assign_targets(anchors, boxes, labels, (HEIGHT, WIDTH))
    rows = torch.cat([labels[..., None], boxes / torch.tensor([WIDTH, HEIGHT] * 2)], dim=-1)
    offsets, mask, classes = oracles.multibox_target(
        anchors.numpy(), rows.float().numpy(), 0.5, VARIANCES
    )
    assert targets.classes.tolist() == classes.tolist()
    assert targets.positive.tolist() == (mask[:, ::4] > 0).tolist()
    torch.testing.assert_close(
        targets.offsets.double().flatten(1), torch.from_numpy(offsets), rtol=1e-4, atol=1e-4
    )


def test_one_object_by_hand(device):
    # Four anchors, the quarters of an image of 8 (height) x 16 (width); the box is the upper right
    # one, moved right by an eighth of its width of 8 pixels: 1 / 8 / .1 = 1.25.
    anchors = multibox_prior((2, 2), (0.5,), (1,), device=device)
    boxes = torch.tensor([[[9.0, 0.0, 17.0, 4.0]]], device=device)
    targets = assign_targets(anchors, boxes, torch.tensor([[4]], device=device), (8, 16))
    assert targets.classes.tolist() == [[0, 5, 0, 0]]
    expected = torch.zeros(1, 4, 4)
    expected[0, 1, 0] = 1.25
    torch.testing.assert_close(targets.offsets.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_every_object_gets_an_anchor():
    # The boxes are far too small for an IoU of .5 with any anchor.
    anchors = multibox_prior((4, 4), (0.5,), (1,))
    boxes = torch.tensor([[[1.0, 1, 3, 3], [40, 40, 42, 42]]])
    targets = assign_targets(anchors, boxes, torch.tensor([[0, 1]]), (64, 64))
    assert sorted(targets.classes[targets.positive].tolist()) == [1, 2]


def test_without_objects_all_anchors_are_background(device):
    anchors = multibox_prior((2, 2), (0.5,), (1,), device=device)
    boxes = torch.full((3, 2, 4), -1.0, device=device)
    targets = assign_targets(anchors, boxes, torch.full((3, 2), -1, device=device), (64, 64))
    assert targets.classes.shape == (3, 4)
    assert not targets.classes.any()
    assert not targets.positive.any()
    assert not targets.offsets.any()
