"""Multibox operators of Dive into Deep Learning: training targets and detections of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    check_box_values,
    check_boxes,
    check_entries,
    check_fraction,
    check_same_dtype_and_device,
    check_shape,
    check_shape_matches,
    check_tensor,
    is_value_error,
    mismatch,
)
from cvlib._extension import define, refuse_gradient
from cvlib.box_coding import VARIANCES, check_variances, decode_boxes, encode_boxes
from cvlib.ops._similarity import as_real
from cvlib.ops.matching import match_one_image
from cvlib.ops.nms import _nms_reference


def multibox_target(
    anchors: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float = 0.5,
    variances: tuple[float, float, float, float] = VARIANCES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign a class and box offsets to every anchor of every image as training targets.

    Anchors are matched by the rule of `match_anchors`. Matched anchors get the class of their
    ground truth plus one and the offsets of `encode_boxes`; the others are background: class 0,
    offsets and mask 0.

    Args:
        anchors: Shape (A, 4) or (1, A, 4), floating point, (x1, y1, x2, y2), normalised to
            0..1 in the book.
        labels: Shape (B, M, 5), same dtype and device: class in 0..K-1, then a box in the unit of
            the anchors. A row with a negative class is padding.
        iou_threshold: In [0, 1]; minimum IoU of a matched anchor that no ground truth has claimed.
        variances: Scales of the four offsets.

    Returns:
        A tuple of offsets (B, 4A), mask (B, 4A), 1 where an offset counts and 0 elsewhere, both in
        the dtype of the anchors (float32 for half types), and classes (B, A), int64, 0 for
        background.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, a threshold outside [0, 1]; on the CPU also a
            NaN, corners out of order, or labels in pixels with normalised anchors (or the reverse).
        RuntimeError: On backward; targets are not differentiable.

    Note:
        Deterministic. Needs one IoU matrix of an image per thread in addition to the result.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.4.3.

    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
        >>> offsets, mask, classes = multibox_target(
        ...     anchors, torch.tensor([[[2.0, 0.5, 0.5, 1.0, 1.0]]])
        ... )
        >>> classes
        tensor([[0, 3]])
    """
    anchors = _check_anchors("multibox_target", anchors)
    check_tensor("multibox_target", "labels", labels)
    check_shape("multibox_target", "labels", labels, "B", "M", 5)
    check_same_dtype_and_device("multibox_target", "anchors", anchors, "labels", labels)
    check_fraction("multibox_target", "iou_threshold", iou_threshold)
    check_variances("multibox_target", variances)
    try:
        return torch.ops.cvlib.multibox_target(anchors, labels, iou_threshold, *variances)
    except RuntimeError as error:
        if is_value_error(error):
            _check_target_values(anchors, labels)
        raise


