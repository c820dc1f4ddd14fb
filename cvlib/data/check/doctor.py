"""Looking a data set over before a model learns from it."""

from __future__ import annotations

from typing import Any

from cvlib.data.check._detection import check_table
from cvlib.data.check._parts import Checked
from cvlib.data.check._samples import check_samples
from cvlib.data.check._splits import compare
from cvlib.data.check.report import Report, sort_findings
from cvlib.data.table import LabelTable


def check_dataset(
    data: Any, *, val: Any = None, model: Any = None, fast: bool = False, progress: bool = True
) -> Report:
    """Finds what is wrong with a data set, and what a person should know of it.

    The fast form, for before every training, reads labels, names of files, and headers of pictures
    where labels do not give sizes. The full form also decodes every picture, as training will,
    looks for pictures that are there twice, and measures masks.

    Args:
        data: A data set of cvlib, a `LabelTable`, or any ``Dataset`` with samples in cvlib's format
            (of which the fast form looks at 200).
        val: The same for validation; it is checked, too, and then the two are compared.
        model: Whose ``anchors`` (A, 4), in 0..1, shall match the boxes, with ``image_size``.
        fast: See above.
        progress: Show bars of what takes longer than a second.

    Returns:
        What was found; ``report.raise_if_bad()`` stops at errors, ``print(report)`` shows all.

    Raises:
        TypeError: ``data`` is none of these.

    Note:
        Deterministic. Nothing is written.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> report = check_dataset(SyntheticBananas(4, image_size=64), fast=True)
        >>> report.errors
        []
    """
    train = _check(data, model, fast, progress)
    if val is None:
        sets, between = [train], []
    else:
        sets = [train, _check(val, model, fast, progress)]
        between = compare(*sets)
    findings = [finding for one in sets for finding in one.findings] + between
    summary = {**train.summary, "val": sets[1].summary} if len(sets) > 1 else train.summary
    return Report(
        source=" and ".join(dict.fromkeys(one.source for one in sets)),
        findings=sort_findings(findings),
        summary=summary,
        histograms=train.histograms,
    )


def _check(data: Any, model: Any, fast: bool, progress: bool) -> Checked:
    data, indices = _unwrap(data)
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        chosen = table if indices is None else table.select(indices)
        return check_table(chosen, model=model, fast=fast, progress=progress)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(
            f"check_dataset: expected data a data set with a length, got {type(data).__name__}"
        )
    return check_samples(data, indices, model=model, fast=fast, progress=progress)


def _unwrap(data: Any) -> tuple[Any, list[int] | None]:
    """Sees through ``torch.utils.data.Subset``."""
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(data, Subset):
        own = [int(index) for index in data.indices]
        indices = own if indices is None else [own[index] for index in indices]
        data = data.dataset
    return data, indices
