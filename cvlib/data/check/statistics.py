"""Counts and histograms of a detection set, and what they show to be odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable
from cvlib.ops import max_iou

# Of a model that does not say otherwise; the book's.
_IOU_THRESHOLD = 0.5
# A larger share without an anchor is worth a warning.
_WORTH_A_WARNING = 0.1
# Boxes compared at once.
_CHUNK = 4096
# Evenly drawn from larger sets: the share is then known to a fifth of a per cent.
_MOST_BOXES = 50_000


def check_anchors(table: LabelTable, sizes: NDArray[np.int64], model: Any) -> list[Finding]:
    """Tells which share of the boxes no anchor of a model overlaps enough.

    Args:
        table: Labels.
        sizes: Shape (P, 2): height and width of the images; those of unknown size are left out.
        model: With ``anchors`` (A, 4), xyxy in 0..1, and ``image_size``; others are not looked at.
            Its ``iou_threshold`` counts where it has one, else .5.

    Note:
        Images are resized to the model's ``image_size`` without regard to their shape, as
        training does.
    """
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.dim() != 2:
        return []
    threshold = float(getattr(model, "iou_threshold", _IOU_THRESHOLD))
    boxes, sides = _normalise(table, sizes)
    if not len(boxes):
        return []
    best = _best_ious(boxes, anchors, model.image_size)
    missed = best < threshold
    if not missed.any():
        return []
    share = float(missed.mean())
    height, width = model.image_size
    typical = np.median(sides[missed], axis=0) * [width, height]
    ends = anchors.detach().cpu().float()
    least = ((ends[:, 2:] - ends[:, :2]).prod(1).sqrt().min() * (height * width) ** 0.5).item()
    return [
        Finding(
            "warning" if share > _WORTH_A_WARNING else "info",
            "no-anchor",
            f"expected an anchor with an IoU of {threshold:g} for each box, got none for "
            f"{share:.1%} of {len(best)} boxes; half of them are smaller than "
            f"{typical[0]:.0f} x {typical[1]:.0f} pixels in the model's {width} x {height}, and "
            f"its smallest anchors are {least:.0f} pixels",
            file=table.label_file(0),
            fix=_advise(sides[missed], least / (height * width) ** 0.5),
        )
    ]


def _normalise(
    table: LabelTable, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes in 0..1 and their sides, of objects that are in order."""
    frames = sizes[table.image_of_object()][:, [1, 0, 1, 0]].astype(np.float64)
    good = (frames[:, 0] > 0) & np.isfinite(table.boxes).all(1) & ~table.iscrowd
    good &= (table.boxes[:, 2:] > table.boxes[:, :2]).all(1)
    chosen = np.flatnonzero(good)
    if len(chosen) > _MOST_BOXES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_BOXES).astype(np.int64)]
    boxes = table.boxes[chosen] / frames[chosen]
    return boxes, boxes[:, 2:] - boxes[:, :2]


def _best_ious(
    boxes: NDArray[np.float64], anchors: Tensor, image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """The IoU of each box with its best anchor, in the model's pixels."""
    scale = torch.tensor([image_size[1], image_size[0]] * 2, dtype=torch.float32)
    ours = torch.from_numpy(boxes).float() * scale
    theirs = anchors.detach().cpu().float() * scale
    best = [max_iou(chunk, theirs)[0] for chunk in ours.split(_CHUNK)]
    return torch.cat(best).double().numpy()


def _advise(sides: NDArray[np.float64], least: float) -> str:
    small = np.sqrt(sides.prod(1)) < least
    if small.mean() > 0.5:
        return "use a larger image_size, smaller anchors, or cut the images into tiles"
    ratios = sides[:, 0] / sides[:, 1]
    if (np.maximum(ratios, 1 / ratios) > 2).mean() > 0.5:
        return "add anchors of more elongated shapes"
    return "add anchors of sizes between those there are"


_BINS = 24
# A class with so many times the objects of another draws a remark.
_IMBALANCE = 20
_SHOWN_NAMES = 10


@dataclass(frozen=True)
class Histogram:
    """Bars with words below.

    Attributes:
        title: What is counted.
        labels: One for each bar.
        counts: Heights.
    """

    title: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]


