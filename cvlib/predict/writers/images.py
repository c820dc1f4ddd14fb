"""Writers of images: annotated images and videos, and class maps."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvlib._files import write_atomically
from cvlib.predict.sources import DEFAULT_RATE, Frame
from cvlib.predict.writers.folder import OutputFolder
from cvlib.structures import Result, Segmentation
from cvlib.visualize.segmentation import class_colours

_VOID_COLOUR = (224, 224, 192)  # Pascal VOC's


class ImageWriter:
    """An annotated PNG per image, an annotated MP4 per video, camera or stream."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._video: _Video | None = None

    def write(self, frame: Frame, result: Result, stem: str) -> Path:
        """Add one image or frame and return its file."""
        image = result.draw(frame.image)
        if frame.number is None:
            target = self._folder.file(f"{stem}.png")
            write_png(target, image)
            return target
        target = self._folder.file(f"{stem}.mp4")
        if self._video is None or self._video.target != target:
            self.close()
            self._video = _Video(target, frame, image.size)
        self._video.write(image)
        return target

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()
            self._video = None


class _Video:
    """A video, moved into place when it is closed."""

    def __init__(self, target: Path, frame: Frame, size: tuple[int, int]) -> None:
        import cv2

        self.target, self._size = target, size
        # OpenCV selects the format by the suffix.
        self._temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer: Any = cv2.VideoWriter(
            str(self._temporary), code, frame.rate or DEFAULT_RATE, size
        )
        if not self._writer.isOpened():
            raise OSError(
                f"ImageWriter: expected {target} to be writable, but OpenCV cannot open it"
            )

    def write(self, image: Image.Image) -> None:
        # Streams may change their size; OpenCV drops such frames silently.
        if image.size != self._size:
            image = image.resize(self._size)
        self._writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))

    def close(self) -> None:
        self._writer.release()
        os.replace(self._temporary, self.target)


class MaskWriter:
    """A palette PNG of class labels per image, as in Pascal VOC."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder

    def write(self, frame: Frame, result: Result, stem: str) -> None:
        """Write the class map of one image or frame."""
        assert isinstance(result, Segmentation)  # Writers has checked the task
        labels = result.labels.cpu().numpy()
        pixels = np.where(labels == result.void, 255, labels).astype(np.uint8)
        image = Image.fromarray(pixels)
        # All 256 colours: with fewer, PNG uses too few bits for void.
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(result.classes)] = class_colours(len(result.classes))
        colours[255] = _VOID_COLOUR
        image.putpalette(colours.tobytes())
        name = stem if frame.number is None else f"{stem}-{frame.number:06}"
        write_png(self._folder.file(f"masks/{name}.png"), image)

    def close(self) -> None:
        """Do nothing: every file is complete."""


def write_png(path: Path, image: Image.Image) -> None:
    """Write an image as PNG, atomically."""
    content = io.BytesIO()
    image.save(content, "PNG")
    write_atomically(path, content.getbuffer())
