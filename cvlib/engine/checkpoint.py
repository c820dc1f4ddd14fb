"""Checkpoints: writing them atomically, reading them safely, and loading models from them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from cvlib._files import write_atomically
from cvlib.engine.device import choose_device
from cvlib.geometry.framing import Framing
from cvlib.models import Model, create_model, list_models

# Format 2 added the model's name and options; a file of format 1 holds a TinySSD.
FORMAT = 2
_READABLE = (1, FORMAT)
# Metadata key of safetensors files that holds everything except tensors, as JSON.
_METADATA = "cvlib"


def load(
    path: str | Path, device: str | torch.device = "cpu", *, model: type[Model] | None = None
) -> Model:
    """Load a trained model, ready to predict.

    Args:
        path: A checkpoint (``.pt`` or ``.safetensors``), or a run folder, whose ``best.pt`` is
            read.
        device: Device of the model.
        model: Class of a model of your own, constructed as ``model(classes, **options)`` with the
            options in the checkpoint; ``None`` for models from `list_models`. A checkpoint alone
            never makes cvlib import code.

    Returns:
        The model in evaluation mode; its name, classes, options and framing come from the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not a cvlib checkpoint, or one of another model.

    Example:
        >>> import tempfile
        >>> model = create_model("tiny_ssd", ("banana",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, Path(folder) / "best.pt")
        ...     load(folder).classes
        ('banana',)
    """
    state = load_checkpoint(path, choose_device(device))
    name = state.get("name", "tiny_ssd")  # format 1 has no other model
    if model is None and name not in list_models():
        raise ValueError(
            f"load: expected a checkpoint of a model from list_models(), got {name!r} in {path}; "
            "for a model of your own pass its class, load(path, model=MyModel), or on the command "
            "line --model package.module:MyModel"
        )
    options = state.get("options") or {"image_size": state["image_size"]}
    try:
        loaded = create_model(model or name, state["classes"], **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"load: expected {path} to describe a model of this version of cvlib, got {name!r} "
            f"with {options} ({error})"
        ) from error
    if "framing" in state:
        loaded.framing = Framing(**state["framing"])
    try:
        loaded.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(
            f"load: expected the weights of {type(loaded).__name__} in {path}, got others ({error})"
        ) from error
    return loaded.to(device=choose_device(device)).eval()


def save(model: Model, path: str | Path) -> None:
    """Save a model so that `load` restores it.

    Args:
        model: The model.
        path: A ``.pt`` or ``.safetensors`` file, replaced atomically.

    Raises:
        OSError: Full disk or unwritable folder; an old file is unharmed.
    """
    state = {**describe_model(model), "model": model.state_dict()}
    path = Path(path)
    (save_safetensors if path.suffix == ".safetensors" else save_checkpoint)(path, state)


def describe_model(model: Model) -> dict[str, Any]:
    """Return everything that is needed to rebuild a model, except its weights."""
    return {
        "name": model.name,
        "classes": list(model.classes),
        "image_size": list(model.image_size),
        "options": model.options,
        "framing": model.framing.as_dict(),
    }


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Usually ``best.pt`` or ``last.pt`` in a run folder.
        state: Only tensors, numbers, strings, lists and dictionaries, so that
            ``torch.load(path, weights_only=True)`` can read it.

    Raises:
        OSError: Full disk or unwritable folder; an old checkpoint is unharmed.
    """
    # Serialised in memory first: torch turns a full disk into an error about its zip writer.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def save_safetensors(path: Path, state: dict[str, Any]) -> None:
    """Write a model as safetensors, atomically: weights that other programs can read.

    Args:
        path: The ``.safetensors`` file.
        state: ``model`` with tensors by name; all other entries are plain values, stored in the
            metadata, from which `load` rebuilds the model.

    Raises:
        OSError: Full disk or unwritable folder.
    """
    from safetensors.torch import save as serialise

    tensors = {name: value.detach().cpu().contiguous() for name, value in state["model"].items()}
    facts = {name: value for name, value in state.items() if name != "model"}
    metadata = {"format": "pt", _METADATA: json.dumps({"format": FORMAT, **facts})}
    write_atomically(path, serialise(tensors, metadata))


def _read_safetensors(path: Path, device: torch.device) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        facts = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        return {**facts, "model": {name: file.get_tensor(name) for name in file.keys()}}


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: A ``.pt`` file, a ``.safetensors`` file (the model alone), or a run folder, whose
            ``best.pt`` is read.
        device: Device of the tensors.

    Returns:
        The saved state.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not a cvlib checkpoint, damaged, or of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"load_checkpoint: expected `path` to be an existing checkpoint, got {path}, which "
            "does not exist; a run folder holds best.pt and last.pt"
        )
    device = choose_device(device)
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path, device)
        else:
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # torch explains at length; the first line is enough.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"load_checkpoint: expected a checkpoint, got {path}, which is damaged or of another "
            f"kind ({reason})"
        ) from error
    if not isinstance(state, dict) or not {"model", "classes", "image_size"} <= state.keys():
        raise ValueError(
            f"load_checkpoint: expected a checkpoint written by cvlib, got {path}, which does not "
            "hold model, classes and image_size; for weights of torchvision use create_model"
        )
    if state.get("format") not in _READABLE:
        raise ValueError(
            f"load_checkpoint: expected format {FORMAT}, got {state.get('format')} in {path}; it "
            "was written by another version of cvlib"
        )
    return state
