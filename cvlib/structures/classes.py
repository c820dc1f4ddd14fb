"""The class of an image, and of each of its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """The class of one image.

    Attributes:
        probabilities: Shape (K,), float32, adding up to 1.
        classes: Names of the K classes.

    Raises:
        ValueError: Another number of probabilities than of classes.

    Example:
        >>> Classification(torch.tensor([0.25, 0.75]), ("ant", "bee")).top(1)
        [('bee', 0.75)]
    """

    probabilities: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.classes),):
            raise ValueError(
                f"Classification: expected probabilities of shape ({len(self.classes)},), as there "
                f"are classes, got {tuple(self.probabilities.shape)}"
            )

    def cpu(self) -> Classification:
        """The same in the memory of the host."""
        return replace(self, probabilities=self.probabilities.cpu())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, best first."""
        values, labels = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[i], v) for i, v in zip(labels.tolist(), values.tolist(), strict=True)]


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel of one image.

    Attributes:
        labels: Shape (H, W), an integer dtype: in 0..K-1, or ``void``.
        classes: Names of the K classes.
        void: What pixels without a class hold.
        scores: Shape (H, W), float32: the probability of each pixel's class; ``None``: not known.

    Raises:
        TypeError: Labels of another dtype.
        ValueError: Wrong shapes, or labels that are neither a class nor void.

    Example:
        >>> found = Segmentation(torch.tensor([[0, 1], [1, 255]]), ("road", "sky"))
        >>> found.shares()
        {'road': 0.25, 'sky': 0.5}
    """

    labels: Tensor
    classes: tuple[str, ...]
    void: int = 255
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"Segmentation: expected labels of an integer dtype, got {labels.dtype}"
            )
        if labels.dim() != 2:
            raise ValueError(
                f"Segmentation: expected labels of shape (H, W), got {tuple(labels.shape)}"
            )
        if self.scores is not None and self.scores.shape != labels.shape:
            raise ValueError(
                f"Segmentation: expected scores of the shape of labels {tuple(labels.shape)}, got "
                f"{tuple(self.scores.shape)}"
            )
        named = labels[labels != self.void]
        if named.numel() and not 0 <= int(named.min()) <= int(named.max()) < len(self.classes):
            raise ValueError(
                f"Segmentation: expected labels in 0..{len(self.classes) - 1} or {self.void} "
                f"(void), got {int(named.min())}..{int(named.max())}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.labels.shape[0], self.labels.shape[1])

    def cpu(self) -> Segmentation:
        """The same in the memory of the host."""
        scores = None if self.scores is None else self.scores.cpu()
        return replace(self, labels=self.labels.cpu(), scores=scores)

    def shares(self) -> dict[str, float]:
        """Which share of the pixels each class has that occurs, void pixels counted as well."""
        numbers, counts = self.labels[self.labels != self.void].unique(return_counts=True)
        total = self.labels.numel()
        return {
            self.classes[number]: count / total
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        }

    def resize(self, size: tuple[int, int]) -> Segmentation:
        """The same image at another size: every pixel takes the class of the nearest one.

        Args:
            size: Height and width in pixels.

        Returns:
            A new one; the same object where nothing changes.
        """
        if size == self.size:
            return self
        scores = None if self.scores is None else _nearest(self.scores, size)
        return replace(self, labels=_nearest(self.labels, size), scores=scores)


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (
        ((torch.arange(new, device=values.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]
