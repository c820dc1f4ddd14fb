"""Losses match their formulas and numerical gradients."""

import pytest
import torch

from cvlib.anchors import multibox_prior
from cvlib.losses import BOX_WEIGHT, LOSSES, book_loss, multibox_loss, quality_focal_loss
from cvlib.targets import AnchorTargets


def random_case(batch=3, classes=2, dtype=torch.float64, device="cpu", positives=5):
    """Predictions and targets of 32 anchors, the last image without objects."""
    anchors = multibox_prior((4, 2), (0.3, 0.5), (1, 2, 0.5), dtype=dtype, device=device)
    count = len(anchors)
    logits = torch.randn(batch, count, classes + 1, dtype=dtype, device=device)
    offsets = torch.randn(batch, count, 4, dtype=dtype, device=device)
    target_classes = torch.zeros(batch, count, dtype=torch.int64, device=device)
    for image in range(batch - 1):
        chosen = torch.randperm(count)[:positives].to(device)
        target_classes[image, chosen] = torch.randint(1, classes + 1, (positives,), device=device)
    target_offsets = torch.randn(batch, count, 4, dtype=dtype, device=device)
    target_offsets = target_offsets * (target_classes > 0)[..., None]
    return logits, offsets, anchors, AnchorTargets(target_offsets, target_classes)


def quality_focal_formula(logits, label, quality, focus):
    """The formula of the docstring for one anchor."""
    probabilities = logits.exp() / logits.exp().sum()
    target = quality if label > 0 else 1.0
    entropy = -target * probabilities[label].log() - (1 - target) * probabilities[0].log()
    return entropy * abs(target - probabilities[label]) ** focus


@pytest.mark.parametrize("focus", [0.0, 1.0, 2.0, 2.5])
def test_quality_focal_loss_is_its_formula(focus):
    logits = torch.randn(2, 9, 4, dtype=torch.float64)
    classes, quality = torch.randint(0, 4, (2, 9)), torch.rand(2, 9, dtype=torch.float64)
    loss = quality_focal_loss(logits, classes, quality, focus)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(9)).tolist():
        index = tuple(index)
        expected = quality_focal_formula(
            logits[index], int(classes[index]), float(quality[index]), focus
        )
        torch.testing.assert_close(loss[index], expected)


def test_quality_focal_loss_without_focus_is_cross_entropy():
    logits, classes = torch.randn(50, 3), torch.randint(0, 3, (50,))
    loss = quality_focal_loss(logits, classes, torch.ones(50), focus=0.0)
    expected = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_quality_focal_loss_does_not_read_the_quality_of_background():
    logits, classes = torch.randn(5, 3, requires_grad=True), torch.zeros(5, dtype=torch.int64)
    loss = quality_focal_loss(logits, classes, torch.full((5,), float("nan")))
    assert torch.equal(loss, quality_focal_loss(logits, classes, torch.ones(5)))
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_quality_focal_loss_has_the_right_gradient():
    logits = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    classes, quality = torch.randint(0, 3, (20,)), torch.rand(20, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: quality_focal_loss(x, classes, quality), (logits,))


def test_quality_focal_loss_is_least_at_the_quality():
    # One class: the probability that minimises the loss is the quality itself.
    probability = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(probability), probability.logit()], dim=-1)
    for quality in (0.2, 0.5, 0.9):
        target = torch.full_like(probability, quality)
        loss = quality_focal_loss(logits, torch.ones_like(probability).long(), target)
        assert float(probability[loss.argmin()]) == pytest.approx(quality)


