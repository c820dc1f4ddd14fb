"""The check of a classification set: images in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cvlib.data.check import images as rules
from cvlib.data.check.duplicates import find_equal, tell_twice
from cvlib.data.check.images import Checked, Facts, cut, list_missing, scan
from cvlib.data.check.statistics import (
    Histogram,
    check_anchors,
    count_classes,
    find_oddities,
    make_histograms,
    summarise,
)
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.rules import find_bad_labels, find_doubtful_labels
from cvlib.data.labels.table import TableBuilder

# Of a set that is drawn or decoded when asked, the fast form looks at so many.
_FAST_SAMPLES = 200


def check_samples(
    data: Any, indices: Sequence[int] | None, *, model: Any, fast: bool, progress: bool
) -> Checked:
    """Looks at samples, evenly spread in the fast form.

    Args:
        data: Has a length and gives ``(image, target)``.
        indices: Those that count, or None for all.
        model: Whose anchors shall fit detection boxes, or None.
        fast: Look at 200.
        progress: Show a bar.
    """
    chosen = list(range(len(data)) if indices is None else indices)
    total = len(chosen)
    if fast and total > _FAST_SAMPLES:
        chosen = [chosen[i * total // _FAST_SAMPLES] for i in range(_FAST_SAMPLES)]
    name = type(data).__name__
    classes = tuple(str(one) for one in getattr(data, "classes", ()))
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
            findings.append(_bad(index, str(error), "unreadable-image"))
            continue
        complaint = _find_fault(image, target, len(classes))
        if complaint:
            findings.append(_bad(index, complaint, "bad-sample"))
        elif "boxes" in target:
            is_detection = True
            _add(builder, index, image, target)
    if not is_detection:
        summary: dict[str, Any] = {
            "task": getattr(data, "task", ""),
            "images": total,
            "classes": list(classes),
        }
        return Checked(name, [], {}, classes, {}, findings, summary)
    table = builder.build()
    label_findings, bad = find_bad_labels(table)
    good = table.without_objects(bad)
    findings += [*label_findings, *find_doubtful_labels(good), *find_oddities(table)]
    if model is not None:
        findings += check_anchors(good, table.sizes, model)
    summary = {**summarise(table), "images": total, "samples_looked_at": len(chosen)}
    counts = summary["objects_per_class"]
    return Checked(name, [], {}, classes, counts, findings, summary, make_histograms(table))


def _bad(index: int, message: str, code: str) -> Finding:
    return Finding("error", code, message, row=f"sample {index}")


def _find_fault(image: Any, target: Any, num_classes: int) -> str:
    """What keeps a sample from being one of cvlib's; empty: nothing."""
    if not isinstance(image, Tensor) or image.dim() != 3:
        return f"expected an image of shape (3, H, W), got {_describe(image)}"
    if not isinstance(target, dict):
        return f"expected a target that is a dict, got {type(target).__name__}"
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


def _add(builder: TableBuilder, index: int, image: Tensor, target: dict[str, Any]) -> None:
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


_IMBALANCE = 20


def check_classification(data: ClassificationDataset, *, fast: bool, progress: bool) -> Checked:
    """Looks over images and classes.

    Args:
        data: The set.
        fast: Look only whether the images are there.
        progress: Show bars.
    """
    paths = [Path(path) for path in data.images]
    missing = list_missing(paths)
    skip = range(len(paths)) if fast else missing
    facts = scan(paths, decode=True, progress=progress, skip=skip)
    findings = [
        *data.findings,
        *rules.tell_missing(paths, missing, [str(path.parent) for path in paths]),
        *rules.tell_unreadable(paths, facts),
        *rules.tell_placeholders(paths, facts),
    ]
    contradictions = _tell_contradictions(data, paths, facts)
    findings += contradictions
    told = {finding.image for finding in contradictions}
    findings += [one for one in tell_twice(paths, facts) if one.image not in told]
    counts = count_classes(data.labels, data.classes)
    place = _common_folder(paths)
    findings += _about_classes(counts, place)
    return Checked(
        source=place,
        paths=paths,
        facts=facts,
        classes=data.classes,
        counts=counts,
        findings=findings,
        summary={
            "task": "classification",
            "images": len(paths),
            "classes": list(data.classes),
            "images_per_class": counts,
        },
        histograms=(Histogram("images of a class", tuple(counts), tuple(counts.values())),),
    )


def _common_folder(paths: Sequence[Path]) -> str:
    return str(paths[0].parent.parent) if paths else "no images"


def _tell_contradictions(
    data: ClassificationDataset, paths: Sequence[Path], facts: Mapping[int, Facts]
) -> list[Finding]:
    return cut(
        [
            Finding(
                "error",
                "image-in-two-classes",
                f"expected one class for an image, got {data.classes[data.labels[second]]!r}, and "
                f"{data.classes[data.labels[first]]!r} for the same file {paths[first]}",
                image=str(paths[second]),
                fix="remove the wrong one of the two",
            )
            for first, second in find_equal(facts)
            if data.labels[first] != data.labels[second]
        ]
    )


def _about_classes(counts: Mapping[str, int], place: str) -> list[Finding]:
    findings = [
        Finding(
            "error",
            "empty-class",
            f"expected images of class {name!r}, got none",
            file=place,
            fix="add images or remove the class",
        )
        for name, count in counts.items()
        if not count
    ]
    used = {name: count for name, count in counts.items() if count}
    if used and max(used.values()) >= _IMBALANCE * min(used.values()):
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        findings.append(
            Finding(
                "info",
                "class-imbalance",
                f"{most!r} has {used[most]} images and {least!r} has {used[least]}",
                file=place,
            )
        )
    return findings
