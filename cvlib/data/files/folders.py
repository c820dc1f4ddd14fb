"""Listing of folders with images and label files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from cvlib._files import IMAGE_SUFFIXES, is_folder

# Left behind by tools; a notebook's hidden checkpoints are easily taken for a class.
_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
_MAX_NAMES = 5
SPLITS = ("train", "val", "test")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or left behind by a tool."""
    return name.startswith(".") or name in _IGNORED


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image format."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def natural_order(name: str | Path) -> list[tuple[int, int, str]]:
    """Return a sort key that puts 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", str(name))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def list_files(folder: Path, wanted: Callable[[str], bool]) -> list[str]:
    """List the names of the files directly in a folder, in natural order.

    Args:
        folder: Existing folder.
        wanted: Predicate on names; hidden files are never listed.
    """
    with os.scandir(folder) as entries:
        candidates = [e for e in entries if not is_hidden(e.name) and wanted(e.name)]
        names = [e.name for e in candidates if not is_folder(e)]
    return sorted(names, key=natural_order)


def list_folders(folder: Path) -> list[str]:
    """List the names of the folders directly in a folder, in natural order, except hidden ones."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and is_folder(e)]
    return sorted(names, key=natural_order)


def walk_files(folder: Path, wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """List the files in a folder and all its subfolders.

    Links to folders are followed, but not into a folder that is being walked already.

    Args:
        folder: Existing folder.
        wanted: Predicate on names; hidden files are never listed.

    Returns:
        Paths relative to ``folder`` with ``/``, folder by folder in natural order; and the links
        that lead back to a folder above them.
    """
    paths: list[str] = []
    loops: list[str] = []

    def walk(relative: str, above: frozenset[tuple[int, int]]) -> None:
        current = folder / relative
        status = os.stat(current)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            loops.append(relative)
            return
        paths.extend(join(relative, name) for name in list_files(current, wanted))
        for name in list_folders(current):
            walk(join(relative, name), above | {identity})

    walk("", frozenset())
    return paths, loops


def has_file(folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Whether a folder or a subfolder has a file of a wanted name; stops at the first one."""
    return any(wanted(name) for _, _, names in os.walk(folder) for name in names)


def join(folder: str, name: str) -> str:
    """Join a folder relative to a root, possibly empty, and a name with ``/``."""
    return f"{folder}/{name}" if folder else name


def describe_folder(folder: Path) -> str:
    """Describe the contents of a folder for an error message."""
    if not folder.is_dir():
        return f"{escape(folder)}, which does not exist"
    names = sorted((name for name in os.listdir(folder) if not is_hidden(name)), key=natural_order)
    return (
        f"{escape(folder)} with {name_some(names)}"
        if names
        else f"{escape(folder)}, which is empty"
    )


def name_some(names: Iterable[str | Path]) -> str:
    """Join the first five names, and the number of others."""
    texts = [escape(name) for name in names]
    more = f" and {len(texts) - _MAX_NAMES} more" if len(texts) > _MAX_NAMES else ""
    return ", ".join(texts[:_MAX_NAMES]) + more


def escape(name: str | Path) -> str:
    """Return a name as valid text, escaping bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def canonical_split(name: str) -> str:
    """Return ``"train"`` for ``"train2017"``, ``"val"`` for ``"valid"`` and similar names."""
    short = re.sub(r"[_-]?[0-9].*$", "", name.lower())
    return {"training": "train", "valid": "val", "validation": "val", "testing": "test"}.get(
        short, short
    )
