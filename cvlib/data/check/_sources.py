"""From what a person names to what is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvlib.data.findings import BadLabelsError, Finding
from cvlib.data.formats.layouts import canonical_split
from cvlib.data.load import _recognise
from cvlib.data.table import LabelTable


def open_path(path: str | Path) -> tuple[list[Any], list[Finding]]:
    """Opens the splits at a path, training first, without a check of their labels.

    Returns:
        Label tables or data sets; and an error for each split that cannot be read at all.
    """
    home, layout, _ = _recognise(Path(path).expanduser(), None)
    splits: list[Any] = layout.splits(home)
    splits.sort(key=lambda name: canonical_split(name) != "train")
    opened: list[Any] = []
    findings: list[Finding] = []
    for split in splits or [None]:
        try:
            opened.append(layout.read(home, split, None, {}))
        except BadLabelsError as error:
            findings += error.findings
        except ValueError as error:
            place = f"{path}, split {split}" if split else str(path)
            findings.append(Finding("error", "unreadable-labels", str(error), file=place))
    return _without_unions(opened), findings


def _without_unions(opened: list[Any]) -> list[Any]:
    """Leaves out splits such as VOC's trainval, which hold the whole training set again."""
    pictures = [set(_list_pictures(one)) for one in opened]
    return [
        one
        for index, one in enumerate(opened)
        if index == 0 or not pictures[0] or not pictures[0] <= pictures[index]
    ]


def _list_pictures(data: Any) -> list[str]:
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        return [str(table.path(index)) for index in range(table.num_pictures)]
    return list(data.pictures)


def unwrap(data: Any) -> tuple[Any, list[int] | None]:
    """Sees through ``torch.utils.data.Subset``: the set, and which of its samples count."""
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(data, Subset):
        own = [int(index) for index in data.indices]
        indices = own if indices is None else [own[index] for index in indices]
        data = data.dataset
    return data, indices
