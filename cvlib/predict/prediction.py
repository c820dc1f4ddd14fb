"""Prediction on anything that contains images, one image after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cvlib._checks import check_fraction
from cvlib.geometry.inputs import ImageLike, to_image_tensor
from cvlib.models import Model
from cvlib.predict.sources import Frame, OnDamaged, Sources
from cvlib.predict.views import Views, predict_views
from cvlib.structures import Result

Source = str | Path | ImageLike | Sources


def predict(
    model: Model,
    source: Source | Iterable[Source],
    *,
    score_threshold: float = 0.5,
    batch_size: int = 16,
    views: Views | None = None,
    on_damaged: OnDamaged | None = None,
) -> Iterator[tuple[Frame, Result]]:
    """Predict on files, folders, patterns, videos, cameras and images in memory.

    Args:
        model: Any `Model`, on any device.
        source: One or several of: a path, folder, glob pattern, camera or stream (see `Sources`);
            a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), in RGB order. Lists
            are checked for missing files at once; generators are read batch by batch.
        score_threshold: Minimum score of a detection, in [0, 1].
        batch_size: Images, or parts of images, per forward pass.
        views: Tiles and test-time augmentation; ``None`` shows each image once, as a whole.
        on_damaged: Called with the path of each unreadable file and the error, and the file is
            skipped; ``None`` raises the error.

    Returns:
        Iterator over each image or frame with its result (`Detections`, `Classification` or
        `Segmentation`) in pixels of the image. Images in memory are named ``image-0``,
        ``image-1``, ... Only one batch is in memory at a time, so sources may be endless.

    Raises:
        FileNotFoundError: A source that matches nothing.
        TypeError: A source that is neither a path nor an image, or an image that is not uint8.
        ValueError: An empty list, a damaged file, an image of another shape, ``batch_size`` below
            1, or ``score_threshold`` outside of [0, 1].

    Example:
        >>> import tempfile
        >>> from cvlib.models import create_model
        >>> model = create_model("tiny_ssd", ("banana",))
        >>> black = Image.new("RGB", (40, 30))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     black.save(Path(folder) / "black.png")
        ...     for frame, detections in predict(model, [folder, black]):
        ...         print(frame.path.name, tuple(frame.image.shape), len(detections))
        black.png (3, 30, 40) 0
        image-0 (3, 30, 40) 0
    """
    if batch_size < 1:
        raise ValueError(f"predict: expected `batch_size` to be at least 1, got {batch_size}")
    check_fraction("predict", "score_threshold", score_threshold)
    parts = _split_source(source)
    # Waiting for a full batch would delay the frames of a camera.
    is_live = isinstance(parts, list) and any(getattr(part, "is_live", False) for part in parts)
    frames = _read_frames(parts, on_damaged)
    return _predict(model, frames, score_threshold, batch_size, 1 if is_live else batch_size, views)


def _predict(
    model: Model,
    frames: Iterator[Frame],
    score_threshold: float,
    batch_size: int,
    frames_at_once: int,
    views: Views | None,
) -> Iterator[tuple[Frame, Result]]:
    while batch := list(islice(frames, frames_at_once)):
        images = [frame.image for frame in batch]
        if views is None:
            results = model.predict(images, score_threshold=score_threshold)
        else:
            results = [
                predict_views(model, image, views, score_threshold, batch_size) for image in images
            ]
        yield from zip(batch, results, strict=True)


def _split_source(source: Any) -> Iterable[Sources | ImageLike]:
    """Sources of paths, and images in memory, in order; a list unless ``source`` is lazy."""
    if _is_path(source) or isinstance(source, Sources) or _is_image(source):
        source = [source]
    if isinstance(source, list | tuple):
        if not source:
            raise ValueError("predict: expected `source` to hold at least one image, got none")
        parts: list[Sources | ImageLike] = []
        # Consecutive paths are one source, so that every file comes once.
        for are_paths, items in groupby(source, _is_path):
            group = list(items)
            parts += [Sources(group)] if are_paths else map(_as_part, group)
        return parts
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise TypeError(
            "predict: expected `source` to be a path, an image (PIL, array or tensor) or several "
            f"of them, got {type(source).__name__}"
        )
    return map(_as_part, source)


def _as_part(item: Any) -> Sources | ImageLike:
    if _is_path(item):
        return Sources([item])
    if not isinstance(item, Sources) and not _is_image(item):
        raise TypeError(
            "predict: expected `source` to hold paths or images (PIL, array or tensor), got "
            f"{type(item).__name__}"
        )
    return item


def _is_path(source: Any) -> bool:
    return isinstance(source, str | Path)


def _is_image(source: Any) -> bool:
    return isinstance(source, Tensor | np.ndarray | Image.Image)


def _read_frames(
    parts: Iterable[Sources | ImageLike], on_damaged: OnDamaged | None
) -> Iterator[Frame]:
    number = 0
    for part in parts:
        if isinstance(part, Sources):
            yield from part.frames(on_damaged)
        else:
            yield Frame(Path(f"image-{number}"), to_image_tensor("predict", part))
            number += 1
