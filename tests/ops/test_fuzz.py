"""Thousands of small random calls of every operator, native and reference, against the oracles."""

import numpy as np
import oracles
import torch
from fuzzing import (
    clear_of_overflow,
    make_tests,
    random_boxes,
    random_dtype,
    random_grid_boxes,
    random_threshold,
)

import cvlib
from cvlib.ops.iou import _box_iou_reference
from cvlib.ops.matching import _match_anchors_reference
from cvlib.ops.multibox import _multibox_detection_reference, _multibox_target_reference
from cvlib.ops.nms import _nms_reference

# Dyadic, so that integers on a grid encode and decode without rounding; each different.
EXACT_VARIANCES = (0.125, 0.25, 0.5, 1.0)


def random_count(rng, largest=14):
    """Mostly few, so that a failure can be read; now and then a few times a vector register."""
    return int(rng.integers(0, largest)) if rng.random() < 0.99 else int(rng.integers(150, 210))


def tensors(arrays, device, dtype):
    return [torch.as_tensor(np.asarray(a, np.float64)).to(dtype).to(device) for a in arrays]


def fuzz_box_iou(rng, device):
    dtype = random_dtype(rng)
    rows = random_boxes(rng, random_count(rng) + random_count(rng))
    boxes = tensors([clear_of_overflow(rows, dtype)], device, dtype)[0]
    a, b = boxes.split([len(boxes) // 2, len(boxes) - len(boxes) // 2])
    expected = torch.from_numpy(oracles.box_iou(oracles.to_numpy(a), oracles.to_numpy(b)))
    for iou in (cvlib.box_iou(a, b), _box_iou_reference(a, b)):
        assert torch.equal(iou.cpu(), expected)


def fuzz_nms(rng, device):
    dtype, n, threshold = random_dtype(rng), random_count(rng, 30), random_threshold(rng)
    scores = rng.choice([0.0, -0.0, 0.25, 0.5], n) if rng.random() < 0.5 else rng.normal(size=n)
    arrays = clear_of_overflow(random_boxes(rng, n), dtype), scores
    boxes, scores = tensors(arrays, device, dtype)
    labels, images = (
        None if rng.random() < 0.5 else torch.from_numpy(rng.integers(-1, 2, n)).to(device)
        for _ in range(2)
    )
    limit = None if rng.random() < 0.5 else int(rng.integers(0, 6))
    expected = oracles.nms(
        oracles.to_numpy(boxes),
        oracles.to_numpy(scores),
        threshold,
        labels=None if labels is None else oracles.to_numpy(labels),
        image_ids=None if images is None else oracles.to_numpy(images),
        max_output=limit,
    )
    keep = cvlib.batched_nms(boxes, scores, labels, threshold, image_ids=images, max_output=limit)
    most = n if limit is None else limit
    reference = _nms_reference(boxes, scores, labels, images, threshold, most)
    assert keep.tolist() == expected.tolist() == reference.tolist()


def fuzz_match_anchors(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    num_anchors, num_images, num_gts = random_count(rng), int(rng.integers(0, 4)), random_count(rng)
    rows = clear_of_overflow(random_boxes(rng, num_anchors + num_images * num_gts), dtype)
    gts = rows[num_anchors:].reshape(num_images, num_gts, 4).copy()
    gts[rng.random((num_images, num_gts)) < 0.3] = -1
    anchors, gts = tensors([rows[:num_anchors], gts], device, dtype)
    anchors_array, gts_array = oracles.to_numpy(anchors), oracles.to_numpy(gts)
    expected = [oracles.match_anchors(anchors_array, gt, threshold).tolist() for gt in gts_array]
    assert cvlib.match_anchors(anchors, gts, threshold).tolist() == expected
    assert _match_anchors_reference(anchors, gts, threshold).tolist() == expected


def fuzz_multibox_target(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    num_anchors, num_images, num_gts = random_count(rng), int(rng.integers(0, 4)), random_count(rng)
    anchors = random_grid_boxes(rng, num_anchors, smallest=1, factor=1 / 32)
    boxes = np.clip(random_grid_boxes(rng, num_images, num_gts, factor=1 / 32), 0, 1)
    labels = np.concatenate([rng.integers(-1, 5, (num_images, num_gts, 1)), boxes], -1)
    anchors, labels = tensors([anchors, labels], device, dtype)
    variances = tuple(rng.uniform(0.05, 2, 4))
    arrays = oracles.to_numpy(anchors), oracles.to_numpy(labels)
    expected = oracles.multibox_target(*arrays, threshold, variances)
    for offsets, mask, classes in (
        cvlib.multibox_target(anchors, labels, iou_threshold=threshold, variances=variances),
        _multibox_target_reference(anchors, labels, threshold, *variances),
    ):
        np.testing.assert_array_equal(classes.cpu().numpy(), expected[2])
        np.testing.assert_array_equal(mask.cpu().numpy(), expected[1])
        np.testing.assert_allclose(offsets.cpu().numpy(), expected[0], rtol=1e-5, atol=1e-4)


def fuzz_multibox_detection(rng, device):
    dtype, nms_threshold = random_dtype(rng), random_threshold(rng)
    num_images, num_classes = int(rng.integers(0, 3)), int(rng.integers(1, 4))
    num_anchors, pos_threshold = random_count(rng), float(rng.choice([0, 0.25, 0.3, 1]))
    anchors = random_grid_boxes(rng, num_anchors, smallest=1, factor=1 / 32)
    offsets = rng.integers(-2, 3, (num_images, num_anchors, 4)) * np.array([1, 1, 0, 0])
    probs = rng.integers(0, 9, (num_images, num_classes + 1, num_anchors)) / 8
    arrays = probs, offsets.reshape(num_images, 4 * num_anchors), anchors
    scene = tensors(arrays, device, dtype)
    numbers = nms_threshold, pos_threshold, EXACT_VARIANCES
    expected = oracles.multibox_detection(*map(oracles.to_numpy, scene), *numbers)
    for rows in (
        cvlib.multibox_detection(
            *scene,
            nms_threshold=nms_threshold,
            pos_threshold=pos_threshold,
            variances=EXACT_VARIANCES,
        ),
        _multibox_detection_reference(*scene, nms_threshold, pos_threshold, *EXACT_VARIANCES),
    ):
        np.testing.assert_array_equal(rows.cpu().numpy(), expected)


# Calls of a test; together 2,000.
CALLS = {
    fuzz_box_iou: 400,
    fuzz_nms: 800,
    fuzz_match_anchors: 300,
    fuzz_multibox_target: 250,
    fuzz_multibox_detection: 250,
}

test_random_calls, test_many_random_calls = make_tests(CALLS)
