"""Weight files: read without executing code, loaded only where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Keys under which training scripts store the weights.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_SHOWN = 8


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a weight file.

    Args:
        path: A ``.safetensors`` file, or a file written by ``torch.save`` that holds tensors by
            name, on their own or under the key ``model`` or ``state_dict``. No code is executed.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or does not hold weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"read_weights: expected `path` to be an existing weight file, got {path}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"read_weights: expected a weight file, got {path}, which is damaged ({reason})"
        ) from (error)
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
            break
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"read_weights: expected tensors by name, got other values in {path}")
    return state


def adopt_weights(
    module: nn.Module,
    state: dict[str, Tensor],
    source: str | Path,
    *,
    may_differ: Sequence[str] = (),
) -> None:
    """Load weights into a module, and reject those of another network.

    Args:
        module: Module that receives the weights, cast to its dtype.
        state: Tensors by name.
        source: Origin of the weights, for error messages.
        may_differ: Names that may be missing or have another shape; these keep their values.

    Raises:
        ValueError: Missing or unexpected names, or shapes that differ; the module is unchanged.
    """
    own = module.state_dict()
    taken = {
        name: value
        for name, value in state.items()
        if not (name in may_differ and name in own and value.shape != own[name].shape)
    }
    # Step counters, which old files lack and which statistics do not need.
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
            f"adopt_weights: expected weights of this {type(module).__name__}, got {source}, "
            f"where {len(problems)} do not fit: {text}"
        )
    module.load_state_dict(taken, strict=False)
