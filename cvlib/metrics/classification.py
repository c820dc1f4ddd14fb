"""Accuracy of image classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvlib.metrics._meters import Meter
from cvlib.metrics._summary import make_table, mean, share
from cvlib.metrics.confusion import ConfusionMatrix


@dataclass(frozen=True)
class ImageClassMetrics:
    """Classification metrics of one class.

    Attributes:
        name: Name of the class.
        images: Number of images of this class.
        accuracy: Share of its images that are predicted as this class (recall); -1 without any.
        precision: Share of images predicted as this class that belong to it; -1 without any.
    """

    name: str
    images: int
    accuracy: float
    precision: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """Classification metrics over all images; -1 without any.

    Attributes:
        accuracy: Share of images with the right most probable class.
        top_accuracy: Share of images whose class is among the ``top`` most probable ones.
        class_accuracy: Mean accuracy of the classes that occur.
        top: Number of most probable classes that count in ``top_accuracy``.
        classes: Metrics of each class; not part of `as_dict`.
        confusion: Images by true and predicted class.
    """

    accuracy: float
    top_accuracy: float
    class_accuracy: float
    top: int
    classes: tuple[ImageClassMetrics, ...] = field(default=(), repr=False)
    confusion: ConfusionMatrix | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, float]:
        """Return the metrics, keyed by name; ``top5_accuracy`` only with more than five classes."""
        metrics = {"accuracy": self.accuracy, "class_accuracy": self.class_accuracy}
        if len(self.classes) > self.top:
            metrics[f"top{self.top}_accuracy"] = self.top_accuracy
        return metrics

    def table(self) -> str:
        """Format the metrics as text, one line per class."""
        header = ("class", "images", "accuracy", "precision")
        return make_table(header, [astuple(row) for row in self.classes])


class _Prediction(NamedTuple):
    label: int
    predicted: int
    rank: int
    probability: float


class ClassificationMeter(Meter[_Prediction]):
    """Meter of `ClassificationMetrics`.

    Args:
        classes: Names of the K classes.
        top: Number of most probable classes that count in ``top_accuracy``.

    Raises:
        ValueError: ``top`` below 1.

    Note:
        An image counts once; an id that is already present is dropped. Among equal probabilities
        the lowest class comes first.

    Example:
        >>> meter = ClassificationMeter(("ant", "bee"))
        >>> meter.update([0, 1], torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        >>> meter.compute().accuracy
        0.5
    """

    def __init__(self, classes: Sequence[str], top: int = 5) -> None:
        if top < 1:
            raise ValueError(f"ClassificationMeter: expected `top` to be at least 1, got {top}")
        super().__init__(classes)
        self.top = top

    def update(self, image_ids: Sequence[int], probabilities: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            image_ids: Unique id of each image.
            probabilities: Probabilities or logits, shape (B, K), floating point.
            labels: True classes in 0..K-1, shape (B,), integer.

        Raises:
            ValueError: Wrong shapes, labels out of range, NaN.
        """
        size = len(self.classes)
        if probabilities.shape != (len(image_ids), size) or labels.shape != (len(image_ids),):
            raise ValueError(
                f"ClassificationMeter.update: expected `probabilities` ({len(image_ids)}, {size}) "
                f"and `labels` ({len(image_ids)},), got {tuple(probabilities.shape)} and "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(probabilities.device)
        wrong = labels[(labels < 0) | (labels >= size)]
        if len(wrong):
            raise ValueError(
                f"ClassificationMeter.update: expected `labels` in 0..{size - 1}, got "
                f"{int(wrong[0])}"
            )
        if bool(probabilities.isnan().any()):
            raise ValueError(
                "ClassificationMeter.update: expected `probabilities` without NaN, got nan; a "
                "diverged model returns NaN: check its loss and learning rate"
            )
        if not len(labels):
            return
        true = probabilities.gather(1, labels[:, None])
        earlier = torch.arange(size, device=labels.device) < labels[:, None]
        rank = ((probabilities > true) | ((probabilities == true) & earlier)).sum(1)
        best, predicted = probabilities.max(1)
        columns = (labels, predicted, rank, best)
        for image_id, *values in zip(image_ids, *(c.tolist() for c in columns), strict=True):
            self._images.setdefault(int(image_id), _Prediction(*values))

    def compute(self) -> ClassificationMetrics:
        """Compute the metrics over all images."""
        size = len(self.classes)
        predictions = list(self._images.values())
        counts = np.zeros((size, size), np.int64)
        np.add.at(counts, ([p.label for p in predictions], [p.predicted for p in predictions]), 1)
        right, true, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
        accuracy, precision = share(right, true), share(right, predicted)
        rows = tuple(
            ImageClassMetrics(name, int(true[k]), float(accuracy[k]), float(precision[k]))
            for k, name in enumerate(self.classes)
        )
        total = len(predictions)
        near = sum(p.rank < self.top for p in predictions)
        return ClassificationMetrics(
            accuracy=float(share(right.sum(), total)),
            top_accuracy=float(share(near, total)),
            class_accuracy=mean(accuracy),
            top=self.top,
            classes=rows,
            confusion=ConfusionMatrix(counts, self.classes, self.classes),
        )

    def worst(self, count: int = 10) -> list[tuple[int, str, str, float]]:
        """Return the wrong predictions with the highest probability.

        Args:
            count: Maximum number of images.

        Returns:
            (image id, true class, predicted class, probability), the most confident first.
        """
        wrong = [(i, p) for i, p in sorted(self._images.items()) if p.label != p.predicted]
        wrong.sort(key=lambda item: -item[1].probability)
        return [
            (i, self.classes[p.label], self.classes[p.predicted], p.probability)
            for i, p in wrong[:count]
        ]
