"""Random calls of the operators that suppress or fuse boxes."""

from functools import partial

import fuzzing
import numpy as np
import oracles
import oracles_rotated
import oracles_suppression
import torch
from fuzz_boxes import random_rotated_count, random_rotated_tensor
from fuzzing import (
    random_boxes,
    random_dtype,
    random_grid_boxes,
    random_ids,
    random_limit,
    random_threshold,
    tensors,
)
from oracles import to_numpy

import cvlib
from cvlib.ops.fusion import _CONFIDENCES, _fusion_reference, weighted_boxes_fusion
from cvlib.ops.matrix_nms import _matrix_nms_reference, matrix_nms
from cvlib.ops.multibox import _multibox_detection_reference
from cvlib.ops.multiclass_nms import _multiclass_nms_reference, multiclass_nms
from cvlib.ops.nms import _nms_reference
from cvlib.ops.nms_rotated import _nms_rotated_reference, batched_nms_rotated
from cvlib.ops.soft_nms import _soft_nms_reference, soft_nms

# Dyadic, so that integers on a grid encode and decode without rounding; each different.
EXACT_VARIANCES = (0.125, 0.25, 0.5, 1.0)
random_count = partial(fuzzing.random_count, small=0.95)
random_nms_count = partial(fuzzing.random_count, small=0.99, large=(150, 210))


def random_tied_scores(rng, n):
    return rng.choice([0.0, -0.0, 0.25, 0.5], n) if rng.random() < 0.5 else rng.normal(size=n)


def random_scores(rng, *shape):
    return (
        rng.choice([0.0, -0.0, 0.25, 0.5, 1.0], shape) if rng.random() < 0.5 else rng.random(shape)
    )


def to_arrays(*ids):
    return [None if one is None else to_numpy(one) for one in ids]


def assert_equal(results, expected):
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def fuzz_nms(rng, device):
    dtype, n, threshold = random_dtype(rng), random_nms_count(rng, 30), random_threshold(rng)
    scores = random_tied_scores(rng, n)
    boxes, scores = tensors((random_boxes(rng, n), scores), device, dtype)
    labels, images = random_ids(rng, n, device), random_ids(rng, n, device)
    limit = random_limit(rng, 6)
    keywords = {"image_ids": images, "max_output": limit}
    keep = cvlib.batched_nms(boxes, scores, labels, threshold, **keywords)
    most = n if limit is None else limit
    reference = _nms_reference(boxes, scores, labels, images, threshold, most)
    arrays = to_numpy(boxes), to_numpy(scores)
    expected = oracles.nms(*arrays, threshold, *to_arrays(labels, images), limit)
    assert keep.tolist() == expected.tolist() == reference.tolist()


def fuzz_nms_rotated(rng, device):
    n = random_rotated_count(rng, 20)
    boxes = random_rotated_tensor(rng, n, device)
    scores = torch.from_numpy(random_tied_scores(rng, n)).to(boxes.dtype).to(device)
    threshold = random_threshold(rng)
    labels, images = random_ids(rng, n, device), random_ids(rng, n, device)
    limit = random_limit(rng, 6)
    keep = batched_nms_rotated(boxes, scores, labels, threshold, image_ids=images, max_output=limit)
    most = -1 if limit is None else limit
    arguments = boxes, scores, labels, images, threshold, most
    assert torch.equal(keep, _nms_rotated_reference(*arguments))
    arrays = to_numpy(boxes), to_numpy(scores)
    expected, distance = oracles_rotated.nms_rotated(
        *arrays, threshold, *to_arrays(labels, images), limit
    )
    if distance > 1e-6:
        assert keep.tolist() == expected.tolist()


def fuzz_multibox_detection(rng, device):
    dtype, nms_threshold = random_dtype(rng), random_threshold(rng)
    num_images, num_classes = int(rng.integers(0, 3)), int(rng.integers(1, 4))
    num_anchors, pos_threshold = random_nms_count(rng, 14), float(rng.choice([0, 0.25, 0.3, 1]))
    anchors = random_grid_boxes(rng, num_anchors, smallest=1, factor=1 / 32)
    offsets = rng.integers(-2, 3, (num_images, num_anchors, 4)) * np.array([1, 1, 0, 0])
    probs = rng.integers(0, 9, (num_images, num_classes + 1, num_anchors)) / 8
    arrays = probs, offsets.reshape(num_images, 4 * num_anchors), anchors
    scene = tensors(arrays, device, dtype)
    numbers = nms_threshold, pos_threshold, EXACT_VARIANCES
    expected = oracles.multibox_detection(*map(to_numpy, scene), *numbers)
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


def fuzz_soft_nms(rng, device):
    dtype, n, threshold = random_dtype(rng), random_count(rng, 25), random_threshold(rng)
    boxes, scores = tensors((random_boxes(rng, n), random_scores(rng, n)), device, dtype)
    ids = random_ids(rng, n, device), random_ids(rng, n, device)
    limit = random_limit(rng, 6)
    sigma, score_threshold = 10.0 ** rng.uniform(-3, 1), float(rng.choice([0, 0.001, 0.25, 0.3]))
    for method in ("linear", "gaussian"):
        keep, decayed = soft_nms(
            boxes,
            scores,
            method=method,
            iou_threshold=threshold,
            sigma=sigma,
            score_threshold=score_threshold,
            max_output=limit,
            labels=ids[0],
            image_ids=ids[1],
        )
        settings = (threshold, sigma, score_threshold, -1 if limit is None else limit)
        gaussian = method == "gaussian"
        reference = _soft_nms_reference(boxes, scores, *ids, gaussian, *settings)
        assert_equal((keep, decayed), reference)
        arrays = to_numpy(boxes), to_numpy(scores)
        if method == "linear":
            expected = oracles_suppression.soft_nms_linear(
                *arrays, threshold, score_threshold, *to_arrays(*ids), limit
            )
            assert keep.tolist() == expected[0].tolist()
            assert decayed.tolist() == expected[1].tolist()
        elif limit is None and score_threshold > 0:
            settings = sigma, score_threshold, keep.tolist(), decayed.tolist()
            violation = oracles_suppression.soft_nms_gaussian_violation(
                *arrays, *settings, *to_arrays(*ids)
            )
            assert violation < 1e-4 / sigma


