"""Folders of WebDataset shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.files.folders import describe_folder, list_files, list_folders, name_some
from cvlib.data.shards.archive import INDEX, is_index
from cvlib.data.shards.dataset import ShardDataset


def read_shards(
    path: Path,
    split: str | None,
    *,
    classes: Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
    cache: bool = False,
) -> ShardDataset:
    """Open the shards of a folder, or of one of its splits.

    Raises:
        FileNotFoundError: There are no shards.
        ValueError: ``cache`` is True.
    """
    if cache:
        raise ValueError(
            "load_dataset: expected `cache` to be False for shards, got True; the operating system "
            "caches the files"
        )
    folders = _find_folders(path)
    if not folders:
        raise FileNotFoundError(f"load_dataset: expected shards *.tar, got {describe_folder(path)}")
    return ShardDataset(folders[split or ""], classes=classes, transform=transform)


def list_shard_splits(path: Path) -> list[str]:
    """List the subfolders with shards; empty if the folder itself has shards."""
    return [name for name in _find_folders(path) if name]


def recognise_shards(path: Path) -> str | None:
    """Return the shards or index files at a path, or None."""
    names = [
        f"{name}/{INDEX if is_index(folder / INDEX) else '*.tar'}".removeprefix("/")
        for name, folder in _find_folders(path).items()
    ]
    return name_some(names) or None


def _find_folders(path: Path) -> dict[str, Path]:
    """Return the folders of the splits, keyed by name; the key is empty without splits."""
    if not path.is_dir():
        return {}
    if _has_shards(path):
        return {"": path}
    return {name: path / name for name in list_folders(path) if _has_shards(path / name)}


def _has_shards(folder: Path) -> bool:
    return is_index(folder / INDEX) or bool(list_files(folder, lambda n: n.endswith(".tar")))
