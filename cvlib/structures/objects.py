"""Objects in an image: detections and ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cvlib.boxes import box_area, box_convert, clip_boxes
from cvlib.structures.masks import (
    Masks,
    check_masks,
    mask_areas,
    resize_masks,
    restore_masks,
    select_masks,
    to_bitmaps,
    to_rles,
)
from cvlib.structures.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from cvlib.geometry.view import View

Index = Tensor | slice | list[int] | int


@dataclass(frozen=True)
class Detections(Result):
    """Objects detected in one image, best first.

    Masks are either a bool tensor, to compute and draw with, or run lengths, to keep: a hundred
    masks of 640 x 480 take 30 MB as a tensor and about 30 kB as run lengths. Everything that takes
    detections accepts both; `bitmaps` and `rles` convert.

    Attributes:
        boxes: Shape (N, 4), float32, (x1, y1, x2, y2) in pixels of the image.
        scores: Shape (N,), float32, in [0, 1].
        labels: Shape (N,), int64, in 0..K-1: indices into ``classes``.
        classes: Names of the K classes.
        masks: ``None``; or shape (N, H, W), bool, of the image's size; or N run lengths as returned
            by `masks_to_rle`.
        size: Height and width of the image in pixels; ``None`` if unknown.

    Raises:
        TypeError: ``masks`` is neither a bool tensor nor run lengths.
        ValueError: Lengths differ, or labels are outside of 0..K-1.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
        >>> detections = Detections(boxes, torch.tensor([0.8]), torch.tensor([0]), ("cat",))
        >>> detections.names, len(detections[detections.scores > 0.9])
        (['cat'], 0)
    """

    task: ClassVar[str] = "detection"
    columns: ClassVar[tuple[str, ...]] = ("class", "score", "x1", "y1", "x2", "y2")

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    masks: Masks | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                "Detections: expected `boxes` (N, 4), `scores` (N,) and `labels` (N,), got "
                f"{tuple(self.boxes.shape)}, {tuple(self.scores.shape)}, {tuple(self.labels.shape)}"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"Detections: expected `labels` in 0..{len(self.classes) - 1}, got "
                f"{int(self.labels.min())}..{int(self.labels.max())}"
            )
        check_masks("Detections", self.masks, count)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Detections:
        if isinstance(index, int):
            index = [index]  # detections of one object
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=None if self.masks is None else select_masks(self.masks, index),
        )

    @property
    def names(self) -> list[str]:
        """Class names, one per object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def cpu(self) -> Detections:
        """Copy on the CPU."""
        return replace(
            self,
            boxes=self.boxes.cpu(),
            scores=self.scores.cpu(),
            labels=self.labels.cpu(),
            masks=self.masks.cpu() if isinstance(self.masks, Tensor) else self.masks,
        )

    @property
    def num_objects(self) -> int:
        """Number of objects."""
        return len(self)

    def resize(self, size: tuple[int, int]) -> Detections:
        """Return the detections in the pixels of the image stretched to another size.

        Args:
            size: Height and width in pixels.

        Returns:
            Detections clipped to the image; the same object if the size does not change.

        Raises:
            ValueError: ``self.size`` is unknown.
        """
        if self.size is None:
            raise ValueError(
                "Detections.resize: expected detections with a `size`, got None; pass "
                "size=(height, width) of their image to Detections"
            )
        if size == self.size:
            return self
        scale = self.boxes.new_tensor([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        masks = None if self.masks is None else resize_masks(self.masks, size)
        return replace(self, boxes=clip_boxes(self.boxes * scale, size), masks=masks, size=size)

    def restore(self, view: View) -> Detections:
        """Map detections from the canvas of a view back to its image.

        Args:
            view: The view through which the model saw the image.

        Returns:
            Detections in pixels of the image, clipped to it.
        """
        boxes = self.boxes if view.is_identity else view.undo_boxes(self.boxes)
        boxes = clip_boxes(boxes, view.image_size)
        masks = None if self.masks is None else restore_masks(self.masks, view)
        return replace(self, boxes=boxes, masks=masks, size=view.image_size)

    def bitmaps(self) -> Tensor:
        """Return the masks as a bool tensor (N, H, W).

        Raises:
            ValueError: There are no masks, or no run length to take their size from.
        """
        return to_bitmaps("Detections.bitmaps", self.masks)

    def rles(self) -> list[dict[str, Any]]:
        """Return the masks as run lengths, one dictionary per object.

        Raises:
            ValueError: There are no masks.
        """
        return to_rles("Detections.rles", self.masks)

    def to_coco(self, image_id: int, category_ids: list[int] | None = None) -> list[dict[str, Any]]:
        """Return rows of a COCO results file.

        Args:
            image_id: Id of the image in the COCO file.
            category_ids: Category id of each class; defaults to the labels.

        Returns:
            One dictionary per object: image_id, category_id, bbox (x, y, width, height) in pixels,
            score, and, with masks, segmentation as run lengths.
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

    def rows(self) -> list[tuple[Any, ...]]:
        """One row per object."""
        return [
            (name, f"{score:.6f}", *(f"{value:.2f}" for value in box))
            for name, score, box in self._objects()
        ]

    def as_dict(self) -> dict[str, Any]:
        """One entry per object, for JSON."""
        return {
            "objects": [
                {"class": name, "score": round(score, 4), "box": [round(v, 2) for v in box]}
                for name, score, box in self._objects()
            ]
        }

    def _objects(self) -> Iterator[tuple[str, float, list[float]]]:
        return zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)

    def draw(self, image: Image.Image | Tensor) -> Image.Image:
        """Draw boxes, masks, class names and scores on a copy of the image."""
        from cvlib.visualize.results import draw_detections

        return draw_detections(image, self)

    def to_supervision(self) -> Any:
        """Convert to ``supervision.Detections``, for its annotators, trackers and zones.

        Returns:
            xyxy, confidence, class_id, mask (with masks) and ``data["class_name"]``.

        Raises:
            ImportError: The package supervision is not installed.
        """
        import numpy as np

        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "Detections.to_supervision: expected the package supervision to be installed; "
                "pip install supervision"
            ) from error
        detections = self.cpu()
        has_masks = len(detections) > 0 and detections.masks is not None
        return supervision.Detections(
            xyxy=detections.boxes.numpy(),
            mask=detections.bitmaps().numpy() if has_masks else None,
            confidence=detections.scores.numpy(),
            class_id=detections.labels.numpy(),
            data={"class_name": np.array(detections.names, dtype=str)},
        )

    @classmethod
    def empty(cls, classes: tuple[str, ...], size: tuple[int, int] | None = None) -> Detections:
        """Detections of an image without objects."""
        labels = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), torch.zeros(0), labels, classes, size=size)


@dataclass(frozen=True)
class GroundTruth:
    """Annotated objects of one image.

    Attributes:
        boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels.
        labels: Shape (N,), int64, in 0..K-1.
        size: Height and width of the image in pixels.
        iscrowd: Shape (N,), bool or integer: objects to ignore, such as COCO's crowds and VOC's
            difficult objects; ``None``: none.
        area: Shape (N,), in pixels, by which COCO calls objects small, medium or large; ``None``:
            area of the masks, or of the boxes without masks.
        masks: See `Detections`.

    Raises:
        TypeError: ``masks`` is neither a bool tensor nor run lengths.
        ValueError: Lengths differ.

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
                "GroundTruth: expected `boxes` (N, 4) and `labels` (N,), got "
                f"{tuple(self.boxes.shape)} and {tuple(self.labels.shape)}"
            )
        for name in ("iscrowd", "area"):
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(
                    f"GroundTruth: expected `{name}` of shape (N,) with N = {count} as in labels, "
                    f"got {tuple(value.shape)}"
                )
        check_masks("GroundTruth", self.masks, count)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def crowds(self) -> Tensor:
        """Which objects are crowds, shape (N,), bool."""
        return (
            torch.zeros(len(self), dtype=torch.bool) if self.iscrowd is None else self.iscrowd > 0
        )

    @property
    def areas(self) -> Tensor:
        """Area of each object in pixels, shape (N,)."""
        if self.area is not None:
            return self.area
        if self.masks is None:
            return box_area(self.boxes.as_subclass(Tensor))
        return mask_areas(self.masks)

    def resize(self, size: tuple[int, int]) -> GroundTruth:
        """Return the objects in the pixels of the image stretched to another size.

        Args:
            size: Height and width in pixels.

        Returns:
            The resized ground truth; the same object if the size does not change.
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
        """Return the masks as run lengths, one dictionary per object.

        Raises:
            ValueError: There are no masks.
        """
        return to_rles("GroundTruth.rles", self.masks)

    def bitmaps(self) -> Tensor:
        """Return the masks as a bool tensor (N, H, W).

        Raises:
            ValueError: There are no masks.
        """
        return to_bitmaps("GroundTruth.bitmaps", self.masks, self.size)

    @classmethod
    def from_target(cls, target: Mapping[str, Any], size: tuple[int, int]) -> GroundTruth:
        """Read the target of a detection sample.

        Args:
            target: ``boxes`` and ``labels``; optionally ``iscrowd``, ``area`` and ``masks``.
            size: Height and width of the image in pixels.

        Returns:
            The ground truth, as plain tensors.
        """

        def plain(name: str) -> Tensor | None:
            value = target.get(name)
            return value.as_subclass(Tensor) if isinstance(value, Tensor) else None

        masks: Masks | None = plain("masks")
        if isinstance(masks, Tensor):
            masks = masks != 0
        boxes = target["boxes"].as_subclass(Tensor)
        return cls(boxes, target["labels"], size, plain("iscrowd"), plain("area"), masks)
