"""Random calls of the operators on boxes, of the targets and of the losses."""

from functools import partial

import fuzzing
import numpy as np
import oracles
import oracles_iou
import oracles_losses
import oracles_rotated
import torch
from cases_paired_iou import FUNCTIONS as OF_PAIRS
from cases_paired_iou import LOWEST, OF_ALL_PAIRS
from fuzzing import random_dtype, random_grid_boxes, random_threshold, tensors
from oracles import TOLERANCES, to_numpy

import cvlib
from cvlib.ops import rotated
from cvlib.ops.focal import _loss_reference, sigmoid_focal_loss
from cvlib.ops.iou import _box_iou_backward_reference, _box_iou_reference, _max_iou_reference
from cvlib.ops.matching import _match_anchors_reference
from cvlib.ops.multibox import _multibox_target_reference
from cvlib.ops.multibox_loss import _ssd_loss_reference, ssd_loss
from cvlib.ops.paired_iou import _paired_iou_backward_reference, _paired_iou_reference

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
# No square of a side is subnormal.
random_boxes = partial(fuzzing.random_boxes, smallest=-1, flat=0.3)
random_count = partial(fuzzing.random_count, large=(40, 70))
random_anchor_count = partial(fuzzing.random_count, limit=14, small=0.99, large=(150, 210))
random_loss_count = partial(fuzzing.random_count, large=(150, 1300))


def assert_near(actual, expected, tolerance, *, factor=1.0):
    actual, expected = (np.asarray(x.detach().cpu().double()) * factor for x in (actual, expected))
    np.testing.assert_allclose(actual, expected, **tolerance)


