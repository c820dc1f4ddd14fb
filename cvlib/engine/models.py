"""Models to files and back."""

from __future__ import annotations

from pathlib import Path

import torch

from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.device import choose_device
from cvlib.models import TinySSD


def load(path: str | Path, device: str | torch.device = "cpu") -> TinySSD:
    """Loads a trained model, ready to predict.

    Args:
        path: A checkpoint, or a run folder, whose ``best.pt`` is taken.
        device: Where the model is put.

    Returns:
        The model in evaluation mode; its class names come from the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of cvlib.

    Example:
        >>> import tempfile
        >>> from cvlib.engine import save_checkpoint
        >>> model = TinySSD(("banana",))
        >>> state = {"model": model.state_dict(), "classes": ["banana"], "image_size": [256, 256]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(Path(folder) / "best.pt", state)
        ...     load(folder).classes
        ('banana',)
    """
    device = choose_device(device)
    state = load_checkpoint(path, device)
    height, width = state["image_size"]
    model = TinySSD(state["classes"], (height, width))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(
            f"load: {path} does not hold the weights of a TinySSD ({error})"
        ) from error
    return model.to(device).eval()
