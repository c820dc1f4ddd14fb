"""Labels from plain Python lists or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from cvlib.boxes import box_convert
from cvlib.data.datasets.base import check_classes
from cvlib.data.formats.coco_entries import BadEntryError, parse_mask
from cvlib.data.formats.label_files import show
from cvlib.data.labels.table import LabelTable, TableBuilder
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
    """Makes a table of lists, one entry for each image.

    Args:
        images: P paths.
        boxes: P lists or arrays of shape (N, 4), pixels; ``[]`` for an image without objects.
        labels: P lists or arrays of shape (N,): integers in 0..K-1, or names of classes.
        classes: K names.
        masks: P lists of N masks, each polygons ``[[x1, y1, ...], ...]``, run lengths
            ``{"size": [height, width], "counts": ...}``, an array of shape (H, W) or ``None``.
        format: Of the boxes: ``"xyxy"`` corners, ``"xywh"`` corner and sides, ``"cxcywh"`` centre
            and sides.

    Returns:
        The labels; ``rows`` count the boxes of an image from 0.

    Raises:
        TypeError: ``classes`` is a string, a path is none, labels are neither integers nor names.
        ValueError: Lists of different lengths, shapes that do not fit, masks that are none, an
            unknown format or name, no class, or one twice.
    """
    names = check_classes("from_lists", classes)
    if format not in _FORMATS:
        raise ValueError(
            f"from_lists: expected format one of {', '.join(_FORMATS)}, got {format!r}"
        )
    for name, entries in (("boxes", boxes), ("labels", labels), ("masks", masks)):
        if entries is not None and len(entries) != len(images):
            raise ValueError(
                f"from_lists: expected {name} with an entry for each of {len(images)} images, "
                f"got {len(entries)}"
            )
    builder = TableBuilder("lists", Path.cwd(), names, "box")
    for i, image in enumerate(images):
        if not isinstance(image, str | Path):
            raise TypeError(f"from_lists: expected images[{i}] a path, got {type(image).__name__}")
        builder.add_image(image)
        corners = _corners(i, boxes[i], format)
        numbers = _labels(i, labels[i], names)
        own = [None] * len(corners) if masks is None else masks[i]
        if not len(corners) == len(numbers) == len(own):
            raise ValueError(
                f"from_lists: expected as many labels and masks as boxes in entry {i}, got "
                f"{len(corners)} boxes, {len(numbers)} labels, {len(own)} masks"
            )
        for j, (box, label, mask) in enumerate(zip(corners, numbers, own, strict=True)):
            builder.add_object(box, label, j, mask=_mask(i, j, mask))
    return builder.build()


_FORMATS = ("xyxy", "xywh", "cxcywh")


def _corners(place: int, boxes: ArrayLike, format: str) -> list[list[float]]:
    try:
        rows = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"from_lists: expected boxes[{place}] numbers of shape (N, 4), got {show(boxes)}"
        ) from None
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(
            f"from_lists: expected boxes[{place}] of shape (N, 4), got {rows.shape}; a single box "
            "is [[x1, y1, x2, y2]]"
        )
    return box_convert(torch.from_numpy(rows), format, "xyxy").tolist()


def _labels(place: int, labels: ArrayLike, classes: list[str]) -> list[int]:
    values = np.asarray(labels)
    if values.size == 0:
        return []
    if values.ndim != 1:
        raise ValueError(f"from_lists: expected labels[{place}] of shape (N,), got {values.shape}")
    if values.dtype.kind in "iu":
        return [int(value) for value in values]
    if values.dtype.kind != "U":
        raise TypeError(
            f"from_lists: expected labels[{place}] integers or names of classes, got {show(labels)}"
        )
    unknown = sorted(set(values.tolist()) - set(classes))
    if unknown:
        raise ValueError(
            f"from_lists: expected labels[{place}] among {', '.join(classes[:10])}, got "
            f"{', '.join(unknown)}"
        )
    return [classes.index(value) for value in values.tolist()]


def _mask(place: int, thing: int, mask: Any) -> Any:
    if mask is None or isinstance(mask, list | dict):
        try:
            return parse_mask(_plain(mask), (-1, -1))
        except BadEntryError as error:
            raise ValueError(f"from_lists: {error} in masks[{place}][{thing}]") from None
    pixels = np.asarray(mask)
    if pixels.ndim != 2 or pixels.dtype not in (np.bool_, np.uint8):
        raise ValueError(
            f"from_lists: expected masks[{place}][{thing}] polygons, run lengths or a bool or "
            f"uint8 array of shape (H, W), got {pixels.dtype} of shape {pixels.shape}"
        )
    return masks_to_rle(torch.from_numpy(pixels.astype(np.uint8))[None])[0]


def _plain(value: Any) -> Any:
    """As JSON has it: arrays, tuples and the bytes of pycocotools as lists and text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value
