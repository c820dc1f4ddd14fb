"""One folder for results, in which nothing is lost and nothing is half written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cvlib.predict.sources import STDIN, Frame, Sources


class OutputFolder:
    """Gives every source a name of its own, and never one of a file that was there before.

    Args:
        path: Of the folder, new or empty; it is made when the first file is.
        sources: What is looked at: none of it is ever replaced.
        overwrite: The folder may have something in it, and results of the same names are replaced.
        protected: Further files that must stay.

    Raises:
        FileExistsError: The folder has something in it, and ``overwrite`` is False.
        NotADirectoryError: It is a file.
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
            raise NotADirectoryError(f"OutputFolder: expected a folder, got the file {path}")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise FileExistsError(
                    f"OutputFolder: expected a new or empty folder, got {path}; choose another "
                    "--out, or allow --overwrite"
                )
            if STDIN in sources.given:
                raise ValueError(
                    f"OutputFolder: expected a new or empty folder for a list from standard input, "
                    f"got {path}: an image of the list might be replaced"
                )
        self.path = path
        self._kept = {one.resolve() for one in (*sources.files, *protected)}
        inner = [one for one in self._kept if path.resolve() in one.parents]
        self._taken = {one.stem.casefold() for one in inner}
        self._current: tuple[Path, str] | None = None

    def stem(self, frame: Frame) -> str:
        """The name for the results of a source, without suffix; equal names get a number."""
        starts = frame.number in (None, 0)
        if self._current is None or starts or self._current[0] != frame.path:
            stem, number = frame.path.stem, 1
            while stem.casefold() in self._taken:
                number += 1
                stem = f"{frame.path.stem}-{number}"
            self._taken.add(stem.casefold())
            self._current = (frame.path, stem)
        return self._current[1]

    def file(self, name: str) -> Path:
        """The path of a file, its folder made.

        Raises:
            FileExistsError: It is a source or protected.
        """
        path = self.path / name
        if path.resolve() in self._kept:
            raise FileExistsError(
                f"OutputFolder: expected another file than the source {path}; choose another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ListFile:
    """A text file of many items that appears whole when it is closed, however long it takes.

    Args:
        path: Of the file.
        before: Text before the first item.
        between: Text between items.
        after: Text after the last one.
    """

    def __init__(self, path: Path, before: str = "", between: str = "", after: str = "") -> None:
        self.path = path
        self._between, self._after, self._is_empty = between, after, True
        self._temporary = path.with_name(f".{path.name}.tmp")
        # What a file system allows in names, UTF-8 may not.
        self._file = open(
            self._temporary, "w", encoding="utf-8", errors="surrogateescape", newline=""
        )
        self._file.write(before)

    def write(self, item: str) -> None:
        """Adds an item."""
        if not self._is_empty:
            self._file.write(self._between)
        self._is_empty = False
        self._file.write(item)

    def close(self) -> None:
        """Finishes the file and puts it in its place."""
        if self._file.closed:
            return
        self._file.write(self._after)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
