"""Value objects that come out of models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cvlib.boxes import box_convert


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, best first.

    Attributes:
        boxes: Shape (N, 4), float32, (x1, y1, x2, y2) in pixels of the original picture.
        scores: Shape (N,), float32, in [0, 1].
        labels: Shape (N,), int64, in 0..K-1: indices into ``classes``.
        classes: Names of the K classes.

    Raises:
        ValueError: Lengths that differ, or labels outside 0..K-1.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
        >>> found = Detections(boxes, torch.tensor([0.8]), torch.tensor([0]), ("cat",))
        >>> found.names, len(found[found.scores > 0.9])
        (['cat'], 0)
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"Detections: expected boxes (N, 4), scores (N,), labels (N,), got "
                f"{tuple(self.boxes.shape)}, {tuple(self.scores.shape)}, {tuple(self.labels.shape)}"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"Detections: expected labels in 0..{len(self.classes) - 1}, got "
                f"{int(self.labels.min())}..{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice | list[int] | int) -> Detections:
        if isinstance(index, int):
            index = [index]  # still detections, of one object
        return replace(
            self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index]
        )

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def cpu(self) -> Detections:
        """The same detections in the memory of the host."""
        return replace(
            self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu()
        )

    def to_coco(self, image_id: int, category_ids: list[int] | None = None) -> list[dict[str, Any]]:
        """Gives COCO result rows.

        Args:
            image_id: Of the picture in the COCO file.
            category_ids: The file's id of each class; by default the labels themselves.

        Returns:
            One dictionary for each object: image_id, category_id, bbox (x, y, width, height) in
            pixels, score.
        """
        boxes = box_convert(self.boxes, "xyxy", "xywh").double().tolist()
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label] if category_ids else label,
                "bbox": box,
                "score": score,
            }
            for box, score, label in zip(
                boxes, self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    @classmethod
    def empty(cls, classes: tuple[str, ...]) -> Detections:
        """No objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), classes)
