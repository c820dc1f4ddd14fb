"""Instance masks, compared with the boxes, areas and images of their objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.labels.findings import Finding, Severity
from cvlib.data.labels.table import LabelTable, Mask
from cvlib.ops.rle import rle_to_masks

Corners = tuple[float, float, float, float]
Size = tuple[int, int]

# Annotators and converters round: edges of box and mask may differ by this many pixels, or by this
# share of the box side.
_EDGE_SLACK = 2.0
_EDGE_SHARE = 0.05
# Overlapping polygons and rounding change an area by less.
_AREA_SLACK = 20.0
_AREA_SHARE = 0.2
_FEWEST_COORDINATES = 6
_DRAW_AGAIN = "draw the mask again or remove the object"


class Fault(NamedTuple):
    """Severity, code, message and advice for a mask."""

    severity: Severity
    code: str
    message: str
    fix: str


_MISSING = Fault(
    "error",
    "missing-mask",
    "expected a mask, as other objects have one, got none",
    "draw it, or remove all masks",
)
_CROWD = Fault(
    "warning",
    "crowd-without-rle",
    "expected run lengths for a crowd, got polygons",
    "set iscrowd to 0 for single objects; encode crowds as run lengths",
)
_EMPTY = Fault("error", "empty-mask", "expected a mask with an area, got an empty one", _DRAW_AGAIN)


def find_bad_masks(table: LabelTable, sizes: NDArray[np.int64], *, progress: bool) -> list[Finding]:
    """Find masks that are damaged, empty, or contradict their box, area or image.

    Args:
        table: Labels.
        sizes: Height and width of the images as labelled, shape (P, 2); -1 where unknown.
        progress: Whether to show a progress bar.

    Note:
        Polygons are measured by their corners. Run lengths are decoded one mask at a time.
    """
    known = {finding.code for finding in table.findings}  # already reported by the reader
    images = table.image_of_object()
    findings = []
    for obj, fault in find_mask_faults(table, sizes, progress=progress).items():
        if fault.code not in known:
            findings.append(_make_finding(table, obj, int(images[obj]), fault))
    return findings


def find_mask_faults(
    table: LabelTable, sizes: NDArray[np.int64], *, progress: bool
) -> dict[int, Fault]:
    """Return the first fault of each faulty mask, keyed by object; see `find_bad_masks`."""
    if table.masks is None:
        return {}
    images = table.image_of_object()
    bar = tqdm(
        range(table.num_objects),
        desc="checking masks",
        unit="mask",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    faults = {}
    for obj in bar:
        height, width = (int(side) for side in sizes[images[obj]])
        fault = _find_fault(table, obj, table.masks[obj], (height, width))
        if fault is not None:
            faults[obj] = fault
    return faults


def _make_finding(table: LabelTable, obj: int, image: int, fault: Fault) -> Finding:
    x1, y1, x2, y2 = (round(float(value), 2) for value in table.boxes[obj])
    return Finding(
        fault.severity,
        fault.code,
        fault.message,
        file=table.label_file(image),
        row=table.row(obj),
        image=str(table.path(image)),
        box=(x1, y1, x2, y2),
        fix=fault.fix,
    )


def _find_fault(table: LabelTable, obj: int, mask: Mask, size: Size) -> Fault | None:
    if not mask:
        return _MISSING
    if isinstance(mask, dict):
        return _check_runs(table, obj, mask, size)
    return _CROWD if table.iscrowd[obj] else _check_polygons(table, obj, mask, size)


def _check_polygons(
    table: LabelTable, obj: int, polygons: list[list[float]], size: Size
) -> Fault | None:
    for polygon in polygons:
        if len(polygon) < _FEWEST_COORDINATES or len(polygon) % 2:
            return _bad(
                f"expected polygons with at least three corners, got {len(polygon)} numbers"
            )
    corners = np.array([value for polygon in polygons for value in polygon], dtype=np.float64)
    if not np.isfinite(corners).all():
        return _bad("expected polygons with finite coordinates, got NaN or infinity")
    x, y = corners[::2], corners[1::2]
    extent = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    area = sum(_area(np.array(polygon, dtype=np.float64)) for polygon in polygons)
    return _compare(table, obj, extent, area, size)


def _area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon[::2], polygon[1::2]
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _check_runs(table: LabelTable, obj: int, rle: Mapping[str, Any], size: Size) -> Fault | None:
    mask_size = tuple(int(side) for side in rle["size"])
    if size[0] >= 0 and mask_size != size:
        return Fault(
            "error",
            "mask-size",
            f"expected run lengths of the image's size (height, width) {size}, got {mask_size}",
            "encode the mask in the size of the image",
        )
    try:
        pixels = rle_to_masks([rle])[0].numpy()
    except (TypeError, ValueError) as error:
        return _bad(str(error))
    # NumPy, because torch would wake its thread pool for a tenth of a millisecond of work.
    return _compare(table, obj, _extent(pixels), float(np.count_nonzero(pixels)), size)


def _extent(pixels: NDArray[np.bool_]) -> Corners:
    columns, rows = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _compare(table: LabelTable, obj: int, extent: Corners, area: float, size: Size) -> Fault | None:
    x1, y1, x2, y2 = extent
    if area == 0:
        return _EMPTY
    beyond = max(-x1, -y1, x2 - size[1], y2 - size[0])
    if size[0] >= 0 and beyond > _EDGE_SLACK:
        return Fault(
            "error",
            "mask-outside",
            f"expected a mask inside the image, got one within {_format(*extent)}",
            "clip it, or check that it belongs to this image",
        )
    box = table.boxes[obj]
    allowed = np.maximum(_EDGE_SLACK, _EDGE_SHARE * np.tile(box[2:] - box[:2], 2))
    if (np.abs(np.array(extent) - box) > allowed).any():
        return Fault(
            "warning",
            "mask-and-box-differ",
            f"expected the box around its mask, {_format(*extent)}, got {_format(*box)}",
            "use the box of the mask, or check that the mask belongs to this object",
        )
    labelled_area = float(table.areas[obj])
    # The area of a crowd is that of its people, not of its mask; some files have no areas.
    is_comparable = not table.iscrowd[obj] and not np.isnan(labelled_area)
    if is_comparable and abs(labelled_area - area) > max(_AREA_SLACK, _AREA_SHARE * area):
        return Fault(
            "warning",
            "area-differs",
            f"expected the area of the mask, {area:.0f}, got {labelled_area:.0f}",
            "count the pixels of the mask; evaluation groups objects by area",
        )
    return None


def _bad(message: str) -> Fault:
    return Fault("error", "bad-mask", message, _DRAW_AGAIN)


def _format(*values: float) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
