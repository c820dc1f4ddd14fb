"""Results as rows: CSV for spreadsheets, JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from pathlib import Path
from typing import Any

from cvlib.predict.sources import Frame
from cvlib.predict.writers.folder import ListFile
from cvlib.structures import Classification, Detections, Result

# By task: the columns of a row.
_COLUMNS = {
    "detection": ("file", "frame", "class", "score", "x1", "y1", "x2", "y2"),
    "classification": ("file", "frame", "class", "probability"),
    "segmentation": ("file", "frame", "class", "share"),
}


class CsvWriter:
    """One table with a row for each object.

    Of a classifier a row for each image, of segmentation one for each class in an image, with
    its share of the pixels.
    """

    def __init__(self, path: Path, task: str) -> None:
        self._file = ListFile(path, _line(_COLUMNS[task]))

    def write(self, frame: Frame, result: Result, stem: str) -> None:
        """Adds the rows of one image or frame."""
        start = (frame.path, "" if frame.number is None else frame.number)
        for row in _rows(result):
            self._file.write(_line((*start, *row)))

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


def _rows(result: Result) -> list[tuple[Any, ...]]:
    if isinstance(result, Classification):
        return [(name, f"{value:.6f}") for name, value in result.top(1)]
    if isinstance(result, Detections):
        return [
            (name, f"{score:.6f}", *(f"{value:.2f}" for value in box))
            for name, score, box in zip(
                result.names, result.scores.tolist(), result.boxes.tolist(), strict=True
            )
        ]
    return [(name, f"{share:.6f}") for name, share in result.shares().items()]


def _line(values: tuple[Any, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


class JsonWriter:
    """One list: an entry for each image or frame, and for each file that could not be read."""

    def __init__(self, path: Path) -> None:
        self._file = ListFile(path, "[\n", ",\n", "\n]\n")
        self._damaged: list[dict[str, str]] = []

    def write(self, frame: Frame, result: Result, stem: str, annotated: Path | None) -> None:
        """Adds one image or frame."""
        row: dict[str, Any] = {"file": str(frame.path)}
        if annotated is not None:
            row["annotated"] = str(annotated)
        if frame.number is not None:
            row["frame"] = frame.number
        self._add({**row, **_as_dict(result)})

    def note_damage(self, path: Path, error: Exception) -> None:
        """Adds a file that could not be read, after all others."""
        self._damaged.append({"file": str(path), "error": str(error)})

    def close(self) -> None:
        """Finishes the file."""
        for row in self._damaged:
            self._add(row)
        self._damaged = []
        self._file.close()

    def _add(self, row: dict[str, Any]) -> None:
        self._file.write(textwrap.indent(json.dumps(row, indent=2), "  "))


def _as_dict(result: Result) -> dict[str, Any]:
    if isinstance(result, Classification):
        top = [{"class": name, "probability": round(value, 4)} for name, value in result.top()]
        return {"classes": top}
    if isinstance(result, Detections):
        objects = zip(result.names, result.scores.tolist(), result.boxes.tolist(), strict=True)
        return {
            "objects": [
                {"class": name, "score": round(score, 4), "box": [round(v, 2) for v in box]}
                for name, score, box in objects
            ]
        }
    return {"shares": {name: round(share, 6) for name, share in result.shares().items()}}
