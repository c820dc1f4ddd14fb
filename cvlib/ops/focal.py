"""Focal loss of dense detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    check_choice,
    check_entries,
    check_is_number,
    check_number,
    check_same_device,
    check_same_dtype_and_device,
    check_shape_matches,
    check_tensor,
    is_value_error,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_NONE, _MEAN = _REDUCTIONS["none"], _REDUCTIONS["mean"]
# Beyond this |x| the cross-entropy is linear, and its factor is 0.
_FAR = 1000.0


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
) -> Tensor:
    """Return the binary cross-entropy of logits, down-weighting well-classified ones.

    With p = sigmoid(x) and target t, the loss of a logit x is the cross-entropy of p and t, times
    the distance p (1 - t) + (1 - p) t of both to the power of ``gamma``, times the weight
    alpha t + (1 - alpha) (1 - t).

    Args:
        inputs: Logits of any shape, floating point; also infinite.
        targets: Either probabilities, of the same shape, dtype and device, in [0, 1] (not checked);
            or class indices, int64, of shape ``inputs.shape[:-1]``, in 0..K-1 where K is the size
            of the last dimension, -1 for none of the classes. Class indices are equivalent to
            one-hot rows but need less memory.
        alpha: Weight of target 1, in [0, 1]; target 0 has weight 1 - alpha. -1: no weights.
        gamma: At least 0; 0 gives the plain cross-entropy.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Loss in the shape of the inputs, or a scalar, in their dtype. Half types are computed in
        float32 and sums in float64, then rounded to that dtype.

    Raises:
        TypeError: Not tensors, not floating point, targets of another dtype.
        ValueError: Wrong shapes, different devices, alpha, gamma or reduction out of range; on the
            CPU also a class out of range. On CUDA such a class counts as -1.

    Note:
        Differentiable twice in inputs and once in probabilities. NaN gives NaN. Deterministic.
        Needs no memory besides results and gradients, except for copies of half types and of
        tensors that are not contiguous; only the arguments are saved.

    References:
        Lin et al., "Focal Loss for Dense Object Detection" (2017), section 3.2.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0], [0.5, -3.0]])
        >>> sigmoid_focal_loss(logits, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), reduction="sum")
        tensor(0.3006)
        >>> sigmoid_focal_loss(logits, torch.tensor([0, -1]), reduction="sum")
        tensor(0.3006)
    """
    _check_arguments(inputs, targets, alpha, gamma, reduction)
    try:
        return torch.ops.cvlib.sigmoid_focal_loss(
            inputs, targets, alpha, gamma, _REDUCTIONS[reduction]
        )
    except RuntimeError as error:
        if is_value_error(error):
            count = inputs.shape[-1]
            requirement = f"be in 0..{count - 1} (-1: none of the classes)"
            is_class = (targets >= -1) & (targets < count)
            check_entries("sigmoid_focal_loss", "targets", targets, is_class, requirement)
        raise


def _check_arguments(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> None:
    name = "sigmoid_focal_loss"
    check_tensor(name, "inputs", inputs)
    if isinstance(targets, Tensor) and targets.dtype == torch.int64:
        if inputs.dim() == 0 or targets.shape != inputs.shape[:-1]:
            requirement = (
                f"have the shape inputs.shape[:-1] if they are int64 (classes), with `inputs` of "
                f"shape {tuple(inputs.shape)}"
            )
            advice = (
                "targets of the inputs' shape are probabilities: convert with "
                "targets.to(inputs.dtype)"
            )
            actual = tuple(targets.shape)
            raise ValueError(mismatch(name, "targets", requirement, actual, advice))
        check_same_device(name, "inputs", inputs, "targets", targets)
    else:
        check_tensor(name, "targets", targets)
        check_shape_matches(name, "targets", targets, inputs.shape, "inputs")
        check_same_dtype_and_device(name, "inputs", inputs, "targets", targets)
    check_is_number(name, "alpha", alpha)
    if not (0 <= alpha <= 1 or alpha == -1):
        requirement = "be in [0, 1], or -1 for no weights"
        raise ValueError(mismatch(name, "alpha", requirement, alpha))
    check_number(name, "gamma", gamma, 0)
    check_choice(name, "reduction", reduction, tuple(_REDUCTIONS))


def _as_probabilities(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape of the inputs and in the dtype of the computation."""
    if targets.dtype != torch.int64:
        return as_real(targets)
    classes = torch.arange(inputs.shape[-1], device=inputs.device)
    return (targets[..., None] == classes).to(as_real(inputs).dtype)


