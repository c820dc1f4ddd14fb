"""Hundreds of small random calls of soft, matrix and multiclass suppression and of fusion."""

import numpy as np
import oracles
import oracles_suppression
import torch
from fuzzing import make_tests, random_boxes, random_dtype, random_threshold

from cvlib.ops.fusion import _CONFIDENCES, _fusion_reference, weighted_boxes_fusion
from cvlib.ops.matrix_nms import _matrix_nms_reference, matrix_nms
from cvlib.ops.multiclass_nms import _multiclass_nms_reference, multiclass_nms
from cvlib.ops.soft_nms import _soft_nms_reference, soft_nms


def random_count(rng, largest=14):
    """Mostly few, so that a failure can be read; now and then several chunks."""
    return int(rng.integers(0, largest)) if rng.random() < 0.95 else int(rng.integers(60, 110))


def random_scores(rng, *shape):
    if rng.random() < 0.5:
        return rng.choice([0.0, -0.0, 0.25, 0.5, 1.0], shape)
    return rng.random(shape)


def tensors(arrays, device, dtype):
    """float16 ends at 65504; infinities of one's own making say nothing about boxes."""
    if dtype == torch.float16:
        arrays = [np.clip(a, -6e4, 6e4) for a in arrays]
    return [torch.as_tensor(np.asarray(a, np.float64)).to(dtype).to(device) for a in arrays]


def random_ids(rng, n, device):
    return None if rng.random() < 0.5 else torch.from_numpy(rng.integers(-1, 2, n)).to(device)


def to_arrays(*ids):
    return [None if one is None else oracles.to_numpy(one) for one in ids]


def assert_same(*results):
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def fuzz_soft_nms(rng, device):
    dtype, n, threshold = random_dtype(rng), random_count(rng, 25), random_threshold(rng)
    boxes, scores = tensors((random_boxes(rng, n), random_scores(rng, n)), device, dtype)
    ids = random_ids(rng, n, device), random_ids(rng, n, device)
    limit = None if rng.random() < 0.5 else int(rng.integers(0, 6))
    sigma, score_threshold = 10.0 ** rng.uniform(-3, 1), float(rng.choice([0, 0.001, 0.25, 0.3]))
    for method in ("linear", "gaussian"):
        settings = (threshold, sigma, score_threshold, -1 if limit is None else limit)
        found = soft_nms(
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
        gaussian = method == "gaussian"
        assert_same(found, _soft_nms_reference(boxes, scores, *ids, gaussian, *settings))
        real = oracles.to_numpy(boxes), oracles.to_numpy(scores)
        if method == "linear":
            expected = oracles_suppression.soft_nms_linear(
                *real, threshold, score_threshold, *to_arrays(*ids), limit
            )
            assert found[0].tolist() == expected[0].tolist()
            assert found[1].tolist() == expected[1].tolist()
        elif limit is None and score_threshold > 0:
            claims = found[0].tolist(), found[1].tolist()
            settings = sigma, score_threshold, *claims
            violation = oracles_suppression.soft_nms_gaussian_violation(
                *real, *settings, *to_arrays(*ids)
            )
            assert violation < 1e-4 / sigma


def fuzz_matrix_nms(rng, device):
    dtype, n, sigma = random_dtype(rng), random_count(rng, 20), 10.0 ** rng.uniform(-2, 2)
    boxes, scores = tensors((random_boxes(rng, n), random_scores(rng, n)), device, dtype)
    ids = random_ids(rng, n, device), random_ids(rng, n, device)
    for kernel in ("linear", "gaussian"):
        gaussian = kernel == "gaussian"
        found = matrix_nms(boxes, scores, ids[0], image_ids=ids[1], kernel=kernel, sigma=sigma)
        reference = scores * _matrix_nms_reference(boxes, scores, *ids, gaussian, sigma)
        assert torch.equal(found, reference)
        expected = oracles_suppression.matrix_nms(
            oracles.to_numpy(boxes), oracles.to_numpy(scores), gaussian, sigma, *to_arrays(*ids)
        )
        np.testing.assert_allclose(
            found.cpu().numpy(), expected, rtol=1e-4, atol=1e-6 * (1 + sigma)
        )


def fuzz_weighted_boxes_fusion(rng, device):
    dtype, models = random_dtype(rng), int(rng.integers(1, 4))
    sizes = [random_count(rng, 9) for _ in range(models)]
    rows, scores = random_boxes(rng, sum(sizes)), random_scores(rng, sum(sizes))
    boxes, scores = tensors((rows, scores), device, dtype)
    labels, images = (torch.from_numpy(rng.integers(0, 2, len(rows))).to(device) for _ in range(2))
    lists = [one.split(sizes) for one in (boxes, scores, labels, images)]
    weights = rng.choice([0.5, 1.0, 2.0], models).tolist()
    threshold, score_threshold = random_threshold(rng), float(rng.choice([0, 0.25, 0.3]))
    confidence, overflow = int(rng.integers(4)), bool(rng.integers(2))
    found = weighted_boxes_fusion(
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
    tensors_of_all = boxes, scores, labels, model, factors, images
    assert_same(found, _fusion_reference(*tensors_of_all, *settings))
    expected = oracles_suppression.weighted_boxes_fusion(
        *([oracles.to_numpy(one) for one in values] for values in lists[:3]),
        weights,
        threshold,
        score_threshold,
        _CONFIDENCES[confidence],
        overflow,
        [oracles.to_numpy(one) for one in lists[3]],
    )
    assert found[2].tolist() == expected[:, 1].tolist()
    np.testing.assert_allclose(found[1].cpu().numpy(), expected[:, 2], rtol=1e-6)
    scale = float(boxes.abs().max()) if len(boxes) else 1.0
    np.testing.assert_allclose(found[0].cpu().numpy(), expected[:, 3:], atol=1e-6 * scale)


def fuzz_multiclass_nms(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    shape = int(rng.integers(0, 3)), random_count(rng, 20), int(rng.integers(0, 4))
    per_class = rng.random() < 0.5
    arrays = random_boxes(rng, *(shape if per_class else shape[:2])), random_scores(rng, *shape)
    boxes, scores = tensors(arrays, device, dtype)
    limits = None if rng.random() < 0.5 else int(rng.integers(0, 6)), int(rng.integers(0, 30))
    score_threshold = float(rng.choice([-1, 0, 0.25, 0.3, 1]))
    found = multiclass_nms(
        boxes,
        scores,
        score_threshold=score_threshold,
        iou_threshold=threshold,
        max_candidates=limits[0],
        max_output=limits[1],
    )
    settings = score_threshold, threshold, -1 if limits[0] is None else limits[0], limits[1]
    reference = _multiclass_nms_reference(boxes, scores, *settings)
    assert_same((found.indices, found.labels, found.counts), reference)
    expected = oracles_suppression.multiclass_nms(
        oracles.to_numpy(boxes), oracles.to_numpy(scores), score_threshold, threshold, *limits
    )
    for image, rows in enumerate(expected):
        count = int(found.counts[image])
        own = found.indices[image, :count].tolist(), found.labels[image, :count].tolist()
        assert list(zip(*own, strict=True)) == rows


# Calls of a test; together 600.
CALLS = {
    fuzz_soft_nms: 150,
    fuzz_matrix_nms: 150,
    fuzz_weighted_boxes_fusion: 150,
    fuzz_multiclass_nms: 150,
}

test_random_calls, test_many_random_calls = make_tests(CALLS)