def multibox_detection(
    class_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    *,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
    variances: tuple[float, float, float, float] = VARIANCES,
) -> Tensor:
    """Turn predictions for anchors into detections: best class, decoding, suppression.

    As in the book, suppression runs over the boxes of all classes together. Rows with class -1 were
    suppressed or are background. In background rows (confidence below ``pos_threshold``) the second
    column is one minus the confidence.

    Args:
        class_probs: Shape (B, K + 1, A), floating point, background first.
        offset_preds: Shape (B, 4A), same dtype and device.
        anchors: Shape (A, 4) or (1, A, 4), same dtype and device, (x1, y1, x2, y2).
        nms_threshold: In [0, 1]; a box whose IoU with a better one is greater is suppressed.
        pos_threshold: In [0, 1]; minimum confidence of a detection.
        variances: Scales of the four offsets.

    Returns:
        Shape (B, A, 6), float32 for half types: class in 0..K-1 or -1, confidence, x1, y1, x2, y2
        in the unit of the anchors. Boxes kept by suppression come first, best first (ties: lowest
        anchor); the others follow in the order of their anchors.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices, thresholds outside [0, 1].
        RuntimeError: On backward; suppression is not differentiable.

    Note:
        Deterministic. An anchor whose confidence or box holds a NaN is never a detection.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.4.4.

    Example:
        >>> anchors = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.6]])
        >>> probs = torch.tensor([[[0.2, 0.1], [0.8, 0.9]]])
        >>> multibox_detection(probs, torch.zeros(1, 8), anchors)
        tensor([[[ 0.0000,  0.9000,  0.1000,  0.1000,  0.5000,  0.6000],
                 [-1.0000,  0.8000,  0.1000,  0.1000,  0.5000,  0.5000]]])
    """
    name = "multibox_detection"
    anchors = _check_anchors(name, anchors)
    check_tensor(name, "class_probs", class_probs)
    check_tensor(name, "offset_preds", offset_preds)
    check_shape(name, "class_probs", class_probs, "B", "K + 1", "A")
    batch, classes, count = class_probs.shape
    if classes < 2 or count != anchors.shape[0]:
        requirement = f"have shape (B, K + 1, A) with K >= 1 and A = {len(anchors)} as in `anchors`"
        actual = tuple(class_probs.shape)
        raise ValueError(mismatch(name, "class_probs", requirement, actual))
    check_shape_matches(name, "offset_preds", offset_preds, (batch, 4 * count), "class_probs")
    check_same_dtype_and_device(name, "anchors", anchors, "class_probs", class_probs)
    check_same_dtype_and_device(name, "anchors", anchors, "offset_preds", offset_preds)
    check_fraction(name, "nms_threshold", nms_threshold)
    check_fraction(name, "pos_threshold", pos_threshold)
    check_variances(name, variances)
    return torch.ops.cvlib.multibox_detection(
        class_probs, offset_preds, anchors, nms_threshold, pos_threshold, *variances
    )


# Classes are stored as floating-point numbers; larger ones would not be exact in float32.
_LARGEST_CLASS = 2**24


def _check_anchors(function: str, anchors: Tensor) -> Tensor:
    if isinstance(anchors, Tensor) and anchors.dim() == 3 and anchors.shape[0] == 1:
        anchors = anchors[0]
    check_boxes(function, "anchors", anchors, "A", 4)
    return anchors


def _check_target_values(anchors: Tensor, labels: Tensor) -> None:
    check_box_values("multibox_target", "anchors", anchors)
    labels = labels.detach()
    classes = labels[..., 0]
    is_class = (classes < 0) | ((classes == classes.floor()) & (classes <= _LARGEST_CLASS))
    requirement = "hold integers 0..K-1 (-1 for padding)"
    check_entries("multibox_target", "labels[..., 0]", classes, is_class, requirement)
    padding = labels[..., :1] < 0
    boxes = torch.where(padding, 0, labels[..., 1:])
    check_box_values("multibox_target", "labels[..., 1:]", boxes)
    _check_units(anchors, boxes[~padding[..., 0]])


# Normalised anchors may extend beyond the image, but boxes this large must be in pixels.
_LARGEST_NORMALISED = 2.0
_SMALLEST_PIXELS = 8.0


def _check_units(anchors: Tensor, boxes: Tensor) -> None:
    """Raises ValueError if only one of anchors and boxes (without padding) is normalised."""
    if not len(anchors) or not len(boxes):
        return
    anchor_extent, box_extent = float(anchors.abs().max()), float(boxes.abs().max())
    if anchor_extent <= _LARGEST_NORMALISED and box_extent > _SMALLEST_PIXELS:
        looks, actual = "normalised to 0..1", f"pixels (largest {box_extent:g})"
        advice = "divide x by the image's width and y by its height"
    elif anchor_extent > _SMALLEST_PIXELS and box_extent <= 1:
        looks, actual = "like pixels", f"boxes normalised to 0..1 (largest {box_extent:g})"
        advice = "multiply x by the image's width and y by its height"
    else:
        return
    requirement = (
        f"be in the units of `anchors`, which look {looks} (largest coordinate {anchor_extent:g})"
    )
    raise ValueError(mismatch("multibox_target", "labels[..., 1:]", requirement, actual, advice))


