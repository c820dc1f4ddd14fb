"""Check of a classification dataset: images in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cvlib.data.check.duplicates import find_duplicate_images, list_equal
from cvlib.data.check.images import (
    ImageFacts,
    find_image_faults,
    find_missing_images,
    list_missing,
    scan,
)
from cvlib.data.check.report import SplitReport
from cvlib.data.check.statistics import Histogram, count_classes, find_imbalance
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.labels.findings import Finding


def check_classification(data: ClassificationDataset, *, fast: bool, progress: bool) -> SplitReport:
    """Check images and classes.

    Args:
        data: Dataset to check.
        fast: Check only whether the images exist.
        progress: Whether to show progress bars.
    """
    paths = [Path(path) for path in data.images]
    folder = str(paths[0].parent.parent) if paths else "no images"
    missing = list_missing(paths)
    skip = range(len(paths)) if fast else missing
    facts = scan(paths, decode=True, progress=progress, skip=skip)
    contradictions = _find_contradictions(data, paths, facts)
    contradicted = {finding.image for finding in contradictions}
    duplicates = find_duplicate_images(paths, facts)
    counts = count_classes(data.labels, data.classes)
    findings = [
        *data.findings,
        *find_missing_images(paths, missing, [str(path.parent) for path in paths]),
        *find_image_faults(paths, facts),
        *contradictions,
        *(finding for finding in duplicates if finding.image not in contradicted),
        *_find_empty_classes(counts, folder),
        *find_imbalance(counts, "images", folder),
    ]
    return SplitReport(
        source=folder,
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
        histograms=(Histogram("images per class", tuple(counts), tuple(counts.values())),),
    )


def _find_contradictions(
    data: ClassificationDataset, paths: Sequence[Path], facts: Mapping[int, ImageFacts]
) -> list[Finding]:
    return [
        Finding(
            "error",
            "image-in-two-classes",
            f"expected one class for an image, got {data.classes[data.labels[second]]!r}, and "
            f"{data.classes[data.labels[first]]!r} for the same file {paths[first]}",
            image=str(paths[second]),
            fix="remove the wrong one of the two",
        )
        for first, second in list_equal(facts)
        if data.labels[first] != data.labels[second]
    ]


def _find_empty_classes(counts: Mapping[str, int], folder: str) -> list[Finding]:
    return [
        Finding(
            "error",
            "empty-class",
            f"expected images of class {name!r}, got none",
            file=folder,
            fix="add images or remove the class",
        )
        for name, count in counts.items()
        if not count
    ]
