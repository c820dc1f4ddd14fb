"""Parse single values of COCO entries: boxes, masks, ids and sizes."""

from __future__ import annotations

from typing import Any, TypeGuard

from cvlib.data.formats.label_files import short_repr
from cvlib.data.labels.table import Mask

_LARGEST_ID = 2**63 - 1


class BadEntryError(Exception):
    """An invalid annotation, with the code and the fix of its finding."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def parse_box(bbox: Any, mask: Mask) -> tuple[float, float, float, float]:
    """Return ``[x, y, width, height]`` as (x1, y1, x2, y2), or the box of the mask without one."""
    if bbox is None or bbox == []:
        if mask is None:
            raise BadEntryError("missing-box", "expected a bbox or a segmentation, got neither")
        return _box_of_mask(mask)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise BadEntryError(
            "bad-box",
            f"expected `bbox` to be four numbers [x, y, width, height], got {short_repr(bbox)}",
            "write [x, y, width, height] of an upright box, as numbers without quotes",
        )
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise BadEntryError("bad-box", "expected `bbox` in pixels, got huge numbers") from None
    return x, y, x + width, y + height


def _box_of_mask(mask: Mask) -> tuple[float, float, float, float]:
    if isinstance(mask, dict):
        from cvlib.ops.masks import masks_to_boxes
        from cvlib.ops.rle import rle_to_masks

        try:
            x1, y1, x2, y2 = masks_to_boxes(rle_to_masks([mask]))[0].tolist()
        except (TypeError, ValueError) as error:
            raise BadEntryError("bad-mask", str(error)) from None
        return x1, y1, x2, y2
    xs = [x for polygon in mask or () for x in polygon[::2]]
    ys = [y for polygon in mask or () for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def parse_mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """Check the form of a mask.

    The sum of the run lengths is checked later, when the mask is decoded.

    Args:
        segmentation: Polygons, run lengths or None.
        size: (height, width) of the image; (-1, -1) if unknown.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return _parse_run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise BadEntryError(
            "bad-mask",
            "expected `segmentation` to be polygons or run lengths, got "
            f"{short_repr(segmentation)}",
        )
    if not isinstance(segmentation[0], list):
        raise BadEntryError(
            "bad-mask",
            f"expected `segmentation` to be a list of polygons, got {short_repr(segmentation)}",
            "write a single polygon as [[x1, y1, ...]]",
        )
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise BadEntryError(
                "bad-mask",
                f"expected polygons [x1, y1, x2, y2, x3, y3, ...], got {short_repr(polygon)}",
                "draw it again or remove it",
            )
        if not all(map(_is_finite, polygon)):
            raise BadEntryError("bad-mask", "expected polygons of finite numbers, got others")
    return segmentation


def _parse_run_lengths(rle: dict[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(is_side, size)):
        raise BadEntryError(
            "bad-mask", f"expected `size` to be [height, width], got {short_repr(size)}"
        )
    if not isinstance(counts, str | list):
        raise BadEntryError(
            "bad-mask", f"expected `counts` to be a string or a list, got {short_repr(counts)}"
        )
    if image_size[0] >= 0 and tuple(size) != image_size:
        raise BadEntryError(
            "mask-size",
            f"expected run lengths of the image's size (height, width) {image_size}, got "
            f"{tuple(size)}",
            "encode the mask in the size of the image",
        )
    return {"size": size, "counts": counts}


def is_number(value: Any) -> bool:
    """Whether a value is a number, including NaN, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e18


def is_id(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID


def is_side(value: Any) -> bool:
    """Whether a value is a positive whole number of pixels."""
    return _is_finite(value) and value == int(value) and 0 < value < 2**31
