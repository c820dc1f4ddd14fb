"""Atomic writing, reading with clear errors, and paths confined to a folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

# For searching folders only; the format of an image is read from its content.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif",
)  # fmt: skip


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that ``path`` holds either the complete old or the complete new content.

    Args:
        path: File to write; its folder must exist. Only one process may write it at a time.
        content: New content.

    Raises:
        OSError: The disk is full or the folder is not writable; ``path`` is unchanged.
    """
    # A fixed name, so that the next write replaces the file that a killed process has left.
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
                f"could not write {path}: {error}; the previous content is unharmed: free some "
                "space or make the folder writable, then resume"
            ) from error
        raise


def save_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_atomically(path, text.encode())


def read_text(path: Path, function: str, kind: str = "text") -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: File to read.
        function: Function name used as the prefix of error messages.
        kind: Expected kind of file, for error messages: ``"a JSON file"``.

    Raises:
        FileNotFoundError: The file does not exist or is a folder.
        ValueError: Another encoding, or not text.
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
    """Read a file.

    Raises:
        FileNotFoundError: The file does not exist or is not a regular file.
    """
    # Opening a named pipe would block forever.
    if not path.is_file():
        actual = "which is not a file" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"{function}: expected {kind}, got {path}, {actual}")
    return path.read_bytes()


def inside(root: Path, name: object) -> Path:
    """Join a folder and a path from a label file, which must not lead out of the folder.

    Label files are untrusted, and the files that they name may be opened, shown or copied. Symbolic
    links are followed: whoever can create one in the folder can also put the file there. A
    backslash is a separator, as on Windows, unless a file of that name exists.

    Args:
        root: Folder.
        name: Path in the label file.

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
        raise ValueError(f"expected the path of a file, got {name!r}, which is not text") from None
    path = root / name
    return root.joinpath(*parts) if "\\" in name and not path.exists() else path


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """List the images in a folder and its subfolders by their suffixes.

    Args:
        folder: Folder to search. Links to folders are followed, but each folder is visited only
            once, in case of loops. Names that begin with a dot are skipped.
        suffixes: Suffixes in lower case, with their dot.

    Returns:
        Sorted paths relative to ``folder``, with ``/``. Names that are not UTF-8 keep their bytes
        as surrogate escapes.
    """
    return sorted(_walk(str(folder), "", tuple(suffixes), set()))


def _walk(
    folder: str, prefix: str, suffixes: tuple[str, ...], visited: set[tuple[int, int]]
) -> Iterator[str]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", suffixes, visited)
        elif entry.name.lower().endswith(suffixes):
            yield prefix + entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
