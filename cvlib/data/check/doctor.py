"""The label doctor: check a dataset before a model learns from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvlib._files import list_images
from cvlib.data.check.classification import check_classification
from cvlib.data.check.duplicates import find_duplicate_images, find_leaks
from cvlib.data.check.images import (
    find_image_faults,
    find_missing_images,
    find_size_conflicts,
    label_sizes,
    list_missing,
    scan,
)
from cvlib.data.check.instance_masks import find_bad_masks
from cvlib.data.check.report import Report, SplitReport, sort_findings
from cvlib.data.check.samples import check_samples
from cvlib.data.check.segmentation import check_segmentation
from cvlib.data.check.statistics import (
    find_odd_statistics,
    find_unmatched_boxes,
    make_histograms,
    summarise,
)
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import SPLITS, canonical_split, name_some
from cvlib.data.labels.findings import BadLabelsError, Finding, limit_findings
from cvlib.data.labels.rules import find_bad_labels, find_doubtful_labels
from cvlib.data.labels.table import LabelTable
from cvlib.data.load import recognise


def check_dataset(
    data: Any, *, val: Any = None, model: Any = None, fast: bool = False, progress: bool = True
) -> Report:
    """Find mistakes in a dataset, and facts worth knowing before training.

    The fast check, run before every training, reads labels, file names, and image headers where
    labels have no sizes. The full check also decodes every image as in training, finds repeated
    images, and measures masks.

    Args:
        data: A path, of which all splits are checked; a dataset of cvlib, a `LabelTable`, or any
            ``Dataset`` with samples in cvlib's format (of which the fast check reads 200).
        val: Validation data of the same kinds, checked and compared with ``data``. The splits of
            a path are compared with its training split.
        model: Model with ``anchors`` (A, 4) in 0..1 and ``image_size``; the anchors are compared
            with the boxes.
        fast: Whether to run the fast check.
        progress: Whether to show progress bars for steps longer than a second.

    Returns:
        The findings: ``report.raise_if_bad()`` raises on errors, ``print(report)`` shows all.

    Raises:
        FileNotFoundError: ``data`` is a path that does not exist.
        TypeError: ``data`` is none of these.
        ValueError: ``data`` is a path with an unknown layout, or with several layouts.

    Note:
        Deterministic. Nothing is written.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> report = check_dataset(SyntheticBananas(4, image_size=64), fast=True)
        >>> report.errors
        []
    """
    splits: list[SplitReport] = []
    findings: list[Finding] = []
    for source in (data,) if val is None else (data, val):
        opened, unread = open_path(source) if isinstance(source, str | Path) else ({"": source}, [])
        findings += unread
        for name, dataset in opened.items():
            splits.append(replace(_check_split(dataset, model, fast, progress), split=name))
    for split in splits:
        findings += limit_findings(split.findings)
    for other in splits[1:]:
        findings += limit_findings(_compare(splits[0], other))
    if isinstance(data, str | Path) and not fast:  # all splits are known
        findings += _find_unlabelled_images(splits)
    summary = dict(splits[0].summary) if splits else {}
    if len(splits) > 1:
        summary["others"] = {other.name: other.summary for other in splits[1:]}
    return Report(
        source=" and ".join(dict.fromkeys(split.source for split in splits)) or str(data),
        findings=sort_findings(findings),
        summary=summary,
        histograms=splits[0].histograms if splits else (),
    )


def open_path(path: str | Path) -> tuple[dict[str, Any], list[Finding]]:
    """Open the splits at a path, training first, without checking their labels.

    Returns:
        Label tables or datasets keyed by split, ``"all"`` for a dataset without splits; and an
        error for each split that cannot be read.
    """
    root, layout, _ = recognise(Path(path).expanduser(), None)
    splits: list[Any] = layout.list_splits(root)
    splits.sort(key=lambda name: canonical_split(name) != "train")
    opened: dict[str, Any] = {}
    findings: list[Finding] = []
    for split in splits or [None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # repeated by the findings
                opened[split or "all"] = layout.read(root, split)
        except BadLabelsError as error:
            findings += error.findings
        except ValueError as error:
            findings.append(
                Finding(
                    "error",
                    "unreadable-labels",
                    str(error),
                    file=f"{path}, split {split}" if split else str(path),
                    fix="correct this first: the labels of this split were not checked",
                )
            )
    return _without_unions(opened), findings


def _without_unions(opened: dict[str, Any]) -> dict[str, Any]:
    """Drop splits such as VOC's trainval, which repeat the whole training split.

    Splits named for validation or testing stay: there, the repetition is a leak to report.
    """
    images = {split: set(_list_images(data)) for split, data in opened.items()}
    train = next(iter(images), "")
    return {
        split: data
        for split, data in opened.items()
        if split == train
        or canonical_split(split) in SPLITS
        or not images[train]
        or not images[train] <= images[split]
    }


def _list_images(data: Any) -> list[str]:
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        return [str(table.path(index)) for index in range(table.num_images)]
    return list(getattr(data, "images", ()))  # shards have none


def _check_split(data: Any, model: Any, fast: bool, progress: bool) -> SplitReport:
    data, indices = unwrap(data)
    if isinstance(data, SegmentationDataset | ClassificationDataset) and indices is not None:
        data = data.subset(indices)
    if isinstance(data, SegmentationDataset):
        return check_segmentation(data, fast=fast, progress=progress)
    if isinstance(data, ClassificationDataset):
        return check_classification(data, fast=fast, progress=progress)
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        chosen = table if indices is None else table.select(indices)
        upright = getattr(data, "upright", True)
        return check_table(chosen, model=model, fast=fast, progress=progress, upright=upright)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(
            "check_dataset: expected `data` to be a path or a dataset with a length, got "
            f"{type(data).__name__}"
        )
    return check_samples(data, indices, model=model, fast=fast, progress=progress)


def unwrap(data: Any) -> tuple[Any, list[int] | None]:
    """Return the dataset inside ``torch.utils.data.Subset``, and the indices of its samples."""
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(data, Subset):
        outer = [int(index) for index in data.indices]
        indices = outer if indices is None else [outer[index] for index in indices]
        data = data.dataset
    return data, indices


def check_table(
    table: LabelTable, *, model: Any, fast: bool, progress: bool, upright: bool = True
) -> SplitReport:
    """Check labels and images of a detection dataset.

    Args:
        table: Labels as in the files.
        model: Model whose anchors are compared with the boxes, or None.
        fast: Read only headers, of images for which the labels have no size.
        progress: Whether to show progress bars.
        upright: Whether labels refer to images after their EXIF orientation, not as stored.
    """
    paths = [table.path(index) for index in range(table.num_images)]
    files = [table.label_file(index) for index in range(table.num_images)]
    missing = list_missing(paths)
    sized = (table.sizes[:, 0] >= 0).nonzero()[0].tolist() if fast else []
    facts = scan(paths, decode=not fast, progress=progress, skip={*missing, *sized})
    if not upright:
        facts = {index: replace(image, orientation=1) for index, image in facts.items()}
    sizes = label_sizes(table, facts)
    labels = replace(table, sizes=sizes)
    label_findings, bad = find_bad_labels(labels)
    good = labels.without_objects(bad)
    findings = [
        *table.findings,
        *find_missing_images(paths, missing, files),
        *find_image_faults(paths, facts),
        *find_size_conflicts(table, facts),
        *label_findings,
        *find_doubtful_labels(good),
    ]
    if not fast:
        findings += find_bad_masks(good, sizes, progress=progress)
        findings += find_duplicate_images(paths, facts)
    findings += find_odd_statistics(table)
    if model is not None:
        findings += find_unmatched_boxes(good, sizes, model)
    summary = summarise(labels)
    return SplitReport(
        source=f"{table.layout} in {table.root}",
        paths=paths,
        facts=facts,
        classes=table.classes,
        counts=summary["objects_per_class"],
        findings=findings,
        summary=summary,
        histograms=make_histograms(labels),
        folder=table.root if len(table.label_files) == 1 else None,
    )


def _compare(train: SplitReport, val: SplitReport) -> list[Finding]:
    """Find images that both splits have, and classes that only one has."""
    findings = find_leaks((train.paths, train.facts), (val.paths, val.facts))
    if train.classes != val.classes:
        return [*findings, _class_conflict(train, val)]
    unseen = [name for name, n in val.counts.items() if n and not train.counts.get(name, 0)]
    if unseen:
        findings.append(
            Finding(
                "info",
                "class-only-in-val",
                f"the training set has no object of {name_some(map(repr, unseen))}, which the "
                "validation set has; a model cannot find them",
                file=val.name,
                count=len(unseen),
            )
        )
    return findings


def _class_conflict(train: SplitReport, val: SplitReport) -> Finding:
    only_train = [repr(name) for name in train.classes if name not in val.classes]
    only_val = [repr(name) for name in val.classes if name not in train.classes]
    if only_train or only_val:
        groups = (("training", only_train), ("validation", only_val))
        actual = " and ".join(
            f"{name_some(names)} only for {split}" for split, names in groups if names
        )
    else:
        orders = [name_some(map(repr, split.classes)) for split in (train, val)]
        actual = f"another order: {' and '.join(orders)}"
    return Finding(
        "error",
        "classes-differ",
        f"expected the same classes in the same order for training and validation, got {actual}",
        file=val.name,
        fix="labels are indices of the classes: give both splits one list of classes",
    )


def _find_unlabelled_images(splits: Sequence[SplitReport]) -> list[Finding]:
    """Find images in the folder of a dataset that belong to no split.

    Layouts with one label file per image are left out: their readers report such images.
    """
    named = {os.path.realpath(path) for split in splits for path in split.paths}
    folders = {split.folder: split.source for split in splits if split.folder is not None}
    findings = []
    for folder, source in folders.items():
        images = [folder / name for name in list_images(folder)] if folder.is_dir() else []
        rest = [path for path in images if os.path.realpath(path) not in named]
        if rest:
            findings.append(
                Finding(
                    "warning",
                    "unlabelled-image",
                    f"expected labels for every image, got none for {len(rest)} of {len(images)} "
                    f"in {folder}: {name_some(path.name for path in rest)}",
                    file=source,
                    image=str(rest[0]),
                    fix="label them, or move them elsewhere",
                    count=len(rest),
                )
            )
    return findings
