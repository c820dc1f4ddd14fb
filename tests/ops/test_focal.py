"""sigmoid_focal_loss: values, gradients, errors."""

import numpy as np
import oracles
import oracles_losses
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.focal import _backward_reference, _loss_reference, sigmoid_focal_loss

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
GAMMAS = [0, 1, 2, 0.5, 1.5, 5]
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def logits_tensor(rng, shape, device, dtype=torch.float32, scale=4.0):
    return torch.as_tensor(rng.normal(size=shape) * scale).to(dtype).to(device)


def hard_targets(rng, shape, device, dtype=torch.float32):
    return torch.as_tensor(np.float64(rng.random(shape) < 0.2)).to(dtype).to(device)


def soft_targets(rng, shape, device, dtype=torch.float32):
    return torch.as_tensor(rng.random(shape)).to(dtype).to(device)


def random_classes(rng, shape, count, device):
    return torch.from_numpy(rng.integers(-1, count, shape)).to(device)


def oracle(inputs, targets, alpha=0.25, gamma=2, reduction="none"):
    inputs, targets = oracles.to_numpy(inputs), oracles.to_numpy(targets)
    if targets.dtype == np.int64:
        targets = oracles_losses.one_hot(targets, inputs.shape[-1])
    loss = oracles_losses.focal_loss(inputs, targets, alpha, gamma)
    return torch.as_tensor(oracles_losses.reduce(loss, reduction), dtype=torch.float64)


def close(actual, expected, dtype=None, **tolerance):
    dtype = dtype or actual.dtype
    small = dtype in (torch.float16, torch.bfloat16)
    tolerance = (
        tolerance
        or {
            torch.float64: {"rtol": 1e-12, "atol": 1e-15},
            torch.float32: {"rtol": 3e-6, "atol": 1e-9},
            torch.float16: {"rtol": 2e-3, "atol": 1e-6},
            torch.bfloat16: {"rtol": 1e-2, "atol": 1e-6},
        }[dtype]
    )
    # Half types are rounded once, at the end; the oracle's values may lie beyond their range.
    expected = expected.to(actual.dtype).double() if small else expected.double()
    torch.testing.assert_close(actual.detach().cpu().double(), expected.cpu(), **tolerance)


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (3, 0), (0, 5), (17,), (3, 5, 7), (37, 33)], ids=str
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_matches_oracle(device, dtype, shape, reduction, rng):
    x = logits_tensor(rng, shape, device, dtype)
    for make in (hard_targets, soft_targets):
        t = make(rng, shape, device, dtype)
        loss = sigmoid_focal_loss(x, t, reduction=reduction)
        assert loss.dtype == dtype and loss.device == x.device
        assert loss.shape == (shape if reduction == "none" else ())
        expected = oracle(x, t, reduction=reduction)
        torch.testing.assert_close(loss.isnan().cpu(), expected.isnan())
        if not expected.isnan().any():
            close(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [-1, 0, 0.25, 1])
def test_matches_oracle_for_every_setting(device, dtype, gamma, alpha, rng):
    x = logits_tensor(rng, (71, 9), device, dtype, scale=10)
    for make in (hard_targets, soft_targets):
        t = make(rng, x.shape, device, dtype)
        close(sigmoid_focal_loss(x, t, alpha, gamma), oracle(x, t, alpha, gamma))
    classes = random_classes(rng, 71, 9, device)
    close(sigmoid_focal_loss(x, classes, alpha, gamma), oracle(x, classes, alpha, gamma))


