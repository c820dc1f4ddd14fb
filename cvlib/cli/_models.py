"""A model from what a command names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvlib.engine import load
from cvlib.models import Model, create_model


def open_model(name: str, classes: Sequence[str] = ("object",)) -> Model:
    """Loads the model of a run folder or checkpoint, or makes the one of that name.

    Args:
        name: A path, or a name of `list_models`.
        classes: Of a model that is made.
    """
    return load(name) if Path(name).exists() else create_model(name, classes)
