"""multibox_target: decisions exactly, offsets to a tolerance."""

import math

import numpy as np
import oracles
import pytest
import torch
from cases_multibox import (
    ANCHORS,
    DTYPES,
    VARIANCES,
    grid_boxes,
    nan,
    real_dtype,
    to_tensor,
)
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.anchors import multibox_prior
from cvlib.ops.multibox import _multibox_target_reference


def target_scene(rng, num_anchors, num_images, num_gts, device, dtype=torch.float32):
    """Anchors (A, 4) with area and labels (B, M, 5) with ties, empty boxes and padding anywhere."""
    boxes = grid_boxes(rng, num_images, num_gts)
    classes = rng.integers(0, 9, (num_images, num_gts, 1))
    labels = np.concatenate([classes, boxes], -1)
    labels[rng.random((num_images, num_gts)) < 0.3] = -1
    anchors = grid_boxes(rng, num_anchors, smallest=1)
    return to_tensor(anchors, device, dtype), to_tensor(labels, device, dtype)


def assert_targets(anchors, labels, tolerances, iou_threshold=0.5, variances=VARIANCES):
    result = cvlib.multibox_target(
        anchors, labels, iou_threshold=iou_threshold, variances=variances
    )
    assert_same_targets(result, anchors, labels, tolerances, iou_threshold, variances)
    return result


def assert_same_targets(result, anchors, labels, tolerances, iou_threshold, variances):
    dtype = real_dtype(anchors.dtype)
    offsets, mask, classes = result
    expected = oracles.multibox_target(
        oracles.to_numpy(anchors).reshape(-1, 4), oracles.to_numpy(labels), iou_threshold, variances
    )
    expected_offsets, expected_mask, expected_classes = map(torch.from_numpy, expected)
    assert offsets.dtype == mask.dtype == dtype and classes.dtype == torch.int64
    assert offsets.device == mask.device == classes.device == anchors.device
    assert torch.equal(classes.cpu(), expected_classes)
    assert torch.equal(mask.cpu(), expected_mask.to(dtype))
    torch.testing.assert_close(offsets.cpu().double(), expected_offsets, **tolerances[dtype])


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 3, 20), (65, 4, 9)]
)
def test_target_matches_oracle(device, dtype, shape, rng, tolerances):
    for iou_threshold in (0.0, 1 / 3, 0.5, 1.0):
        anchors, labels = target_scene(rng, *shape, device, dtype)
        assert_targets(anchors, labels, tolerances, iou_threshold)


@pytest.mark.parametrize("num_images", [1, 5, 32])
def test_target_matches_oracle_on_anchors_of_the_book(device, num_images, rng, tolerances):
    anchors = multibox_prior((8, 8), [0.2, 0.272], [1, 2, 0.5], device=device)
    boxes = oracles.random_boxes(rng, num_images * 6, size=0.6, extent=0.4).reshape(-1, 6, 4)
    labels = np.concatenate([rng.integers(0, 20, (num_images, 6, 1)), boxes], -1)
    labels[rng.random((num_images, 6)) < 0.5] = -1
    assert_targets(anchors, to_tensor(labels, device), tolerances)


def test_target_matches_oracle_in_pixels(device, rng, tolerances):
    anchors, labels = target_scene(rng, 60, 3, 5, device)
    labels[:, 0] = to_tensor([3, 0, 0, 1, 1], device)  # every image has a large box
    labels[..., 1:] = torch.where(labels[..., :1] < 0, -1.0, labels[..., 1:] * 512)
    assert_targets(anchors * 512, labels, tolerances)


@pytest.mark.parametrize("variances", [(1, 1, 1, 1), (0.05, 0.3, 0.7, 2.0)])
def test_target_matches_oracle_with_other_variances(device, variances, rng, tolerances):
    anchors, labels = target_scene(rng, 40, 3, 5, device)
    assert_targets(anchors, labels, tolerances, variances=variances)


def test_target_accepts_anchors_with_a_batch_dimension_of_one(device, rng):
    anchors, labels = target_scene(rng, 30, 2, 4, device)
    for one, other in zip(
        cvlib.multibox_target(anchors[None], labels),
        cvlib.multibox_target(anchors, labels),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_target_rows_of_negative_class_are_padding(device):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], device)
    row, other = [2, 0.5, 0.5, 1, 1], [0, 0, 0, 0.5, 0.5]
    paddings = [[-1] * 5, [-1, 0, 0, 0, 0], [-3, 0, 0, 0.5, 0.5], [-1, 0.9, 0, 0.5, 0.5]]
    for padding in [*paddings, [-1, 0, 0, 500, 500], [-1, nan, nan, nan, nan]]:
        for rows in ([padding, row, padding], [row, padding, padding], [padding, padding, row]):
            offsets, mask, classes = cvlib.multibox_target(
                anchors, to_tensor([rows], device), iou_threshold=0.01
            )
            assert classes.tolist() == [[0, 3]]
            assert mask.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] and not offsets.any()
        classes = cvlib.multibox_target(anchors, to_tensor([[padding, row, other]], device))[2]
        assert classes.tolist() == [[1, 3]]


