"""Slow and obvious operators on masks, written from their definitions in NumPy.

Positions are computed in float64. Interpolation decides which pixels belong to a mask, so its rule
is stated in the dtype of the masks: along x, then along y, each time ``a + (b - a) * fraction``.
"""

from __future__ import annotations

import math

import numpy as np


def paste_masks(masks, boxes, image_size):
    """Values (N, H, W) in the dtype of the masks, and which pixels lie in their box."""
    height, width = image_size
    values = np.zeros((len(masks), height, width), masks.dtype)
    inside = np.zeros(values.shape, bool)
    for n, (mask, box) in enumerate(zip(masks, boxes.astype(np.float64), strict=True)):
        for y, x in pixels_of(box, image_size):
            inside[n, y, x] = True
            values[n, y, x] = sample(mask, box, y, x)
    return values, inside


def pixels_of(box, image_size):
    """Pixels (y, x) whose centres lie in a box that has an area and finite sides."""
    x1, y1, x2, y2 = box
    with np.errstate(all="ignore"):
        sides = np.array([x2 - x1, y2 - y1])
    if not ((sides > 0) & np.isfinite(sides)).all():
        return
    for y in range(image_size[0]):
        for x in range(image_size[1]):
            if x1 <= x + 0.5 <= x2 and y1 <= y + 0.5 <= y2:
                yield y, x


def sample(mask, box, y, x):
    """The mask at the centre of one pixel."""
    height, width = mask.shape
    x1, y1, x2, y2 = box
    column = (x + 0.5 - x1) / (x2 - x1) * width - 0.5
    row = (y + 0.5 - y1) / (y2 - y1) * height - 0.5
    low_x, low_y = math.floor(column), math.floor(row)
    along_x, along_y = mask.dtype.type(column - low_x), mask.dtype.type(row - low_y)

    def cell(k, j):
        is_cell = 0 <= k < height and 0 <= j < width
        return mask[k, j] if is_cell else mask.dtype.type(0)

    def along_row(k):
        return cell(k, low_x) + (cell(k, low_x + 1) - cell(k, low_x)) * along_x

    return along_row(low_y) + (along_row(low_y + 1) - along_row(low_y)) * along_y


def masks_to_boxes(masks):
    boxes = np.zeros((len(masks), 4), np.float32)
    for n, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        if len(rows):
            boxes[n] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes


def mask_iou(masks1, masks2, is_crowd=None):
    result = np.zeros((len(masks1), len(masks2)), np.float32)
    for i, a in enumerate(masks1):
        for j, b in enumerate(masks2):
            shared = int(np.sum((a != 0) & (b != 0)))
            union = int(np.sum((a != 0) | (b != 0)))
            if is_crowd is not None and is_crowd[j]:
                union = int(np.sum(a != 0))
            result[i, j] = shared / union if union else 0
    return result


def rle_counts(mask):
    """Lengths of the runs of zeros and ones in turn, column after column."""
    counts, current = [0], False
    for value in mask.T.ravel():
        if bool(value) != current:
            counts.append(0)
            current = not current
        counts[-1] += 1
    return counts


def compress(counts):
    """Encode counts as COCO's text: 5 bits in each character, from the fourth on as differences."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            group, value = value & 31, value >> 5
            is_last = value == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if is_last else 32))
            if is_last:
                break
    return text
