"""Slow and obvious operators, written from their definitions in NumPy.

Values (offsets, decoded boxes, gradients) are computed in float64 and compared with a tolerance.
Decisions (what is suppressed, what is matched) are compared exactly, and their rule is stated in
the dtype of the boxes; so the IoU here is computed in that dtype too, in the order
``inter / (area_a + area_b - inter)`` with sides clamped at 0. NumPy rounds after every operation,
and never fuses two. The threshold is compared as a double.
"""

from __future__ import annotations

import numpy as np
import torch

# The one table: how far a floating-point result may be from the float64 oracle.
TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
}
SMALLEST_SIDE_RATIO = 1e-6  # from the docstring of encode_boxes


def to_numpy(tensor) -> np.ndarray:
    """Copy a tensor to NumPy; half types become float32, the dtype of the computation."""
    tensor = tensor.detach().cpu()
    return (
        tensor.float() if tensor.is_floating_point() and tensor.element_size() == 2 else tensor
    ).numpy()


def box_area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )


def iou_with_each(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box (4,) with each of (N, 4), in their dtype; 0 instead of NaN."""
    with np.errstate(all="ignore"):
        width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
        height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        iou = inter / (box_area(box) + box_area(boxes) - inter)
    return np.where(iou > 0, iou, np.zeros_like(iou))


def box_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    result = np.zeros((len(boxes1), len(boxes2)), boxes1.dtype)
    for i, box in enumerate(boxes1):
        result[i] = iou_with_each(box, boxes2)
    return result


def nms(boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=None) -> np.ndarray:
    """Visit boxes best first; a kept box suppresses those of its group above the threshold.

    Boxes or scores with a NaN are skipped, as on CUDA; the CPU refuses them.
    """
    labels = np.zeros(len(boxes), np.int64) if labels is None else labels
    image_ids = np.zeros(len(boxes), np.int64) if image_ids is None else image_ids
    alive = ~(np.isnan(boxes).any(1) | np.isnan(scores))
    keep, kept_of_image = [], {}
    for i in np.argsort(-scores, kind="stable"):
        if not alive[i]:
            continue
        image = int(image_ids[i])
        if kept_of_image.get(image, 0) == max_output:
            continue
        kept_of_image[image] = kept_of_image.get(image, 0) + 1
        keep.append(i)
        overlapping = iou_with_each(boxes[i], boxes).astype(np.float64) > iou_threshold
        alive &= ~(overlapping & (labels == labels[i]) & (image_ids == image_ids[i]))
    return np.array(keep, np.int64)


def match_anchors(anchors, gt_boxes, iou_threshold, is_real=None) -> np.ndarray:
    """Match the anchors of one image as in the docstring; ``is_real`` (M,) excludes padding."""
    num_anchors, num_gts = len(anchors), len(gt_boxes)
    if is_real is None:
        is_real = ~(gt_boxes == -1).all(1)
    matches = np.full(num_anchors, -1, np.int64)
    if num_gts == 0 or not is_real.any():
        return matches
    iou = box_iou(anchors, gt_boxes).astype(np.float64)
    iou[:, ~is_real] = -1
    unclaimed = iou.copy()
    for _ in range(min(num_anchors, int(is_real.sum()))):
        anchor, gt = divmod(int(unclaimed.argmax()), num_gts)  # the first: lowest anchor, lowest gt
        matches[anchor] = gt
        unclaimed[anchor, :] = -1
        unclaimed[:, gt] = -1
    for anchor in range(num_anchors):
        best = int(iou[anchor].argmax())
        if matches[anchor] == -1 and iou[anchor, best] >= iou_threshold:
            matches[anchor] = best
    return matches


def book_assignment(anchors, gt_boxes, iou_threshold) -> np.ndarray:
    """The book's algorithm in the book's order: threshold first, then the greedy loop overrides."""
    num_anchors, num_gts = len(anchors), len(gt_boxes)
    assigned = np.full(num_anchors, -1, np.int64)
    if num_gts == 0 or num_anchors == 0:
        return assigned
    matrix = box_iou(anchors, gt_boxes).astype(np.float64)
    for anchor in range(num_anchors):
        if matrix[anchor].max() >= iou_threshold:
            assigned[anchor] = matrix[anchor].argmax()
    discarded = -1.0
    for _ in range(num_gts):
        if matrix.max() == discarded:
            break  # more ground truths than anchors
        largest = int(matrix.argmax())
        anchor, gt = largest // num_gts, largest % num_gts
        assigned[anchor] = gt
        matrix[:, gt] = discarded
        matrix[anchor, :] = discarded
    return assigned


def encode_boxes(boxes, anchors, variances) -> np.ndarray:
    boxes, anchors = boxes.astype(np.float64), anchors.astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    anchor_width, anchor_height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    dx = ((boxes[:, 0] + boxes[:, 2]) / 2 - (anchors[:, 0] + anchors[:, 2]) / 2) / anchor_width
    dy = ((boxes[:, 1] + boxes[:, 3]) / 2 - (anchors[:, 1] + anchors[:, 3]) / 2) / anchor_height
    dw = np.log(np.maximum(width / anchor_width, SMALLEST_SIDE_RATIO))
    dh = np.log(np.maximum(height / anchor_height, SMALLEST_SIDE_RATIO))
    return np.stack([dx, dy, dw, dh], axis=1) / np.asarray(variances, np.float64)


def decode_boxes(offsets, anchors, variances) -> np.ndarray:
    anchors = anchors.astype(np.float64)
    dx, dy, dw, dh = np.moveaxis(offsets.astype(np.float64) * np.asarray(variances), -1, 0)
    anchor_width, anchor_height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    cx = (anchors[:, 0] + anchors[:, 2]) / 2 + dx * anchor_width
    cy = (anchors[:, 1] + anchors[:, 3]) / 2 + dy * anchor_height
    width, height = anchor_width * np.exp(dw), anchor_height * np.exp(dh)
    return np.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], axis=-1)


def multibox_target(anchors, labels, iou_threshold, variances):
    """Offsets (B, 4A) in float64, mask (B, 4A) and classes (B, A)."""
    num_images, num_anchors = len(labels), len(anchors)
    offsets = np.zeros((num_images, num_anchors, 4))
    mask = np.zeros((num_images, num_anchors, 4))
    classes = np.zeros((num_images, num_anchors), np.int64)
    for image, rows in enumerate(labels):
        matches = match_anchors(anchors, rows[:, 1:], iou_threshold, is_real=rows[:, 0] >= 0)
        for anchor, gt in enumerate(matches):
            if gt >= 0:
                pair = rows[gt : gt + 1, 1:], anchors[anchor : anchor + 1]
                offsets[image, anchor] = encode_boxes(*pair, variances)[0]
                mask[image, anchor] = 1
                classes[image, anchor] = int(rows[gt, 0]) + 1
    flat = num_images, 4 * num_anchors
    return offsets.reshape(flat), mask.reshape(flat), classes


def multibox_detection(class_probs, offset_preds, anchors, nms_threshold, pos_threshold, variances):
    """Rows (B, A, 6). Boxes are decoded in float64 and then rounded: see distance_to_threshold."""
    num_images, _, num_anchors = class_probs.shape
    rows = np.zeros((num_images, num_anchors, 6))
    for image in range(num_images):
        confidence = class_probs[image, 1:].max(0)
        classes = class_probs[image, 1:].argmax(0).astype(np.float64)  # the first: the lowest class
        boxes = decode_boxes(offset_preds[image].reshape(num_anchors, 4), anchors, variances)
        keep = nms(boxes.astype(anchors.dtype), confidence, nms_threshold)
        dropped = np.setdiff1d(np.arange(num_anchors), keep)
        classes[dropped] = -1
        confidence = confidence.astype(np.float64)
        background = confidence < pos_threshold
        classes[background] = -1
        confidence[background] = 1 - confidence[background]
        order = np.concatenate([keep, dropped])
        rows[image] = np.column_stack([classes, confidence, boxes])[order]
    return rows


def distance_to_threshold(offset_preds, anchors, nms_threshold, variances) -> float:
    """Smallest distance of an IoU of two decoded boxes from the threshold.

    Near 0, rounding in the decoding may decide either way.
    """
    apart = ~np.eye(len(anchors), dtype=bool)
    distance = np.inf
    for offsets in offset_preds:
        boxes = decode_boxes(offsets.reshape(-1, 4), anchors, variances)
        gaps = np.abs(box_iou(boxes, boxes)[apart] - nms_threshold)
        distance = min(distance, float(gaps.min(initial=np.inf)))
    return distance


def multibox_prior(feature_size, sizes, ratios) -> np.ndarray:
    """Anchors of the book: all sizes with one ratio, then one size with the other ratios."""
    height, width = feature_size
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    anchors = []
    for row in range(height):
        for column in range(width):
            cx, cy = (column + 0.5) / width, (row + 0.5) / height
            for size, ratio in shapes:
                half_width = size * np.sqrt(ratio) * height / width / 2
                half_height = size / np.sqrt(ratio) / 2
                anchors.append(
                    [cx - half_width, cy - half_height, cx + half_width, cy + half_height]
                )
    return np.array(anchors)


def random_boxes(rng: np.random.Generator, n: int, *, size=100.0, extent=1000.0) -> np.ndarray:
    """Boxes (n, 4) in float64 with corners in order and positive sides."""
    corner = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(size / 10, size, (n, 2))], axis=1)
