"""A training set against its validation set."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cvlib._files import list_pictures
from cvlib.data.check._duplicates import tell_leaks
from cvlib.data.check._parts import Checked
from cvlib.data.check._statistics import name_some
from cvlib.data.findings import Finding


def compare(train: Checked, val: Checked) -> list[Finding]:
    """Finds pictures of both and classes of one.

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
    """Warns of pictures beside those of a set that no split of it names.

    Args:
        sets: All splits. Readers of one label file for each picture tell it themselves.
    """
    named = {os.path.realpath(path) for one in sets for path in one.paths}
    folders = {one.folder: one.source for one in sets if one.folder is not None}
    findings = []
    for folder, source in folders.items():
        every = [folder / name for name in list_pictures(folder)] if folder.is_dir() else []
        rest = [path for path in every if os.path.realpath(path) not in named]
        if rest:
            findings.append(
                Finding(
                    "warning",
                    "unlabelled-picture",
                    f"expected labels for every picture, got none for {len(rest)} of {len(every)} "
                    f"in {folder}: {name_some([path.name for path in rest])}",
                    file=source,
                    picture=str(rest[0]),
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
