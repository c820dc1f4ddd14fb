"""Looking a data set over before a model learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cvlib.data.check._classification import check_classification
from cvlib.data.check._detection import check_table
from cvlib.data.check._parts import Checked
from cvlib.data.check._samples import check_samples
from cvlib.data.check._segmentation import check_segmentation
from cvlib.data.check._sources import open_path, unwrap
from cvlib.data.check._splits import compare, tell_unlabelled
from cvlib.data.check.report import Report, sort_findings
from cvlib.data.classification import ClassificationDataset
from cvlib.data.findings import Finding
from cvlib.data.segmentation import SegmentationDataset
from cvlib.data.table import LabelTable


def check_dataset(
    data: Any, *, val: Any = None, model: Any = None, fast: bool = False, progress: bool = True
) -> Report:
    """Finds what is wrong with a data set, and what a person should know of it.

    The fast form, for before every training, reads labels, names of files, and headers of pictures
    where labels do not give sizes. The full form also decodes every picture, as training will,
    looks for pictures that are there twice, and measures masks.

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
