"""The output folder: no source is overwritten, no file is incomplete."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cvlib.predict.sources import STDIN, Frame, Sources


class OutputFolder:
    """Output folder with a distinct file name for every source.

    Args:
        path: Folder, new or empty; created with its first file.
        sources: Sources of the prediction, which are never replaced.
        overwrite: Whether the folder may hold files; results of the same names are replaced.
        protected: Other files that are never replaced.

    Raises:
        FileExistsError: The folder holds files, and ``overwrite`` is False.
        NotADirectoryError: ``path`` is a file.
        ValueError: ``overwrite`` with a list from standard input, whose files are not known yet.
    """

    def __init__(
        self,
        path: Path,
        sources: Sources,
        *,
        overwrite: bool = False,
        protected: Iterable[Path] = (),
    ) -> None:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                f"OutputFolder: expected `path` to be a folder, got the file {path}"
            )
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise FileExistsError(
                    f"OutputFolder: expected `path` to be a new or empty folder, got {path}; "
                    "choose another folder (--out), or pass --overwrite"
                )
            if STDIN in sources.names:
                raise ValueError(
                    "OutputFolder: expected `path` to be a new or empty folder for a list from "
                    f"standard input, got {path}: an image of the list might be replaced"
                )
        self.path = path
        self._protected = {file.resolve() for file in (*sources.files, *protected)}
        inner = [file for file in self._protected if path.resolve() in file.parents]
        self._taken = {file.stem.casefold() for file in inner}
        self._current: tuple[Path, str] | None = None

    def name_result(self, frame: Frame) -> str:
        """Return the name of a source's result files, without suffix; duplicates get a number.

        All frames of a video have one name.
        """
        is_first = frame.number in (None, 0)
        if self._current is None or is_first or self._current[0] != frame.path:
            stem, number = frame.path.stem, 1
            while stem.casefold() in self._taken:
                number += 1
                stem = f"{frame.path.stem}-{number}"
            self._taken.add(stem.casefold())
            self._current = (frame.path, stem)
        return self._current[1]

    def file(self, name: str) -> Path:
        """Return the path of an output file and create its folder.

        Raises:
            FileExistsError: The file is a source or protected.
        """
        path = self.path / name
        if path.resolve() in self._protected:
            raise FileExistsError(
                f"OutputFolder: expected another file than the source {path}; choose another "
                "folder (--out)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ListFile:
    """A text file of many items, moved into place when it is closed.

    Args:
        path: The file.
        before: Text before the first item.
        between: Text between items.
        after: Text after the last item.
    """

    def __init__(self, path: Path, before: str = "", between: str = "", after: str = "") -> None:
        self.path = path
        self._between, self._after, self._is_empty = between, after, True
        self._temporary = path.with_name(f".{path.name}.tmp")
        # File names need not be valid UTF-8.
        self._file = open(
            self._temporary, "w", encoding="utf-8", errors="surrogateescape", newline=""
        )
        self._file.write(before)

    def write(self, item: str) -> None:
        """Add an item."""
        if not self._is_empty:
            self._file.write(self._between)
        self._is_empty = False
        self._file.write(item)

    def close(self) -> None:
        """Finish the file and move it into place."""
        if self._file.closed:
            return
        self._file.write(self._after)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
