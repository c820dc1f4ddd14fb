"""From what a person names to what is checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from cvlib.data.findings import BadLabelsError, Finding
from cvlib.data.formats._folders import SPLITS, canonical_split
from cvlib.data.load import recognise
from cvlib.data.table import LabelTable


def open_path(path: str | Path) -> tuple[dict[str, Any], list[Finding]]:
    """Opens the splits at a path, training first, without a check of their labels.

    Returns:
        Label tables or data sets by the names of splits, ``"all"`` where there are none; and an
        error for each split that cannot be read at all.
    """
    home, layout, _ = recognise(Path(path).expanduser(), None)
    splits: list[Any] = layout.splits(home)
    splits.sort(key=lambda name: canonical_split(name) != "train")
    opened: dict[str, Any] = {}
    findings: list[Finding] = []
    for split in splits or [None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the findings say the same
                opened[split or "all"] = layout.read(home, split, None, {})
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
    pictures = {split: set(_list_pictures(one)) for split, one in opened.items()}
    first = next(iter(pictures), "")
    return {
        split: one
        for split, one in opened.items()
        if split == first
        or canonical_split(split) in SPLITS
        or not pictures[first]
        or not pictures[first] <= pictures[split]
    }


def _list_pictures(data: Any) -> list[str]:
    table = data if isinstance(data, LabelTable) else getattr(data, "table", None)
    if isinstance(table, LabelTable):
        return [str(table.path(index)) for index in range(table.num_pictures)]
    return list(getattr(data, "pictures", ()))  # shards have none


def unwrap(data: Any) -> tuple[Any, list[int] | None]:
    """Sees through ``torch.utils.data.Subset``: the set, and which of its samples count."""
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(data, Subset):
        own = [int(index) for index in data.indices]
        indices = own if indices is None else [own[index] for index in indices]
        data = data.dataset
    return data, indices
