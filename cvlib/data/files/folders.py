"""Listing folders of images and label files, whatever stands in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from cvlib._files import IMAGE_SUFFIXES, is_folder

# What tools leave behind beside the data; a notebook's checkpoints have become a class before.
_RUBBISH = ("__MACOSX", "Thumbs.db", "desktop.ini")
_SHOWN = 5
SPLITS = ("train", "val", "test")


def is_hidden(name: str) -> bool:
    """Says whether a file or folder is no part of the data."""
    return name.startswith(".") or name in _RUBBISH


def is_image(name: str) -> bool:
    """Says whether a file name ends as images do."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def natural_order(name: str | Path) -> list[tuple[int, int, str]]:
    """Sort key that puts 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", str(name))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def list_files(folder: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Names of the files directly in a folder, in natural order.

    Args:
        folder: It must exist.
        wanted: Says of a name whether it counts; hidden ones never do.
    """
    with os.scandir(folder) as entries:
        every = [e for e in entries if not is_hidden(e.name) and wanted(e.name)]
        names = [e.name for e in every if not is_folder(e)]
    return sorted(names, key=natural_order)


def list_folders(folder: Path) -> list[str]:
    """Names of the folders directly in a folder, hidden ones left out, in natural order."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and is_folder(e)]
    return sorted(names, key=natural_order)


def walk_files(folder: Path, wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Files in a folder and all folders below it.

    Links to folders are followed, but not into a folder that is being walked already.

    Args:
        folder: It must exist.
        wanted: Says of a name whether it counts; hidden ones never do.

    Returns:
        Paths relative to ``folder`` with ``/``, folder by folder in natural order; and the links
        that lead back to a folder above them.
    """
    found: list[str] = []
    loops: list[str] = []

    def walk(relative: str, above: frozenset[tuple[int, int]]) -> None:
        here = folder / relative
        status = os.stat(here)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            loops.append(relative)
            return
        found.extend(join(relative, name) for name in list_files(here, wanted))
        for name in list_folders(here):
            walk(join(relative, name), above | {identity})

    walk("", frozenset())
    return found, loops


def has_file(folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Says whether there is such a file in a folder or below, without listing all of them."""
    return any(wanted(name) for _, _, names in os.walk(folder) for name in names)


def join(folder: str, name: str) -> str:
    """A path relative to a root, with ``/``."""
    return f"{folder}/{name}" if folder else name


def describe_folder(folder: Path) -> str:
    """What stands in a folder, in words: its first names."""
    if not folder.is_dir():
        return f"{shown(folder)}, which does not exist"
    names = sorted((name for name in os.listdir(folder) if not is_hidden(name)), key=natural_order)
    return (
        f"{shown(folder)} with {name_some(names)}" if names else f"{shown(folder)}, which is empty"
    )


def name_some(names: Iterable[str | Path]) -> str:
    """The first five names, and how many more there are."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def shown(name: str | Path) -> str:
    """A name as it can be printed, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def canonical_split(name: str) -> str:
    """``"train"`` for ``"train2017"``, ``"val"`` for ``"valid"`` and the like."""
    short = re.sub(r"[_-]?[0-9].*$", "", name.lower())
    return {"training": "train", "valid": "val", "validation": "val", "testing": "test"}.get(
        short, short
    )
