"""Writing results in several formats at once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from cvlib.models import Model
from cvlib.predict.sources import Frame
from cvlib.predict.writers.annotations import CocoIds, CocoWriter, YoloWriter
from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.images import ImageWriter, MaskWriter
from cvlib.predict.writers.tables import CsvWriter, JsonWriter
from cvlib.structures import Result

Kind = Literal["images", "coco", "yolo", "csv", "json", "masks"]
KINDS: tuple[str, ...] = get_args(Kind)
# Task of the kinds that are written for one task only.
_TASKS = {"coco": "detection", "yolo": "detection", "masks": "segmentation"}


class Writers:
    """Writes results in several formats; a context manager that finishes all files on exit.

    Files are finished even if the run fails or is interrupted, so that no results are lost.

    Args:
        folder: Output folder.
        kinds: Names of formats, from ``KINDS``.
        model: Model that predicts the results.
        data: COCO file that supplies the ids of images and categories for kind ``coco``.

    Attributes:
        images: Number of images and frames so far.
        objects: Number of objects in them; ``None`` for results without objects.
        damaged: Number of unreadable files.

    Raises:
        ValueError: An unknown kind, one for another task than the model's, or wrong ``data``.
    """

    def __init__(
        self,
        folder: OutputFolder,
        kinds: Sequence[str],
        model: Model,
        data: Path | None = None,
    ) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(
                    f"Writers: expected `kinds` to be among {', '.join(KINDS)}, got {kind!r}"
                )
            if _TASKS.get(kind, model.task) != model.task:
                raise ValueError(
                    f"Writers: expected `model` to be for {_TASKS[kind]} to write {kind!r}, got "
                    f"one for {model.task}"
                )
        if data is not None and "coco" not in kinds:
            raise ValueError("Writers: expected kind 'coco' with a COCO file for ids, got none")
        ids = None if data is None else CocoIds.read(data, model.classes)
        self.images = self.damaged = 0
        self.objects: int | None = None
        self._folder = folder
        self._images = ImageWriter(folder) if "images" in kinds else None
        self._json = JsonWriter(folder.file("predictions.json")) if "json" in kinds else None
        self._coco = CocoWriter(folder, model.classes, ids) if "coco" in kinds else None
        self._others: list[Any] = [] if self._coco is None else [self._coco]
        if "yolo" in kinds:
            self._others.append(YoloWriter(folder, model.classes))
        if "csv" in kinds:
            self._others.append(CsvWriter(folder.file("predictions.csv")))
        if "masks" in kinds:
            self._others.append(MaskWriter(folder))

    @property
    def unknown(self) -> int:
        """Number of images that are not in the COCO file, and so have no rows in the results."""
        return 0 if self._coco is None else self._coco.unknown

    def write(self, frame: Frame, result: Result) -> None:
        """Write one image or frame."""
        stem = self._folder.name_result(frame)
        annotated = None
        if self._images is not None:
            annotated = self._images.write(frame, result, stem)
        if self._json is not None:
            self._json.write(frame, result, stem, annotated)
        for writer in self._others:
            writer.write(frame, result, stem)
        self.images += 1
        if result.num_objects is not None:
            self.objects = (self.objects or 0) + result.num_objects

    def note_damage(self, path: Path, error: Exception) -> None:
        """Count an unreadable file, and record it in the JSON file."""
        self.damaged += 1
        if self._json is not None:
            self._json.note_damage(path, error)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:  # closes all even if one fails
            for writer in (self._images, self._json, *self._others):
                if writer is not None:
                    stack.callback(writer.close)
