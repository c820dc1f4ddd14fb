"""Results as tables: CSV for spreadsheets, JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from pathlib import Path
from typing import Any

from cvlib.predict.sources import Frame
from cvlib.predict.writers.folder import ListFile
from cvlib.structures import Result


class CsvWriter:
    """One CSV table with the rows of all results; see `Result.rows`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: ListFile | None = None

    def write(self, frame: Frame, result: Result, stem: str) -> None:
        """Add the rows of one image or frame."""
        if self._file is None:
            self._file = ListFile(self._path, _line(("file", "frame", *result.columns)))
        prefix = (frame.path, "" if frame.number is None else frame.number)
        for row in result.rows():
            self._file.write(_line((*prefix, *row)))

    def close(self) -> None:
        """Finish the file."""
        if self._file is None:
            self._file = ListFile(self._path, _line(("file", "frame")))
        self._file.close()


def _line(values: tuple[Any, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


class JsonWriter:
    """One JSON list with an entry per image or frame, and per unreadable file."""

    def __init__(self, path: Path) -> None:
        self._file = ListFile(path, "[\n", ",\n", "\n]\n")
        self._damaged: list[dict[str, str]] = []

    def write(self, frame: Frame, result: Result, stem: str, annotated: Path | None) -> None:
        """Add one image or frame."""
        row: dict[str, Any] = {"file": str(frame.path)}
        if annotated is not None:
            row["annotated"] = str(annotated)
        if frame.number is not None:
            row["frame"] = frame.number
        self._add({**row, **result.as_dict()})

    def note_damage(self, path: Path, error: Exception) -> None:
        """Add an unreadable file, after all images."""
        self._damaged.append({"file": str(path), "error": str(error)})

    def close(self) -> None:
        """Finish the file."""
        for row in self._damaged:
            self._add(row)
        self._damaged = []
        self._file.close()

    def _add(self, row: dict[str, Any]) -> None:
        self._file.write(textwrap.indent(json.dumps(row, indent=2), "  "))