def test_confident_errors_have_a_finite_loss_and_gradient():
    logits = torch.tensor([[100.0, -100], [-100, 100]], requires_grad=True)
    loss = quality_focal_loss(logits, torch.tensor([1, 0]), torch.tensor([1.0, 0.0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def book_formula(logits, offsets, targets):
    """The book's calc_loss, image by image: per-image means, then the mean over the batch."""
    class_losses, box_losses = [], []
    for image in range(len(logits)):
        entropies = [
            -torch.log(scores.exp()[label] / scores.exp().sum())
            for scores, label in zip(logits[image], targets.classes[image].tolist(), strict=True)
        ]
        class_losses.append(sum(entropies) / len(entropies))
        mask = (targets.classes[image] > 0).repeat_interleave(4).to(offsets.dtype)
        error = (offsets[image].flatten() * mask - targets.offsets[image].flatten() * mask).abs()
        box_losses.append(error.sum() / (4 * len(entropies)))
    return sum(class_losses) / len(class_losses), sum(box_losses) / len(box_losses)


@pytest.mark.parametrize("classes", [1, 3])
def test_book_loss_is_the_formula_of_the_book(classes):
    logits, offsets, anchors, targets = random_case(classes=classes)
    loss = book_loss(logits, offsets, anchors, targets)
    expected = book_formula(logits, offsets, targets)
    torch.testing.assert_close(loss["class"], expected[0])
    torch.testing.assert_close(loss["box"], expected[1])


def one_anchor(offset):
    """A square anchor that is matched to itself, and a prediction moved in units of its width."""
    anchors = torch.tensor([[0.0, 0, 1, 1]])
    targets = AnchorTargets(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.int64))
    offsets = torch.tensor([[[10.0 * offset, 0, 0, 0]]], requires_grad=True)
    return torch.zeros(1, 1, 2), offsets, anchors, targets


def test_box_loss_by_hand():
    # Two unit squares with a gap of one: hull 3, union 2, so a generalised IoU of 0 - 1/3.
    loss = multibox_loss(*one_anchor(2))["box"].detach()
    assert float(loss) == pytest.approx(BOX_WEIGHT * (1 + 1 / 3))


def test_box_loss_pulls_distant_boxes_together():
    arguments = one_anchor(10)
    multibox_loss(*arguments)["box"].backward()
    assert arguments[1].grad[0, 0, 0] > 0  # gradient descent moves the box left


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -float("inf")])
def test_a_diverged_model_has_a_loss_that_is_not_finite(offset):
    assert not multibox_loss(*one_anchor(offset))["box"].isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_the_right_gradient(name):
    logits, offsets, anchors, targets = random_case()
    offsets = 0.3 * offsets

    # The class loss takes the quality of a box as a constant.
    def class_loss(logits):
        return LOSSES[name](logits, offsets, anchors, targets)["class"]

    def box_loss(offsets):
        return LOSSES[name](logits, offsets, anchors, targets)["box"]

    torch.autograd.gradcheck(class_loss, (logits.clone().requires_grad_(),))
    torch.autograd.gradcheck(box_loss, (offsets.clone().requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_predictions_cost_nothing(name, device):
    logits, _, anchors, targets = random_case(dtype=torch.float32, device=device)
    logits = 50 * torch.nn.functional.one_hot(targets.classes, logits.shape[2]).float()
    for value in LOSSES[name](logits, targets.offsets, anchors, targets).values():
        assert value.abs() < 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_scalars_on_every_device(name, device):
    values = LOSSES[name](*random_case(dtype=torch.float32, device=device))
    assert set(values) == {"class", "box"}
    for value in values.values():
        assert value.shape == ()
        assert value.device.type == device
        assert value > 0
        assert value.isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_objects_still_teaches_the_background(name):
    logits, offsets, anchors, _ = random_case(dtype=torch.float32)
    nothing = AnchorTargets(torch.zeros_like(offsets), torch.zeros(offsets.shape[:2]).long())
    logits.requires_grad_(), offsets.requires_grad_()
    values = LOSSES[name](logits, offsets, anchors, nothing)
    assert values["box"] == 0
    (values["class"] + values["box"]).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad.abs().sum(-1) > 0).any(1).all(), "every image must teach something"
    assert offsets.grad is None or not offsets.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_offsets_of_background_do_not_count(name):
    logits, offsets, anchors, targets = random_case()
    other = torch.where(targets.positive[..., None], offsets, 100.0)
    before = LOSSES[name](logits, offsets, anchors, targets)
    after = LOSSES[name](logits, other, anchors, targets)
    assert before["box"] == after["box"]


def test_class_loss_has_no_gradient_in_the_offsets():
    logits, offsets, anchors, targets = random_case()
    offsets.requires_grad_()
    assert not multibox_loss(logits, offsets, anchors, targets)["class"].requires_grad


def test_multibox_loss_does_not_depend_on_the_order_of_images():
    logits, offsets, anchors, targets = random_case()
    flipped = AnchorTargets(targets.offsets.flip(0), targets.classes.flip(0))
    loss = multibox_loss(logits, offsets, anchors, targets)
    other = multibox_loss(logits.flip(0), offsets.flip(0), anchors, flipped)
    for name in loss:
        torch.testing.assert_close(loss[name], other[name])
