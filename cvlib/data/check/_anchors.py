"""Boxes of a set against the anchors of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib.data.findings import Finding
from cvlib.data.table import LabelTable
from cvlib.ops import max_iou

# Of a model that does not say otherwise; the book's.
_IOU_THRESHOLD = 0.5
# A larger share without an anchor is worth a warning.
_WORTH_A_WARNING = 0.1
# Boxes compared at once.
_CHUNK = 4096
# Evenly drawn from larger sets: the share is then known to a fifth of a per cent.
_MOST_BOXES = 50_000


def check_anchors(table: LabelTable, sizes: NDArray[np.int64], model: Any) -> list[Finding]:
    """Tells which share of the boxes no anchor of a model overlaps enough.

    Args:
        table: Labels.
        sizes: Shape (P, 2): height and width of the pictures; those of unknown size are left out.
        model: With ``anchors`` (A, 4), xyxy in 0..1, and ``image_size``; others are not looked at.
            Its ``iou_threshold`` counts where it has one, else .5.

    Note:
        Pictures are resized to the model's ``image_size`` without regard to their shape, as
        training does.
    """
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.dim() != 2:
        return []
    threshold = float(getattr(model, "iou_threshold", _IOU_THRESHOLD))
    boxes, sides = _normalise(table, sizes)
    if not len(boxes):
        return []
    best = _best_ious(boxes, anchors, model.image_size)
    missed = best < threshold
    if not missed.any():
        return []
    share = float(missed.mean())
    height, width = model.image_size
    typical = np.median(sides[missed], axis=0) * [width, height]
    ends = anchors.detach().cpu().float()
    least = ((ends[:, 2:] - ends[:, :2]).prod(1).sqrt().min() * (height * width) ** 0.5).item()
    return [
        Finding(
            "warning" if share > _WORTH_A_WARNING else "info",
            "no-anchor",
            f"expected an anchor with an IoU of {threshold:g} for each box, got none for "
            f"{share:.1%} of {len(best)} boxes; half of them are smaller than "
            f"{typical[0]:.0f} x {typical[1]:.0f} pixels in the model's {width} x {height}, and "
            f"its smallest anchors are {least:.0f} pixels",
            file=table.label_file(0),
            fix=_advise(sides[missed], least / (height * width) ** 0.5),
        )
    ]


def _normalise(
    table: LabelTable, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes in 0..1 and their sides, of objects that are in order."""
    frames = sizes[table.picture_of_object()][:, [1, 0, 1, 0]].astype(np.float64)
    good = (frames[:, 0] > 0) & np.isfinite(table.boxes).all(1) & ~table.iscrowd
    good &= (table.boxes[:, 2:] > table.boxes[:, :2]).all(1)
    chosen = np.flatnonzero(good)
    if len(chosen) > _MOST_BOXES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_BOXES).astype(np.int64)]
    boxes = table.boxes[chosen] / frames[chosen]
    return boxes, boxes[:, 2:] - boxes[:, :2]


def _best_ious(
    boxes: NDArray[np.float64], anchors: Tensor, image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """The IoU of each box with its best anchor, in the model's pixels."""
    scale = torch.tensor([image_size[1], image_size[0]] * 2, dtype=torch.float32)
    ours = torch.from_numpy(boxes).float() * scale
    theirs = anchors.detach().cpu().float() * scale
    best = [max_iou(chunk, theirs)[0] for chunk in ours.split(_CHUNK)]
    return torch.cat(best).double().numpy()


def _advise(sides: NDArray[np.float64], least: float) -> str:
    small = np.sqrt(sides.prod(1)) < least
    if small.mean() > 0.5:
        return "use a larger image_size, smaller anchors, or cut the pictures into tiles"
    ratios = sides[:, 0] / sides[:, 1]
    if (np.maximum(ratios, 1 / ratios) > 2).mean() > 0.5:
        return "add anchors of more elongated shapes"
    return "add anchors of sizes between those there are"