def fuzz_box_iou(rng, device):
    dtype = random_dtype(rng)
    rows = fuzzing.random_boxes(rng, random_anchor_count(rng) + random_anchor_count(rng))
    (boxes,) = tensors([rows], device, dtype)
    a, b = boxes.split([len(boxes) // 2, len(boxes) - len(boxes) // 2])
    expected = torch.from_numpy(oracles.box_iou(to_numpy(a), to_numpy(b)))
    for iou in (cvlib.box_iou(a, b), _box_iou_reference(a, b)):
        assert torch.equal(iou.cpu(), expected)


def fuzz_iou_of_all_pairs(rng, device):
    dtype, kind = random_dtype(rng), int(rng.integers(0, 4))
    n, m = random_count(rng, 12), random_count(rng, 12)
    a, b = tensors([random_boxes(rng, n + m)], device, dtype)[0].split([n, m])
    expected = torch.from_numpy(oracles_iou.of_all_pairs(to_numpy(a), to_numpy(b), kind))
    for iou in (OF_ALL_PAIRS[kind](a, b), _box_iou_reference(a, b, kind)):
        assert_near(iou, expected, TOLERANCES[iou.dtype])
        assert ((iou >= LOWEST[kind]) & (iou <= 1)).all()
    if kind:
        assert (OF_ALL_PAIRS[kind](a, b) <= cvlib.box_iou(a, b)).all()


def fuzz_iou_of_pairs(rng, device):
    dtype, kind = random_dtype(rng), int(rng.integers(0, 4))
    shape = [(random_count(rng, 40),), (), (2, random_count(rng, 12))][rng.integers(0, 3)]
    a, b = tensors([random_boxes(rng, 2, *shape)], device, dtype)[0]
    expected = torch.from_numpy(np.asarray(oracles_iou.of_pairs(to_numpy(a), to_numpy(b), kind)))
    for iou in (OF_PAIRS[kind](a, b), _paired_iou_reference(a, b, kind)):
        assert iou.shape == shape
        assert_near(iou, expected, TOLERANCES[iou.dtype])
    all_pairs = OF_ALL_PAIRS[kind](a.reshape(-1, 4), b.reshape(-1, 4))
    assert torch.equal(OF_PAIRS[kind](a, b).flatten(), all_pairs.diagonal())


def fuzz_max_iou(rng, device):
    dtype = random_dtype(rng)
    n, m = random_count(rng, 12), random_count(rng, 30)
    a, b = tensors([random_boxes(rng, n + m)], device, dtype)[0].split([n, m])
    expected = oracles.box_iou(to_numpy(a), to_numpy(b))
    for values, indices in (cvlib.ops.max_iou(a, b), _max_iou_reference(a, b)):
        assert indices.tolist() == (expected.argmax(1).tolist() if m else [-1] * n)
        assert values.tolist() == (expected.max(1).tolist() if m else [0] * n)


def fuzz_iou_gradients(rng, device):
    """Boxes with an area, at scales where its square neither overflows nor is subnormal."""
    dtype = (torch.float32, torch.float64)[rng.integers(0, 2)]
    kind, n, m = int(rng.integers(0, 4)), random_count(rng, 12), random_count(rng, 12)
    if rng.random() < 0.5:
        rows, scale = random_grid_boxes(rng, n + m, smallest=1), 2.0 ** rng.integers(-20, 20)
    else:
        corner = rng.normal(size=(n + m, 2)) * 3
        rows = np.concatenate([corner, corner + rng.uniform(0.5, 5, (n + m, 2))], 1)
        scale = 10.0 ** rng.uniform(-8, 8)
    a, b = tensors([rows * scale], device, dtype)[0].split([n, m])
    (weight,) = tensors([rng.normal(size=(n, m))], device, dtype)
    n = min(n, m)
    operators = torch.ops.cvlib
    for formula, functions, arguments in (
        (
            oracles_iou.differentiable_of_all_pairs,
            (operators.box_iou_backward, _box_iou_backward_reference),
            (weight, a, b),
        ),
        (
            oracles_iou.differentiable,
            (operators.paired_iou_backward, _paired_iou_backward_reference),
            (weight.diagonal(), a[:n], b[:n]),
        ),
    ):
        grad, *boxes = (tensor.cpu().double() for tensor in arguments)
        boxes = [tensor.requires_grad_() for tensor in boxes]
        expected = torch.autograd.grad(formula(*boxes, kind), boxes, grad)
        for function in functions:
            for actual, other in zip(function(*arguments, kind), expected, strict=True):
                assert_near(actual, other, TOLERANCES[dtype], factor=scale)


def random_rotated_boxes(rng, n):
    kind = rng.random()
    if kind < 0.4:  # a grid: shared edges, ties, empty boxes
        centre, sides = rng.integers(-4, 5, (n, 2)), rng.integers(0, 6, (n, 2))
        boxes = np.concatenate([centre, sides, rng.integers(-9, 9, (n, 1)) * 45.0], 1)
        factor = 2.0 ** rng.integers(-20, 20)
    else:
        boxes = oracles_rotated.random_rotated_boxes(rng, n, size=8, extent=6, turns=9)
        boxes[:, 2:4] *= 10.0 ** rng.uniform(-1.5, 0.5, (n, 2))
        if kind < 0.6 and n:  # nearly equal boxes
            boxes = boxes[:1] + (boxes - boxes[:1]) * 10.0 ** rng.uniform(-14, 0, (n, 1))
        factor = 10.0 ** rng.uniform(-15, 15)
    return boxes * np.array([factor, factor, factor, factor, 1])


def random_rotated_tensor(rng, n, device):
    dtype = random_dtype(rng)
    return tensors([random_rotated_boxes(rng, n)], device, dtype)[0]


def random_rotated_count(rng, limit=8):
    return fuzzing.random_count(rng, limit, small=0.99, large=(60, 80))


def fuzz_box_iou_rotated(rng, device):
    count = random_rotated_count(rng)
    boxes = random_rotated_tensor(rng, count + random_rotated_count(rng), device)
    a, b = boxes[:count], boxes[count:]
    arrays = [to_numpy(tensor).astype(np.float64) for tensor in (a, b)]
    expected = oracles_rotated.box_iou_rotated(*arrays)
    iou = rotated.box_iou_rotated(a, b)
    assert torch.equal(iou, rotated._box_iou_rotated_reference(a, b))
    assert torch.equal(iou, rotated.box_iou_rotated(b, a).t())
    np.testing.assert_allclose(iou.double().cpu().numpy(), expected, rtol=0, atol=1e-7)


def fuzz_paired_box_iou_rotated(rng, device):
    boxes = random_rotated_tensor(rng, 2 * random_rotated_count(rng), device)
    a, b = boxes[::2], boxes[1::2]
    iou = rotated.paired_box_iou_rotated(a, b)
    assert torch.equal(iou, rotated._paired_box_iou_rotated_reference(a, b))
    assert torch.equal(iou, rotated.box_iou_rotated(a, b).diagonal())


def fuzz_iou_rotated_gradients(rng, device):
    boxes = random_rotated_tensor(rng, 2 * random_rotated_count(rng), device)
    a, b = boxes[::2], boxes[1::2]
    real = rotated.as_real(a).dtype
    weight = torch.from_numpy(rng.normal(size=(len(a), len(b)))).to(device, real)
    native = torch.ops.cvlib.box_iou_rotated_backward(weight, a, b)
    reference = rotated._box_iou_rotated_backward_reference(weight, a, b)
    for actual, expected in zip(native, reference, strict=True):
        assert actual.isfinite().all()
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6 * largest)


def fuzz_match_anchors(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    num_anchors, num_images = random_anchor_count(rng), int(rng.integers(0, 4))
    num_gts = random_anchor_count(rng)
    rows = fuzzing.random_boxes(rng, num_anchors + num_images * num_gts)
    gts = rows[num_anchors:].reshape(num_images, num_gts, 4).copy()
    gts[rng.random((num_images, num_gts)) < 0.3] = -1
    anchors, gts = tensors([rows[:num_anchors], gts], device, dtype)
    expected = [
        oracles.match_anchors(to_numpy(anchors), gt, threshold).tolist() for gt in to_numpy(gts)
    ]
    assert cvlib.match_anchors(anchors, gts, threshold).tolist() == expected
    assert _match_anchors_reference(anchors, gts, threshold).tolist() == expected


def fuzz_multibox_target(rng, device):
    dtype, threshold = random_dtype(rng), random_threshold(rng)
    num_anchors, num_images = random_anchor_count(rng), int(rng.integers(0, 4))
    num_gts = random_anchor_count(rng)
    anchors = random_grid_boxes(rng, num_anchors, smallest=1, factor=1 / 32)
    boxes = np.clip(random_grid_boxes(rng, num_images, num_gts, factor=1 / 32), 0, 1)
    labels = np.concatenate([rng.integers(-1, 5, (num_images, num_gts, 1)), boxes], -1)
    anchors, labels = tensors([anchors, labels], device, dtype)
    variances = tuple(rng.uniform(0.05, 2, 4))
    arrays = to_numpy(anchors), to_numpy(labels)
    expected = oracles.multibox_target(*arrays, threshold, variances)
    for offsets, mask, classes in (
        cvlib.multibox_target(anchors, labels, iou_threshold=threshold, variances=variances),
        _multibox_target_reference(anchors, labels, threshold, *variances),
    ):
        np.testing.assert_array_equal(classes.cpu().numpy(), expected[2])
        np.testing.assert_array_equal(mask.cpu().numpy(), expected[1])
        np.testing.assert_allclose(offsets.cpu().numpy(), expected[0], rtol=1e-5, atol=1e-4)


def loss_tolerance(dtype):
    if dtype == torch.float64:
        return {"rtol": 1e-11, "atol": 1e-12}
    return {"rtol": 2e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-5}


def fuzz_focal_loss(rng, device):
    dtype = random_dtype(rng)
    shape = tuple(random_loss_count(rng, 5) for _ in range(rng.integers(1, 4)))
    if np.prod(shape) > 1e5:
        return
    x = torch.as_tensor(rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 1.5)).to(dtype)
    if shape[-1] and rng.random() < 0.5:
        targets = torch.as_tensor(rng.integers(-1, shape[-1], shape[:-1]))
        numbers = oracles_losses.one_hot(targets, shape[-1])
    else:
        targets = rng.random(shape)
        targets = targets if rng.random() < 0.5 else np.round(targets)
        targets = torch.as_tensor(targets).to(dtype)
        numbers = to_numpy(targets)
    alpha = float(rng.choice([-1, 0, 0.25, 1, rng.random()]))
    gamma = float(rng.choice([0, 1, 2, 3, rng.uniform(0, 4)]))
    name = list(REDUCTIONS)[rng.integers(3)]
    loss = oracles_losses.focal_loss(to_numpy(x), numbers, alpha, gamma)
    expected = np.asarray(oracles_losses.reduce(loss, name))
    if dtype == torch.float16 and (np.abs(expected) > 6e4).any():
        return
    x, targets = x.to(device), targets.to(device)
    for actual in (
        sigmoid_focal_loss(x, targets, alpha, gamma, name),
        _loss_reference(x, targets, alpha, gamma, REDUCTIONS[name]),
    ):
        np.testing.assert_allclose(to_numpy(actual), expected, **loss_tolerance(dtype))


def fuzz_ssd_loss(rng, device):
    dtype = random_dtype(rng)
    batch, anchors = int(rng.integers(0, 4)), random_loss_count(rng, 14)
    columns = int(rng.choice([1, 2, 3, 5, 16, 17, 33]))
    if rng.random() < 0.5:  # ties: entropies of equal rows are equal however they are rounded
        logits = np.zeros((batch, anchors, columns))
        logits[..., -1] = rng.integers(-2, 3, (batch, anchors)) * 2
    else:
        logits = rng.normal(size=(batch, anchors, columns)) * 10.0 ** rng.uniform(-2, 1)
    offsets, target_offsets = rng.normal(size=(2, batch, anchors, 4)) * 2
    logits, offsets, target_offsets = tensors((logits, offsets, target_offsets), device, dtype)
    classes = rng.integers(-1, columns, (batch, anchors)) * (rng.random((batch, anchors)) < 0.4)
    arguments = (logits, offsets, torch.from_numpy(classes).to(device), target_offsets)
    ratio = float(rng.choice([0, 1, 3, rng.uniform(0, 5)]))
    native = torch.ops.cvlib.ssd_loss(*arguments, ratio)
    column = np.maximum(classes, 0)[..., None]
    for class_loss, box_loss, _, saved, kept in (native, _ssd_loss_reference(*arguments, ratio)):
        arrays = [to_numpy(argument) for argument in arguments]
        entropy = to_numpy(saved) - np.take_along_axis(arrays[0], column, -1)[..., 0]
        expected = oracles_losses.ssd_loss(*arrays, ratio, entropy)
        np.testing.assert_array_equal(kept.cpu().numpy(), expected[2])
        for actual, other in zip((class_loss, box_loss), expected[:2], strict=True):
            np.testing.assert_allclose(actual.item(), other, **loss_tolerance(dtype))
    assert ssd_loss(*arguments, negative_ratio=ratio) == native[:2]


# Number of calls in an ordinary run.
CALLS = {
    fuzz_box_iou: 400,
    fuzz_iou_of_all_pairs: 250,
    fuzz_iou_of_pairs: 200,
    fuzz_max_iou: 150,
    fuzz_iou_gradients: 150,
    fuzz_box_iou_rotated: 250,
    fuzz_paired_box_iou_rotated: 100,
    fuzz_iou_rotated_gradients: 100,
    fuzz_match_anchors: 300,
    fuzz_multibox_target: 250,
    fuzz_focal_loss: 400,
    fuzz_ssd_loss: 200,
}