def _signal_bad_classes(inputs: Tensor, targets: Tensor) -> None:
    if targets.dtype == torch.int64 and targets.device.type == "cpu":
        signal_bad_values((targets >= -1) & (targets < inputs.shape[-1]))


def _weights(targets: Tensor, alpha: float) -> Tensor:
    positive, negative = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    return positive * targets + negative * (1 - targets)


def _sigmoids(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sigmoid of x and of -x, both at full precision."""
    decay = (-inputs.abs()).exp()
    likely = 1 / (1 + decay)
    unlikely = decay * likely
    positive = inputs >= 0
    return torch.where(positive, likely, unlikely), torch.where(positive, unlikely, likely)


def _power(miss: Tensor, exponent: float) -> Tensor:
    return miss.clamp(min=torch.finfo(miss.dtype).tiny) ** exponent


def _loss_reference(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
) -> Tensor:
    """The formulas of ``csrc/losses/focal.h``."""
    _signal_bad_classes(inputs, targets)
    x, t = as_real(inputs), _as_probabilities(inputs, targets)
    p, n = _sigmoids(x)
    factor = _weights(t, alpha)
    if gamma != 0:
        factor = factor * _power(p * (1 - t) + n * t, gamma)
    share = factor * torch.where(x >= 0, 1 - t, t)
    far = torch.where(share == 0, 0, share * x.abs())
    loss = factor * (-x.abs()).exp().log1p() + far
    if reduction != _NONE:
        total = loss.sum(dtype=torch.float64)
        loss = (total / loss.numel() if reduction == _MEAN else total).to(x.dtype)
    return loss.to(inputs.dtype)


def _loss_fake(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
) -> Tensor:
    return inputs.new_empty(inputs.shape if reduction == _NONE else ())


def _entropy(x: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy, finite for infinite logits, where its factor is 0."""
    reached = torch.where(x >= 0, 1 - t, t)
    return (-x.abs()).exp().log1p() + reached * x.abs().clamp(max=_FAR)


def _unreduced(grad: Tensor, inputs: Tensor, reduction: int) -> Tensor:
    """Gradient of each loss before the reduction, in the dtype of the computation."""
    grad = grad.to(as_real(inputs).dtype)
    return grad / inputs.numel() if reduction == _MEAN else grad


def _backward_reference(
    grad: Tensor, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
) -> Tensor:
    _signal_bad_classes(inputs, targets)
    x, t = as_real(inputs), _as_probabilities(inputs, targets)
    p, n = _sigmoids(x)
    above, below = p * (1 - t), n * t
    factor = _weights(t, alpha) * _unreduced(grad, inputs, reduction)
    if gamma == 0:
        return (factor * (above - below)).to(inputs.dtype)
    miss, slope = above + below, p * n * (1 - 2 * t)
    factor = factor * _power(miss, gamma - 1)
    result = factor * (miss * (above - below) + gamma * (slope * _entropy(x, t)))
    return result.to(inputs.dtype)


def _backward_fake(
    grad: Tensor, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
) -> Tensor:
    return inputs.new_empty(inputs.shape)


def _derivative_terms(inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Terms of derivatives: p, n, miss, p - t, entropy, and (d miss / dx) / miss in [-1, 1]."""
    x, t = as_real(inputs), _as_probabilities(inputs, targets)
    p, n = _sigmoids(x)
    miss = p * (1 - t) + n * t
    steepness = p * n * (1 - 2 * t) / miss.clamp(min=torch.finfo(x.dtype).tiny)
    return p, n, miss, p * (1 - t) - n * t, _entropy(x, t), steepness


def _second_derivative(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Second derivative of the loss with respect to the logit."""
    p, n, miss, error, entropy, steepness = _derivative_terms(inputs, targets)
    weight = _weights(_as_probabilities(inputs, targets), alpha)
    if gamma == 0:
        return weight * p * n
    change = steepness * (2 * error + (n - p) * entropy + (gamma - 1) * steepness * entropy)
    return weight * _power(miss, gamma) * (p * n + gamma * change)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, targets, *ctx.settings = inputs
    ctx.save_for_backward(logits, targets)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs, targets = ctx.saved_tensors
    to_inputs = to_targets = None
    if ctx.needs_input_grad[0]:
        to_inputs = torch.ops.cvlib.sigmoid_focal_loss_backward(
            grad, inputs, targets, *ctx.settings
        )
    if ctx.needs_input_grad[1]:
        to_targets = _gradient_of_targets(grad, inputs, targets, *ctx.settings)
    return to_inputs, to_targets, None, None, None


def _gradient_of_targets(
    grad: Tensor, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int
) -> Tensor:
    """Gradient of soft targets, in plain PyTorch because they are rarely learnt."""
    p, n, miss, _, entropy, _ = _derivative_terms(inputs, targets)
    x, t = as_real(inputs), as_real(targets)
    weight = _weights(t, alpha)
    slope = 2 * alpha - 1 if alpha >= 0 else 0.0
    focus = torch.ones_like(miss) if gamma == 0 else _power(miss, gamma)
    # An infinite logit with the right sign: the power falls faster than the logit grows.
    falling = torch.where(focus * miss == 0, 0, x * focus)
    change = gamma * focus * (n - p) / miss.clamp(min=torch.finfo(x.dtype).tiny)
    result = (slope * focus + weight * change) * entropy - weight * falling
    return (_unreduced(grad, inputs, reduction) * result).to(targets.dtype)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, logits, targets, *ctx.settings = inputs
    ctx.save_for_backward(grad, logits, targets)


def _second_gradient(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[2]:
        raise RuntimeError("sigmoid_focal_loss_backward is not differentiable in targets")
    grad, inputs, targets = ctx.saved_tensors
    alpha, gamma, reduction = ctx.settings
    to_grad = to_inputs = None
    if ctx.needs_input_grad[0]:
        to_grad = torch.ops.cvlib.sigmoid_focal_loss_backward(
            change, inputs, targets, alpha, gamma, _NONE
        )
        if reduction != _NONE:
            total = to_grad.sum(dtype=torch.float64)
            to_grad = total / inputs.numel() if reduction == _MEAN else total
        to_grad = to_grad.to(grad.dtype)
    if ctx.needs_input_grad[1]:
        second = _second_derivative(inputs, targets, alpha, gamma)
        to_inputs = (change * _unreduced(grad, inputs, reduction) * second).to(inputs.dtype)
    return to_grad, to_inputs, None, None, None, None


_SETTINGS = "float alpha, float gamma, int reduction"
define(
    f"sigmoid_focal_loss(Tensor inputs, Tensor targets, {_SETTINGS}) -> Tensor",
    _loss_reference,
    _loss_fake,
)
define(
    f"sigmoid_focal_loss_backward(Tensor grad, Tensor inputs, Tensor targets, {_SETTINGS}) "
    "-> Tensor",
    _backward_reference,
    _backward_fake,
)
torch.library.register_autograd(
    "cvlib::sigmoid_focal_loss", _gradient, setup_context=_save_forward, lib=library
)
torch.library.register_autograd(
    "cvlib::sigmoid_focal_loss_backward",
    _second_gradient,
    setup_context=_save_backward,
    lib=library,
)
