"""Muon, the optimiser for convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic Newton-Schulz iteration: they pull all singular values near 1 in five
# steps, without converging to exactly 1, which is not needed.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrix: Tensor) -> Tensor:
    """Replaces the singular values of a matrix by numbers near 1.

    The iteration X <- p(X X^T) X with p(G) = a + b G + c G^2 runs on the Gram matrix G alone, which
    is small: every p(G) is a polynomial in the first G, so they commute, and the long side of the
    matrix is met twice instead of ten times.

    Args:
        matrix: Shape (M, N), floating point.

    Returns:
        Shape (M, N), same dtype.
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
    """Momentum whose step is orthogonalised, for weights that act as matrices.

    torch has an optimiser of that name for matrices; this one takes convolutions as well, as
    matrices of output channels x (input channels x kernel).

    Args:
        params: Weights of two dimensions and more.
        lr: Learning rate.
        momentum: Of the moving average of gradients (Nesterov's form).
        weight_decay: Decoupled.

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
        """Takes one step."""
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
        # Tall matrices need longer steps for the same change of their output.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonalize(matrix).view_as(weight), alpha=-group["lr"] * scale)
