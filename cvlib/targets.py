"""Training targets of anchors for a batch of ground truths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cvlib._checks import check_box_values, check_entries
from cvlib.ops.multibox import multibox_target


class AnchorTargets(NamedTuple):
    """Training targets of every anchor of a batch.

    Attributes:
        offsets: Shape (B, A, 4), float32; 0 where the anchor is background.
        classes: Shape (B, A), int64; 0 is background, k + 1 is class k.
    """

    offsets: Tensor
    classes: Tensor

    @property
    def positive(self) -> Tensor:
        """Whether each anchor is matched to an object, shape (B, A)."""
        return self.classes > 0


_INDEX_ADVICE = "the indices are the image in the batch and its object"


def check_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, image_size: tuple[int, int]
) -> None:
    """Raises ValueError for ground truths that would silently spoil training.

    Args:
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels.
        labels: Shape (B, M), int64, in 0..K-1; -1 is padding.
        num_classes: K.
        image_size: Height and width in pixels.

    Raises:
        ValueError: Labels out of range, NaN, corners out of order, boxes that look normalised to
            0..1, or boxes outside the image. The message names image and object.
    """
    height, width = image_size
    is_object = labels >= 0
    filled = torch.where(is_object[..., None], boxes, 0)
    is_class = (labels >= -1) & (labels < num_classes)
    requirement = f"be in 0..{num_classes - 1} (-1 for padding)"
    check_entries("check_targets", "labels", labels, is_class, requirement, _INDEX_ADVICE)
    check_box_values("check_targets", "boxes", filled)
    # A box within the first pixel must be normalised.
    is_tiny = is_object & (filled.amax(-1) <= 1) & (filled.amax(-1) > 0)
    limit = boxes.new_tensor([width, height] * 2)
    is_inside = ((filled >= -1) & (filled <= limit + 1)).all(-1)
    has_area = ~is_object | (filled[..., 2:] > filled[..., :2]).all(-1)
    for is_good, requirement in (
        (
            ~is_tiny,
            f"be in pixels, not normalised to 0..1 (multiply x by {width} and y by {height})",
        ),
        (is_inside, f"be inside the image {image_size} (height, width)"),
        (has_area, "have positive width and height"),
    ):
        check_entries("check_targets", "boxes", boxes, is_good, requirement, _INDEX_ADVICE)


def assign_targets(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image_size: tuple[int, int],
    *,
    iou_threshold: float = 0.5,
) -> AnchorTargets:
    """Match a batch of ground truths in pixels to normalised anchors.

    Args:
        anchors: Shape (A, 4), float32, normalised to 0..1.
        boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
        labels: Shape (B, M), int64, in 0..K-1, padded with -1.
        image_size: Height and width in pixels.
        iou_threshold: See `multibox_target`.

    Returns:
        Target offsets and classes of every anchor.
    """
    scale = boxes.new_tensor([image_size[1], image_size[0]] * 2)
    rows = torch.cat([labels[..., None].to(boxes.dtype), boxes / scale], dim=-1)  # (B, M, 5)
    offsets, _, classes = multibox_target(anchors, rows, iou_threshold=iou_threshold)
    return AnchorTargets(offsets.unflatten(1, (-1, 4)), classes)
