"""Check of any dataset by its samples, for datasets without label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cvlib.data.check.report import SplitReport
from cvlib.data.check.statistics import (
    find_odd_statistics,
    find_unmatched_boxes,
    make_histograms,
    summarise,
)
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.rules import find_bad_labels, find_doubtful_labels
from cvlib.data.labels.table import TableBuilder

# Samples are drawn or decoded on access, so a fast check reads only this many.
_FAST_SAMPLES = 200


def check_samples(
    data: Any, indices: Sequence[int] | None, *, model: Any, fast: bool, progress: bool
) -> SplitReport:
    """Check the samples of a dataset.

    Args:
        data: Dataset with a length and samples ``(image, target)``.
        indices: Indices of the samples to check, or None for all.
        model: Model whose anchors are compared with the boxes, or None.
        fast: Check 200 evenly spaced samples.
        progress: Whether to show a progress bar.
    """
    chosen = list(range(len(data)) if indices is None else indices)
    total = len(chosen)
    if fast and total > _FAST_SAMPLES:
        chosen = [chosen[i * total // _FAST_SAMPLES] for i in range(_FAST_SAMPLES)]
    name = type(data).__name__
    classes = tuple(str(label) for label in getattr(data, "classes", ()))
    builder = TableBuilder(name, Path(), list(classes), row_word="object")
    bar = tqdm(
        chosen,
        desc="checking samples",
        unit="sample",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    findings: list[Finding] = []
    is_detection = False
    for index in bar:
        try:
            image, target = data[index]
        except (OSError, ValueError) as error:
            findings.append(_make_finding(index, str(error), "unreadable-image"))
            continue
        fault = _find_fault(image, target, len(classes))
        if fault:
            findings.append(_make_finding(index, fault, "bad-sample"))
        elif "boxes" in target:
            is_detection = True
            _add_sample(builder, index, image, target)
    if not is_detection:
        summary: dict[str, Any] = {
            "task": getattr(data, "task", ""),
            "images": total,
            "classes": list(classes),
        }
        return SplitReport(name, [], {}, classes, {}, findings, summary)
    table = builder.build()
    label_findings, bad = find_bad_labels(table)
    good = table.without_objects(bad)
    findings += [*label_findings, *find_doubtful_labels(good), *find_odd_statistics(table)]
    if model is not None:
        findings += find_unmatched_boxes(good, table.sizes, model)
    summary = {**summarise(table), "images": total, "checked_samples": len(chosen)}
    counts = summary["objects_per_class"]
    return SplitReport(name, [], {}, classes, counts, findings, summary, make_histograms(table))


def _make_finding(index: int, message: str, code: str) -> Finding:
    return Finding("error", code, message, row=f"sample {index}")


def _find_fault(image: Any, target: Any, num_classes: int) -> str:
    """Describe how a sample violates cvlib's format; empty if it does not."""
    if not isinstance(image, Tensor) or image.dim() != 3:
        return f"expected an image of shape (3, H, W), got {_describe(image)}"
    if not isinstance(target, dict):
        return f"expected the target to be a dict, got {type(target).__name__}"
    if "boxes" in target:
        boxes, labels = target["boxes"], target.get("labels")
        if not isinstance(boxes, Tensor) or boxes.shape[1:] != (4,):
            return f"expected boxes of shape (N, 4), got {_describe(boxes)}"
        if not isinstance(labels, Tensor) or labels.shape != boxes.shape[:1]:
            return f"expected a label for each of {len(boxes)} boxes, got {_describe(labels)}"
        if labels.dtype != torch.int64:
            return f"expected labels of dtype torch.int64, got {labels.dtype}"
        return ""
    if "mask" in target:
        mask = target["mask"]
        if not isinstance(mask, Tensor) or mask.shape != image.shape[1:]:
            return f"expected a mask of shape {tuple(image.shape[1:])}, got {_describe(mask)}"
        wrong = mask[(mask >= num_classes) & (mask != 255)]
        if len(wrong):
            return f"expected classes 0..{num_classes - 1} and 255, got {int(wrong[0])}"
        return ""
    if "label" in target:
        label = int(target["label"])
        if not 0 <= label < num_classes:
            return f"expected a label in 0..{num_classes - 1}, got {label}"
        return ""
    return f"expected boxes, mask or label in the target, got {', '.join(map(str, target))}"


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _add_sample(builder: TableBuilder, index: int, image: Tensor, target: dict[str, Any]) -> None:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    builder.add_image(f"sample {index}", image_id=int(target.get("image_id", index)), size=size)
    crowds = target.get("iscrowd")
    for row, box in enumerate(target["boxes"].tolist()):
        builder.add_object(
            box,
            int(target["labels"][row]),
            row,
            iscrowd=crowds is not None and bool(crowds[row]),
        )