def test_target_of_an_image_without_objects_is_background(device):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], device)
    for labels in (torch.full((2, 3, 5), -1.0, device=device), torch.zeros(2, 0, 5, device=device)):
        for iou_threshold in (0.0, 0.5):
            offsets, mask, classes = cvlib.multibox_target(
                anchors, labels, iou_threshold=iou_threshold
            )
            assert offsets.shape == mask.shape == (2, 8) and classes.shape == (2, 2)
            assert not offsets.any() and not mask.any() and not classes.any()


def test_target_of_an_empty_box_is_finite(device, tolerances):
    anchors = to_tensor([[0, 0, 0.5, 0.5]], device)
    labels = to_tensor([[[0, 0.25, 0.25, 0.25, 0.25]]], device)
    offsets = assert_targets(anchors, labels, tolerances)[0]
    expected = to_tensor([[0, 0, math.log(1e-6) / 0.2, math.log(1e-6) / 0.2]], device)
    torch.testing.assert_close(offsets, expected)


def test_target_agrees_with_match_anchors_and_encode_boxes(device, rng, tolerances):
    anchors, labels = target_scene(rng, 200, 3, 6, device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels, iou_threshold=0.3)
    for image, rows in enumerate(labels):
        gts = rows[:, 1:].where(rows[:, :1] >= 0, -1.0)
        matches = cvlib.match_anchors(anchors, gts, 0.3)
        matched = matches >= 0
        assert torch.equal(classes[image], torch.where(matched, rows[matches, 0].long() + 1, 0))
        assert torch.equal(mask[image].view(-1, 4).bool().all(1), matched)
        expected = cvlib.encode_boxes(gts[matches[matched]], anchors[matched])
        actual = offsets[image].view(-1, 4)[matched]
        torch.testing.assert_close(actual, expected, **tolerances[torch.float32])


def test_target_memory_layout_does_not_matter(device, rng, tolerances):
    anchors, labels = target_scene(rng, 50, 4, 6, device)
    column_major = anchors.t().contiguous().t()
    images_last = labels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert_targets(column_major, images_last, tolerances)
    assert_targets(anchors[::3], labels[1::2, ::2], tolerances)
    assert_targets(anchors, labels[:1].expand(3, -1, -1), tolerances)
    wide = torch.cat([labels, labels], 2)[:, :, 5:]
    assert_targets(torch.cat([anchors, anchors], 1)[:, 4:], wide, tolerances)


@pytest.mark.cuda
def test_target_of_invalid_boxes_on_cuda(cuda):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.25, 0.25]], cuda)
    labels = to_tensor([[[1, 0.5, 0.5, 1, 1], [2, 0.9, 0.9, 0.1, 0.1]]], cuda)
    # The inverted box overlaps nothing and claims the lowest free anchor.
    assert cvlib.multibox_target(anchors, labels)[2].tolist() == [[3, 2, 0]]