@pytest.mark.parametrize("count", [511, 512, 513, 8191, 8192, 8193, 50_001])
@pytest.mark.parametrize("columns", [1, 3, 1000, 50_001])
def test_matches_oracle_around_blocks(device, count, columns, rng):
    rows = -(-count // columns)
    x = logits_tensor(rng, (rows, columns), device)
    classes = random_classes(rng, rows, columns, device)
    close(sigmoid_focal_loss(x, classes), oracle(x, classes))
    total = oracle(x, classes, reduction="sum")
    close(sigmoid_focal_loss(x, classes, reduction="sum"), total)
    numbers = torch.from_numpy(oracles_losses.one_hot(classes.cpu(), columns)).float().to(device)
    close(sigmoid_focal_loss(x, numbers, reduction="sum"), total)


LAYOUTS = {
    "every second row": lambda values: values.repeat_interleave(2, 0)[::2],
    "column-major": lambda values: values.t().contiguous().t(),
    "columns of a wider matrix": lambda values: torch.cat([values, values], 1)[:, 9:],
    "offset in storage": lambda values: torch.cat([values[:1], values])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    x, t = (make(rng, (31, 9), device) for make in (logits_tensor, soft_targets))
    expected = sigmoid_focal_loss(x, t)
    assert torch.equal(sigmoid_focal_loss(layout(x), t), expected)
    assert torch.equal(sigmoid_focal_loss(x, layout(t)), expected)
    classes = random_classes(rng, (31, 2), 9, device)
    rows = logits_tensor(rng, (31, 2, 9), device)
    expected = sigmoid_focal_loss(rows, classes)
    assert torch.equal(sigmoid_focal_loss(rows, classes.t().contiguous().t()), expected)


def test_expanded_arguments(device, rng):
    x, t = logits_tensor(rng, (1, 9), device), soft_targets(rng, (5, 1), device)
    expected = oracle(x.expand(5, 9), t.expand(5, 9))
    close(sigmoid_focal_loss(x.expand(5, 9), t.expand(5, 9)), expected)


FAR = [0.0, 1e-40, 1.0, 20.0, 60.0, 87.0, 88.0, 100.0, 700.0, 1e4, 1e30, inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", [*GAMMAS, 0.01, 60])
@pytest.mark.parametrize("alpha", [-1, 0, 0.25, 1])
def test_extreme_logits(device, dtype, gamma, alpha):
    x = torch.tensor([sign * one for one in FAR for sign in (1, -1)], dtype=dtype, device=device)
    for value in (0.0, 1.0):
        t = torch.full_like(x, value).requires_grad_(False)
        x.requires_grad_(True)
        right = (x > 0) == (value == 1)
        loss = sigmoid_focal_loss(x, t, alpha, gamma)
        expected = oracle(x, t, alpha, gamma)
        close(loss, expected, rtol=1e-5, atol=1e-30)
        assert not loss.isnan().any() and torch.equal(loss.isinf().cpu(), expected.isinf())
        (grad,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
        assert grad.isfinite().all()
        # The right side is flat far away, the wrong one a line.
        weight = 1 if alpha < 0 else alpha if value == 1 else 1 - alpha
        far = x.abs() > 800
        assert not grad[far & right].any()
        slope = torch.full_like(x, weight * (1 - 2 * value))[far & ~right]
        torch.testing.assert_close(grad[far & ~right], slope)
        reference = _loss_reference(x.detach(), t, alpha, gamma, 0)
        torch.testing.assert_close(reference, loss.detach(), rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_nan_stays_nan(device, gamma):
    x = torch.tensor([nan, 1.0, nan, 0.0], device=device, requires_grad=True)
    t = torch.tensor([0.5, nan, 1.0, 0.0], device=device)
    loss = sigmoid_focal_loss(x, t, gamma=gamma)
    (grad,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
    assert loss.isnan().tolist() == grad.isnan().tolist() == [True, True, True, False]
    classes = torch.tensor([-1, 0, 0, 0], device=device)
    loss = sigmoid_focal_loss(x[:, None], classes, gamma=gamma)
    (grad,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
    assert loss[:, 0].isnan().tolist() == grad.isnan().tolist() == [True, False, True, False]
    assert sigmoid_focal_loss(x, t, reduction="sum").isnan()


def test_sum_of_many_is_exact(device):
    # In float32 a running sum would stop growing at 2^24 ones.
    x = torch.zeros(1 << 22, device=device)
    loss = sigmoid_focal_loss(x, torch.zeros_like(x), -1, 0, reduction="sum")
    close(loss, torch.tensor((1 << 22) * np.log(2)), rtol=2e-7, atol=0)


def test_digits_of_exponential_and_logarithm(device):
    # gamma 0 without weights is softplus: exp and log1p of all magnitudes; gamma 0.7 adds a
    # logarithm and an exponential of any size.
    for dtype, digits in ((torch.float32, 4e-7), (torch.float64, 1e-15)):
        x = torch.linspace(-87, 87, 200_001, dtype=dtype, device=device)
        t = torch.zeros_like(x)
        close(sigmoid_focal_loss(x, t, -1, 0), oracle(x, t, -1, 0), rtol=digits, atol=0)
        tiny = torch.finfo(dtype).tiny
        power = 20 if dtype == torch.float32 else 60  # digits that the exponent's size takes
        close(
            sigmoid_focal_loss(x, t, -1, 0.7), oracle(x, t, -1, 0.7), rtol=power * digits, atol=tiny
        )


# --- matches torchvision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_equals_torchvision_with_gradient(device, dtype, gamma, reduction, rng):
    x = logits_tensor(rng, (43, 21), device, dtype).requires_grad_()
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    for make in (hard_targets, soft_targets):
        t = make(rng, x.shape, device, dtype)
        for alpha in (-1, 0.25):
            actual = sigmoid_focal_loss(x, t, alpha, gamma, reduction)
            expected = torchvision.ops.sigmoid_focal_loss(x, t, alpha, gamma, reduction)
            torch.testing.assert_close(actual, expected, **tolerance)
            weight = logits_tensor(rng, actual.shape, device, dtype)
            grads = [torch.autograd.grad(loss, x, weight)[0] for loss in (actual, expected)]
            torch.testing.assert_close(*grads, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_half_types_have_torchvisions_dtypes(device, dtype, reduction, rng):
    x = logits_tensor(rng, (9, 5), device, dtype).requires_grad_()
    t = hard_targets(rng, x.shape, device, dtype)
    actual = sigmoid_focal_loss(x, t, reduction=reduction)
    assert actual.dtype == torchvision.ops.sigmoid_focal_loss(x, t, reduction=reduction).dtype
    actual.backward(torch.ones_like(actual))
    assert x.grad.dtype == dtype


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_cpu_equals_cuda(cuda, dtype, gamma, rng):
    x, t = (make(rng, (301, 21), "cpu", dtype) for make in (logits_tensor, soft_targets))
    classes = random_classes(rng, 301, 21, "cpu")
    for targets in (t, classes):
        for reduction in REDUCTIONS:
            results = []
            for device in ("cpu", cuda):
                inputs = x.to(device).requires_grad_()
                loss = sigmoid_focal_loss(inputs, targets.to(device), 0.3, gamma, reduction)
                (grad,) = torch.autograd.grad(loss, inputs, torch.ones_like(loss))
                results.append((loss.detach().cpu(), grad.cpu()))
            for actual, other in zip(*results, strict=True):
                torch.testing.assert_close(actual, other)


@pytest.mark.cuda
def test_classes_out_of_range_are_none_on_cuda(cuda, rng):
    x = logits_tensor(rng, (4, 5), cuda)
    wild = torch.tensor([5, -2, 2**40, -(2**40)], device=cuda)
    none = torch.full_like(wild, -1)
    assert torch.equal(sigmoid_focal_loss(x, wild), sigmoid_focal_loss(x, none))


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())
def test_reference_equals_native(device, dtype, gamma, reduction, rng):
    x = logits_tensor(rng, (41, 7), device, dtype)
    for t in (soft_targets(rng, x.shape, device, dtype), random_classes(rng, 41, 7, device)):
        settings = (t, 0.3, gamma, reduction)
        native = torch.ops.cvlib.sigmoid_focal_loss(x, *settings)
        torch.testing.assert_close(_loss_reference(x, *settings), native)
        grad = logits_tensor(rng, native.shape, device, dtype)
        native = torch.ops.cvlib.sigmoid_focal_loss_backward(grad, x, *settings)
        torch.testing.assert_close(_backward_reference(grad, x, *settings), native)


# --- properties

numbers = st.floats(-30, 30, width=32)


@given(x=st.lists(numbers, min_size=1, max_size=20), gamma=st.sampled_from(GAMMAS))
def test_classes_are_one_hot_targets_and_sides_are_symmetric(device, x, gamma):
    x = torch.tensor(x, device=device)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    positive = sigmoid_focal_loss(x, ones, -1, gamma)
    assert (positive >= 0).all()
    assert torch.equal(positive, sigmoid_focal_loss(-x, zeros, -1, gamma))
    classes = torch.zeros(len(x), dtype=torch.int64, device=device)
    by_class = sigmoid_focal_loss(x[:, None], classes, -1, gamma)[:, 0]
    torch.testing.assert_close(by_class, positive)
    entropy = sigmoid_focal_loss(x, ones, -1, 0)
    assert (positive <= entropy * (1 + 1e-6)).all()


def test_does_not_change_its_arguments(device, rng):
    x, t = logits_tensor(rng, (9, 3), device), soft_targets(rng, (9, 3), device)
    copies = x.clone(), t.clone()
    sigmoid_focal_loss(x, t)
    assert torch.equal(x, copies[0]) and torch.equal(t, copies[1])


# --- gradients


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_the_derivatives(device, gamma, reduction, rng):
    x = logits_tensor(rng, (4, 3), device, torch.float64, scale=2).requires_grad_()
    soft = soft_targets(rng, (4, 3), device, torch.float64).requires_grad_()
    settings = {"alpha": 0.3, "gamma": gamma, "reduction": reduction}
    assert torch.autograd.gradcheck(lambda x, t: sigmoid_focal_loss(x, t, **settings), (x, soft))
    fixed = [hard_targets(rng, (4, 3), device, torch.float64), random_classes(rng, 4, 3, device)]
    for t in (*fixed, soft.detach()):
        assert torch.autograd.gradcheck(lambda x, t=t: sigmoid_focal_loss(x, t, **settings), (x,))
        assert torch.autograd.gradgradcheck(
            lambda x, t=t: sigmoid_focal_loss(x, t, **settings), (x,)
        )
    settings["alpha"] = -1
    assert torch.autograd.gradcheck(lambda x, t: sigmoid_focal_loss(x, t, **settings), (x, soft))


def test_gradient_of_targets_is_finite_for_extreme_logits(device):
    x = torch.tensor([inf, -inf, 1e4, -1e4, 0.0], device=device)
    for value in (0.0, 1.0):
        t = torch.full_like(x, value).requires_grad_()
        (grad,) = torch.autograd.grad(sigmoid_focal_loss(x, t).sum(), t)
        right = (x > 0) == (value == 1)
        assert grad[right].isfinite().all() and not grad[:4][right[:4]].any()


def test_mixed_second_derivative_is_refused(device, rng):
    x = logits_tensor(rng, (3,), device).requires_grad_()
    t = soft_targets(rng, (3,), device).requires_grad_()
    (grad,) = torch.autograd.grad(sigmoid_focal_loss(x, t).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backward is not differentiable in targets"):
        grad.sum().backward()


def test_gradient_of_an_expanded_sum_needs_no_copy(device, rng):
    x = logits_tensor(rng, (50, 7), device).requires_grad_()
    t = soft_targets(rng, x.shape, device)
    (expected,) = torch.autograd.grad(sigmoid_focal_loss(x, t, reduction="sum") * 3, x)
    (grad,) = torch.autograd.grad(sigmoid_focal_loss(x, t).sum() * 3, x)
    assert torch.equal(grad, expected)
    strided = torch.ones(7, 50, device=device).t()
    (grad,) = torch.autograd.grad(sigmoid_focal_loss(x, t), x, strided * 3)
    torch.testing.assert_close(grad, expected)
    half = x.detach().half().requires_grad_()
    loss = sigmoid_focal_loss(half, t.half())
    assert torch.autograd.grad(loss.sum(), half)[0].isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_gradient_of_nothing_is_empty(device, shape):
    x = torch.zeros(shape, device=device, requires_grad=True)
    for reduction in REDUCTIONS:
        loss = sigmoid_focal_loss(x, torch.zeros_like(x), reduction=reduction)
        assert torch.autograd.grad(loss, x, torch.ones_like(loss))[0].shape == shape


# --- scalars


def test_every_scalar_reaches_the_kernel(device, rng):
    x, t = logits_tensor(rng, (6,), device), soft_targets(rng, (6,), device)
    operator = torch.ops.cvlib.sigmoid_focal_loss
    for alpha, gamma in ((0.125, 3.25), (0.75, 0.375)):
        for name, reduction in REDUCTIONS.items():
            loss = operator(x, t, alpha, gamma, reduction)
            close(loss, oracle(x, t, alpha, gamma, name))


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # A logit of log(3): p = 3/4. Target 1: a quarter is missing; target 0: three quarters.
    x = torch.full((2,), float(np.log(3)), device=device)
    loss = sigmoid_focal_loss(x, torch.tensor([1.0, 0.0], device=device), 0.25, 2)
    expected = [1 / 4 * (1 / 4) ** 2 * np.log(4 / 3), 3 / 4 * (3 / 4) ** 2 * np.log(4)]
    torch.testing.assert_close(loss.cpu(), torch.tensor(expected, dtype=torch.float32))
