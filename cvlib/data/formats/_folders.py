"""Listing folders of pictures and label files, whatever stands in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cvlib._files import PICTURE_SUFFIXES

# What tools leave behind beside the data; a notebook's checkpoints have become a class before.
_RUBBISH = ("__MACOSX", "Thumbs.db", "desktop.ini")
_SHOWN = 5


def is_hidden(name: str) -> bool:
    """Says whether a file or folder is no part of the data."""
    return name.startswith(".") or name in _RUBBISH


def is_picture(name: str) -> bool:
    """Says whether a file name ends as pictures do."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


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
        names = [e.name for e in entries if not is_hidden(e.name) and wanted(e.name)]
    return sorted(names, key=natural_order)


def list_folders(folder: Path) -> list[str]:
    """Names of the folders directly in a folder, hidden ones left out, in natural order."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
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


def resolve_inside(root: Path, name: str, function: str, source: str) -> Path:
    """The path that a label file names, where it stays inside of the data set.

    Args:
        root: Folder that nothing may leave.
        name: Relative to ``root``, or absolute; Windows' separators are accepted.
        function: For the message.
        source: Where the name stands, for the message.

    Raises:
        ValueError: The path climbs out of ``root``.
    """
    # Links are not resolved: who unpacked the set has made them; names come from strangers.
    path = Path(os.path.normpath(root / name.replace("\\", "/")))
    base = Path(os.path.normpath(root))
    if (path != base and base not in path.parents) or "\0" in name:
        raise ValueError(
            f"{function}: expected paths inside of {shown(root)}, got {name!r} in {source}; move "
            "the data there, or name it relative to that folder"
        )
    return path


def read_text(path: Path, function: str, *, most_bytes: int) -> str:
    """Read a small text file in UTF-8, with or without a byte order mark.

    Args:
        path: Of the file.
        function: For the message.
        most_bytes: A larger file is none of the kind that is expected.

    Raises:
        ValueError: Too large, or not UTF-8.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(
            f"{function}: expected a text file of at most {most_bytes:,} bytes, got {size:,} in "
            f"{shown(path)}"
        )
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{function}: expected text in UTF-8, got byte {error.object[error.start]:#04x} at "
            f"position {error.start} of {shown(path)}; save the file in UTF-8"
        ) from error


def check_classes(function: str, classes: Sequence[str]) -> list[str]:
    """The names as a list.

    Raises:
        TypeError: A single string, or names that are no strings.
        ValueError: No name, or one twice.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(
            f"{function}: expected classes a sequence of names, got {classes!r}; write "
            '("cat", "dog")'
        )
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice or not classes:
        raise ValueError(
            f"{function}: expected classes with different names, at least one, got "
            + (f"{twice[0]!r} twice" if twice else "none")
        )
    return list(classes)
