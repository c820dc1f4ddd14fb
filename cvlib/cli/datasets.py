"""Datasets named on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.files.folders import canonical_split
from cvlib.data.load import AnyDataset, find_splits


def open_train_val(
    data: Path,
    val: Path | None,
    *,
    val_share: float,
    seed: int,
    bad_labels: BadLabels,
    cache: bool,
    log: Callable[[str], None],
) -> tuple[AnyDataset, AnyDataset]:
    """Open the training and validation datasets.

    Args:
        data: Dataset for training.
        val: Dataset for validation; ``None``: the validation split of ``data``, or, without one, a
            share of the training images.
        val_share: Share of the training images that are used for validation.
        seed: Seed that selects these images.
        bad_labels: See `load_dataset`.
        cache: See `load_dataset`.
        log: Called with each line about the datasets.

    Returns:
        Training and validation dataset.

    Raises:
        ValueError: There is no training split, there are too few images for two parts, or ``val``
            has other classes than ``data``.
    """
    options: dict[str, Any] = {"bad_labels": bad_labels, "cache": cache, "log": log}
    splits = find_splits(data)
    train = load_dataset(data, choose_split(splits, "train", data), **options)
    if val is not None:
        other = load_dataset(val, choose_split(find_splits(val), "val", val), **options)
        if other.classes != train.classes:
            raise ValueError(
                f"expected --val to have the classes of the training dataset {train.classes}, got "
                f"{other.classes}"
            )
        return train, other
    if any(canonical_split(name) == "val" for name in splits):
        return train, load_dataset(data, choose_split(splits, "val", data), **options)
    try:
        first, second = train.split(1 - val_share, seed)
    except ValueError as error:
        raise ValueError(f"{error}; choose another --val-share, or pass --val") from None
    log(
        f"no validation split: {len(second)} of {len(train)} images are used for validation "
        f"(--val-share {val_share}, --seed {seed})"
    )
    return first, second


def choose_split(splits: list[str], wanted: str, data: Path) -> str | None:
    """Choose the split with a name, or with another usual name for it.

    Args:
        splits: Names of the splits of the dataset.
        wanted: Name such as ``"val"``, which also matches ``valid`` and ``val2017``.
        data: Path of the dataset, for messages.

    Returns:
        Name of the split; the only split of the dataset; or ``None`` if it has no splits.

    Raises:
        ValueError: Several splits match, or several exist and none matches.
    """
    matches = [name for name in splits if canonical_split(name) == canonical_split(wanted)]
    if wanted in splits:
        return wanted
    if len(matches) == 1:
        return matches[0]
    if len(splits) <= 1:
        return splits[0] if splits else None
    raise ValueError(
        f"expected a split {wanted} in {data}, got {', '.join(matches or splits)}; select one "
        "(--split), or pass its label file"
    )
