"""Accuracy of the class of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvlib.metrics._collection import Collection
from cvlib.metrics._tables import make_table, mean, share
from cvlib.metrics.confusion import ConfusionMatrix


@dataclass(frozen=True)
class ImageClassMetrics:
    """Figures of one class of images.

    Attributes:
        name: Of the class.
        images: How many are of this class.
        accuracy: Share of them that got this class (recall); -1 without any.
        precision: Share of those that got this class that are of it; -1 without any.
    """

    name: str
    images: int
    accuracy: float
    precision: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """Figures over all images; -1 where there are none.

    Attributes:
        accuracy: Share of images whose most probable class is theirs.
        top_accuracy: Share whose class is among the ``top`` most probable ones.
        class_accuracy: Mean of the accuracies of the classes that occur.
        top: How many of the most probable classes count in ``top_accuracy``.
        classes: Figures of each class; not part of `as_dict`.
        confusion: Images by true and predicted class.
    """

    accuracy: float
    top_accuracy: float
    class_accuracy: float
    top: int
    classes: tuple[ImageClassMetrics, ...] = field(default=(), repr=False)
    confusion: ConfusionMatrix | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, float]:
        """The figures by name; ``top5_accuracy`` only where there are more than five classes."""
        figures = {"accuracy": self.accuracy, "class_accuracy": self.class_accuracy}
        if len(self.classes) > self.top:
            figures[f"top{self.top}_accuracy"] = self.top_accuracy
        return figures

    def table(self) -> str:
        """A line for each class, as text."""
        header = ("class", "images", "accuracy", "precision")
        return make_table(header, [astuple(one) for one in self.classes])


class _Answer(NamedTuple):
    label: int
    predicted: int
    rank: int
    probability: float


class ClassificationMeter(Collection[_Answer]):
    """Collects what images were taken for.

    Args:
        classes: Names of the K classes.
        top: How many of the most probable classes count in ``top_accuracy``.

    Raises:
        ValueError: ``top`` below 1.

    Note:
        An image counts once; one whose number was there before is dropped. Among equal
        probabilities the lowest class comes first.

    Example:
        >>> meter = ClassificationMeter(("ant", "bee"))
        >>> meter.update([0, 1], torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
        >>> meter.compute().accuracy
        0.5
    """

    def __init__(self, classes: Sequence[str], top: int = 5) -> None:
        if top < 1:
            raise ValueError(f"ClassificationMeter: expected top >= 1, got {top}")
        super().__init__(classes)
        self.top = top

    def update(self, image_ids: Sequence[int], probabilities: Tensor, labels: Tensor) -> None:
        """Adds images.

        Args:
            image_ids: A number of its own for each image.
            probabilities: Shape (B, K), floating point; logits do as well.
            labels: Shape (B,), integer, in 0..K-1.

        Raises:
            ValueError: Wrong shapes, labels that are no class, NaN.
        """
        size = len(self.classes)
        if probabilities.shape != (len(image_ids), size) or labels.shape != (len(image_ids),):
            raise ValueError(
                f"ClassificationMeter.update: expected probabilities ({len(image_ids)}, {size}) "
                f"and labels ({len(image_ids)},), got {tuple(probabilities.shape)} and "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(probabilities.device)
        wrong = labels[(labels < 0) | (labels >= size)]
        if len(wrong):
            raise ValueError(
                f"ClassificationMeter.update: expected labels in 0..{size - 1}, got {int(wrong[0])}"
            )
        if bool(probabilities.isnan().any()):
            raise ValueError(
                "ClassificationMeter.update: expected probabilities without NaN, got nan; a "
                "diverged model gives NaN: look at its loss and learning rate"
            )
        if not len(labels):
            return
        own = probabilities.gather(1, labels[:, None])
        earlier = torch.arange(size, device=labels.device) < labels[:, None]
        rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
        best, predicted = probabilities.max(1)
        columns = (labels, predicted, rank, best)
        for number, *answer in zip(image_ids, *(c.tolist() for c in columns), strict=True):
            self._images.setdefault(int(number), _Answer(*answer))

    def compute(self) -> ClassificationMetrics:
        """Gives the figures over all images."""
        size = len(self.classes)
        answers = list(self._images.values())
        counts = np.zeros((size, size), np.int64)
        np.add.at(counts, ([a.label for a in answers], [a.predicted for a in answers]), 1)
        right, true, found = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
        accuracy, precision = share(right, true), share(right, found)
        rows = tuple(
            ImageClassMetrics(name, int(true[k]), float(accuracy[k]), float(precision[k]))
            for k, name in enumerate(self.classes)
        )
        total = len(answers)
        near = sum(a.rank < self.top for a in answers)
        return ClassificationMetrics(
            accuracy=float(share(right.sum(), total)),
            top_accuracy=float(share(near, total)),
            class_accuracy=mean(accuracy),
            top=self.top,
            classes=rows,
            confusion=ConfusionMatrix(counts, self.classes, self.classes),
        )

    def worst(self, count: int = 10) -> list[tuple[int, str, str, float]]:
        """The images that were taken for a wrong class most confidently.

        Args:
            count: How many at most.

        Returns:
            (number, true class, predicted class, its probability), the surest mistake first.
        """
        wrong = [(n, a) for n, a in sorted(self._images.items()) if a.label != a.predicted]
        wrong.sort(key=lambda one: -one[1].probability)
        return [
            (n, self.classes[a.label], self.classes[a.predicted], a.probability)
            for n, a in wrong[:count]
        ]
