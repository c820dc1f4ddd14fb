"""Labels from Python lists or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike

from cvlib.boxes import box_convert
from cvlib.data.datasets.base import check_classes
from cvlib.data.formats.coco_entries import BadEntryError, parse_mask
from cvlib.data.formats.label_files import short_repr
from cvlib.data.labels.table import LabelTable, Mask, TableBuilder
from cvlib.ops.rle import masks_to_rle

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


def read_lists(
    images: Sequence[str | Path],
    boxes: Sequence[ArrayLike],
    labels: Sequence[ArrayLike],
    classes: Sequence[str],
    masks: Sequence[Sequence[Any]] | None = None,
    format: BoxFormat = "xyxy",
) -> LabelTable:
    """Build a table from lists with one entry per image.

    Args:
        images: P image paths.
        boxes: P lists or arrays of shape (N, 4), in pixels; ``[]`` for an image without objects.
        labels: P lists or arrays of shape (N,): integers in 0..K-1, or class names.
        classes: K class names.
        masks: P lists of N masks, each polygons ``[[x1, y1, ...], ...]``, run lengths
            ``{"size": [height, width], "counts": ...}``, an array of shape (H, W) or ``None``.
        format: Box format: ``"xyxy"`` corners, ``"xywh"`` top left corner and size, ``"cxcywh"``
            centre and size.

    Returns:
        The labels; ``rows`` are the indices of the boxes of an image.

    Raises:
        TypeError: ``classes`` is a string, an image is not a path, or labels are neither integers
            nor names.
        ValueError: Lengths or shapes differ, a mask is invalid, ``format`` or a class name is
            unknown, or ``classes`` is empty or has duplicates.
    """
    names = check_classes("from_lists", classes)
    if format not in get_args(BoxFormat):
        raise ValueError(
            f"from_lists: expected `format` to be one of {', '.join(get_args(BoxFormat))}, got "
            f"{format!r}"
        )
    for name, entries in (("boxes", boxes), ("labels", labels), ("masks", masks)):
        if entries is not None and len(entries) != len(images):
            raise ValueError(
                f"from_lists: expected `{name}` to have an entry for each of {len(images)} images, "
                f"got {len(entries)}"
            )
    builder = TableBuilder("lists", Path.cwd(), names, "box")
    for i, image in enumerate(images):
        if not isinstance(image, str | Path):
            raise TypeError(
                f"from_lists: expected `images[{i}]` to be a path, got {type(image).__name__}"
            )
        builder.add_image(image)
        corners = _parse_boxes(i, boxes[i], format)
        indices = _parse_labels(i, labels[i], names)
        entry_masks = [None] * len(corners) if masks is None else masks[i]
        if not len(corners) == len(indices) == len(entry_masks):
            raise ValueError(
                f"from_lists: expected equally many boxes, labels and masks in entry {i}, got "
                f"{len(corners)} boxes, {len(indices)} labels, {len(entry_masks)} masks"
            )
        for j, (box, label, mask) in enumerate(zip(corners, indices, entry_masks, strict=True)):
            builder.add_object(box, label, j, mask=_parse_mask(f"masks[{i}][{j}]", mask))
    return builder.build()


def _parse_boxes(index: int, boxes: ArrayLike, format: str) -> list[list[float]]:
    try:
        rows = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"from_lists: expected `boxes[{index}]` to be numbers of shape (N, 4), got "
            f"{short_repr(boxes)}"
        ) from None
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(
            f"from_lists: expected `boxes[{index}]` of shape (N, 4), got {rows.shape}; a single "
            "box is [[x1, y1, x2, y2]]"
        )
    return box_convert(torch.from_numpy(rows), format, "xyxy").tolist()


def _parse_labels(index: int, labels: ArrayLike, classes: list[str]) -> list[int]:
    values = np.asarray(labels)
    if values.size == 0:
        return []
    if values.ndim != 1:
        raise ValueError(
            f"from_lists: expected `labels[{index}]` of shape (N,), got {values.shape}"
        )
    if values.dtype.kind in "iu":
        return [int(value) for value in values]
    if values.dtype.kind != "U":
        raise TypeError(
            f"from_lists: expected `labels[{index}]` to be integers or class names, got "
            f"{short_repr(labels)}"
        )
    unknown = sorted(set(values.tolist()) - set(classes))
    if unknown:
        raise ValueError(
            f"from_lists: expected `labels[{index}]` to be among {', '.join(classes[:10])}, got "
            f"{', '.join(unknown)}"
        )
    return [classes.index(value) for value in values.tolist()]


def _parse_mask(argument: str, mask: Any) -> Mask:
    if mask is None or isinstance(mask, list | dict):
        try:
            return parse_mask(_to_json(mask), (-1, -1))
        except BadEntryError as error:
            raise ValueError(f"from_lists: {error} in `{argument}`") from None
    pixels = np.asarray(mask)
    if pixels.ndim != 2 or pixels.dtype not in (np.bool_, np.uint8):
        raise ValueError(
            f"from_lists: expected `{argument}` to be polygons, run lengths or a bool or uint8 "
            f"array of shape (H, W), got {pixels.dtype} of shape {pixels.shape}"
        )
    return masks_to_rle(torch.from_numpy(pixels.astype(np.uint8))[None])[0]


def _to_json(value: Any) -> Any:
    """Convert arrays and tuples to lists, and the bytes of pycocotools to text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value
