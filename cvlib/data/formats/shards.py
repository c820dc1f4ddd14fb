"""Folders of tar files as `load_dataset` finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.files.folders import list_files, list_folders, name_some
from cvlib.data.shards.archive import INDEX, is_index


def _shard_folders(path: Path) -> dict[str, Path]:
    """The folders of the splits; one that is not divided is its own, without a name."""
    if not path.is_dir():
        return {}
    if _has_shards(path):
        return {"": path}
    return {name: path / name for name in list_folders(path) if _has_shards(path / name)}


def _has_shards(folder: Path) -> bool:
    return is_index(folder / INDEX) or bool(list_files(folder, lambda n: n.endswith(".tar")))


def find_shards(path: Path) -> str | None:
    """What was found of shards at a path, in words, or None."""
    folders = _shard_folders(path)
    names = [
        f"{name}/{file}".removeprefix("/")
        for name, folder in folders.items()
        for file in [INDEX if is_index(folder / INDEX) else "*.tar"]
    ]
    return name_some(names) if names else None


def list_shard_splits(path: Path) -> list[str]:
    """Names of the folders with shards; none where the set is not divided."""
    return [name for name in _shard_folders(path) if name]


def read_shards(
    path: Path, split: str | None, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> Any:
    """Opens a folder of shards, or that of a split.

    Raises:
        ValueError: A cache is asked for.
    """
    from cvlib.data.shards.dataset import ShardDataset

    if options.get("cache"):
        raise ValueError(
            "load_dataset: expected cache=False for shards, got True; the system keeps the files "
            "that it has read in memory"
        )
    folder = _shard_folders(path)[split or ""]
    return ShardDataset(folder, classes=classes, transform=options.get("transform"))