def count_classes(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Objects of each class; labels outside 0..K-1 count nowhere."""
    known = labels[(labels >= 0) & (labels < len(classes))]
    numbers = np.bincount(known, minlength=len(classes)).tolist()
    return {name: numbers[index] for index, name in enumerate(classes)}


def summarise(table: LabelTable) -> dict[str, Any]:
    """Numbers for the report, as plain values."""
    per_image = np.diff(table.starts)
    known = table.sizes[table.sizes[:, 0] >= 0]
    boxes = table.boxes[np.isfinite(table.boxes).all(1)]
    sides = boxes[:, 2:] - boxes[:, :2]
    summary: dict[str, Any] = {
        "task": "detection",
        "layout": table.layout,
        "images": table.num_images,
        "empty_images": int((per_image == 0).sum()),
        "objects": table.num_objects,
        "crowds": int(table.iscrowd.sum()),
        "difficult": int(table.difficult.sum()),
        "masks": table.masks is not None,
        "classes": list(table.classes),
        "objects_per_class": count_classes(table.labels, table.classes),
        "objects_per_image": _spread(per_image),
        "box_width": _spread(sides[:, 0]),
        "box_height": _spread(sides[:, 1]),
    }
    if len(known):
        summary["image_height"] = _spread(known[:, 0])
        summary["image_width"] = _spread(known[:, 1])
    return summary


def _spread(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    least, median, most = np.percentile(values, [0, 50, 100]).round(2).tolist()
    return {"least": least, "median": median, "most": most}


def make_histograms(table: LabelTable) -> tuple[Histogram, ...]:
    """Of classes, sizes and shapes."""
    boxes = table.boxes[np.isfinite(table.boxes).all(1)]
    sides = (boxes[:, 2:] - boxes[:, :2])[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    found = [_of_classes(count_classes(table.labels, table.classes))]
    found.append(_of_values("objects in an image", np.diff(table.starts).astype(np.float64)))
    found.append(_of_values("size of a box (root of its area, pixels)", np.sqrt(sides.prod(1))))
    found.append(_of_values("width of a box / height", sides[:, 0] / sides[:, 1], log=True))
    known = table.sizes[table.sizes[:, 0] > 0].astype(np.float64)
    if len(known):
        found.append(_of_values("height of an image (pixels)", known[:, 0]))
        found.append(_of_values("width of an image (pixels)", known[:, 1]))
    return tuple(one for one in found if one.counts)


def _of_classes(counts: dict[str, int]) -> Histogram:
    most = sorted(counts.items(), key=lambda pair: -pair[1])[: 2 * _BINS]
    title = "objects of a class" + (" (the most frequent)" if len(counts) > len(most) else "")
    return Histogram(title, tuple(name for name, _ in most), tuple(count for _, count in most))


def _of_values(title: str, values: NDArray[np.float64], *, log: bool = False) -> Histogram:
    if not len(values):
        return Histogram(title, (), ())
    counts, edges = np.histogram(np.log2(values) if log else values, bins=_bins(values))
    edges = np.exp2(edges) if log else edges
    labels = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return Histogram(title, tuple(labels), tuple(counts.tolist()))


def _bins(values: NDArray[np.float64]) -> int:
    return int(min(_BINS, max(1, len(np.unique(values[:10_000])))))


def find_oddities(table: LabelTable) -> list[Finding]:
    """Facts about classes, ids and empty images, and what is wrong with the set as a whole."""
    place = table.label_file(0) if len(table.label_files) == 1 else str(table.root)
    findings = [*_about_classes(table, place), *_about_ids(table, place)]
    empty = np.flatnonzero(np.diff(table.starts) == 0)
    if table.num_images and len(empty) == table.num_images:
        findings.append(
            Finding(
                "error",
                "no-objects",
                f"expected objects, got none in {table.num_images} images",
                file=place,
                fix="look whether the labels belong to these images",
            )
        )
    elif len(empty):
        findings.append(
            Finding(
                "info",
                "empty-images",
                f"{len(empty)} of {table.num_images} images have no objects; they teach what "
                "background is",
                file=place,
                image=str(table.path(int(empty[0]))),
                count=len(empty),
            )
        )
    return findings


def _about_classes(table: LabelTable, place: str) -> list[Finding]:
    counts = count_classes(table.labels, table.classes)
    findings = []
    spellings = Counter(name.strip().lower() for name in table.classes)
    alike = [name for name in table.classes if spellings[name.strip().lower()] > 1]
    if alike:
        findings.append(
            Finding(
                "warning",
                "similar-class-names",
                f"expected names that differ, got {name_some(alike)}",
                file=place,
                fix="give one class one name",
                count=len(alike),
            )
        )
    unused = [name for name, count in counts.items() if not count]
    if unused and table.num_objects:
        findings.append(
            Finding(
                "info",
                "unused-class",
                f"no object is of {name_some(unused)}; a model cannot learn "
                + ("them" if len(unused) > 1 else "it"),
                file=place,
                count=len(unused),
            )
        )
    used = {name: count for name, count in counts.items() if count}
    if used and max(used.values()) >= _IMBALANCE * min(used.values()):
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        findings.append(
            Finding(
                "info",
                "class-imbalance",
                f"{most!r} has {used[most]} objects and {least!r} has {used[least]}; look at the "
                "figures of each class, not at their mean",
                file=place,
            )
        )
    return findings


def _about_ids(table: LabelTable, place: str) -> list[Finding]:
    findings = []
    ids, counts = np.unique(table.image_ids, return_counts=True)
    if (counts > 1).any():
        twice = ids[counts > 1]
        findings.append(
            Finding(
                "error",
                "duplicate-image-id",
                f"expected an id of its own for each image, got {int(twice[0])} more than once",
                file=place,
                fix="number the images; results are told apart by these ids",
                count=len(twice),
            )
        )
    numbers = sorted(table.category_ids)
    gaps = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
    if gaps > 0:
        findings.append(
            Finding(
                "info",
                "id-gaps",
                f"the files number {len(numbers)} classes from {numbers[0]} to {numbers[-1]} with "
                f"{gaps} gaps; labels are 0 to {len(numbers) - 1}",
                file=place,
            )
        )
    return findings


def name_some(names: Sequence[str]) -> str:
    """The first few, in quotes."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