# --- CPU equals CUDA; reference equals native


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_target_on_cpu_equals_cuda(cuda, dtype, rng, tolerances):
    anchors, labels = target_scene(rng, 700, 6, 15, "cpu", dtype)
    on_cpu = cvlib.multibox_target(anchors, labels)
    on_cuda = [x.cpu() for x in cvlib.multibox_target(anchors.to(cuda), labels.to(cuda))]
    assert torch.equal(on_cpu[1], on_cuda[1]) and torch.equal(on_cpu[2], on_cuda[2])
    torch.testing.assert_close(on_cpu[0], on_cuda[0], **tolerances[real_dtype(dtype)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_target_reference_equals_native(device, dtype, rng, tolerances):
    anchors, labels = target_scene(rng, 90, 4, 8, device, dtype)
    arguments = (anchors, labels, 1 / 3, 0.1, 0.2, 0.3, 0.4)
    reference = _multibox_target_reference(*arguments)
    native = torch.ops.cvlib.multibox_target(*arguments)
    torch.testing.assert_close(native[0], reference[0], **tolerances[real_dtype(dtype)])
    assert torch.equal(native[1], reference[1]) and torch.equal(native[2], reference[2])


# --- properties


grid_rows = st.tuples(
    st.integers(-1, 5), st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8)
).map(
    lambda row: [row[0], row[1] / 16, row[2] / 16, (row[1] + row[3]) / 16, (row[2] + row[4]) / 16]
)


@given(
    anchors=st.lists(grid_rows, min_size=1, max_size=12),
    labels=st.lists(grid_rows, min_size=1, max_size=6),
)
def test_target_decodes_to_the_ground_truths(device, anchors, labels):
    anchors, labels = to_tensor(anchors, device)[:, 1:], to_tensor([labels], device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels)
    positive = classes[0] > 0
    assert torch.equal(mask.view(-1, 4), positive[:, None].expand(-1, 4).float())
    assert not offsets.view(-1, 4)[~positive].any()
    decoded = cvlib.decode_boxes(offsets.view(-1, 4), anchors)[positive]
    rows = torch.cat([classes[0, positive, None].float() - 1, decoded], 1)
    distance = (rows[:, None] - labels).abs().amax(2)
    assert positive.sum() == 0 or distance.amin(1).max() < 1e-5
    assert int(positive.sum()) >= min(len(anchors), int((labels[0, :, 0] >= 0).sum()))


# --- gradients


@pytest.mark.parametrize("argument", [0, 1])
def test_target_refuses_a_gradient(device, argument, rng):
    arguments = target_scene(rng, 9, 2, 3, device)
    expected = cvlib.multibox_target(*arguments)
    arguments[argument].requires_grad_()
    offsets, mask, classes = cvlib.multibox_target(*arguments)
    for one, other in zip((offsets, mask, classes), expected, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="multibox_target is not differentiable"):
        offsets.sum().backward()


# --- scalars reach the kernel


def test_target_every_scalar_of_the_schema_has_its_meaning(device, tolerances):
    # The box is moved by (1/4, 1/2) of the anchor and 1/2 as wide, 1/4 as high.
    anchors = to_tensor([[0, 0, 0.5, 0.5]], device)
    labels = to_tensor([[[0, 0.25, 0.4375, 0.5, 0.5625]]], device)
    operator = torch.ops.cvlib.multibox_target
    plain = np.array([0.25, 0.5, math.log(0.5), math.log(0.25)])
    for variances in ((0.1, 0.2, 0.4, 0.8), (3.0, 5.0, 7.0, 11.0), (0.8, 0.4, 0.2, 0.1)):
        offsets = operator(anchors, labels, 0.5, *variances)[0]
        expected = to_tensor([plain / variances], device)
        torch.testing.assert_close(offsets, expected, **tolerances[torch.float32])
    # IoUs of the anchors with the one ground truth are 1, .8, .6, .4, .2.
    anchors = to_tensor([[0, 0, w, 1] for w in (1, 0.8, 0.6, 0.4, 0.2)], device)
    labels = to_tensor([[[0, 0, 0, 1, 1]]], device)
    for threshold, count in ((0.1, 5), (0.3, 4), (0.5, 3), (0.7, 2), (0.9, 1)):
        classes = operator(anchors, labels, threshold, *VARIANCES)[2]
        assert classes.tolist() == [[1] * count + [0] * (5 - count)]


# --- errors


def test_target_units_are_not_judged_without_objects():
    none = torch.full((2, 3, 5), -1.0)
    assert not cvlib.multibox_target(ANCHORS * 300, none)[2].any()
    assert not cvlib.multibox_target(ANCHORS, none)[2].any()


# --- worked examples


def test_target_by_hand(device, tolerances):
    #  0    .25   .5    .75    1     anchors a, b, c: 0.5 x 0.5 squares at x = 0, .5 and 0, .5 down
    #  +-----------+-----------+     dog (class 1), .5 x .5, lies .125 right of a:
    #  |  a ,      |     b     |       IoU with a = .375 / .625 = .6: claimed
    #  |    '  dog |           |     so a has class 2 and dx = .125 / .5 / .1 = 2.5;
    #  +-----------+-----------+     b, IoU 1/7, and c are background.
    #  |     c     |
    #  +-----------+
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1]], device)
    labels = to_tensor([[[1, 0.125, 0, 0.625, 0.5]]], device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels)
    assert classes.tolist() == [[2, 0, 0]]
    assert mask.tolist() == [[1] * 4 + [0] * 8]
    expected = to_tensor([[2.5, 0, 0, 0] + [0] * 8], device)
    torch.testing.assert_close(offsets, expected, **tolerances[torch.float32])
    assert cvlib.multibox_target(anchors, labels, iou_threshold=0.14)[2].tolist() == [[2, 2, 0]]
