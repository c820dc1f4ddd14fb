"""ssd_loss: values, selection, gradients, errors."""

import numpy as np
import oracles
import oracles_losses
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.multibox_loss import _ssd_loss_backward_reference, _ssd_loss_reference, ssd_loss

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAMES = ("class loss", "box loss", "kept", "gradient of logits", "gradient of offsets")


def scene(rng, shape, device, dtype=torch.float32, share=0.1, left_out=0.0, scale=3.0):
    """Logits (B, A, columns), offsets, classes and target offsets."""
    batch, anchors, columns = shape
    logits = rng.normal(size=shape) * scale
    offsets, wanted = rng.normal(size=(2, batch, anchors, 4)) * 1.5
    classes = rng.integers(0, columns, shape[:2]) * (rng.random(shape[:2]) < share)
    classes = np.where(rng.random(shape[:2]) < left_out, -1, classes)
    floats = [torch.from_numpy(one).to(dtype).to(device) for one in (logits, offsets, wanted)]
    return floats[0], floats[1], torch.from_numpy(classes).to(device), floats[2]


def oracle(arguments, ratio=3.0, losses=None):
    arrays = [oracles.to_numpy(one) for one in arguments]
    return oracles_losses.ssd_loss(*arrays, ratio, losses)


def losses_that_decide(arguments, saved):
    """Cross-entropies as the operator computes them, which decide ties of rounding."""
    logits, _, classes, _ = (oracles.to_numpy(one) for one in arguments)
    target_logits = np.take_along_axis(logits, np.maximum(classes, 0)[..., None], -1)[..., 0]
    return oracles.to_numpy(saved) - target_logits


def everything(arguments, ratio=3.0):
    """Results of the operator in the form of those of the oracle."""
    logits, offsets, classes, wanted = arguments
    logits, offsets = (one.detach().clone().requires_grad_() for one in (logits, offsets))
    class_loss, box_loss = ssd_loss(logits, offsets, classes, wanted, negative_ratio=ratio)
    to_logits = torch.autograd.grad(class_loss, logits, retain_graph=True)[0]
    to_offsets = torch.autograd.grad(box_loss, offsets)[0]
    kept, saved = torch.ops.cvlib.ssd_loss(*arguments, ratio)[4:2:-1]
    return (class_loss, box_loss, kept, to_logits, to_offsets), saved


def check(arguments, ratio=3.0, **tolerance):
    actual, saved = everything(arguments, ratio)
    expected = oracle(arguments, ratio, losses_that_decide(arguments, saved))
    for name, computed, other in zip(NAMES, actual, expected, strict=True):
        computed = oracles.to_numpy(computed)
        if name == "kept":
            np.testing.assert_array_equal(computed, other)
        else:
            np.testing.assert_allclose(computed, other, err_msg=name, **tolerance)


TOLERANCES = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-13},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float16: {"rtol": 2e-3, "atol": 1e-4},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-3},
}

# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 2), (2, 17, 3), (3, 40, 16), (2, 65, 21), (2, 130, 81)], ids=str
)
def test_matches_oracle(device, dtype, shape, rng):
    arguments = scene(rng, shape, device, dtype)
    losses = ssd_loss(*arguments)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(one.shape == () and one.dtype == wide for one in losses)
    check(arguments, **TOLERANCES[dtype])


@pytest.mark.parametrize("columns", [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 48, 100, 4095, 4096, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_oracle_for_every_width(device, dtype, columns, rng):
    anchors = 3 if columns > 1000 else 70
    check(scene(rng, (2, anchors, columns), device, dtype, share=0.3), **TOLERANCES[dtype])


@pytest.mark.parametrize("ratio", [0, 0.3, 1, 2.5, 3, 7, 1e9])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_matches_oracle_for_every_ratio(device, ratio, share, rng):
    arguments = scene(rng, (4, 61, 5), device, share=share, left_out=0.2)
    check(arguments, ratio, **TOLERANCES[torch.float32])


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 1)])
def test_nothing_has_no_loss(device, shape, rng):
    logits, offsets, classes, wanted = scene(rng, shape, device)
    logits.requires_grad_(), offsets.requires_grad_()
    losses = ssd_loss(logits, offsets, classes, wanted)
    assert [one.item() for one in losses] == [0, 0]
    grads = torch.autograd.grad(sum(losses), (logits, offsets))
    assert [grad.shape for grad in grads] == [logits.shape, offsets.shape]


