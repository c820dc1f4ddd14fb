"""Files that survive being written, text with clear errors, paths that stay in their folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

# What a loader looks for in folders; what a file is, its content says.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif",
)  # fmt: skip


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file so that ``path`` holds either the old content or the whole new one.

    Args:
        path: Of the file; its folder must exist. One process writes it at a time.
        content: All of it.

    Raises:
        OSError: The disk is full or the folder cannot be written; ``path`` is as it was.
    """
    # A fixed name, so that what a killed process has left is overwritten by the next one.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(
                f"could not write {path}: {error}; what stood there before is unharmed: free some "
                "space or make the folder writable, then resume"
            ) from error
        raise


def save_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically."""
    write_atomically(path, text.encode())


def read_text(path: Path, function: str, kind: str = "text") -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Args:
        path: Of the file.
        function: Whom errors speak for.
        kind: What the file should be, for errors: ``"a JSON file"``.

    Raises:
        FileNotFoundError: There is no such file, or it is a folder.
        ValueError: Empty, in another encoding, or not text at all.
    """
    data = read_bytes(path, function, kind)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(
            f"{function}: expected {kind} in UTF-8, got UTF-16 in {path}; save it again as UTF-8"
        )
    if b"\0" in data:
        raise ValueError(
            f"{function}: expected {kind}, got a zero byte at byte {data.index(0)} of {path}: it "
            "is binary or damaged; restore the file"
        )
    if data.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{function}: expected {kind}, got a Git LFS pointer in {path}; run git lfs pull"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{function}: expected {kind} in UTF-8, got byte 0x{data[error.start]:02x} in line "
            f"{line} of {path}; save it again as UTF-8"
        ) from error


def read_bytes(path: Path, function: str, kind: str = "a file") -> bytes:
    """Reads a file whole.

    Raises:
        FileNotFoundError: There is no such file, or it is no plain file.
    """
    # Asked first: opening a named pipe would wait for ever.
    if not path.is_file():
        actual = "which is no file" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"{function}: expected {kind}, got {path}, {actual}")
    return path.read_bytes()


def inside(root: Path, name: object) -> Path:
    """Joins a folder and a path that a label file names, which must not lead out of the folder.

    Label files come from others, and what they name may be opened, shown or copied. Symbolic links
    are followed wherever they lead: whoever could put one into the folder could put the file there.
    A backslash separates folders, as Windows writes it, unless there is a file of that name.

    Args:
        root: The folder.
        name: What the label file says.

    Returns:
        ``root / name``.

    Raises:
        ValueError: Empty, absolute, with ``..``, a drive letter or a zero byte, or not text.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"expected the path of a file, got {name!r}")
    parts = name.replace("\\", "/").split("/")
    drive = PureWindowsPath(name).drive
    if name.startswith(("/", "\\")) or drive or ".." in parts or "\0" in name:
        raise ValueError(
            f"expected a path inside of {root}, got {name!r}; move the file there, or name a "
            "higher folder as the root"
        )
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError(f"expected the path of a file, got {name!r}, which is no text") from None
    path = root / name
    return root.joinpath(*parts) if "\\" in name and not path.exists() else path


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """Finds the images in a folder and its subfolders by their suffixes.

    Args:
        folder: Where to look. Links to folders are followed, each folder is visited once, so that
            loops end. Names that begin with a dot are left out.
        suffixes: In lower case, with their dot.

    Returns:
        Paths relative to ``folder``, with ``/``, sorted. Names that are not UTF-8 survive, as
        Python's file functions write them.
    """
    return sorted(_walk(str(folder), "", tuple(suffixes), set()))


def _walk(
    folder: str, prefix: str, suffixes: tuple[str, ...], seen: set[tuple[int, int]]
) -> Iterator[str]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", suffixes, seen)
        elif entry.name.lower().endswith(suffixes):
            yield prefix + entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Says whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
