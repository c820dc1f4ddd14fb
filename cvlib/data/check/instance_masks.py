"""Masks of objects against their boxes, areas and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.check.images import cut
from cvlib.data.labels.findings import Finding, Severity
from cvlib.data.labels.table import LabelTable, Mask
from cvlib.ops.rle import rle_to_masks

Corners = tuple[float, float, float, float]
Size = tuple[int, int]

# Annotators and converters round: edges of box and mask may differ by so many pixels, or by this
# share of the box's side.
_EDGE_SLACK = 2.0
_EDGE_SHARE = 0.05
# Overlapping parts and rounding change an area by less.
_AREA_SLACK = 20.0
_AREA_SHARE = 0.2
_FEWEST_COORDINATES = 6
_DRAW_AGAIN = "draw the mask again or remove the object"


class Fault(NamedTuple):
    """What is wrong with a mask."""

    severity: Severity
    code: str
    message: str
    fix: str


_MISSING = Fault(
    "error",
    "missing-mask",
    "expected a mask as the other objects have, got none",
    "draw it, or remove the masks of all",
)
_CROWD = Fault(
    "warning",
    "crowd-without-rle",
    "expected run lengths of a crowd, got polygons",
    "set iscrowd to 0 for single objects; encode crowds as run lengths",
)
_EMPTY = Fault(
    "error", "empty-mask", "expected a mask of an object, got one of no area", _DRAW_AGAIN
)


def check_masks(table: LabelTable, sizes: NDArray[np.int64], *, progress: bool) -> list[Finding]:
    """Finds masks that are damaged, empty or disagree with what else is said of their object.

    Args:
        table: Labels.
        sizes: Shape (P, 2): height and width of the images as labelled; -1: unknown.
        progress: Show a bar.

    Note:
        Polygons are measured by their corners. Run lengths are decoded, one at a time.
    """
    told_by_reader = {finding.code for finding in table.findings}
    owners = table.image_of_object()
    faults = find_faults(table, sizes, progress=progress)
    return cut(
        [
            _tell(table, thing, int(owners[thing]), fault)
            for thing, fault in faults.items()
            if fault.code not in told_by_reader
        ]
    )


def find_faults(table: LabelTable, sizes: NDArray[np.int64], *, progress: bool) -> dict[int, Fault]:
    """The first thing that is wrong with the mask of each object; arguments as `check_masks`."""
    if table.masks is None:
        return {}
    owners = table.image_of_object()
    bar = tqdm(
        range(table.num_objects),
        desc="checking masks",
        unit="mask",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    faults = {}
    for thing in bar:
        height, width = (int(side) for side in sizes[owners[thing]])
        fault = _find_fault(table, thing, table.masks[thing], (height, width))
        if fault is not None:
            faults[thing] = fault
    return faults


def _tell(table: LabelTable, thing: int, image: int, fault: Fault) -> Finding:
    x1, y1, x2, y2 = (round(float(value), 2) for value in table.boxes[thing])
    return Finding(
        fault.severity,
        fault.code,
        fault.message,
        file=table.label_file(image),
        row=table.row(thing),
        image=str(table.path(image)),
        box=(x1, y1, x2, y2),
        fix=fault.fix,
    )


def _find_fault(table: LabelTable, thing: int, mask: Mask, size: Size) -> Fault | None:
    if not mask:
        return _MISSING
    if isinstance(mask, dict):
        return _check_runs(table, thing, mask, size)
    return _CROWD if table.iscrowd[thing] else _check_polygons(table, thing, mask, size)


def _check_polygons(
    table: LabelTable, thing: int, parts: list[list[float]], size: Size
) -> Fault | None:
    for part in parts:
        if len(part) < _FEWEST_COORDINATES or len(part) % 2:
            return _bad(f"expected polygons of at least three corners, got {len(part)} numbers")
    corners = np.array([value for part in parts for value in part], dtype=np.float64)
    if not np.isfinite(corners).all():
        return _bad("expected polygons of finite numbers, got others")
    x, y = corners[::2], corners[1::2]
    extent = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    area = sum(_area(np.array(part, dtype=np.float64)) for part in parts)
    return _compare(table, thing, extent, area, size)


def _area(part: NDArray[np.float64]) -> float:
    x, y = part[::2], part[1::2]
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _check_runs(table: LabelTable, thing: int, rle: Mapping[str, Any], size: Size) -> Fault | None:
    own = tuple(int(side) for side in rle["size"])
    if size[0] >= 0 and own != size:
        return Fault(
            "error",
            "mask-size",
            f"expected run lengths of the image's size (height, width) {size}, got {own}",
            "encode the mask in the size of the image",
        )
    try:
        pixels = rle_to_masks([rle])[0].numpy()
    except (TypeError, ValueError) as error:
        return _bad(str(error).split(": ", 1)[-1])
    # In NumPy, on one thread: torch would wake its pool for a tenth of a millisecond's work.
    return _compare(table, thing, _extent(pixels), float(np.count_nonzero(pixels)), size)


def _extent(pixels: NDArray[np.bool_]) -> Corners:
    columns, rows = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _compare(
    table: LabelTable, thing: int, extent: Corners, area: float, size: Size
) -> Fault | None:
    x1, y1, x2, y2 = extent
    if area == 0:
        return _EMPTY
    beyond = max(-x1, -y1, x2 - size[1], y2 - size[0])
    if size[0] >= 0 and beyond > _EDGE_SLACK:
        return Fault(
            "error",
            "mask-outside",
            f"expected a mask inside of the image, got one around {_show(*extent)}",
            "clip it, or look whether it belongs to this image",
        )
    box = table.boxes[thing]
    allowed = np.maximum(_EDGE_SLACK, _EDGE_SHARE * np.tile(box[2:] - box[:2], 2))
    if (np.abs(np.array(extent) - box) > allowed).any():
        return Fault(
            "warning",
            "mask-and-box-differ",
            f"expected the box around its mask, {_show(*extent)}, got {_show(*box)}",
            "take the box of the mask, or look whether the mask belongs to this object",
        )
    given = float(table.areas[thing])
    # The area of a crowd is that of its people, not of its mask; and some files have no areas.
    is_known = not table.iscrowd[thing] and not np.isnan(given)
    if is_known and abs(given - area) > max(_AREA_SLACK, _AREA_SHARE * area):
        return Fault(
            "warning",
            "area-differs",
            f"expected the area of the mask, {area:.0f}, got {given:.0f}",
            "count the mask's pixels; evaluation sorts objects into small and large by it",
        )
    return None


def _bad(message: str) -> Fault:
    return Fault("error", "bad-mask", message, _DRAW_AGAIN)


def _show(*values: float) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
