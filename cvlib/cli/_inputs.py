"""Training and validation sets from what a command names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.files.folders import canonical_split
from cvlib.data.load import AnyDataset, find_splits
from cvlib.engine import load
from cvlib.models import Model, create_model


def open_model(name: str, classes: Sequence[str] = ("object",)) -> Model:
    """Loads the model of a run folder or checkpoint, or makes the one of that name.

    Args:
        name: A path, or a name of `list_models`.
        classes: Of a model that is made.
    """
    return load(name) if Path(name).exists() else create_model(name, classes)


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
    """Opens what a model is trained on and what it is measured on.

    Args:
        data: The data set.
        val: Another one for validation; ``None``: the split for it, or where there is none, a part
            of the training images that is chosen by ``seed``.
        val_share: Share of the images that such a part gets.
        seed: See ``val``.
        bad_labels: As for `load_dataset`.
        cache: As for `load_dataset`.
        log: Is told what was opened and divided.

    Raises:
        ValueError: No split for training, too few images for two parts, or other classes in
            ``val`` than in ``data``.
    """
    options: dict[str, Any] = {"bad_labels": bad_labels, "cache": cache, "log": log}
    splits = find_splits(data)
    train = load_dataset(data, name_split(splits, "train", data), **options)
    if val is not None:
        other = load_dataset(val, name_split(find_splits(val), "val", val), **options)
        if other.classes != train.classes:
            raise ValueError(
                f"expected the same classes in --val as in the training set {train.classes}, got "
                f"{other.classes}"
            )
        return train, other
    if any(canonical_split(name) == "val" for name in splits):
        return train, load_dataset(data, name_split(splits, "val", data), **options)
    try:
        first, second = train.split(1 - val_share, seed)
    except ValueError as error:
        raise ValueError(f"{error}; give another --val-share, or --val") from None
    log(
        f"no validation split: {len(second)} of {len(train)} images are set apart for it "
        f"(--val-share {val_share}, --seed {seed})"
    )
    return first, second


def name_split(splits: list[str], wanted: str, data: Path) -> str | None:
    """The split that is meant; ``None`` where a set is not divided.

    Raises:
        ValueError: There are several, and none is meant.
    """
    found = [name for name in splits if canonical_split(name) == canonical_split(wanted)]
    if wanted in splits:
        return wanted
    if len(found) == 1:
        return found[0]
    if len(splits) <= 1:
        return splits[0] if splits else None
    raise ValueError(
        f"expected a split {wanted} in {data}, got {', '.join(found or splits)}; name one"
    )
