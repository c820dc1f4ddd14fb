"""Optimizers, learning rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cvlib.engine.config import TrainConfig
from cvlib.models import Model

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_average(model: Model, decay: float) -> AveragedModel:
    """Exponential moving average of a model's weights.

    Call ``update_parameters(model)`` after each step. After n steps the decay is
    min(decay, (n + 1) / (n + 10)), so that the random initial weights are soon forgotten.

    Args:
        model: The model, left unchanged.
        decay: Decay of the average, near 1, such as 0.999.

    Returns:
        The average; its ``module`` is the model to evaluate. Normalisation statistics are averaged
        like weights.
    """
    average = AveragedModel(model, use_buffers=True)

    @torch.no_grad()
    def move(averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        # The counter on the CPU; reading its copy on the device would wait for CUDA.
        number = int(average.n_averaged)
        share = min(decay, (number + 1) / (number + 10))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - share)
        else:  # counters
            torch._foreach_copy_(averages, values)

    average.multi_avg_fn = move
    return average


# Learning rates of the one-cycle schedule: start relative to the peak, end relative to the start.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4


def schedule(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of a step relative to its peak.

    Args:
        step: Step, from 0.
        total: Number of steps in the run.
        config: Settings ``schedule``, ``warmup``, ``milestones`` and ``step_factor``.

    Returns:
        Factor in [0, 1].

    References:
        Loshchilov and Hutter, "SGDR" (2017) for the cosine; Smith and Topin, "Super-convergence"
        (2018) for one cycle.

    Example:
        >>> config = TrainConfig(warmup=0.5, schedule="cosine")
        >>> [round(schedule(step, 8, config), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    rising = max(1, round(config.warmup * total))
    if config.schedule == "one-cycle":
        return _one_cycle(step, total, rising)
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
    if config.schedule == "step":
        passed = sum(step >= round(share * total) for share in config.milestones)
        return config.step_factor**passed
    return 1.0


def _one_cycle(step: int, total: int, rising: int) -> float:
    if step < rising:
        return _half_cosine(ONE_CYCLE_START, 1.0, step / rising)
    return _half_cosine(
        1.0, ONE_CYCLE_START * ONE_CYCLE_END, (step - rising) / max(1, total - 1 - rising)
    )


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to a share of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share


# Coefficients of the quintic Newton-Schulz iteration. They bring all singular values near 1 in five
# iterations; exact convergence is not needed.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by numbers near 1.

    The iteration X <- p(X X^T) X with p(G) = a + b G + c G^2 only needs the small Gram matrix G:
    all p(G) are polynomials in the first G, so they commute, and the long side of the matrix is
    multiplied twice instead of ten times.

    Args:
        matrix: Shape (M, N), floating point.

    Returns:
        Orthogonalised matrix, shape (M, N), same dtype.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    gram = wide @ wide.T
    product = identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(_ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Muon(torch.optim.Optimizer):
    """Muon: SGD with momentum and orthogonalised updates, for weights that act as matrices.

    ``torch.optim.Muon`` takes matrices only. This one also takes convolutions, as matrices of
    output channels x (input channels x kernel).

    Args:
        params: Weights with at least two dimensions.
        lr: Learning rate.
        momentum: Decay of the moving average of gradients (Nesterov).
        weight_decay: Decoupled weight decay.

    References:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the weights."""
        if closure is not None:
            raise TypeError("Muon.step: expected no closure, got one")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
        average = state["average"].lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(average, group["momentum"]).flatten(1)
        # Tall matrices need larger steps for the same change of their output.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonalize(matrix).view_as(weight), alpha=-group["lr"] * scale)


ADAMW_BETAS = (0.9, 0.99)


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers behind the interface of one, for loop, scaler and checkpoint.

    Args:
        parts: Optimizers of different parameters.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step all optimizers."""
        if closure is not None:
            raise TypeError("CombinedOptimizer.step: expected no closure, got one")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of all optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of all optimizers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """Create the optimizer of a run.

    Args:
        model: The model. Its ``head`` learns ``head_factor`` times faster than the backbone; with
            ``freeze_backbone``, gradients of the backbone are switched off.
        config: Settings ``optimizer``, ``weight_decay``, ``momentum`` and learning rates.

    Returns:
        The optimizer. Each parameter group has its peak learning rate as ``peak_lr``.

    Example:
        >>> from cvlib.models import create_model
        >>> model = create_model("resnet18", ("ant", "bee"))
        >>> config = TrainConfig(optimizer="sgd", learning_rate=0.01, head_factor=10)
        >>> sorted({group["peak_lr"] for group in make_optimizer(model, config).param_groups})
        [0.01, 0.1]
    """
    if config.freeze_backbone:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(model.is_head(name))
    matrices: list[Tensor] = []  # for Muon
    others: dict[tuple[bool, bool], list[Tensor]] = {}  # by (is head, is decayed)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head, is_decayed = model.is_head(name), parameter.dim() > 1
        if config.optimizer == "muon" and is_decayed and not is_head:
            matrices.append(parameter)
        else:
            others.setdefault((is_head, is_decayed), []).append(parameter)
    if not others and not matrices:
        raise ValueError("fit: expected a model with parameters to train, got none")
    groups = [
        {
            "params": parameters,
            "lr": config.learning_rate * (config.head_factor if is_head else 1.0),
            "weight_decay": config.weight_decay if is_decayed else 0.0,
        }
        for (is_head, is_decayed), parameters in others.items()
    ]
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, config.muon_learning_rate, weight_decay=config.weight_decay))
    if groups and config.optimizer == "sgd":
        parts.append(torch.optim.SGD(groups, momentum=config.momentum))
    elif groups:
        parts.append(torch.optim.AdamW(groups, betas=ADAMW_BETAS, fused=True))
    for part in parts:
        for group in part.param_groups:
            group["peak_lr"] = group["lr"]
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def set_training_mode(model: Model, config: TrainConfig) -> None:
    """Put a model into training mode, except frozen normalisation and backbone layers.

    A frozen backbone stays in evaluation mode as a whole, including dropout.
    """
    model.train()
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        in_backbone = name != "" and not model.is_head(f"{name}.")
        if (is_norm and config.freeze_norm) or (
            config.freeze_backbone and in_backbone and _is_leaf(module)
        ):
            module.eval()


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
