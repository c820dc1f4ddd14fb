"""One call for every layout of files on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.datasets.base import describe
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import BadLabels, DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import describe_folder, shown
from cvlib.data.labels.table import LabelTable
from cvlib.data.layouts import (
    LAYOUTS,
    Layout,
    canonical_split,
    descend,
    find_layouts,
)
from cvlib.data.shards.dataset import ShardDataset

AnyDataset = DetectionDataset | SegmentationDataset | ClassificationDataset | ShardDataset
# So many folders that hold nothing but the next one; a link to itself would have no end.
_DEPTH = 3


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
    """Opens a data set, whatever layout its files have.

    The layout is recognised by looking. What was recognised, and by what, is said in one line;
    where two layouts fit, or none, you decide.

    Args:
        path: A folder, or a file: COCO json, CSV, YOLO's ``data.yaml``.
        split: Such as ``"train"``, which also means ``train2017``, and ``"val"``, which also
            means ``valid``. May be left out where there is only one.
        format: ``"coco"``, ``"banana"``, ``"voc"``, ``"voc-segmentation"``, ``"yolo"``,
            ``"masks"``, ``"csv"``, ``"shards"`` or ``"folder"``; by default what it looks like.
        classes: Class names in the order of the labels; by default those of the files.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        cache: Keep decoded images in memory as uint8 from their first use on.
        bad_labels: ``"raise"``, or ``"drop"``: leave wrong objects out, with one warning.
        log: Is given the lines about what was recognised.

    Returns:
        A data set for detection, segmentation or classification; its ``task`` says which.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: No layout fits or several do; the split is unknown, or must be named.
        BadLabelsError: Wrong labels, and ``bad_labels`` is ``"raise"``.

    Example:
        >>> load_dataset("photos/")
        Traceback (most recent call last):
        FileNotFoundError: load_dataset: expected path a folder or a file, got photos, ...
    """
    home, layout, reason = recognise(Path(path).expanduser(), format)
    splits = layout.splits(home)
    chosen = _choose_split(split, splits, home)
    options: dict[str, Any] = {"transform": transform, "cache": cache}
    read = layout.read(home, chosen, classes, options)
    if isinstance(read, LabelTable):
        read = DetectionDataset(read, bad_labels=bad_labels, **options)
    dataset: AnyDataset = read
    part = f", split {chosen} of {', '.join(splits)}" if chosen is not None else ""
    log(f"{shown(home)}: {layout.title} ({reason}){part}: {describe(dataset)}")
    for line in _notes(dataset):
        log(line)
    return dataset


def find_splits(path: str | Path, *, format: str | None = None) -> list[str]:
    """Names of the splits of a data set.

    Args:
        path: As for `load_dataset`.
        format: As for `load_dataset`.

    Returns:
        The names that `load_dataset` takes; empty where the set is not divided.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: No layout fits, or several do.
    """
    home, layout, _ = recognise(Path(path).expanduser(), format)
    return layout.splits(home)


def recognise(path: Path, format: str | None) -> tuple[Path, Layout, str]:
    """Where the set is, its layout, and what it was recognised by."""
    known = {layout.format: layout for layout in LAYOUTS}
    if format is not None and format not in known:
        raise ValueError(f"load_dataset: expected format one of {', '.join(known)}, got {format!r}")
    if not path.exists():
        raise FileNotFoundError(
            f"load_dataset: expected path a folder or a file, got {shown(path)}, which does not "
            "exist"
        )
    found = find_layouts(path)
    for _ in range(_DEPTH):
        if not found and (inner := descend(path)) != path:
            path, found = inner, find_layouts(inner)
    if format is not None:
        reason = next((why for layout, why in found if layout.format == format), "as you say")
        return path, known[format], reason
    if len(found) > 1:
        options = "; ".join(f'format="{one.format}" for {one.title} ({why})' for one, why in found)
        raise ValueError(
            f"load_dataset: expected one layout in {shown(path)}, got {len(found)}: say {options}"
        )
    if not found:
        wanted = "; ".join(f"{layout.title}: {layout.wanted}" for layout in LAYOUTS)
        raise ValueError(
            f"load_dataset: expected one of these layouts: {wanted}; got {_what_is(path)}"
        )
    return path, *found[0]


def _what_is(path: Path) -> str:
    if path.is_dir():
        return describe_folder(path)
    advice = "; unpack it first" if path.suffix in (".zip", ".gz", ".tgz", ".rar", ".7z") else ""
    return f"the file {shown(path)}{advice}"


def _choose_split(split: str | None, splits: list[str], path: Path) -> str | None:
    if split is None:
        if len(splits) > 1:
            raise ValueError(
                f"load_dataset: expected split one of {', '.join(splits)} in {shown(path)}, got "
                f'none; say for instance split="{splits[0]}"'
            )
        return splits[0] if splits else None
    if split in splits or not splits:
        return _known_split(split, splits, path)
    similar = [name for name in splits if canonical_split(name) == canonical_split(split)]
    if len(similar) != 1:
        raise ValueError(
            f"load_dataset: expected split one of {', '.join(similar or splits)} in {shown(path)}, "
            f"got {split!r}"
        )
    return similar[0]


def _known_split(split: str, splits: list[str], path: Path) -> str:
    if not splits:
        raise ValueError(
            f"load_dataset: expected no split, since {shown(path)} is not divided, got {split!r}; "
            "leave it out and divide the set"
        )
    return split


def _notes(dataset: AnyDataset) -> list[str]:
    """Facts that a person should know; what is odd or wrong the data set itself has told."""
    if isinstance(dataset, DetectionDataset):
        findings = dataset.table.findings
    else:
        findings = dataset.findings
    return [f"  {shown(str(finding))}" for finding in findings if finding.severity == "info"]
