"""Prediction on anything that contains images, one image after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
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
            a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), in RGB order.
        score_threshold: Minimum score of a detection, in [0, 1].
        batch_size: Images, or parts of images, per forward pass.
        views: Tiles and test-time augmentation; ``None`` shows each image once, as a whole.
        on_damaged: Called with the path of each unreadable file and the error, and the file is
            skipped; ``None`` raises the error.

    Yields:
        Each image or frame with its result: `Detections`, `Classification` or `Segmentation`, in
        pixels of the image. Images in memory are named ``image-0``, ``image-1``, ... Only one
        batch is in memory at a time, so sources may be endless.

    Raises:
        FileNotFoundError: A source that matches nothing.
        TypeError: A source that is neither a path nor an image, or an image that is not uint8.
        ValueError: A damaged file, an image of another shape, ``batch_size`` below 1, or
            ``score_threshold`` outside of [0, 1].

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
    parts = list(_split_sources(source))
    # Waiting for a full batch would delay the frames of a camera.
    is_live = any(isinstance(part, Sources) and part.is_live for part in parts)
    frames = _frames(parts, on_damaged)
    while batch := list(islice(frames, 1 if is_live else batch_size)):
        images = [frame.image for frame in batch]
        if views is None:
            results = model.predict(images, score_threshold=score_threshold)
        else:
            results = [
                predict_views(model, image, views, score_threshold, batch_size) for image in images
            ]
        yield from zip(batch, results, strict=True)


def _split_sources(source: Any) -> Iterator[Sources | ImageLike]:
    """Sources of consecutive paths, and images in memory, in order."""
    if isinstance(source, str | Path | Sources) or _is_image(source):
        source = [source]
    elif not isinstance(source, Iterable):
        raise TypeError(
            "predict: expected `source` to be a path, an image (PIL, array or tensor) or several "
            f"of them, got {type(source).__name__}"
        )
    paths: list[str | Path] = []
    for item in source:
        if isinstance(item, str | Path):
            paths.append(item)
            continue
        if paths:
            yield Sources(paths)
            paths = []
        if not isinstance(item, Sources) and not _is_image(item):
            raise TypeError(
                "predict: expected `source` to hold paths or images (PIL, array or tensor), got "
                f"{type(item).__name__}"
            )
        yield item if isinstance(item, Sources) else to_image_tensor("predict", item)
    if paths:
        yield Sources(paths)


def _is_image(source: Any) -> bool:
    return isinstance(source, Tensor | np.ndarray | Image.Image)


def _frames(parts: list[Any], on_damaged: OnDamaged | None) -> Iterator[Frame]:
    number = 0
    for part in parts:
        if isinstance(part, Sources):
            yield from part.frames(on_damaged)
        else:
            yield Frame(Path(f"image-{number}"), part)
            number += 1