def fuzz_matrix_nms(rng, device):
    dtype, n, sigma = random_dtype(rng), random_count(rng, 20), 10.0 ** rng.uniform(-2, 2)
    boxes, scores = tensors((random_boxes(rng, n), random_scores(rng, n)), device, dtype)
    ids = random_ids(rng, n, device), random_ids(rng, n, device)
    for kernel in ("linear", "gaussian"):
        gaussian = kernel == "gaussian"
        decayed = matrix_nms(boxes, scores, ids[0], image_ids=ids[1], kernel=kernel, sigma=sigma)
        reference = scores * _matrix_nms_reference(boxes, scores, *ids, gaussian, sigma)
        assert torch.equal(decayed, reference)
        expected = oracles_suppression.matrix_nms(
            to_numpy(boxes), to_numpy(scores), gaussian, sigma, *to_arrays(*ids)
        )
        tolerance = {"rtol": 1e-4, "atol": 1e-6 * (1 + sigma)}
        np.testing.assert_allclose(decayed.cpu().numpy(), expected, **tolerance)


def fuzz_weighted_boxes_fusion(rng, device):
    dtype, models = random_dtype(rng), int(rng.integers(1, 4))
    sizes = [random_count(rng, 9) for _ in range(models)]
    rows, scores = random_boxes(rng, sum(sizes)), random_scores(rng, sum(sizes))
    boxes, scores = tensors((rows, scores), device, dtype)
    labels, images = (torch.from_numpy(rng.integers(0, 2, len(rows))).to(device) for _ in range(2))
    lists = [tensor.split(sizes) for tensor in (boxes, scores, labels, images)]
    weights = rng.choice([0.5, 1.0, 2.0], models).tolist()
    threshold, score_threshold = random_threshold(rng), float(rng.choice([0, 0.25, 0.3]))
    confidence, overflow = int(rng.integers(4)), bool(rng.integers(2))
    fused = weighted_boxes_fusion(
        *lists[:3],
        weights=weights,
        iou_threshold=threshold,
        score_threshold=score_threshold,
        conf_type=_CONFIDENCES[confidence],
        allows_overflow=overflow,
        image_ids=lists[3],
    )
    model = torch.repeat_interleave(torch.tensor(sizes)).to(device)
    factors = torch.tensor(weights, dtype=torch.float64, device=device)
    settings = threshold, score_threshold, confidence, overflow
    reference = _fusion_reference(boxes, scores, labels, model, factors, images, *settings)
    assert_equal(fused, reference)
    *arrays, image_arrays = ([to_numpy(tensor) for tensor in values] for values in lists)
    settings = threshold, score_threshold, _CONFIDENCES[confidence], overflow
    expected = oracles_suppression.weighted_boxes_fusion(*arrays, weights, *settings, image_arrays)
    assert fused[2].tolist() == expected[:, 1].tolist()
    np.testing.assert_allclose(fused[1].cpu().numpy(), expected[:, 2], rtol=1e-6)
    scale = float(boxes.abs().max()) if len(boxes) else 1.0
    np.testing.assert_allclose(fused[0].cpu().numpy(), expected[:, 3:], atol=1e-6 * scale)


def fuzz_multiclass_nms(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    shape = int(rng.integers(0, 3)), random_count(rng, 20), int(rng.integers(0, 4))
    per_class = rng.random() < 0.5
    arrays = random_boxes(rng, *(shape if per_class else shape[:2])), random_scores(rng, *shape)
    boxes, scores = tensors(arrays, device, dtype)
    limits = random_limit(rng, 6), int(rng.integers(0, 30))
    score_threshold = float(rng.choice([-1, 0, 0.25, 0.3, 1]))
    kept = multiclass_nms(
        boxes,
        scores,
        score_threshold=score_threshold,
        iou_threshold=threshold,
        max_candidates=limits[0],
        max_output=limits[1],
    )
    settings = score_threshold, threshold, -1 if limits[0] is None else limits[0], limits[1]
    reference = _multiclass_nms_reference(boxes, scores, *settings)
    assert_equal((kept.indices, kept.labels, kept.counts), reference)
    expected = oracles_suppression.multiclass_nms(
        to_numpy(boxes), to_numpy(scores), score_threshold, threshold, *limits
    )
    for image, rows in enumerate(expected):
        count = int(kept.counts[image])
        columns = kept.indices[image, :count].tolist(), kept.labels[image, :count].tolist()
        assert list(zip(*columns, strict=True)) == rows


# Number of calls in an ordinary run.
CALLS = {
    fuzz_nms: 800,
    fuzz_nms_rotated: 300,
    fuzz_multibox_detection: 250,
    fuzz_soft_nms: 150,
    fuzz_matrix_nms: 150,
    fuzz_weighted_boxes_fusion: 150,
    fuzz_multiclass_nms: 150,
}
