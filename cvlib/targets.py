"""From a batch of ground truths to what the anchors shall learn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cvlib._checks import check_box_values
from cvlib.ops.multibox import multibox_target


class AnchorTargets(NamedTuple):
    """What every anchor of a batch shall predict.

    Attributes:
        offsets: Shape (B, A, 4), float32; 0 where the anchor is background.
        classes: Shape (B, A), int64; 0 is background, k + 1 is class k.
    """

    offsets: Tensor
    classes: Tensor

    @property
    def positive(self) -> Tensor:
        """Shape (B, A), bool: anchors that are matched to an object."""
        return self.classes > 0


def check_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, image_size: tuple[int, int]
) -> None:
    """Refuses ground truths that would train a model wrongly without a word.

    Args:
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels.
        labels: Shape (B, M), int64, in 0..K-1; -1 is padding.
        num_classes: K.
        image_size: Height and width in pixels.

    Raises:
        ValueError: Labels out of range, NaN, corners out of order, boxes that look normalised to
            0..1, or boxes outside of the image. The message names image and row.
    """
    valid = labels >= 0
    _raise_first(
        (labels < -1) | (labels >= num_classes),
        labels,
        f"labels in 0..{num_classes - 1} (-1 pads)",
        "labels",
    )
    filled = torch.where(valid[..., None], boxes, 0)
    check_box_values("check_targets", "boxes", filled)
    # Whatever lies within the first pixel is a fraction of the image.
    _raise_first(
        valid & (filled.amax(-1) <= 1) & (filled.amax(-1) > 0),
        boxes,
        "boxes in pixels, not normalised to 0..1 (multiply x by "
        f"{image_size[1]} and y by {image_size[0]})",
        "boxes",
    )
    limit = boxes.new_tensor([image_size[1], image_size[0]] * 2)
    outside = ((filled < -1) | (filled > limit + 1)).any(-1)
    _raise_first(outside, boxes, f"boxes inside the image {image_size} (height, width)", "boxes")
    sides = filled[..., 2:] - filled[..., :2]
    _raise_first(
        valid & (sides <= 0).any(-1), boxes, "boxes with positive width and height", "boxes"
    )


def _raise_first(bad: Tensor, values: Tensor, requirement: str, argument: str) -> None:
    found = bad.nonzero()
    if not len(found):
        return
    image, row = found[0].tolist()
    raise ValueError(
        f"check_targets: expected {requirement}, got {argument}[{image}, {row}] = "
        f"{values[image, row].tolist()} (image {image} of the batch, object {row})"
    )


def assign_targets(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image_size: tuple[int, int],
    *,
    iou_threshold: float = 0.5,
) -> AnchorTargets:
    """Matches a batch of ground truths in pixels to normalised anchors.

    Args:
        anchors: Shape (A, 4), float32, normalised to 0..1.
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
        labels: Shape (B, M), int64, in 0..K-1, padded with -1.
        image_size: Height and width in pixels.
        iou_threshold: See `multibox_target`.

    Returns:
        Offsets and classes of every anchor.
    """
    scale = boxes.new_tensor([image_size[1], image_size[0]] * 2)
    rows = torch.cat([labels[..., None].to(boxes.dtype), boxes / scale], dim=-1)  # (B, M, 5)
    offsets, _, classes = multibox_target(anchors, rows, iou_threshold=iou_threshold)
    return AnchorTargets(offsets.unflatten(1, (-1, 4)), classes)
