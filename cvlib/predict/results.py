"""What a model says of one picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cvlib.structures import Detections, Segmentation


@dataclass(frozen=True)
class Classification:
    """The class of one picture.

    Attributes:
        probabilities: Shape (K,), float32, adding up to 1.
        classes: Names of the K classes.

    Raises:
        ValueError: Another number of probabilities than of classes.

    Example:
        >>> import torch
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

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, best first."""
        values, labels = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[i], v) for i, v in zip(labels.tolist(), values.tolist(), strict=True)]


Result = Detections | Classification | Segmentation
