"""Whole pictures through a model, whatever its task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cvlib.boxes import clip_boxes
from cvlib.engine.evaluation import evaluating, resize_masks
from cvlib.models import Model
from cvlib.predict.results import Classification, Result
from cvlib.structures import Detections, Segmentation


def detect(model: Model, images: list[Tensor], *, score_threshold: float = 0.5) -> list[Detections]:
    """Finds the objects in pictures of any size.

    Args:
        model: A detector, on any device; its mode is restored afterwards.
        images: uint8, shape (3, H, W), RGB; sizes may differ.
        score_threshold: Least score of an object.

    Returns:
        One for each picture, boxes (and masks, where the model has them) in its own pixels.

    Raises:
        TypeError: The model is no detector.
    """
    check_task("detect", model, "detection")
    found: list[Detections] = look(model, images, score_threshold=score_threshold)  # type: ignore[assignment]
    return found


def look(model: Model, images: list[Tensor], *, score_threshold: float = 0.5) -> list[Result]:
    """Shows pictures of any size to a model of any task.

    Args:
        model: On any device; its mode is restored afterwards.
        images: uint8, shape (3, H, W), RGB; sizes may differ.
        score_threshold: Least score of an object, for detectors.

    Returns:
        One for each picture: `Detections` in its own pixels, a `Classification`, or a
        `Segmentation` of its own size.

    Raises:
        TypeError: The model has no task that is known.

    Example:
        >>> from cvlib.models import create_model
        >>> model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
        >>> (found,) = look(model, [torch.zeros(3, 40, 30, dtype=torch.uint8)])
        >>> len(found)
        0
    """
    if not images:
        return []
    batch = torch.stack([model.resize(image.as_subclass(Tensor)) for image in images])
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    with evaluating(model):
        raw = model(batch.to(model.device))
        if model.task == "detection":
            found = model.decode(raw, score_threshold=score_threshold)
            return [
                to_own_pixels(one.cpu(), model.image_size, size)
                for one, size in zip(found, sizes, strict=True)
            ]
        decoded = model.decode(raw)
    if model.task == "classification":
        return [Classification(one, model.classes) for one in decoded.float().cpu()]
    if model.task == "segmentation":
        maps = [_as_segmentation(one, model.classes) for one in decoded]
        return [one.resize(size).cpu() for one, size in zip(maps, sizes, strict=True)]
    raise TypeError(f"look: expected a model of a known task, got {model.task!r}")


def _as_segmentation(one: Any, classes: tuple[str, ...]) -> Segmentation:
    return one if isinstance(one, Segmentation) else Segmentation(one, classes)


def to_own_pixels(
    found: Detections, model_size: tuple[int, int], size: tuple[int, int]
) -> Detections:
    """Brings objects from the model's pixels to those of a picture that was stretched to them.

    Args:
        found: In pixels of ``model_size``.
        model_size: Height and width.
        size: Height and width of the picture.

    Returns:
        The same objects, inside of the picture.
    """
    if size == tuple(model_size):
        return found
    scale = torch.tensor([size[1] / model_size[1], size[0] / model_size[0]] * 2)
    masks = None if found.masks is None else resize_masks(found.bitmaps(), size)
    return replace(found, boxes=clip_boxes(found.boxes * scale, size), masks=masks)


def check_task(function: str, model: Model, *tasks: str) -> None:
    """Raises TypeError unless the model has one of these tasks."""
    if model.task not in tasks:
        raise TypeError(
            f"{function}: expected a model for {' or '.join(tasks)}, got one for {model.task}"
        )
