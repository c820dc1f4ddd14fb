"""Thousands of small random calls on rotated boxes, native and reference, against the oracle."""

import numpy as np
import oracles
import oracles_rotated
import torch
from fuzzing import make_tests, random_dtype, random_threshold

from cvlib.ops import rotated
from cvlib.ops.nms_rotated import _nms_rotated_reference, batched_nms_rotated


def random_count(rng, largest=8):
    """Mostly few, so that a failure can be read; now and then more than a few vector registers."""
    return int(rng.integers(0, largest)) if rng.random() < 0.99 else int(rng.integers(60, 80))


def random_boxes(rng, n):
    kind = rng.random()
    if kind < 0.4:  # a grid: shared edges, ties, empty boxes
        place, sides = rng.integers(-4, 5, (n, 2)), rng.integers(0, 6, (n, 2))
        boxes = np.concatenate([place, sides, rng.integers(-9, 9, (n, 1)) * 45.0], 1)
        factor = 2.0 ** rng.integers(-20, 20)
    else:
        boxes = oracles_rotated.random_rotated_boxes(rng, n, size=8, extent=6, turns=9)
        boxes[:, 2:4] *= 10.0 ** rng.uniform(-1.5, 0.5, (n, 2))
        if kind < 0.6 and n:  # nearly the same box, again and again
            boxes = boxes[:1] + (boxes - boxes[:1]) * 10.0 ** rng.uniform(-14, 0, (n, 1))
        factor = 10.0 ** rng.uniform(-15, 15)
    return boxes * np.array([factor, factor, factor, factor, 1])


def random_tensor(rng, n, device):
    dtype = random_dtype(rng)
    boxes = random_boxes(rng, n)
    if dtype == torch.float16:  # it ends at 65504, and infinities of one's own making say nothing
        boxes = boxes.clip(-6e4, 6e4)
    return torch.from_numpy(boxes).to(dtype).to(device)


def fuzz_box_iou_rotated(rng, device):
    count = random_count(rng)
    boxes = random_tensor(rng, count + random_count(rng), device)
    a, b = boxes[:count], boxes[count:]
    arrays = [oracles.to_numpy(one).astype(np.float64) for one in (a, b)]
    expected = oracles_rotated.box_iou_rotated(*arrays)
    iou = rotated.box_iou_rotated(a, b)
    assert torch.equal(iou, rotated._box_iou_rotated_reference(a, b))
    assert torch.equal(iou, rotated.box_iou_rotated(b, a).t())
    np.testing.assert_allclose(iou.double().cpu().numpy(), expected, rtol=0, atol=1e-7)


def fuzz_paired_box_iou_rotated(rng, device):
    boxes = random_tensor(rng, 2 * random_count(rng), device)
    a, b = boxes[::2], boxes[1::2]
    iou = rotated.paired_box_iou_rotated(a, b)
    assert torch.equal(iou, rotated._paired_box_iou_rotated_reference(a, b))
    assert torch.equal(iou, rotated.box_iou_rotated(a, b).diagonal())


def fuzz_gradients(rng, device):
    boxes = random_tensor(rng, 2 * random_count(rng), device)
    a, b = boxes[::2], boxes[1::2]
    real = rotated.as_real(a).dtype
    weight = torch.from_numpy(rng.normal(size=(len(a), len(b)))).to(device, real)
    ours = torch.ops.cvlib.box_iou_rotated_backward(weight, a, b)
    theirs = rotated._box_iou_rotated_backward_reference(weight, a, b)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.isfinite().all()
        largest = float(other.abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6 * largest)


def fuzz_nms_rotated(rng, device):
    n = random_count(rng, 20)
    boxes = random_tensor(rng, n, device)
    scores = rng.choice([0.0, -0.0, 0.25, 0.5], n) if rng.random() < 0.5 else rng.normal(size=n)
    scores = torch.from_numpy(scores).to(boxes.dtype).to(device)
    threshold = random_threshold(rng)
    labels, images = (
        None if rng.random() < 0.5 else torch.from_numpy(rng.integers(-1, 2, n)).to(device)
        for _ in range(2)
    )
    limit = None if rng.random() < 0.5 else int(rng.integers(0, 6))
    keep = batched_nms_rotated(boxes, scores, labels, threshold, image_ids=images, max_output=limit)
    most = -1 if limit is None else limit
    arguments = boxes, scores, labels, images, threshold, most
    assert torch.equal(keep, _nms_rotated_reference(*arguments))
    expected, distance = oracles_rotated.nms_rotated(
        oracles.to_numpy(boxes),
        oracles.to_numpy(scores),
        threshold,
        labels=None if labels is None else oracles.to_numpy(labels),
        image_ids=None if images is None else oracles.to_numpy(images),
        max_output=limit,
    )
    if distance > 1e-6:
        assert keep.tolist() == expected.tolist()


# Calls of a test; together 750.
CALLS = {
    fuzz_box_iou_rotated: 250,
    fuzz_paired_box_iou_rotated: 100,
    fuzz_gradients: 100,
    fuzz_nms_rotated: 300,
}

test_random_calls, test_many_random_calls = make_tests(CALLS)
