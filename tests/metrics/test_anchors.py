"""The book's metrics of anchors, by hand and compared with their baselines."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.metrics import AnchorMeter
from cvlib.targets import AnchorTargets


def logits_for(classes, number):
    return 5 * torch.nn.functional.one_hot(torch.as_tensor(classes), number).float()


def test_a_case_by_hand(device):
    # Two images of four anchors; class 1 at anchors 1 and 2 of the first, class 2 at anchor 0 of
    # the second.
    classes = torch.tensor([[0, 1, 1, 0], [2, 0, 0, 0]], device=device)
    wanted = torch.zeros(2, 4, 4, device=device)
    wanted[0, 1], wanted[0, 2], wanted[1, 0] = 1.0, -2.0, 0.5
    # Right: all but the second anchor (taken for background), the third (for class 2) and the
    # second of the second image (background taken for class 1).
    guessed = torch.tensor([[0, 0, 2, 0], [2, 1, 0, 0]], device=device)
    offsets = wanted.clone()
    offsets[0, 1] += torch.tensor([1.0, -1.0, 0.0, 0.0], device=device)
    offsets[1, 0] = 0.0
    offsets[0, 0] = 100.0  # background: does not count
    meter = AnchorMeter()
    meter.update(logits_for(guessed, 3), offsets, AnchorTargets(wanted, classes))
    metrics = meter.compute()
    assert metrics.class_error == pytest.approx(3 / 8)
    assert metrics.class_error_baseline == pytest.approx(3 / 8)
    assert metrics.positive_recall == pytest.approx(1 / 3)
    assert metrics.box_mae == pytest.approx((2 + 4 * 0.5) / 32)
    assert metrics.box_mae_baseline == pytest.approx((4 * 1 + 4 * 2 + 4 * 0.5) / 32)


def random_batch(count=3):
    classes = torch.randint(0, 3, (count, 10))
    wanted = torch.randn(count, 10, 4) * (classes > 0)[..., None]
    return torch.randn(count, 10, 3), torch.randn(count, 10, 4), AnchorTargets(wanted, classes)


@given(seed=st.integers(0, 10**6))
def test_an_untrained_model_has_the_baselines(seed):
    torch.manual_seed(seed)
    _, offsets, targets = random_batch()
    meter = AnchorMeter()
    nothing = logits_for(torch.zeros_like(targets.classes), 3)
    meter.update(nothing, torch.zeros_like(offsets), targets)
    metrics = meter.compute()
    assert metrics.class_error == metrics.class_error_baseline
    assert metrics.box_mae == metrics.box_mae_baseline
    assert metrics.positive_recall == 0


def test_perfection():
    _, _, targets = random_batch()
    meter = AnchorMeter()
    meter.update(logits_for(targets.classes, 3), targets.offsets, targets)
    metrics = meter.compute()
    assert (metrics.class_error, metrics.box_mae, metrics.positive_recall) == (0, 0, 1)
    assert metrics.class_error_baseline > 0


def test_batches_add_up():
    logits, offsets, targets = random_batch(6)
    single, parts = AnchorMeter(), AnchorMeter()
    single.update(logits, offsets, targets)
    for part in (slice(0, 1), slice(1, 6)):
        one = AnchorTargets(targets.offsets[part], targets.classes[part])
        parts.update(logits[part], offsets[part], one)
    assert parts.compute().as_dict() == pytest.approx(single.compute().as_dict())


def test_without_objects_or_batches_there_is_no_division_by_zero():
    meter = AnchorMeter()
    assert set(meter.compute().as_dict().values()) == {0.0}
    targets = AnchorTargets(torch.zeros(1, 4, 4), torch.zeros(1, 4, dtype=torch.int64))
    meter.update(logits_for([[0, 0, 0, 1]], 2), torch.ones(1, 4, 4), targets)
    assert meter.compute().class_error == 0.25
    assert meter.compute().positive_recall == 0
    assert meter.compute().box_mae == 0
