"""A moving average of a model's weights, which is often better than the weights themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cvlib.models import Model

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_average(model: Model, decay: float) -> AveragedModel:
    """Copies a model; ``update_parameters(model)`` after a step moves the copy towards it.

    After n steps the average is multiplied by min(decay, (n + 1) / (n + 10)): in the beginning it
    follows quickly, so that the random weights of the start are soon forgotten.

    Args:
        model: Stays as it is.
        decay: Near 1, such as 0.999.

    Returns:
        The average; its ``module`` is the model to evaluate. Statistics of normalisation are
        averaged like weights.
    """
    average = AveragedModel(model, use_buffers=True)

    @torch.no_grad()
    def move(averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        # The counter on the CPU, not its copy beside the weights: reading that would wait for CUDA.
        number = int(average.n_averaged)
        share = min(decay, (number + 1) / (number + 10))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - share)
        else:  # counters
            torch._foreach_copy_(averages, values)

    average.multi_avg_fn = move
    return average
