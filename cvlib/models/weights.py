"""Weights of others: read without running code, and taken over only where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Keys under which training scripts keep the weights among other things.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_SHOWN = 8


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a file of weights.

    Args:
        path: Of a ``.safetensors`` file, or of what ``torch.save`` has written: tensors by name, or
            a dictionary that holds them as ``model`` or ``state_dict``. Code in it is not run.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, or something else than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_weights: expected a file of weights, got {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"read_weights: {path} is damaged or holds no weights ({reason})") from (
            error
        )
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
            break
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"read_weights: expected tensors by name, got something else in {path}")
    return state


def adopt_weights(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str | Path,
    *,
    may_differ: Sequence[str] = (),
) -> None:
    """Copies weights into a module, and refuses those of another one.

    Args:
        module: Gets the weights, in its own dtype.
        state: Tensors by name.
        source: Where they come from, for messages.
        may_differ: Names that may be missing or have another shape; they are then left as they are.

    Raises:
        ValueError: Names that are missing or unexpected, or shapes that differ; the module is as it
            was.
    """
    own = module.state_dict()
    taken = {
        name: value
        for name, value in state.items()
        if not (name in may_differ and name in own and value.shape != own[name].shape)
    }
    # Counters of steps that statistics do without; files of old versions have none.
    optional = {*may_differ, *(name for name in own if name.endswith("num_batches_tracked"))}
    problems = [
        *(f"missing {name}" for name in own if name not in taken and name not in optional),
        *(f"unexpected {name}" for name in taken if name not in own),
        *(
            f"{name} of shape {tuple(value.shape)} instead of {tuple(own[name].shape)}"
            for name, value in taken.items()
            if name in own and value.shape != own[name].shape
        ),
    ]
    if problems:
        more = len(problems) - _SHOWN
        text = ", ".join(problems[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
        raise ValueError(
            f"adopt_weights: expected the weights of this {type(module).__name__}, got {source}, "
            f"where {len(problems)} do not fit: {text}"
        )
    module.load_state_dict(taken, strict=False)
