"""All files that were asked for, written together."""

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
# What only one task has.
_TASKS = {"coco": "detection", "yolo": "detection", "masks": "segmentation"}


class Writers:
    """Writes results in several forms; a context manager that finishes all files at its end.

    They are finished when the run fails or is interrupted, too: hours of work are not lost, and
    every file that is there is whole.

    Args:
        folder: Where to.
        kinds: Some of ``KINDS``.
        model: Whose results they are.
        data: COCO file whose ids of images and classes the COCO results shall have.

    Attributes:
        images: Images and frames so far.
        objects: Objects in them, of a detector.
        damaged: Files that could not be read.

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
                raise ValueError(f"Writers: expected kinds among {', '.join(KINDS)}, got {kind!r}")
            if _TASKS.get(kind, model.task) != model.task:
                raise ValueError(
                    f"Writers: expected a model for {_TASKS[kind]} for {kind!r}, got one for "
                    f"{model.task}"
                )
        if data is not None and "coco" not in kinds:
            raise ValueError("Writers: expected kind 'coco' where a data set gives ids, got none")
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
        """Images that the COCO file does not have, and which have no rows in the results."""
        return 0 if self._coco is None else self._coco.unknown

    def write(self, frame: Frame, result: Result) -> None:
        """Writes one image or frame."""
        stem = self._folder.stem(frame)
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
        """Counts a file that could not be read; JSON has it on record."""
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
        with contextlib.ExitStack() as stack:  # one that fails does not keep others from ending
            for writer in (self._images, self._json, *self._others):
                if writer is not None:
                    stack.callback(writer.close)