def test_memory_layout_does_not_matter(device, rng):
    arguments = scene(rng, (3, 50, 7), device)
    expected = ssd_loss(*arguments)
    for layout in (
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
        lambda x: torch.stack([x, x], -1)[..., 0],
    ):
        assert ssd_loss(*(layout(one) for one in arguments)) == expected


def test_expanded_targets(device, rng):
    logits, offsets, classes, wanted = scene(rng, (3, 50, 7), device)
    classes, wanted = classes[:1].expand(3, 50), wanted[:1].expand(3, 50, 4)
    check((logits, offsets, classes, wanted), **TOLERANCES[torch.float32])


# --- selection


def kept_anchors(logits, classes, ratio):
    shape = (*classes.shape, 4)
    offsets = torch.zeros(shape, device=logits.device, dtype=logits.dtype)
    kept = torch.ops.cvlib.ssd_loss(logits, offsets, classes, offsets, ratio)[4]
    reference = _ssd_loss_reference(logits, offsets, classes, offsets, ratio)[4]
    assert torch.equal(kept, reference)
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_among_equal_losses_the_first_anchors_are_kept(device, dtype):
    logits = torch.zeros(1, 200, 4, device=device, dtype=dtype)
    classes = torch.zeros(1, 200, dtype=torch.int64, device=device)
    classes[0, [0, 100]] = 2
    logits[0, 150, 1] = 1  # harder than the rest
    logits[0, 151, 0] = 1  # easier
    kept = kept_anchors(logits, classes, 3.0)[0].nonzero()[:, 0].tolist()
    assert kept == [0, 1, 2, 3, 4, 5, 100, 150]


def test_nan_is_hardest_and_then_infinite_losses(device):
    logits = torch.zeros(1, 40, 2, device=device)
    logits[0, 10:13, 0] = torch.tensor([nan, -inf, nan])
    logits[0, 20, 1] = 50
    classes = torch.zeros(1, 40, dtype=torch.int64, device=device)
    classes[0, 39] = 1
    for ratio, kept in ((1, [10]), (2, [10, 12]), (3, [10, 11, 12]), (4, [10, 11, 12, 20])):
        assert kept_anchors(logits, classes, float(ratio))[0].nonzero()[:, 0].tolist() == [
            *kept,
            39,
        ]


def test_an_image_without_positives_keeps_nothing(device, rng):
    logits, _, classes, _ = scene(rng, (3, 30, 4), device, share=0.3)
    classes[1] = 0
    kept = kept_anchors(logits, classes, 3.0)
    assert not kept[1].any() and kept[0].any() and kept[2].any()


def test_anchors_left_out_have_no_loss_and_no_gradient(device, rng):
    arguments = scene(rng, (2, 60, 5), device, share=0.4, left_out=0.5)
    arguments[0][arguments[2] < 0] = nan
    (class_loss, box_loss, kept, to_logits, to_offsets), _ = everything(arguments)
    out = arguments[2] < 0
    assert class_loss.isfinite() and box_loss.isfinite()
    assert not kept[out].any() and not to_logits[out].any() and not to_offsets[out].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e3, 1e20])
