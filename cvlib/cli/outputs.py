"""Output folders and files that do not overwrite earlier ones."""

from __future__ import annotations

from pathlib import Path


def choose_folder(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    number = 1
    while (folder := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def make_folder(path: Path, *, overwrite: bool = False) -> Path:
    """Create a folder for results.

    Args:
        path: The folder.
        overwrite: Whether it may hold files.

    Returns:
        ``path``.

    Raises:
        FileExistsError: The folder holds files, and ``overwrite`` is False; or it is the folder of
            a training run, whose metrics would be replaced.
    """
    if any((path / name).exists() for name in ("last.pt", "best.pt")):
        raise FileExistsError(f"expected a folder for results, got the run {path}; choose another")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(
            f"expected a new or empty folder, got {path}; choose another folder (--out), or pass "
            "--overwrite"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def prepare_file(path: Path, *, overwrite: bool = False) -> Path:
    """Create the folder of an output file.

    Args:
        path: The file.
        overwrite: Whether it may exist.

    Returns:
        ``path``.

    Raises:
        FileExistsError: The file exists, and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"expected a new file, got {path}, which exists; choose another name, or pass "
            "--overwrite"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
