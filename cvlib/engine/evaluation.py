"""How good a model is on a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cvlib.data import collate
from cvlib.metrics import AnchorMeter, AnchorMetrics, BoxMetrics, GroundTruth, evaluate_boxes
from cvlib.models import TinySSD
from cvlib.structures import Detections


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on a set.

    Attributes:
        boxes: COCO's figures of the detections.
        anchors: The book's figures, beside their baselines.
    """

    boxes: BoxMetrics
    anchors: AnchorMetrics

    def as_dict(self) -> dict[str, float]:
        """All figures by name."""
        return {**self.boxes.as_dict(), **self.anchors.as_dict()}

    def __str__(self) -> str:
        b, a = self.boxes, self.anchors
        return (
            f"AP {b.ap:.3f}  AP50 {b.ap50:.3f}  AP75 {b.ap75:.3f}  "
            f"positive recall {a.positive_recall:.3f}  "
            f"class error {a.class_error:.2e} (background everywhere: "
            f"{a.class_error_baseline:.2e})  box MAE {a.box_mae:.2e} (zeros: "
            f"{a.box_mae_baseline:.2e})"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def check_image_size(function: str, size: tuple[int, int], model: TinySSD) -> None:
    """Raises ValueError unless pictures have the size that the model counts its pixels in."""
    if size != model.image_size:
        raise ValueError(
            f"{function}: expected pictures of the model's size {model.image_size} (height, "
            f"width), got {size}"
        )


def evaluate(model: TinySSD, dataset: Dataset, *, batch_size: int = 32) -> Evaluation:
    """Detects objects in every picture of a set and compares them with the truth.

    Args:
        model: On any device; its mode is restored afterwards.
        dataset: Pictures of the model's ``image_size``.
        batch_size: Pictures in one forward pass.

    Returns:
        COCO's figures and the book's.

    Raises:
        ValueError: The set is empty, its pictures have another size than the model's, or its labels
            are wrong (see `check_targets`).

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> model = TinySSD(("banana",), image_size=(64, 64))
        >>> 0 <= evaluate(model, SyntheticBananas(2, image_size=64)).boxes.ap <= 1
        True
    """
    if not len(dataset):  # type: ignore[arg-type]
        raise ValueError("evaluate: expected at least one picture, got an empty set")
    device = model.device
    meter = AnchorMeter()
    truths: list[GroundTruth] = []
    found: list[Detections] = []
    with evaluating(model):
        for images, targets in DataLoader(dataset, batch_size, collate_fn=collate):
            size = (images.shape[2], images.shape[3])
            check_image_size("evaluate", size, model)
            raw = model(images.to(device))
            assigned = model.assign(raw.anchors, targets["boxes"], targets["labels"], size)
            meter.update(raw.class_logits, raw.offsets, assigned)
            found += [one.cpu() for one in model.decode(raw)]
            for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True):
                valid = labels >= 0
                truths.append(GroundTruth(boxes[valid], labels[valid], size))
    return Evaluation(evaluate_boxes(truths, found, model.classes), meter.compute())
