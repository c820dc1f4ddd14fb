"""Which optimiser trains which parameter, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cvlib.engine.config import TrainConfig
from cvlib.engine.muon import Muon
from cvlib.models import Model

ADAMW_BETAS = (0.9, 0.99)


class Together(torch.optim.Optimizer):
    """Several optimisers that step as one, so that loop, scaler and checkpoint see one.

    Args:
        parts: Optimisers of different parameters.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes one step of each."""
        if closure is not None:
            raise TypeError("Together.step: expected no closure, got one")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts the states of the parts back."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.Optimizer:
    """Gives every parameter that is to be trained an optimiser and a learning rate.

    Args:
        model: Its ``head`` says what learns ``head_factor`` times faster; with ``freeze_trunk``
            everything else gets no gradient any more.
        config: ``optimizer``, learning rates, ``weight_decay`` and ``momentum``.

    Returns:
        The optimiser. Each parameter group has its peak learning rate as ``peak_lr``.

    Example:
        >>> from cvlib.models import create_model
        >>> model = create_model("resnet18", ("ant", "bee"))
        >>> config = TrainConfig(optimizer="sgd", learning_rate=0.01, head_factor=10)
        >>> sorted({group["peak_lr"] for group in make_optimizer(model, config).param_groups})
        [0.01, 0.1]
    """
    if config.freeze_trunk:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(model.is_head(name))
    matrices: list[Tensor] = []  # what Muon takes
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
        raise ValueError("fit: expected parameters to train, got a model without any")
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
    return parts[0] if len(parts) == 1 else Together(parts)


def set_training_mode(model: Model, config: TrainConfig) -> None:
    """Puts a model into training mode, except for normalisation that is to stay as it is.

    A frozen trunk stays in evaluation mode as a whole: its statistics and dropout, too.
    """
    model.train()
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        in_trunk = name != "" and not model.is_head(f"{name}.")
        if (is_norm and config.freeze_norm) or (
            config.freeze_trunk and in_trunk and _is_leaf(module)
        ):
            module.eval()


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
