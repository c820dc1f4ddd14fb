"""Value objects: what models find, and what was there to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cvlib.boxes import box_area, box_convert
from cvlib.ops.rle import masks_to_rle, rle_to_masks

# Masks of a picture's objects: bool (N, H, W), or COCO's run lengths, one dictionary for each.
Masks = Tensor | Sequence[Mapping[str, Any]]
Index = Tensor | slice | list[int] | int


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, best first.

    Masks are either a bool tensor, to compute and to draw with, or run lengths, to keep: a hundred
    masks of 640 x 480 are 30 MB as a tensor and some 30 kB as run lengths. Whatever takes
    detections takes both; `bitmaps` and `rles` give the one or the other.

    Attributes:
        boxes: Shape (N, 4), float32, (x1, y1, x2, y2) in pixels of the original picture.
        scores: Shape (N,), float32, in [0, 1].
        labels: Shape (N,), int64, in 0..K-1: indices into ``classes``.
        classes: Names of the K classes.
        masks: ``None``; or shape (N, H, W), bool, of the original picture's size; or N run lengths
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
        _check_masks("Detections", self.masks, count)

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
            masks=_select(self.masks, index),
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

    def bitmaps(self) -> Tensor:
        """The masks as a tensor, shape (N, H, W), bool.

        Raises:
            ValueError: There are no masks, or no run length tells their size.
        """
        return _bitmaps("Detections.bitmaps", self.masks)

    def rles(self) -> list[dict[str, Any]]:
        """The masks as run lengths, one dictionary for each object.

        Raises:
            ValueError: There are no masks.
        """
        return _rles("Detections.rles", self.masks)

    def to_coco(self, image_id: int, category_ids: list[int] | None = None) -> list[dict[str, Any]]:
        """Gives COCO result rows.

        Args:
            image_id: Of the picture in the COCO file.
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
    """The true objects of one picture.

    Attributes:
        boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels.
        labels: Shape (N,), int64, in 0..K-1.
        size: Height and width of the picture in pixels.
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
        _check_masks("GroundTruth", self.masks, count)

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

    def rles(self) -> list[dict[str, Any]]:
        """The masks as run lengths, one dictionary for each object.

        Raises:
            ValueError: There are no masks.
        """
        return _rles("GroundTruth.rles", self.masks)

    def bitmaps(self) -> Tensor:
        """The masks as a tensor, shape (N, H, W), bool.

        Raises:
            ValueError: There are no masks.
        """
        return _bitmaps("GroundTruth.bitmaps", self.masks, self.size)

    @classmethod
    def from_target(cls, target: Mapping[str, Any], size: tuple[int, int]) -> GroundTruth:
        """Reads the target of a sample of a detection set.

        Args:
            target: With ``boxes`` and ``labels``; ``iscrowd``, ``area`` and ``masks`` where the set
                has them.
            size: Height and width of the picture in pixels.

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


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel of one picture.

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
        """The same picture at another size: every pixel takes the class of the nearest one.

        Args:
            size: Height and width in pixels.

        Returns:
            A new one; the same object where nothing changes.
        """
        if size == self.size:
            return self
        scores = None if self.scores is None else _nearest(self.scores, size)
        return replace(self, labels=_nearest(self.labels, size), scores=scores)


def mask_areas(masks: Masks) -> Tensor:
    """Counts the pixels of each mask.

    Args:
        masks: Bool tensor (N, H, W) or run lengths.

    Returns:
        Shape (N,), float64, on the CPU for run lengths.
    """
    if isinstance(masks, Tensor):
        return masks.flatten(1).sum(1).double()
    from pycocotools import mask as coco

    # One by one: for a list of more than 255, pycocotools 2.0.11 fails with numpy 2.
    counts = [float(coco.area(_compressed(rle))) for rle in masks]
    return torch.tensor(counts, dtype=torch.float64)


def _compressed(rle: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run lengths as pycocotools computes with them; lists of runs are compressed."""
    if isinstance(rle["counts"], str | bytes):
        return rle
    return masks_to_rle(rle_to_masks([rle]))[0]


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (
        ((torch.arange(new, device=values.device) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def _select(masks: Masks | None, index: Tensor | slice | list[int]) -> Masks | None:
    if masks is None or isinstance(masks, Tensor):
        return masks if masks is None else masks[index]
    chosen = index.cpu() if isinstance(index, Tensor) else index
    return tuple(masks[i] for i in torch.arange(len(masks))[chosen].tolist())


def _bitmaps(function: str, masks: Masks | None, size: tuple[int, int] | None = None) -> Tensor:
    if masks is None:
        raise ValueError(f"{function}: expected masks, got detections or truths with boxes alone")
    return masks if isinstance(masks, Tensor) else rle_to_masks(masks, image_size=size)


def _rles(function: str, masks: Masks | None) -> list[dict[str, Any]]:
    if masks is None:
        raise ValueError(f"{function}: expected masks, got detections or truths with boxes alone")
    if isinstance(masks, Tensor):
        return masks_to_rle(masks)
    return [dict(_compressed(rle)) for rle in masks]


def _check_masks(function: str, masks: Masks | None, count: int) -> None:
    if masks is None:
        return
    if isinstance(masks, Tensor):
        if masks.dtype != torch.bool:
            raise TypeError(
                f"{function}: expected masks of dtype torch.bool, got {masks.dtype}; compare "
                "first, as in masks != 0 or masks >= 0.5"
            )
        if masks.dim() != 3 or len(masks) != count:
            raise ValueError(
                f"{function}: expected masks of shape (N, H, W) with N = {count} as in labels, got "
                f"{tuple(masks.shape)}"
            )
        return
    if isinstance(masks, str | Mapping) or not isinstance(masks, Sequence):
        raise TypeError(
            f"{function}: expected masks to be a bool tensor or a list of run lengths, got "
            f"{type(masks).__name__}"
        )
    if len(masks) != count:
        raise ValueError(
            f"{function}: expected run lengths of {count} masks as in labels, got {len(masks)}"
        )
