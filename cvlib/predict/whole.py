"""Whole images through a model, whatever its task."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import check_fraction
from cvlib.engine.evaluation import evaluating, read_results
from cvlib.models import Model
from cvlib.structures import Detections, Result


def detect(model: Model, images: list[Tensor], *, score_threshold: float = 0.5) -> list[Detections]:
    """Finds the objects in images of any size.

    Args:
        model: A detector, on any device; its mode is restored afterwards.
        images: uint8, shape (3, H, W), RGB; sizes may differ.
        score_threshold: Least score of an object.

    Returns:
        One for each image, boxes (and masks, where the model has them) in its own pixels.

    Raises:
        TypeError: The model is no detector.
    """
    check_task("detect", model, "detection")
    found: list[Detections] = look(model, images, score_threshold=score_threshold)  # type: ignore[assignment]
    return found


def look(model: Model, images: list[Tensor], *, score_threshold: float = 0.5) -> list[Result]:
    """Shows images of any size to a model of any task.

    Args:
        model: On any device; its mode is restored afterwards.
        images: uint8, shape (3, H, W), RGB; sizes may differ.
        score_threshold: Least score of an object, for detectors.

    Returns:
        One for each image: `Detections` in its own pixels, a `Classification`, or a
        `Segmentation` of its own size.

    Raises:
        ValueError: ``score_threshold`` outside of [0, 1].

    Example:
        >>> from cvlib.models import create_model
        >>> model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
        >>> (found,) = look(model, [torch.zeros(3, 40, 30, dtype=torch.uint8)])
        >>> len(found)
        0
    """
    check_fraction("look", "score_threshold", score_threshold)
    if not images:
        return []
    batch = torch.stack([model.resize(image.as_subclass(Tensor)) for image in images])
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    with evaluating(model):
        raw = model(batch.to(model.device))
        thresholds = {"score_threshold": score_threshold} if model.task == "detection" else {}
        return [one.cpu() for one in read_results(model, raw, sizes, **thresholds)]


def check_task(function: str, model: Model, *tasks: str) -> None:
    """Raises TypeError unless the model has one of these tasks."""
    if model.task not in tasks:
        raise TypeError(
            f"{function}: expected a model for {' or '.join(tasks)}, got one for {model.task}"
        )
