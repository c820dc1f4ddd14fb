"""Models by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from cvlib.models.base import Model
from cvlib.models.classifier import Classifier, list_architectures
from cvlib.models.tiny_ssd import TinySSD


def list_models(task: str | None = None) -> list[str]:
    """List the names that `create_model` accepts.

    Args:
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``; ``None`` for all.

    Returns:
        Sorted names.

    Raises:
        ValueError: Unknown task.

    Example:
        >>> list_models("detection")
        ['tiny_ssd']
    """
    names = {
        "detection": [TinySSD.name],
        "segmentation": [],
        "classification": list_architectures(),
    }
    if task is not None and task not in names:
        raise ValueError(
            f"list_models: expected `task` to be one of {', '.join(names)}, got {task!r}"
        )
    chosen = names.values() if task is None else (names[task],)
    return sorted(name for part in chosen for name in part)


def create_model(model: str | type[Model], classes: Sequence[str], **options: Any) -> Model:
    """Build a model.

    Args:
        model: A name from `list_models`, or a model class of your own.
        classes: Names of the K classes, as datasets list them.
        options: Options of the model's class, see `TinySSD` and `Classifier`.

    Returns:
        The model, with random weights unless the options name a weight file.

    Raises:
        ValueError: Unknown name; the message suggests the nearest one.
        TypeError: An option that the model does not have.

    Example:
        >>> model = create_model("tiny_ssd", ("banana",), image_size=(128, 128))
        >>> model.task, model.image_size
        ('detection', (128, 128))
    """
    if isinstance(model, type):
        if not issubclass(model, Model):
            raise TypeError(
                f"create_model: expected `model` to be a name or a subclass of Model, got "
                f"{model.__name__}"
            )
        _check_options(model.__name__, model, options)
        return model(classes, **options)
    known = list_models()
    if model not in known:
        near = difflib.get_close_matches(str(model), known, 1)
        advice = f"did you mean {near[0]!r}?" if near else "list_models() has all names"
        raise ValueError(
            f"create_model: expected `model` to be a name from list_models(), got {model!r}; "
            f"{advice}"
        )
    if model == TinySSD.name:
        _check_options(model, TinySSD, options)
        return TinySSD(classes, **options)
    _check_options(model, Classifier, options)
    return Classifier(classes, architecture=model, **options)


def _check_options(name: str, model: type[Model], options: dict[str, Any]) -> None:
    parameters = inspect.signature(model).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [one.name for one in parameters if one.name not in ("classes", "architecture")]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
            raise TypeError(f"create_model: expected an option of {name}, got {option!r}; {advice}")
