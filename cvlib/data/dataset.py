"""One detection set, whatever format its labels came in."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib.data._images import read_image
from cvlib.data.findings import BadLabelsError, errors_of
from cvlib.data.label_rules import find_bad_labels
from cvlib.data.table import LabelTable
from cvlib.ops.rle import polygons_to_masks, rle_to_masks

BadLabels = Literal["raise", "drop"]


class DetectionDataset(Dataset[Any]):
    """Pictures with boxes, and with masks where the labels have them.

    Pictures are decoded when asked for. Labels are checked at once: each that cannot be right is
    an error that names its file and row.

    Args:
        table: The labels.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        bad_labels: ``"raise"``, or ``"drop"``: leave wrong objects out, with one warning.

    Attributes:
        classes: Class names.
        task: ``"detection"``.
        table: The labels of the objects that are left.

    Raises:
        BadLabelsError: Wrong labels, and ``bad_labels`` is ``"raise"``.
    """

    task: ClassVar[str] = "detection"

    def __init__(
        self,
        table: LabelTable,
        *,
        transform: Callable[..., Any] | None = None,
        bad_labels: BadLabels = "raise",
    ) -> None:
        findings, bad = find_bad_labels(table)
        wrong = [*errors_of(table.findings), *findings]
        if wrong and bad_labels == "raise":
            raise BadLabelsError(f"{table.layout} in {table.root}", wrong)
        if bad.any():
            warnings.warn(
                f"DetectionDataset: left out {int(bad.sum())} of {len(bad)} objects whose labels "
                f"cannot be right, the first: {findings[0]}",
                UserWarning,
                stacklevel=2,
            )
            table = table.without_objects(bad)
        self.table = table
        self.classes = table.classes
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.table.num_pictures

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``boxes`` float32 (N, 4)
            xyxy pixels, ``labels`` int64 (N,), ``image_id`` int, ``area`` float32 (N,),
            ``iscrowd`` int64 (N,), and ``masks`` uint8 (N, H, W) where the labels have them.

        Raises:
            IndexError: ``index`` is out of range.
            ValueError: The picture is damaged.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"DetectionDataset: expected index below {len(self)}, got {index}")
        index %= len(self)
        image = tv_tensors.Image(read_image(self.table.path(index), upright=True))
        target = self.target(index, (int(image.shape[1]), int(image.shape[2])))
        return (image, target) if self.transform is None else self.transform(image, target)

    def target(self, index: int, size: tuple[int, int]) -> dict[str, Any]:
        """The labels of a picture of the given height and width."""
        things = self.table.objects(index)
        corners = self.table.boxes[things]
        given = self.table.areas[things]
        own = (corners[:, 2:] - corners[:, :2]).prod(1)
        boxes = torch.from_numpy(corners.astype(np.float32))
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(self.table.labels[things].copy()),
            "image_id": int(self.table.image_ids[index]),
            "area": torch.from_numpy(np.where(np.isnan(given), own, given).astype(np.float32)),
            "iscrowd": torch.from_numpy(self.table.iscrowd[things].astype(np.int64)),
        }
        if self.table.masks is not None:
            masks = [_decode(self.table.masks[i], size) for i in range(things.start, things.stop)]
            stacked = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.uint8)
            target["masks"] = tv_tensors.Mask(stacked)
        return target


def _decode(mask: Any, size: tuple[int, int]) -> Tensor:
    """Of shape ``size``, uint8."""
    if mask is None:
        return torch.zeros(size, dtype=torch.uint8)
    if isinstance(mask, dict):
        return rle_to_masks([mask])[0].to(torch.uint8)
    return polygons_to_masks([mask], size)[0].to(torch.uint8)
