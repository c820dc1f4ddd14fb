"""Looking a data set over before a model learns from it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvlib._files import list_images
from cvlib.data.check import images as rules
from cvlib.data.check.classification import check_classification, check_samples
from cvlib.data.check.duplicates import tell_leaks, tell_twice
from cvlib.data.check.images import Checked, list_missing, scan
from cvlib.data.check.instance_masks import check_masks
from cvlib.data.check.report import Report, sort_findings
from cvlib.data.check.segmentation import check_segmentation
from cvlib.data.check.statistics import (
    check_anchors,
    find_oddities,
    make_histograms,
    name_some,
    summarise,
)
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import SPLITS, canonical_split
from cvlib.data.labels.findings import BadLabelsError, Finding
from cvlib.data.labels.rules import find_bad_labels, find_doubtful_labels
from cvlib.data.labels.table import LabelTable
from cvlib.data.load import recognise


def check_table(
    table: LabelTable, *, model: Any, fast: bool, progress: bool, upright: bool = True
) -> Checked:
    """Looks over labels and images.

    Args:
        table: Labels as the files say them.
        model: Whose anchors shall fit, or None.
        fast: Read no more than is needed for the labels: headers where the labels give no sizes.
        progress: Show bars.
        upright: Labels are of the images as EXIF turns them; else of stored pixels.
    """
    paths = [table.path(index) for index in range(table.num_images)]
    files = [table.label_file(index) for index in range(table.num_images)]
    missing = list_missing(paths)
    # Headers are needed only where the labels do not say how large an image is.
    known = (table.sizes[:, 0] >= 0).nonzero()[0].tolist() if fast else []
    facts = scan(paths, decode=not fast, progress=progress, skip={*missing, *known})
    if not upright:
        facts = {index: replace(one, orientation=1) for index, one in facts.items()}
    sizes = rules.rule_sizes(table, facts)
    sized = replace(table, sizes=sizes)
    label_findings, bad = find_bad_labels(sized)
    findings = [
        *table.findings,
        *rules.tell_missing(paths, missing, files),
        *rules.tell_unreadable(paths, facts),
        *rules.tell_placeholders(paths, facts),
        *rules.tell_sizes(table, facts),
        *label_findings,
    ]
    good = sized.without_objects(bad)
    findings += find_doubtful_labels(good)
    if not fast:
        findings += check_masks(good, sizes, progress=progress)
        findings += tell_twice(paths, facts)
    findings += find_oddities(table)
    if model is not None:
        findings += check_anchors(good, sizes, model)
    summary = summarise(sized)
    return Checked(
        source=f"{table.layout} in {table.root}",
        paths=paths,
        facts=facts,
        classes=table.classes,
        counts=summary["objects_per_class"],
        findings=findings,
        summary=summary,
        histograms=make_histograms(sized),
        folder=table.root if len(table.label_files) == 1 else None,
    )


def compare(train: Checked, val: Checked) -> list[Finding]:
    """Finds images of both and classes of one.

    Args:
        train: The set to learn from.
        val: The set to validate on.
    """
    findings = tell_leaks((train.paths, train.facts), (val.paths, val.facts))
    if train.classes != val.classes:
        findings.append(_differ(train, val))
        return findings
    unseen = [name for name, n in val.counts.items() if n and not train.counts.get(name, 0)]
    if unseen:
        findings.append(
            Finding(
                "info",
                "class-only-in-val",
                f"no object of the training set is of {name_some(unseen)}, which the validation "
                "set has; a model cannot find them",
                file=val.name,
                count=len(unseen),
            )
        )
    return findings


def tell_unlabelled(sets: Sequence[Checked]) -> list[Finding]:
    """Warns of images beside those of a set that no split of it names.

    Args:
        sets: All splits. Readers of one label file for each image tell it themselves.
    """
    named = {os.path.realpath(path) for one in sets for path in one.paths}
    folders = {one.folder: one.source for one in sets if one.folder is not None}
    findings = []
    for folder, source in folders.items():
        every = [folder / name for name in list_images(folder)] if folder.is_dir() else []
        rest = [path for path in every if os.path.realpath(path) not in named]
        if rest:
            findings.append(
                Finding(
                    "warning",
                    "unlabelled-image",
                    f"expected labels for every image, got none for {len(rest)} of {len(every)} "
                    f"in {folder}: {name_some([path.name for path in rest])}",
                    file=source,
                    image=str(rest[0]),
                    fix="label them, or move them elsewhere",
                    count=len(rest),
                )
            )
    return findings


def _differ(train: Checked, val: Checked) -> Finding:
    only_train = [name for name in train.classes if name not in val.classes]
    only_val = [name for name in val.classes if name not in train.classes]
    if only_train or only_val:
        parts = (("the training set alone", only_train), ("the validation set alone", only_val))
        told = " and ".join(f"{name_some(names)} in {where}" for where, names in parts if names)
    else:
        told = f"another order: {name_some(train.classes)} and {name_some(val.classes)}"
    return Finding(
        "error",
        "classes-differ",
        f"expected the same classes in the same order for training and validation, got {told}",
        file=val.name,
        fix="labels count the classes of their own set: give both sets one list of classes",
    )


def open_path(path: str | Path) -> tuple[dict[str, Any], list[Finding]]:
    """Opens the splits at a path, training first, without a check of their labels.

    Returns:
        Label tables or data sets by the names of splits, ``"all"`` where there are none; and an
        error for each split that cannot be read at all.
    """
    home, layout, _ = recognise(Path(path).expanduser(), None)
    splits: list[Any] = layout.list_splits(home)
    splits.sort(key=lambda name: canonical_split(name) != "train")
    opened: dict[str, Any] = {}
    findings: list[Finding] = []
    for split in splits or [None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the findings say the same
                opened[split or "all"] = layout.read(home, split)
        except BadLabelsError as error:
            findings += error.findings
        except ValueError as error:
            place = f"{path}, split {split}" if split else str(path)
            message, _, fix = str(error).rpartition("; ")
            findings.append(
                Finding(
                    "error",
                    "unreadable-labels",
                    message or fix,
                    file=place,
                    fix=fix if message else "correct it: nothing can be read before",
                )
            )
    return _without_unions(opened), findings


def _without_unions(opened: dict[str, Any]) -> dict[str, Any]:
    """Leaves out splits such as VOC's trainval, which hold the whole training set again.

    One that is for validation or testing by its name stays: there, this is what must be told.
    """
    images = {split: set(_list_images(one)) for split, one in opened.items()}
    first = next(iter(images), "")
    return {
        split: one
        for split, one in opened.items()
        if split == first
        or canonical_split(split) in SPLITS
        or not images[first]
        or not images[first] <= images[split]
    }


def _list_images(data: Any) -> list[str]:
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        return [str(table.path(index)) for index in range(table.num_images)]
    return list(getattr(data, "images", ()))  # shards have none


def unwrap(data: Any) -> tuple[Any, list[int] | None]:
    """Sees through ``torch.utils.data.Subset``: the set, and which of its samples count."""
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(data, Subset):
        own = [int(index) for index in data.indices]
        indices = own if indices is None else [own[index] for index in indices]
        data = data.dataset
    return data, indices


def check_dataset(
    data: Any, *, val: Any = None, model: Any = None, fast: bool = False, progress: bool = True
) -> Report:
    """Finds what is wrong with a data set, and what a person should know of it.

    The fast form, for before every training, reads labels, names of files, and headers of images
    where labels do not give sizes. The full form also decodes every image, as training will,
    looks for images that are there twice, and measures masks.

    Args:
        data: A path, of which all splits are checked; a data set of cvlib, a `LabelTable`, or any
            ``Dataset`` with samples in cvlib's format (of which the fast form looks at 200).
        val: The same for validation: it is checked, too, and the two are compared. The splits of
            a path are compared with its training split.
        model: Whose ``anchors`` (A, 4), in 0..1, shall match the boxes, with ``image_size``.
        fast: See above.
        progress: Show bars of what takes longer than a second.

    Returns:
        What was found; ``report.raise_if_bad()`` stops at errors, ``print(report)`` shows all.

    Raises:
        FileNotFoundError: ``data`` is a path where nothing is.
        TypeError: ``data`` is none of these.
        ValueError: ``data`` is a path with no layout that is known, or with several.

    Note:
        Deterministic. Nothing is written.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> report = check_dataset(SyntheticBananas(4, image_size=64), fast=True)
        >>> report.errors
        []
    """
    sets: list[Checked] = []
    findings: list[Finding] = []
    is_whole = isinstance(data, str | Path)  # all splits are known
    for given in (data,) if val is None else (data, val):
        opened, unread = open_path(given) if isinstance(given, str | Path) else ({"": given}, [])
        findings += unread
        for split, one in opened.items():
            sets.append(replace(_check(one, model, fast, progress), split=split))
    for one in sets:
        findings += one.findings
    for other in sets[1:]:
        findings += compare(sets[0], other)
    if is_whole and not fast:
        findings += tell_unlabelled(sets)
    summary = dict(sets[0].summary) if sets else {}
    if len(sets) > 1:
        summary["others"] = {other.name: other.summary for other in sets[1:]}
    return Report(
        source=" and ".join(dict.fromkeys(one.source for one in sets)) or str(data),
        findings=sort_findings(findings),
        summary=summary,
        histograms=sets[0].histograms if sets else (),
    )


def _check(given: Any, model: Any, fast: bool, progress: bool) -> Checked:
    data, indices = unwrap(given)
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
            "check_dataset: expected data a path or a data set with a length, got "
            f"{type(data).__name__}"
        )
    return check_samples(data, indices, model=model, fast=fast, progress=progress)
