"""Models to files and back."""

from __future__ import annotations

from pathlib import Path

import torch

from cvlib.engine.checkpoint import load_checkpoint
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
        >>> from cvlib.engine.saving import describe_model
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
