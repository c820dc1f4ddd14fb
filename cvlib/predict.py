"""From pictures of any kind to detections."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cvlib.data import _images
from cvlib.engine.evaluation import evaluating
from cvlib.models import Model
from cvlib.structures import Detections

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Frame:
    """One picture to look at.

    Attributes:
        path: Of the file it comes from.
        image: uint8, shape (3, H, W), RGB.
        number: Of the frame in a video, from 0; ``None`` for a picture.
    """

    path: Path
    image: Tensor
    number: int | None = None


def find_files(sources: Iterable[str | Path]) -> list[Path]:
    """Finds the pictures and videos that are meant.

    Args:
        sources: Files, folders (searched with their subfolders) and glob patterns.

    Returns:
        Files in the order given, folders and patterns sorted, each file once.

    Raises:
        FileNotFoundError: A source that does not exist, or with neither pictures nor videos in it.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if is_image(p) or is_video(p))
        else:
            matches = map(Path, glob.glob(str(source), recursive=True))
            files = sorted(p for p in matches if p.is_file() and (is_image(p) or is_video(p)))
        if not files:
            what = "a folder without any" if path.is_dir() else "which matches none"
            raise FileNotFoundError(
                f"find_files: expected pictures ({' '.join(IMAGE_SUFFIXES)}) or videos "
                f"({' '.join(VIDEO_SUFFIXES)}), got {source}, {what}"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def is_image(path: Path) -> bool:
    """Says whether the suffix is that of a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    """Says whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_image(path: Path) -> Tensor:
    """Reads a picture of any format that Pillow knows, upright as its EXIF orientation says.

    Returns:
        uint8, shape (3, H, W), RGB.

    Raises:
        ValueError: The file is damaged or no picture.
    """
    return _images.read_image(path)


def read_video(path: Path) -> Iterator[Tensor]:
    """Reads the frames of a video, one at a time: uint8, shape (3, H, W), RGB.

    Raises:
        ValueError: The file is damaged or no video.
    """
    import cv2

    reader = cv2.VideoCapture(str(path))
    try:
        readable, frame = reader.read()
        if not readable:
            raise ValueError(f"read_video: {path} is damaged or not a video that OpenCV can read")
        while readable:
            yield torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)
            readable, frame = reader.read()
    finally:
        reader.release()


def read_frames(path: Path) -> Iterator[Frame]:
    """Reads a picture, or all frames of a video."""
    if not is_video(path):
        yield Frame(path, read_image(path))
        return
    for number, image in enumerate(read_video(path)):
        yield Frame(path, image, number)


def detect(model: Model, images: list[Tensor], *, score_threshold: float = 0.5) -> list[Detections]:
    """Finds the objects in pictures of any size.

    Args:
        model: On any device; its mode is restored afterwards.
        images: uint8, shape (3, H, W), RGB; sizes may differ.
        score_threshold: Least score of an object.

    Returns:
        One for each picture, boxes in its own pixels.
    """
    if not images:
        return []
    height, width = model.image_size
    resized = [F.resize(image, [height, width], antialias=True) for image in images]
    batch = torch.stack(resized).to(model.device)
    with evaluating(model):
        found = model.decode(model(batch), score_threshold=score_threshold)
    results = []
    for image, one in zip(images, found, strict=True):
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height] * 2)
        one = one.cpu()
        results.append(Detections(one.boxes * scale, one.scores, one.labels, one.classes))
    return results


def predict(
    model: Model,
    source: str | Path | Iterable[str | Path],
    *,
    score_threshold: float = 0.5,
    batch_size: int = 16,
    on_damaged: Callable[[Path, ValueError], None] | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Finds the objects in files, folders, glob patterns and videos, one after the other.

    Args:
        model: On any device.
        source: One or several of them; see `find_files`.
        score_threshold: Least score of an object.
        batch_size: Pictures in one forward pass.
        on_damaged: Called with each file that cannot be decoded, which is then skipped; ``None``
            raises instead.

    Yields:
        Each picture or frame with its objects.

    Raises:
        FileNotFoundError: Nothing was found there.
        ValueError: A file is damaged, or ``batch_size`` is below 1.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from cvlib.models import create_model
        >>> model = create_model("tiny_ssd", ("banana",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30)).save(Path(folder) / "black.png")
        ...     for frame, found in predict(model, folder):
        ...         print(frame.path.name, tuple(frame.image.shape), len(found))
        black.png (3, 30, 40) 0
    """
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size >= 1, got {batch_size}")
    sources = [source] if isinstance(source, str | Path) else list(source)
    batch: list[Frame] = []
    for frame in _readable_frames(find_files(sources), on_damaged):
        batch.append(frame)
        if len(batch) == batch_size:
            yield from _detect_frames(model, batch, score_threshold)
            batch = []
    yield from _detect_frames(model, batch, score_threshold)


def _readable_frames(
    files: list[Path], on_damaged: Callable[[Path, ValueError], None] | None
) -> Iterator[Frame]:
    for path in files:
        try:
            yield from read_frames(path)
        except ValueError as error:
            if on_damaged is None:
                raise
            on_damaged(path, error)


def _detect_frames(
    model: Model, frames: list[Frame], score_threshold: float
) -> Iterator[tuple[Frame, Detections]]:
    images = [frame.image for frame in frames]
    yield from zip(frames, detect(model, images, score_threshold=score_threshold), strict=True)