def test_selection_at_every_scale(device, dtype, scale, rng):
    logits, offsets, classes, wanted = scene(rng, (2, 300, 3), device, dtype, share=0.05)
    logits = logits * scale
    _, _, _, saved, kept = torch.ops.cvlib.ssd_loss(logits, offsets, classes, wanted, 3.0)
    losses = losses_that_decide((logits, offsets, classes, wanted), saved)
    for image in range(2):
        labels = classes[image].cpu().numpy()
        (negatives,) = (labels == 0).nonzero()
        hard = negatives[np.argsort(-losses[image][negatives], kind="stable")]
        expected = set(hard[: 3 * (labels > 0).sum()]) | set(*(labels > 0).nonzero())
        assert set(kept[image].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("value", [-inf, inf, nan, 1e38, -1e38, 1e-40])
def test_extreme_logits(device, value):
    logits = torch.zeros(1, 4, 3, device=device)
    logits[0, 1, 2] = value
    classes = torch.tensor([[1, 0, 0, 0]], device=device)
    offsets = torch.zeros(1, 4, 4, device=device)
    logits.requires_grad_()
    loss, _ = ssd_loss(logits, offsets, classes, offsets)
    expected = F.cross_entropy(logits[0], classes[0], reduction="sum")
    torch.testing.assert_close(loss, expected, equal_nan=True)
    grads = [torch.autograd.grad(one, logits)[0] for one in (loss, expected)]
    torch.testing.assert_close(*grads, equal_nan=True)


# --- matches torchvision


def loss_in_pytorch(logits, offsets, classes, target_offsets, ratio=3):
    """The lines of torchvision's SSD.compute_loss behind its encoding of boxes."""
    positive = classes > 0
    boxes = F.smooth_l1_loss(offsets[positive], target_offsets[positive], reduction="sum")
    entropy = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
    entropy = entropy.view(classes.shape)
    hardness = entropy.clone()
    hardness[positive] = -inf
    _, order = hardness.sort(1, descending=True)
    negative = order.sort(1)[1] < ratio * positive.sum(1, keepdim=True)
    count = max(1, int(positive.sum()))
    return (entropy[positive].sum() + entropy[negative].sum()) / count, boxes / count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 300, 2), (4, 200, 21), (2, 150, 81)], ids=str)
def test_equals_torchvision_with_gradient(device, dtype, shape, rng):
    arguments = scene(rng, shape, device, dtype)
    logits, offsets = (one.requires_grad_() for one in arguments[:2])
    computed, expected = ssd_loss(*arguments), loss_in_pytorch(*arguments)
    for actual, other in zip(computed, expected, strict=True):
        torch.testing.assert_close(actual, other)
    grads = [torch.autograd.grad(2 * a + b, (logits, offsets)) for a, b in (computed, expected)]
    for actual, other in zip(*grads, strict=True):
        torch.testing.assert_close(actual, other)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1000, 2), (2, 8732, 21), (2, 501, 81)], ids=str)
def test_cpu_equals_cuda(cuda, dtype, shape, rng):
    arguments = scene(rng, shape, "cpu", dtype, left_out=0.1)
    arguments[0][:, ::3] = 0  # many ties
    expected = torch.ops.cvlib.ssd_loss(*arguments, 3.0)
    actual = torch.ops.cvlib.ssd_loss(*(one.to(cuda) for one in arguments), 3.0)
    assert torch.equal(actual[3].cpu(), expected[3])  # equal bits decide alike
    assert torch.equal(actual[4].cpu(), expected[4])
    for computed, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(computed.cpu(), other)
    grads = everything(arguments)[0][3:], everything([one.to(cuda) for one in arguments])[0][3:]
    for computed, other in zip(*grads, strict=True):
        torch.testing.assert_close(computed, other.cpu())


@pytest.mark.cuda
def test_classes_out_of_range_are_left_out_on_cuda(cuda, rng):
    logits, offsets, classes, wanted = scene(rng, (2, 50, 4), cuda, share=0.5)
    classes[:, ::7] = -1
    wild = classes.clone()
    wild[:, ::7] = torch.tensor([4, -2, 2**40, -(2**40)] * 2, device=cuda)
    for actual, other in zip(
        everything((logits, offsets, wild, wanted))[0],
        everything((logits, offsets, classes, wanted))[0],
        strict=True,
    ):
        assert torch.equal(actual, other)


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 97, 1), (3, 203, 4), (1, 88, 40)], ids=str)
def test_reference_equals_native(device, dtype, shape, rng):
    arguments = scene(rng, shape, device, dtype, left_out=0.1)
    native = torch.ops.cvlib.ssd_loss(*arguments, 3.0)
    for actual, other in zip(native, _ssd_loss_reference(*arguments, 3.0), strict=True):
        torch.testing.assert_close(actual, other)
    weights = native[0].new_tensor(2.0), native[0].new_tensor(-3.0)
    backward = (*weights, *arguments, *native[2:])
    grads = torch.ops.cvlib.ssd_loss_backward(*backward)
    for actual, other in zip(grads, _ssd_loss_backward_reference(*backward), strict=True):
        torch.testing.assert_close(actual, other)


