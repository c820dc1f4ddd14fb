"""Models by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from cvlib.models.base import Model
from cvlib.models.classifier import Classifier, list_architectures
from cvlib.models.tiny_ssd import TinySSD


def list_models(task: str | None = None) -> list[str]:
    """Names that `create_model` takes.

    Args:
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``; ``None`` gives all.

    Returns:
        Sorted names.

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
        raise ValueError(f"list_models: expected a task of {', '.join(names)}, got {task!r}")
    chosen = names.values() if task is None else (names[task],)
    return sorted(name for part in chosen for name in part)


def create_model(name: str, classes: Sequence[str], **options: Any) -> Model:
    """Builds a model.

    Args:
        name: One of `list_models`.
        classes: Names of the real classes, as a data set has them.
        options: Of the model's class: see `TinySSD` and `Classifier`.

    Returns:
        The model, with random weights unless the options name a file.

    Raises:
        ValueError: No such model.
        TypeError: An option that the model does not have.

    Example:
        >>> model = create_model("tiny_ssd", ("banana",), image_size=(128, 128))
        >>> model.task, model.image_size
        ('detection', (128, 128))
    """
    known = list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {near[0]!r}?" if near else "list_models() has all"
        raise ValueError(f"create_model: expected a name of list_models(), got {name!r}; {advice}")
    try:
        if name == TinySSD.name:
            return TinySSD(classes, **options)
        return Classifier(classes, architecture=name, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise TypeError(f"create_model: {name} does not know an option: {error}") from None
        raise
