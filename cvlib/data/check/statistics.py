"""Counts and histograms of a detection dataset, and findings that they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib.data.files.folders import name_some
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable
from cvlib.ops import max_iou

_BINS = 24
# A class with this many times the objects of another is reported.
_IMBALANCE = 20
# Used for models without an `iou_threshold`; the book's value.
_IOU_THRESHOLD = 0.5
# Share of boxes without an anchor above which the finding is a warning.
_WORTH_A_WARNING = 0.1
# Boxes compared at once.
_CHUNK = 4096
# Larger datasets are sampled evenly: the share is then known to a fifth of a per cent.
_MOST_BOXES = 50_000


@dataclass(frozen=True)
class Histogram:
    """Bars with their labels.

    Attributes:
        title: What is counted.
        labels: One label per bar.
        counts: Height of each bar.
    """

    title: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]


def summarise(table: LabelTable) -> dict[str, Any]:
    """Return numbers for the report as plain values."""
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


def count_classes(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Count the labels of each class; labels outside 0..K-1 are not counted."""
    known = labels[(labels >= 0) & (labels < len(classes))]
    numbers = np.bincount(known, minlength=len(classes)).tolist()
    return {name: numbers[index] for index, name in enumerate(classes)}


def _spread(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    least, median, most = np.percentile(values, [0, 50, 100]).round(2).tolist()
    return {"least": least, "median": median, "most": most}


def make_histograms(table: LabelTable) -> tuple[Histogram, ...]:
    """Return the distributions of classes, box sizes and shapes, and image sizes."""
    boxes = table.boxes[np.isfinite(table.boxes).all(1)]
    sides = (boxes[:, 2:] - boxes[:, :2])[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    known = table.sizes[table.sizes[:, 0] > 0].astype(np.float64)
    histograms = [
        _count_histogram(count_classes(table.labels, table.classes)),
        _value_histogram("objects per image", np.diff(table.starts).astype(np.float64)),
        _value_histogram("box size (root of its area, pixels)", np.sqrt(sides.prod(1))),
        _value_histogram("box width / height", sides[:, 0] / sides[:, 1], log=True),
        _value_histogram("image height (pixels)", known[:, 0]),
        _value_histogram("image width (pixels)", known[:, 1]),
    ]
    return tuple(histogram for histogram in histograms if histogram.counts)


def _count_histogram(counts: dict[str, int]) -> Histogram:
    most = sorted(counts.items(), key=lambda pair: -pair[1])[: 2 * _BINS]
    title = "objects per class" + (" (the most frequent)" if len(counts) > len(most) else "")
    return Histogram(title, tuple(name for name, _ in most), tuple(count for _, count in most))


def _value_histogram(title: str, values: NDArray[np.float64], *, log: bool = False) -> Histogram:
    if not len(values):
        return Histogram(title, (), ())
    bins = min(_BINS, len(np.unique(values[:10_000])))
    counts, edges = np.histogram(np.log2(values) if log else values, bins=bins)
    edges = np.exp2(edges) if log else edges
    labels = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return Histogram(title, tuple(labels), tuple(counts.tolist()))


def find_odd_statistics(table: LabelTable) -> list[Finding]:
    """Find unusual class names and counts, repeated ids, and images without objects."""
    place = table.label_file(0) if len(table.label_files) == 1 else str(table.root)
    counts = count_classes(table.labels, table.classes)
    return [
        *_find_similar_names(table.classes, place),
        *find_unused_classes(counts, "object", place),
        *find_imbalance(counts, "objects", place),
        *_find_id_faults(table, place),
        *_find_empty_images(table, place),
    ]


def _find_similar_names(classes: Sequence[str], place: str) -> list[Finding]:
    spellings = Counter(name.strip().lower() for name in classes)
    alike = [name for name in classes if spellings[name.strip().lower()] > 1]
    if not alike:
        return []
    return [
        Finding(
            "warning",
            "similar-class-names",
            f"expected distinct class names, got {name_some(map(repr, alike))}",
            file=place,
            fix="give one class one name",
            count=len(alike),
        )
    ]


def find_unused_classes(counts: Mapping[str, int], unit: str, place: str) -> list[Finding]:
    """Report classes that never occur, unless none occurs.

    Args:
        counts: Number of objects or pixels of each class.
        unit: What is counted, in the singular.
        place: File or folder of the labels.
    """
    unused = [name for name, count in counts.items() if not count]
    if not unused or len(unused) == len(counts):
        return []
    return [
        Finding(
            "info",
            "unused-class",
            f"no {unit} has the class {name_some(map(repr, unused))}; a model cannot learn "
            + ("them" if len(unused) > 1 else "it"),
            file=place,
            count=len(unused),
        )
    ]


def find_imbalance(counts: Mapping[str, int], unit: str, place: str) -> list[Finding]:
    """Report a class that is far more frequent than another.

    Args:
        counts: Number of objects or images of each class.
        unit: What is counted, in the plural.
        place: File or folder of the labels.
    """
    used = {name: count for name, count in counts.items() if count}
    if not used or max(used.values()) < _IMBALANCE * min(used.values()):
        return []
    most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
    return [
        Finding(
            "info",
            "class-imbalance",
            f"{most!r} has {used[most]} {unit} and {least!r} has {used[least]}; compare the "
            "metrics of each class, not only their mean",
            file=place,
        )
    ]


def _find_id_faults(table: LabelTable, place: str) -> list[Finding]:
    findings = []
    ids, counts = np.unique(table.image_ids, return_counts=True)
    if (counts > 1).any():
        repeated = ids[counts > 1]
        findings.append(
            Finding(
                "error",
                "duplicate-image-id",
                f"expected a unique id for each image, got {int(repeated[0])} more than once",
                file=place,
                fix="number the images: results are assigned to images by these ids",
                count=len(repeated),
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


def _find_empty_images(table: LabelTable, place: str) -> list[Finding]:
    empty = np.flatnonzero(np.diff(table.starts) == 0)
    if table.num_images and len(empty) == table.num_images:
        return [
            Finding(
                "error",
                "no-objects",
                f"expected objects, got none in {table.num_images} images",
                file=place,
                fix="check that the labels belong to these images",
            )
        ]
    if not len(empty):
        return []
    return [
        Finding(
            "info",
            "empty-images",
            f"{len(empty)} of {table.num_images} images have no objects; they teach what "
            "background is",
            file=place,
            image=str(table.path(int(empty[0]))),
            count=len(empty),
        )
    ]


def find_unmatched_boxes(table: LabelTable, sizes: NDArray[np.int64], model: Any) -> list[Finding]:
    """Report the share of boxes that no anchor of a model overlaps enough.

    Args:
        table: Labels.
        sizes: Height and width of the images, shape (P, 2); images of unknown size are left out.
        model: Model with ``anchors`` (A, 4), xyxy in 0..1, and ``image_size``; models without
            anchors are skipped. ``iou_threshold`` defaults to 0.5.

    Note:
        Images are resized to the model's ``image_size`` without keeping their aspect ratio, as in
        training.
    """
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.dim() != 2:
        return []
    threshold = float(getattr(model, "iou_threshold", _IOU_THRESHOLD))
    boxes, sides = _normalise(table, sizes)
    if not len(boxes):
        return []
    missed = _best_ious(boxes, anchors, model.image_size) < threshold
    if not missed.any():
        return []
    share = float(missed.mean())
    height, width = model.image_size
    typical = np.median(sides[missed], axis=0) * [width, height]
    corners = anchors.detach().cpu().float()
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    smallest = (areas.sqrt().min() * (height * width) ** 0.5).item()
    return [
        Finding(
            "warning" if share > _WORTH_A_WARNING else "info",
            "no-anchor",
            f"expected an anchor with an IoU of {threshold:g} for each box, got none for "
            f"{share:.1%} of {len(missed)} boxes; half of them are smaller than "
            f"{typical[0]:.0f} x {typical[1]:.0f} pixels in the model's {width} x {height}, and "
            f"its smallest anchors are {smallest:.0f} pixels",
            file=table.label_file(0),
            fix=_advise(sides[missed], smallest / (height * width) ** 0.5),
        )
    ]


def _normalise(
    table: LabelTable, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return boxes in 0..1 and their sides, without crowds and invalid boxes."""
    scales = sizes[table.image_of_object()][:, [1, 0, 1, 0]].astype(np.float64)
    good = (scales[:, 0] > 0) & np.isfinite(table.boxes).all(1) & ~table.iscrowd
    good &= (table.boxes[:, 2:] > table.boxes[:, :2]).all(1)
    chosen = np.flatnonzero(good)
    if len(chosen) > _MOST_BOXES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_BOXES).astype(np.int64)]
    boxes = table.boxes[chosen] / scales[chosen]
    return boxes, boxes[:, 2:] - boxes[:, :2]


def _best_ious(
    boxes: NDArray[np.float64], anchors: Tensor, image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the IoU of each box with its best anchor, in the model's pixels."""
    scale = torch.tensor([image_size[1], image_size[0]] * 2, dtype=torch.float32)
    scaled = torch.from_numpy(boxes).float() * scale
    scaled_anchors = anchors.detach().cpu().float() * scale
    best = [max_iou(chunk, scaled_anchors)[0] for chunk in scaled.split(_CHUNK)]
    return torch.cat(best).double().numpy()


def _advise(sides: NDArray[np.float64], smallest: float) -> str:
    small = np.sqrt(sides.prod(1)) < smallest
    if small.mean() > 0.5:
        return "use a larger image_size, smaller anchors, or cut the images into tiles"
    ratios = sides[:, 0] / sides[:, 1]
    if (np.maximum(ratios, 1 / ratios) > 2).mean() > 0.5:
        return "add anchors with more elongated shapes"
    return "add anchors with sizes between the present ones"
