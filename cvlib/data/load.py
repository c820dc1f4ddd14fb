"""Load a dataset of any supported layout with one call."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.datasets.base import describe
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import BadLabels, DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import canonical_split, describe_folder, escape
from cvlib.data.labels.table import LabelTable
from cvlib.data.layouts import LAYOUTS, Layout, find_layouts, only_subfolder
from cvlib.data.shards.dataset import ShardDataset

AnyDataset = DetectionDataset | SegmentationDataset | ClassificationDataset | ShardDataset
# Descend at most this many single-child folders, in case of symlink loops.
_MAX_DEPTH = 3
_ARCHIVE_SUFFIXES = (".zip", ".gz", ".tgz", ".rar", ".7z")


def load_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
    cache: bool = False,
    bad_labels: BadLabels = "raise",
    log: Callable[[str], None] = print,
) -> AnyDataset:
    """Load a dataset, recognising the layout of its files.

    The recognised layout is logged in one line, together with the files that identify it. If
    several layouts fit, pass ``format``.

    Args:
        path: Folder of the dataset, or its label file: COCO json, CSV or YOLO's ``data.yaml``.
        split: Name of the split. ``"train"`` also matches ``train2017``, and ``"val"`` matches
            ``valid``. Optional if there is only one split.
        format: ``"coco"``, ``"banana"``, ``"voc"``, ``"voc-segmentation"``, ``"yolo"``,
            ``"masks"``, ``"csv"``, ``"shards"`` or ``"folder"``. Default: recognised.
        classes: Class names in label order. Default: the names in the files.
        transform: Function called as ``transform(image, target)`` that returns the transformed
            pair, such as a transform of ``torchvision.transforms.v2``.
        cache: Whether to keep decoded images in memory, as uint8.
        bad_labels: ``"raise"`` an error for invalid objects, or ``"drop"`` them with a warning.
        log: Function called with each line about the recognised layout.

    Returns:
        Dataset for detection, segmentation or classification, according to its ``task``.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: No layout fits or several do, or ``split`` is unknown or required.
        BadLabelsError: Labels are invalid and ``bad_labels`` is ``"raise"``.

    Example:
        >>> load_dataset("photos/")
        Traceback (most recent call last):
        FileNotFoundError: load_dataset: expected `path` to be an existing file or folder, got ...
    """
    root, layout, evidence = recognise(Path(path).expanduser(), format)
    splits = layout.list_splits(root)
    name = _choose_split(split, splits, root)
    data = layout.read(root, name, classes=classes, transform=transform, cache=cache)
    dataset: AnyDataset
    if isinstance(data, LabelTable):
        dataset = DetectionDataset(data, transform=transform, cache=cache, bad_labels=bad_labels)
    else:
        dataset = data
    place = f", split {name} of {', '.join(splits)}" if name is not None else ""
    log(f"{escape(root)}: {layout.title} ({evidence}){place}: {describe(dataset)}")
    for finding in data.findings:
        if finding.severity == "info":
            log(f"  {escape(str(finding))}")
    return dataset


def find_splits(path: str | Path, *, format: str | None = None) -> list[str]:
    """List the splits of a dataset.

    Args:
        path: See `load_dataset`.
        format: See `load_dataset`.

    Returns:
        Names that `load_dataset` accepts as ``split``; empty if there are no splits.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: No layout fits, or several do.
    """
    root, layout, _ = recognise(Path(path).expanduser(), format)
    return layout.list_splits(root)


def recognise(path: Path, format: str | None) -> tuple[Path, Layout, str]:
    """Return the root of a dataset, its layout and the evidence for the layout.

    The root differs from ``path`` if the dataset is in the only subfolder of ``path``.
    """
    layouts = {layout.format: layout for layout in LAYOUTS}
    if format is not None and format not in layouts:
        raise ValueError(
            f"load_dataset: expected `format` to be one of {', '.join(layouts)}, got {format!r}"
            + _suggest(format, {name: name for name in layouts})
        )
    if not path.exists():
        raise FileNotFoundError(
            f"load_dataset: expected `path` to be an existing file or folder, got {escape(path)}, "
            "which does not exist"
        )
    candidates = find_layouts(path)
    for _ in range(_MAX_DEPTH):
        if not candidates and (subfolder := only_subfolder(path)) is not None:
            path, candidates = subfolder, find_layouts(subfolder)
    if format is not None:
        evidence = {layout.format: text for layout, text in candidates}
        return path, layouts[format], evidence.get(format, f"format={format!r}")
    if len(candidates) > 1:
        options = "; ".join(
            f'format="{layout.format}" for {layout.title} ({text})' for layout, text in candidates
        )
        raise ValueError(
            f"load_dataset: expected one layout in {escape(path)}, got {len(candidates)}; pass "
            f"{options}"
        )
    if not candidates:
        supported = "".join(f"\n  {layout.title}: {layout.expected_files}" for layout in LAYOUTS)
        raise ValueError(
            f"load_dataset: expected `path` to have one of these layouts:{supported}\n"
            f"got {_describe(path)}"
        )
    return path, *candidates[0]


def _describe(path: Path) -> str:
    if path.is_dir():
        return describe_folder(path)
    advice = "; unpack it first" if path.suffix in _ARCHIVE_SUFFIXES else ""
    return f"the file {escape(path)}{advice}"


def _choose_split(split: str | None, splits: list[str], path: Path) -> str | None:
    """Return the name in ``splits`` that ``split`` refers to."""
    if split is None and len(splits) <= 1:
        return splits[0] if splits else None
    if split in splits:
        return split
    if not splits:
        raise ValueError(
            f"load_dataset: expected no `split`, since {escape(path)} has none, got {split!r}; "
            "omit it, and split the dataset after loading"
        )
    expected = f"load_dataset: expected `split` to be one of {', '.join(splits)} in {escape(path)}"
    if split is None:
        raise ValueError(f"{expected}, got none; for example split={splits[0]!r}")
    synonyms = [name for name in splits if canonical_split(name) == canonical_split(split)]
    if len(synonyms) == 1:
        return synonyms[0]
    if synonyms:
        raise ValueError(f"{expected}, got {split!r}, which matches {' and '.join(synonyms)}")
    keys = {canonical_split(name): name for name in splits} | {name: name for name in splits}
    raise ValueError(f"{expected}, got {split!r}" + _suggest(split, keys))


def _suggest(name: str, known: dict[str, str]) -> str:
    """Return a hint at the value of the most similar key, or an empty string."""
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f"; did you mean {known[near[0]]!r}?" if near else ""