def _multibox_target_reference(
    anchors: Tensor,
    labels: Tensor,
    iou_threshold: float,
    variance_x: float,
    variance_y: float,
    variance_w: float,
    variance_h: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if anchors.device.type == "cpu":
        _check_target_values(anchors, labels)
    anchors, labels = as_real(anchors), as_real(labels)
    variances = (variance_x, variance_y, variance_w, variance_h)
    batch, count = len(labels), len(anchors)
    offsets = anchors.new_zeros(batch, count, 4)
    mask = anchors.new_zeros(batch, count, 4)
    classes = torch.zeros(batch, count, dtype=torch.int64, device=anchors.device)
    for i, rows in enumerate(labels):
        rows = rows[rows[:, 0] >= 0]
        matched = match_one_image(anchors, rows[:, 1:], iou_threshold)
        (positive,) = (matched >= 0).nonzero(as_tuple=True)
        gt = rows[matched[positive]]
        offsets[i, positive] = encode_boxes(gt[:, 1:], anchors[positive], variances=variances)
        mask[i, positive] = 1
        classes[i, positive] = gt[:, 0].long() + 1
    return offsets.flatten(1), mask.flatten(1), classes


def _multibox_target_fake(
    anchors: Tensor, labels: Tensor, iou_threshold: float, *variances: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, count = labels.shape[0], anchors.shape[0]
    offsets = as_real(anchors).new_empty(batch, 4 * count)
    return offsets, torch.empty_like(offsets), anchors.new_empty(batch, count, dtype=torch.int64)


def _multibox_detection_reference(
    class_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float,
    pos_threshold: float,
    variance_x: float,
    variance_y: float,
    variance_w: float,
    variance_h: float,
) -> Tensor:
    class_probs, anchors = as_real(class_probs), as_real(anchors)
    offsets = as_real(offset_preds).unflatten(1, (len(anchors), 4))
    variances = (variance_x, variance_y, variance_w, variance_h)
    results = anchors.new_empty(len(class_probs), len(anchors), 6)
    for result, probabilities, offset in zip(results, class_probs, offsets, strict=True):
        confidence, label = probabilities[1:].max(dim=0)
        boxes = decode_boxes(offset, anchors, variances=variances)
        is_valid = ~(boxes.isnan().any(1) | confidence.isnan())
        (valid,) = is_valid.nonzero(as_tuple=True)
        kept = valid[_nms_reference(boxes[valid], confidence[valid], None, None, nms_threshold, -1)]
        is_kept = torch.zeros_like(is_valid).index_fill_(0, kept, True)
        order = torch.cat([kept, (~is_kept).nonzero(as_tuple=True)[0]])
        low = confidence.double() < pos_threshold
        label = torch.where(is_kept & ~low, label, -1).to(anchors.dtype)
        confidence = torch.where(low, 1 - confidence, confidence)
        result.copy_(torch.cat([label[:, None], confidence[:, None], boxes], dim=1)[order])
    return results


def _multibox_detection_fake(
    class_probs: Tensor, offset_preds: Tensor, anchors: Tensor, *settings: float
) -> Tensor:
    return as_real(anchors).new_empty(class_probs.shape[0], anchors.shape[0], 6)


_VARIANCE_SCHEMA = "float variance_x, float variance_y, float variance_w, float variance_h"
define(
    f"multibox_target(Tensor anchors, Tensor labels, float iou_threshold, {_VARIANCE_SCHEMA}) "
    "-> (Tensor, Tensor, Tensor)",
    _multibox_target_reference,
    _multibox_target_fake,
)
define(
    "multibox_detection(Tensor class_probs, Tensor offset_preds, Tensor anchors, "
    f"float nms_threshold, float pos_threshold, {_VARIANCE_SCHEMA}) -> Tensor",
    _multibox_detection_reference,
    _multibox_detection_fake,
)
refuse_gradient("multibox_target")
refuse_gradient("multibox_detection")
