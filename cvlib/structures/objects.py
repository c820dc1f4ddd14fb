"""Objects in an image: those that a model finds, and those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cvlib.boxes import box_area, box_convert, clip_boxes
from cvlib.structures.masks import (
    Masks,
    check_masks,
    mask_areas,
    resize_masks,
    select_masks,
    to_bitmaps,
    to_rles,
)

Index = Tensor | slice | list[int] | int


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best first.

    Masks are either a bool tensor, to compute and to draw with, or run lengths, to keep: a hundred
    masks of 640 x 480 are 30 MB as a tensor and some 30 kB as run lengths. Whatever takes
    detections takes both; `bitmaps` and `rles` give the one or the other.

    Attributes:
        boxes: Shape (N, 4), float32, (x1, y1, x2, y2) in pixels of the original image.
        scores: Shape (N,), float32, in [0, 1].
        labels: Shape (N,), int64, in 0..K-1: indices into ``classes``.
        classes: Names of the K classes.
        masks: ``None``; or shape (N, H, W), bool, of the original image's size; or N run lengths
            as `masks_to_rle` gives them.

    Raises:
        TypeError: Masks that are neither a bool tensor nor run lengths.
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
    masks: Masks | None = None

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
        check_masks("Detections", self.masks, count)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Detections:
        if isinstance(index, int):
            index = [index]  # still detections, of one object
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=None if self.masks is None else select_masks(self.masks, index),
        )

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def cpu(self) -> Detections:
        """The same detections in the memory of the host."""
        return replace(
            self,
            boxes=self.boxes.cpu(),
            scores=self.scores.cpu(),
            labels=self.labels.cpu(),
            masks=self.masks.cpu() if isinstance(self.masks, Tensor) else self.masks,
        )

    def resize(self, old: tuple[int, int], new: tuple[int, int]) -> Detections:
        """The same objects in the pixels of an image that is stretched to another size.

        Args:
            old: Height and width of the image that boxes and masks are of.
            new: Height and width of the stretched image.

        Returns:
            New ones, inside of the image; the same object where nothing changes.
        """
        if old == new:
            return self
        scale = self.boxes.new_tensor([new[1] / old[1], new[0] / old[0]] * 2)
        masks = None if self.masks is None else resize_masks(self.masks, new)
        return replace(self, boxes=clip_boxes(self.boxes * scale, new), masks=masks)

    def bitmaps(self) -> Tensor:
        """The masks as a tensor, shape (N, H, W), bool.

        Raises:
            ValueError: There are no masks, or no run length tells their size.
        """
        return to_bitmaps("Detections.bitmaps", self.masks)

    def rles(self) -> list[dict[str, Any]]:
        """The masks as run lengths, one dictionary for each object.

        Raises:
            ValueError: There are no masks.
        """
        return to_rles("Detections.rles", self.masks)

    def to_coco(self, image_id: int, category_ids: list[int] | None = None) -> list[dict[str, Any]]:
        """Gives COCO result rows.

        Args:
            image_id: Of the image in the COCO file.
            category_ids: The file's id of each class; by default the labels themselves.

        Returns:
            One dictionary for each object: image_id, category_id, bbox (x, y, width, height) in
            pixels, score; and segmentation, as run lengths, where there are masks.
        """
        boxes = box_convert(self.boxes, "xyxy", "xywh").double().tolist()
        rows: list[dict[str, Any]] = [
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
        if self.masks is not None:
            for row, rle in zip(rows, self.rles(), strict=True):
                row["segmentation"] = rle
        return rows

    def to_supervision(self) -> Any:
        """Gives ``supervision.Detections``, for its annotators, trackers and zones.

        Returns:
            xyxy, confidence, class_id, mask where there are masks, and ``data["class_name"]``.

        Raises:
            ImportError: The package is not installed.
        """
        import numpy as np

        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "Detections.to_supervision: expected the package supervision, got none; "
                "pip install supervision"
            ) from error
        found = self.cpu()
        return supervision.Detections(
            xyxy=found.boxes.numpy(),
            mask=found.bitmaps().numpy() if len(found) and found.masks is not None else None,
            confidence=found.scores.numpy(),
            class_id=found.labels.numpy(),
            data={"class_name": np.array(found.names, dtype=str)},
        )

    @classmethod
    def empty(cls, classes: tuple[str, ...]) -> Detections:
        """No objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), classes)


