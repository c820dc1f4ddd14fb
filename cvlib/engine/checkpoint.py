"""Files that survive: written beside, then renamed, so that an old one is never lost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from cvlib._files import write_atomically
from cvlib.engine.device import choose_device
from cvlib.models import Model, create_model


def load(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Loads a trained model, ready to predict.

    Args:
        path: A checkpoint (``.pt`` or ``.safetensors``), or a run folder, whose ``best.pt`` is
            taken.
        device: Where the model is put.

    Returns:
        The model in evaluation mode; its kind, options and class names come from the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of cvlib.

    Example:
        >>> import tempfile
        >>> from cvlib.engine import save_checkpoint
        >>> from cvlib.engine.run_folder import describe_model
        >>> model = create_model("tiny_ssd", ("banana",))
        >>> state = {**describe_model(model), "model": model.state_dict()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(Path(folder) / "best.pt", state)
        ...     load(folder).classes
        ('banana',)
    """
    device = choose_device(device)
    state = load_checkpoint(path, device)
    name = state.get("name", "tiny_ssd")  # files of the first format hold no other
    try:
        model = create_model(
            name,
            state["classes"],
            **{"image_size": state["image_size"], **state.get("options", {})},
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"load: {path} does not describe a model of this version of cvlib ({error})"
        ) from error
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"load: {path} does not hold the weights of a {name} ({error})") from error
    return model.to(device).eval()


# 2 added the model's name and options; a file of 1 holds a TinySSD.
FORMAT = 2
_READABLE = (1, FORMAT)
# The key of a safetensors file under which everything but tensors stands, as JSON.
_METADATA = "cvlib"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: Usually ``best.pt`` or ``last.pt`` in a run folder.
        state: Tensors, numbers, strings, lists and dictionaries only, so that
            ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        OSError: Full disk or unwritable folder; the old checkpoint is unharmed.
    """
    # Serialised in memory first: torch turns a full disk into an error about its zip writer.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def save_safetensors(path: Path, state: dict[str, Any]) -> None:
    """Writes a model as safetensors, atomically: weights that other programs read, too.

    Args:
        path: Of the file, ``.safetensors``.
        state: ``model`` with tensors by name; everything else must be plain values and goes into
            the file's metadata, from which `cvlib.load` rebuilds the model.

    Raises:
        OSError: Full disk or unwritable folder.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state["model"].items()}
    facts = {name: value for name, value in state.items() if name != "model"}
    metadata = {"format": "pt", _METADATA: json.dumps({"format": FORMAT, **facts})}
    write_atomically(path, save(tensors, metadata))


def _read_safetensors(path: Path, device: torch.device) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        facts = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        return {**facts, "model": {name: file.get_tensor(name) for name in file.keys()}}


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint`.

    Args:
        path: Of the file (``.pt``, or ``.safetensors`` with the model alone), or of a run folder,
            where ``best.pt`` is meant.
        device: Where tensors are put.

    Returns:
        The saved state.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of cvlib, damaged, or of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"load_checkpoint: expected a checkpoint, got {path}, which does not exist; a run "
            "folder holds best.pt and last.pt"
        )
    device = choose_device(device)
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path, device)
        else:
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # torch explains at length; the first line says what it is.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"load_checkpoint: {path} is damaged or not a checkpoint ({reason})"
        ) from error
    if not isinstance(state, dict) or not {"model", "classes", "image_size"} <= state.keys():
        raise ValueError(
            f"load_checkpoint: expected a checkpoint written by cvlib, got {path}, which does not "
            "hold model, classes and image_size"
        )
    if state.get("format") not in _READABLE:
        raise ValueError(
            f"load_checkpoint: expected format {FORMAT}, got {state.get('format')} in {path}; it "
            "was written by another version of cvlib"
        )
    return state
