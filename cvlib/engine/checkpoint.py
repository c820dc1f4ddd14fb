"""Files that survive: written beside, then renamed, so that an old one is never lost."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 1


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that ``path`` holds either the old content or the whole new one.

    Args:
        path: Of the file; its folder must exist.
        write: Called with the temporary file, opened for bytes.

    Raises:
        OSError: The disk is full or the folder cannot be written; ``path`` is as it was.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = file.name
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        # torch wraps a full disk into a RuntimeError about its zip writer.
        if isinstance(error, OSError) or (
            isinstance(error, RuntimeError) and not _has_room(path.parent)
        ):
            raise OSError(
                f"could not write {path}: {error}; what stood there before is unharmed: free some "
                "space or make the folder writable, then resume"
            ) from error
        raise


def _has_room(folder: Path) -> bool:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize > 1 << 20


def save_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: Usually ``best.pt`` or ``last.pt`` in a run folder.
        state: Tensors, numbers, strings, lists and dictionaries only, so that
            ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        OSError: Full disk or unwritable folder; the old checkpoint is unharmed.
    """
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint`.

    Args:
        path: Of the file, or of a run folder, where ``best.pt`` is meant.
        device: Where tensors are put.

    Returns:
        The saved state.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of cvlib, damaged, or of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"load_checkpoint: expected a checkpoint, got {path}, which does not exist; a run "
            "folder holds best.pt and last.pt"
        )
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"load_checkpoint: {path} is damaged or not a checkpoint ({error})"
        ) from error
    if not isinstance(state, dict) or "model" not in state or "classes" not in state:
        raise ValueError(
            f"load_checkpoint: expected a checkpoint written by cvlib, got {path}, which has no "
            "model and classes in it"
        )
    if state.get("format") != FORMAT:
        raise ValueError(
            f"load_checkpoint: expected format {FORMAT}, got {state.get('format')} in {path}; it "
            "was written by another version of cvlib"
        )
    return state
