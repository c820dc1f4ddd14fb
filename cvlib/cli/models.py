"""Models named on the command line."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cvlib.engine import load
from cvlib.models import Model, create_model, list_models


def resolve_model(name: str) -> str | type[Model]:
    """Resolve the value of ``--model``.

    Args:
        name: A name from `list_models`; or ``package.module:Class``, whose module is imported with
            the current directory on ``sys.path``.

    Returns:
        The name, or the class; both are accepted by `create_model`.

    Raises:
        ImportError: The module cannot be imported.
        TypeError: The class is not a subclass of `Model`.
        ValueError: Unknown name, or the module does not have the class.
    """
    if ":" in name:
        return _import_class(name)
    known = list_models()
    if name in known:
        return name
    if "." in name:
        module, _, attribute = name.rpartition(".")
        advice = f"did you mean {module}:{attribute}?"
    else:
        near = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {near[0]}?" if near else "cvlib info lists all names"
    raise ValueError(
        f"--model: expected a name from list_models() or package.module:Class, got {name!r}; "
        f"{advice}"
    )


def _import_class(name: str) -> type[Model]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"--model: expected package.module:Class, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        # Otherwise the module exists, but one that it imports is missing.
        is_missing = f"{module_name}.".startswith(f"{error.name}.")
        reason = f"it is neither in {os.getcwd()} nor installed" if is_missing else str(error)
        raise ImportError(
            f"--model: expected a module that can be imported, got {module_name!r}; {reason}"
        ) from error
    value: Any = getattr(module, attribute, None)
    if value is None:
        names = [key for key, member in vars(module).items() if _is_model(member)]
        near = difflib.get_close_matches(attribute, names, 1) or names
        advice = f"did you mean {module_name}:{near[0]}?" if near else "it defines no models"
        raise ValueError(f"--model: expected a class of {module_name}, got {attribute!r}; {advice}")
    if not _is_model(value):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TypeError(
            f"--model: expected {name} to be a subclass of cvlib.models.Model, got {kind}; derive "
            "your class from it"
        )
    return value


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Model) and value is not Model


def load_model(
    checkpoint: Path, model: str | None = None, device: str | torch.device = "cpu"
) -> Model:
    """Load a trained model.

    Args:
        checkpoint: Run folder or checkpoint.
        model: ``package.module:Class`` of a model of your own; ``None`` for built-in models.
        device: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: ``model`` is the name of a built-in model; see also `resolve_model` and `load`.
    """
    if model is None:
        return load(checkpoint, device)
    kind = resolve_model(model)
    if isinstance(kind, str):
        raise ValueError(
            f"--model: expected package.module:Class of a model of your own, got {model!r}; leave "
            "--model out, checkpoints of built-in models hold the name"
        )
    return load(checkpoint, device, model=kind)


def open_model(name: str, classes: Sequence[str] = ("object",)) -> Model:
    """Load a trained model, or create a new one.

    Args:
        name: Run folder or checkpoint, name from `list_models`, or ``package.module:Class``.
        classes: Class names of a new model.

    Returns:
        The model.
    """
    path = Path(name)
    return load(path) if path.exists() else create_model(resolve_model(name), classes)
