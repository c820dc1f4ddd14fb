"""The parts of COCO's entries: boxes, masks, numbers."""

from __future__ import annotations

from typing import Any, TypeGuard

from cvlib.data.formats.label_files import show
from cvlib.data.labels.table import Mask

_LARGEST_ID = 2**63 - 1


class BadEntryError(Exception):
    """An annotation that cannot be used.

    Attributes:
        code: Of the finding.
        fix: What to do.
    """

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def parse_box(bbox: Any, mask: Mask) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of ``[x, y, width, height]``; without one, that of the mask."""
    if bbox is None or bbox == []:
        if mask is None:
            raise BadEntryError("missing-box", "expected a bbox or a segmentation, got neither")
        return _box_of_mask(mask)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise BadEntryError(
            "bad-box",
            f"expected bbox four numbers [x, y, width, height], got {show(bbox)}",
            "write [x, y, width, height] of an upright box, as numbers without quotes",
        )
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise BadEntryError("bad-box", "expected bbox in pixels, got huge numbers") from None
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
    xs = [x for part in mask or () for x in part[::2]]
    ys = [y for part in mask or () for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def parse_mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """Checks the form; whether runs add up is seen when they are decoded."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise BadEntryError(
            "bad-mask", f"expected segmentation polygons or run lengths, got {show(segmentation)}"
        )
    if not isinstance(segmentation[0], list):
        raise BadEntryError(
            "bad-mask",
            f"expected segmentation a list of polygons, got {show(segmentation)}",
            "write a single polygon as [[x1, y1, ...]]",
        )
    for part in segmentation:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            raise BadEntryError(
                "bad-mask",
                f"expected polygons [x1, y1, x2, y2, x3, y3, ...], got {show(part)}",
                "draw it again or remove it",
            )
        if not all(map(_is_finite, part)):
            raise BadEntryError("bad-mask", "expected polygons of finite numbers, got others")
    return segmentation


def _run_lengths(rle: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    own, counts = rle.get("size"), rle.get("counts")
    if not isinstance(own, list) or len(own) != 2 or not all(map(is_side, own)):
        raise BadEntryError("bad-mask", f"expected a size [height, width], got {show(own)}")
    if not isinstance(counts, str | list):
        raise BadEntryError("bad-mask", f"expected counts a text or a list, got {show(counts)}")
    if size[0] >= 0 and tuple(own) != size:
        raise BadEntryError(
            "mask-size",
            f"expected run lengths of the image's size (height, width) {size}, got {tuple(own)}",
            "encode the mask in the size of the image",
        )
    return {"size": own, "counts": counts}


def is_object(value: Any) -> bool:
    """JSON's object."""
    return isinstance(value, dict)


def is_number(value: Any) -> bool:
    """A number, maybe NaN; no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e18


def is_id(value: Any) -> TypeGuard[int]:
    """A whole number that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID


def is_side(value: Any) -> bool:
    """A number of pixels."""
    return _is_finite(value) and value == int(value) and 0 < value < 2**31