@dataclass(frozen=True)
class GroundTruth:
    """The true objects of one image.

    Attributes:
        boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels.
        labels: Shape (N,), int64, in 0..K-1.
        size: Height and width of the image in pixels.
        iscrowd: Shape (N,), bool or integer: objects that are neither right nor wrong to find, as
            COCO's crowds and VOC's difficult ones; ``None``: none of them.
        area: Shape (N,), in pixels: what COCO calls small, medium and large. ``None``: that of the
            masks where there are some, else that of the boxes.
        masks: As of `Detections`.

    Raises:
        TypeError: Masks that are neither a bool tensor nor run lengths.
        ValueError: Lengths that differ.

    Example:
        >>> truth = GroundTruth(torch.tensor([[0.0, 0, 4, 5]]), torch.tensor([0]), (8, 8))
        >>> truth.areas, truth.crowds
        (tensor([20.]), tensor([False]))
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]
    iscrowd: Tensor | None = None
    area: Tensor | None = None
    masks: Masks | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"GroundTruth: expected boxes (N, 4) and labels (N,), got "
                f"{tuple(self.boxes.shape)} and {tuple(self.labels.shape)}"
            )
        for name in ("iscrowd", "area"):
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(
                    f"GroundTruth: expected {name} of shape (N,) with N = {count} as in labels, "
                    f"got {tuple(value.shape)}"
                )
        check_masks("GroundTruth", self.masks, count)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def crowds(self) -> Tensor:
        """Shape (N,), bool: which objects are crowds."""
        return (
            torch.zeros(len(self), dtype=torch.bool) if self.iscrowd is None else self.iscrowd > 0
        )

    @property
    def areas(self) -> Tensor:
        """Shape (N,): the area of each object in pixels."""
        if self.area is not None:
            return self.area
        if self.masks is None:
            return box_area(self.boxes.as_subclass(Tensor))
        return mask_areas(self.masks)

    def resize(self, size: tuple[int, int]) -> GroundTruth:
        """The same objects where their image is stretched to another size.

        Args:
            size: Height and width in pixels.

        Returns:
            New ones; the same object where nothing changes.
        """
        if size == self.size:
            return self
        y, x = size[0] / self.size[0], size[1] / self.size[1]
        boxes = self.boxes.as_subclass(Tensor)
        return replace(
            self,
            boxes=boxes * boxes.new_tensor([x, y, x, y]),
            size=size,
            area=None if self.area is None else self.area * (x * y),
            masks=None if self.masks is None else resize_masks(self.masks, size),
        )

    def rles(self) -> list[dict[str, Any]]:
        """The masks as run lengths, one dictionary for each object.

        Raises:
            ValueError: There are no masks.
        """
        return to_rles("GroundTruth.rles", self.masks)

    def bitmaps(self) -> Tensor:
        """The masks as a tensor, shape (N, H, W), bool.

        Raises:
            ValueError: There are no masks.
        """
        return to_bitmaps("GroundTruth.bitmaps", self.masks, self.size)

    @classmethod
    def from_target(cls, target: Mapping[str, Any], size: tuple[int, int]) -> GroundTruth:
        """Reads the target of a sample of a detection set.

        Args:
            target: With ``boxes`` and ``labels``; ``iscrowd``, ``area`` and ``masks`` where the set
                has them.
            size: Height and width of the image in pixels.

        Returns:
            The same, without tv_tensors.
        """

        def plain(name: str) -> Tensor | None:
            value = target.get(name)
            return value.as_subclass(Tensor) if isinstance(value, Tensor) else None

        masks: Masks | None = plain("masks")
        if isinstance(masks, Tensor):
            masks = masks != 0
        boxes = target["boxes"].as_subclass(Tensor)
        return cls(boxes, target["labels"], size, plain("iscrowd"), plain("area"), masks)
