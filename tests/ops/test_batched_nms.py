"""batched_nms: decisions are compared exactly, everywhere."""

import numpy as np
import pytest
import torch
import torchvision
from cases_suppression import (
    DTYPES,
    IDS,
    SCENES,
    THRESHOLDS,
    assert_kept,
    clusters,
    integer_grid,
    oracle,
    scores_for,
    tensors,
    uniform,
)

import cvlib

# --- batched_nms matches the oracle -------------------------------------------------------------


def to_device(ids, device):
    return None if ids is None else ids.to(device)


@pytest.mark.parametrize("images", IDS)
@pytest.mark.parametrize("labels", IDS)
def test_batched_nms_matches_oracle(device, labels, images, rng):
    for n in (1, 40, 161, 500):
        scene = SCENES[rng.integers(len(SCENES))]
        iou_threshold = float(rng.choice(THRESHOLDS))
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device)
        ids = [to_device(IDS[kind](rng, n), device) for kind in (labels, images)]
        for limit in (None, 0, 1, 3):
            keep = cvlib.batched_nms(
                boxes, scores, ids[0], iou_threshold, image_ids=ids[1], max_output=limit
            )
            expected = oracle(
                boxes, scores, iou_threshold, labels=ids[0], image_ids=ids[1], max_output=limit
            )
            assert_kept(keep, expected, boxes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", [clusters, integer_grid, uniform])
def test_batched_nms_matches_oracle_when_large(device, scene, dtype, rng):
    n = 1500
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
    labels, images = (IDS[kind](rng, n).to(device) for kind in ("few", "huge"))
    keep = cvlib.batched_nms(boxes, scores, labels, 0.3, image_ids=images, max_output=40)
    expected = oracle(boxes, scores, 0.3, labels=labels, image_ids=images, max_output=40)
    assert_kept(keep, expected, boxes)


def test_batched_nms_without_boxes(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    ids = torch.zeros(0, dtype=torch.int64, device=device)
    for limit in (None, 0, 5):
        keep = cvlib.batched_nms(boxes, scores, ids, 0.5, image_ids=ids, max_output=limit)
        assert_kept(keep, np.zeros(0, np.int64), boxes)


def test_batched_nms_with_one_group_equals_nms(device, rng):
    boxes, scores = tensors(clusters(rng, 300), rng.random(300), device)
    expected = cvlib.nms(boxes, scores, 0.3)
    for ids in (None, torch.full((300,), -5, device=device)):
        assert torch.equal(cvlib.batched_nms(boxes, scores, ids, 0.3), expected)
        assert torch.equal(cvlib.batched_nms(boxes, scores, None, 0.3, image_ids=ids), expected)


def test_batched_nms_of_different_labels_keeps_identical_boxes(device):
    # Where adding offsets to coordinates fails: labels far apart, negative coordinates.
    boxes, scores = tensors([[-500, -500, -100, -100]] * 4, [0.1, 0.4, 0.3, 0.2], device)
    labels = torch.tensor([0, 2**62, -1, 2**62], device=device)
    assert cvlib.batched_nms(boxes, scores, labels, 0.0).tolist() == [1, 2, 0]


def test_batched_nms_limits_each_image_by_itself(device):
    corner = torch.arange(6, device=device).float() * 10
    boxes = torch.stack([corner, corner, corner + 1, corner + 1], 1)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], device=device)
    images = torch.tensor([5, 5, 5, -1, -1, 9], device=device)
    labels = torch.tensor([0, 1, 2, 0, 1, 0], device=device)
    keep = cvlib.batched_nms(boxes, scores, labels, 0.5, image_ids=images, max_output=1)
    assert keep.tolist() == [0, 3, 5]
    keep = cvlib.batched_nms(boxes, scores, labels, 0.5, image_ids=images, max_output=2)
    assert keep.tolist() == [0, 1, 3, 4, 5]


def test_batched_nms_accepts_strided_ids(device, rng):
    boxes, scores = tensors(clusters(rng, 120), rng.random(120), device)
    ids = torch.from_numpy(rng.integers(0, 3, (120, 2))).to(device)
    keep = cvlib.batched_nms(boxes, scores, ids[:, 0], 0.3, image_ids=ids[:, 1])
    assert_kept(keep, oracle(boxes, scores, 0.3, labels=ids[:, 0], image_ids=ids[:, 1]), boxes)
    one = torch.tensor([3], device=device).expand(120)
    assert torch.equal(cvlib.batched_nms(boxes, scores, one, 0.3), cvlib.nms(boxes, scores, 0.3))


# --- matches torchvision ------------------------------------------------------------------------


def test_batched_nms_equals_torchvision_class_by_class(device, rng):
    boxes, scores = tensors(clusters(rng, 600), rng.permutation(600), device)
    labels = torch.from_numpy(rng.integers(0, 5, 600)).to(device)
    keep = [
        rows[torchvision.ops.nms(boxes[rows], scores[rows], 0.5)]
        for rows in (torch.where(labels == label)[0] for label in range(5))
    ]
    keep = torch.cat(keep)
    expected = keep[scores[keep].argsort(descending=True)]
    assert torch.equal(cvlib.batched_nms(boxes, scores, labels, 0.5), expected)
