"""Results without objects: the class of an image, and the class of each of its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cvlib.structures.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from cvlib.geometry.view import View


@dataclass(frozen=True)
class Classification(Result):
    """Class probabilities of one image.

    Attributes:
        probabilities: Shape (K,), float32, summing to 1.
        classes: Names of the K classes.

    Raises:
        ValueError: The number of probabilities differs from the number of classes.

    Example:
        >>> Classification(torch.tensor([0.25, 0.75]), ("ant", "bee")).top(1)
        [('bee', 0.75)]
    """

    task: ClassVar[str] = "classification"
    columns: ClassVar[tuple[str, ...]] = ("class", "probability")

    probabilities: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.classes),):
            raise ValueError(
                f"Classification: expected `probabilities` of shape ({len(self.classes)},), one "
                f"per class, got {tuple(self.probabilities.shape)}"
            )

    def cpu(self) -> Classification:
        """Copy on the CPU."""
        return replace(self, probabilities=self.probabilities.cpu())

    def resize(self, size: tuple[int, int]) -> Classification:
        """Return the classification itself: it does not depend on the image's size."""
        return self

    def restore(self, view: View) -> Classification:
        """Return the classification itself: it does not depend on the view."""
        return self

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, best first."""
        values, labels = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[i], v) for i, v in zip(labels.tolist(), values.tolist(), strict=True)]

    def rows(self) -> list[tuple[Any, ...]]:
        """One row: the most probable class."""
        return [(name, f"{value:.6f}") for name, value in self.top(1)]

    def as_dict(self) -> dict[str, Any]:
        """The five most probable classes, for JSON."""
        return {
            "classes": [
                {"class": name, "probability": round(value, 4)} for name, value in self.top()
            ]
        }

    def draw(self, image: Image.Image | Tensor) -> Image.Image:
        """Write the most probable classes on a copy of the image."""
        from cvlib.visualize.results import draw_classification

        return draw_classification(image, self)


@dataclass(frozen=True)
class Segmentation(Result):
    """The class of every pixel of one image.

    Attributes:
        labels: Shape (H, W), an integer dtype, in 0..K-1 or ``void``.
        classes: Names of the K classes.
        void: Label of pixels without a class.
        scores: Shape (H, W), float32: probability of each pixel's class; ``None`` if unknown.

    Raises:
        TypeError: ``labels`` is not of an integer dtype.
        ValueError: Wrong shapes, or labels that are neither a class nor void.

    Example:
        >>> result = Segmentation(torch.tensor([[0, 1], [1, 255]]), ("road", "sky"))
        >>> result.shares()
        {'road': 0.25, 'sky': 0.5}
    """

    task: ClassVar[str] = "segmentation"
    columns: ClassVar[tuple[str, ...]] = ("class", "share")

    labels: Tensor
    classes: tuple[str, ...]
    void: int = 255
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"Segmentation: expected `labels` of an integer dtype, got {labels.dtype}"
            )
        if labels.dim() != 2:
            raise ValueError(
                f"Segmentation: expected `labels` of shape (H, W), got {tuple(labels.shape)}"
            )
        if self.scores is not None and self.scores.shape != labels.shape:
            raise ValueError(
                f"Segmentation: expected `scores` of the shape of labels {tuple(labels.shape)}, "
                f"got {tuple(self.scores.shape)}"
            )
        named = labels[labels != self.void]
        if named.numel() and not 0 <= int(named.min()) <= int(named.max()) < len(self.classes):
            raise ValueError(
                f"Segmentation: expected `labels` in 0..{len(self.classes) - 1} or {self.void} "
                f"(void), got {int(named.min())}..{int(named.max())}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.labels.shape[0], self.labels.shape[1])

    def cpu(self) -> Segmentation:
        """Copy on the CPU."""
        scores = None if self.scores is None else self.scores.cpu()
        return replace(self, labels=self.labels.cpu(), scores=scores)

    def shares(self) -> dict[str, float]:
        """Share of all pixels, void included, that each class present covers."""
        labels, counts = self.labels[self.labels != self.void].unique(return_counts=True)
        total = self.labels.numel()
        return {
            self.classes[label]: count / total
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
        }

    def resize(self, size: tuple[int, int]) -> Segmentation:
        """Stretch the map to another size; every pixel takes the label of the nearest one.

        Args:
            size: Height and width in pixels.

        Returns:
            The resized segmentation; the same object if the size does not change.
        """
        if size == self.size:
            return self
        scores = None if self.scores is None else _nearest(self.scores, size)
        return replace(self, labels=_nearest(self.labels, size), scores=scores)

    def restore(self, view: View) -> Segmentation:
        """Map the labels from the canvas of a view back to its image.

        Args:
            view: A view whose canvas has the size of the labels.

        Returns:
            Segmentation of the image; pixels that the canvas does not show are void, with score 0.
        """
        scores = None if self.scores is None else view.undo_labels(self.scores, 0.0)
        return replace(self, labels=view.undo_labels(self.labels, self.void), scores=scores)

    def rows(self) -> list[tuple[Any, ...]]:
        """One row per class present, with its share of the pixels."""
        return [(name, f"{share:.6f}") for name, share in self.shares().items()]

    def as_dict(self) -> dict[str, Any]:
        """Share of the pixels by class, for JSON."""
        return {"shares": {name: round(share, 6) for name, share in self.shares().items()}}

    def draw(self, image: Image.Image | Tensor) -> Image.Image:
        """Tint every pixel of a copy of the image in the colour of its class."""
        from cvlib.visualize.results import draw_class_map

        return draw_class_map(image, self)


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (
        ((torch.arange(new, device=values.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]