# --- properties


@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(-1, 1)), min_size=1, max_size=40),
    ratio=st.integers(0, 4),
)
def test_kept_anchors_are_positives_and_the_hardest_negatives(device, rows, ratio):
    values, labels = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
    logits = torch.stack([torch.zeros_like(values), values], -1)[None].float()
    kept = kept_anchors(logits, labels[None], float(ratio))[0]
    positive, negative = labels == 1, labels == 0
    assert kept[positive].all() and not kept[labels < 0].any()
    wanted = min(ratio * int(positive.sum()), int(negative.sum()))
    assert int(kept[negative].sum()) == wanted
    if 0 < wanted < int(negative.sum()):
        assert values[negative & kept].min() >= values[negative & ~kept].max()


def test_does_not_change_its_arguments(device, rng):
    arguments = scene(rng, (2, 30, 4), device)
    copies = [one.clone() for one in arguments]
    ssd_loss(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


# --- gradients


@pytest.mark.parametrize("ratio", [0.0, 3.0])
def test_gradient_is_the_derivative(device, ratio, rng):
    logits, offsets, classes, wanted = scene(rng, (2, 12, 4), device, torch.float64, share=0.3)
    inputs = [one.requires_grad_() for one in (logits, offsets, wanted)]
    assert torch.autograd.gradcheck(
        lambda a, b, c: ssd_loss(a, b, classes, c, negative_ratio=ratio), inputs
    )


def test_gradient_with_one_differentiable_argument(device, rng):
    arguments = scene(rng, (2, 12, 4), device, share=0.3)
    full = everything(arguments)[0][3:]
    for i, expected in enumerate(full):
        inputs = [one.clone() for one in arguments]
        inputs[i].requires_grad_()
        (grad,) = torch.autograd.grad(ssd_loss(*inputs)[i], inputs[i])
        assert torch.equal(grad, expected)
        assert inputs[1 - i].grad is None


def test_second_derivative_is_refused(device, rng):
    logits, *rest = scene(rng, (1, 9, 3), device, share=0.5)
    loss, _ = ssd_loss(logits.requires_grad_(), *rest)
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="ssd_loss_backward is not differentiable"):
        grad.sum().backward()


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # anchor      0 (object)  1         2         3         4
    # logits      0, 0        log 3, 0  0, log 3  0, 0      0, log 7
    # entropy     log 2       log 4/3   log 4     log 2     log 8
    # One positive and a ratio of 2 keep anchors 0, 4 and 2.
    zero = 0.0
    rows = [[zero, zero], [np.log(3), zero], [zero, np.log(3)], [zero, zero], [zero, np.log(7)]]
    logits = torch.tensor([rows], dtype=torch.float32, device=device)
    classes = torch.tensor([[1, 0, 0, 0, 0]], device=device)
    offsets = torch.zeros(1, 5, 4, device=device)
    wanted = offsets.clone()
    wanted[0, 0] = torch.tensor([0.5, -0.5, 2.0, 0.0])
    wanted[0, 1] = 9
    class_loss, box_loss = ssd_loss(logits, offsets, classes, wanted, negative_ratio=2)
    torch.testing.assert_close(class_loss.item(), float(np.log(2 * 8 * 4)), rtol=1e-6, atol=0)
    torch.testing.assert_close(box_loss.item(), 0.125 + 0.125 + 1.5)
