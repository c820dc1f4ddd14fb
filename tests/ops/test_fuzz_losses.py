"""Hundreds of small random calls of the losses, native and reference, against the oracles."""

import numpy as np
import oracles
import oracles_losses
import torch
from fuzzing import make_tests, random_dtype

from cvlib.ops.focal import _loss_reference, sigmoid_focal_loss
from cvlib.ops.multibox_loss import _ssd_loss_reference, ssd_loss

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def random_count(rng, largest=14):
    """Mostly few, so that a failure can be read; now and then a few times a vector register."""
    return int(rng.integers(0, largest)) if rng.random() < 0.97 else int(rng.integers(150, 1300))


def tolerance(dtype):
    if dtype == torch.float64:
        return {"rtol": 1e-11, "atol": 1e-12}
    return {"rtol": 2e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-5}


def fuzz_focal_loss(rng, device):
    dtype, shape = random_dtype(rng), tuple(random_count(rng, 5) for _ in range(rng.integers(1, 4)))
    if np.prod(shape) > 1e5:
        return
    x = torch.as_tensor(rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 1.5)).to(dtype)
    if shape[-1] and rng.random() < 0.5:
        t = torch.as_tensor(rng.integers(-1, shape[-1], shape[:-1]))
        numbers = oracles_losses.one_hot(t, shape[-1])
    else:
        t = rng.random(shape)
        t = torch.as_tensor(t if rng.random() < 0.5 else np.round(t)).to(dtype)
        numbers = oracles.to_numpy(t)
    alpha = float(rng.choice([-1, 0, 0.25, 1, rng.random()]))
    gamma = float(rng.choice([0, 1, 2, 3, rng.uniform(0, 4)]))
    name = list(REDUCTIONS)[rng.integers(3)]
    loss = oracles_losses.focal_loss(oracles.to_numpy(x), numbers, alpha, gamma)
    expected = np.asarray(oracles_losses.reduce(loss, name))
    if dtype == torch.float16 and (np.abs(expected) > 6e4).any():
        return
    x, t = x.to(device), t.to(device)
    for actual in (
        sigmoid_focal_loss(x, t, alpha, gamma, name),
        _loss_reference(x, t, alpha, gamma, REDUCTIONS[name]),
    ):
        np.testing.assert_allclose(oracles.to_numpy(actual), expected, **tolerance(dtype))


def fuzz_ssd_loss(rng, device):
    dtype = random_dtype(rng)
    batch, anchors = int(rng.integers(0, 4)), random_count(rng)
    columns = int(rng.choice([1, 2, 3, 5, 16, 17, 33]))
    if rng.random() < 0.5:  # ties: entropies of equal rows are equal however they are rounded
        logits = np.zeros((batch, anchors, columns))
        logits[..., -1] = rng.integers(-2, 3, (batch, anchors)) * 2
    else:
        logits = rng.normal(size=(batch, anchors, columns)) * 10.0 ** rng.uniform(-2, 1)
    offsets, wanted = rng.normal(size=(2, batch, anchors, 4)) * 2
    floats = [torch.from_numpy(a).to(dtype).to(device) for a in (logits, offsets, wanted)]
    classes = rng.integers(-1, columns, (batch, anchors)) * (rng.random((batch, anchors)) < 0.4)
    arguments = (floats[0], floats[1], torch.from_numpy(classes).to(device), floats[2])
    ratio = float(rng.choice([0, 1, 3, rng.uniform(0, 5)]))
    native = torch.ops.cvlib.ssd_loss(*arguments, ratio)
    own = np.maximum(classes, 0)[..., None]
    for class_loss, box_loss, _, saved, kept in (native, _ssd_loss_reference(*arguments, ratio)):
        arrays = [oracles.to_numpy(one) for one in arguments]
        entropy = oracles.to_numpy(saved) - np.take_along_axis(arrays[0], own, -1)[..., 0]
        expected = oracles_losses.ssd_loss(*arrays, ratio, entropy)
        np.testing.assert_array_equal(kept.cpu().numpy(), expected[2])
        for actual, other in zip((class_loss, box_loss), expected[:2], strict=True):
            np.testing.assert_allclose(actual.item(), other, **tolerance(dtype))
    assert ssd_loss(*arguments, negative_ratio=ratio) == native[:2]


# Calls of a test.
CALLS = {fuzz_focal_loss: 400, fuzz_ssd_loss: 200}

test_random_calls, test_many_random_calls = make_tests(CALLS)
