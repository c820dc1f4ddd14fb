"""Sources in, results out, one image after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from cvlib._checks import check_fraction
from cvlib.models import Model
from cvlib.predict.sources import Frame, OnDamaged, Sources
from cvlib.predict.views import Views, look_through
from cvlib.predict.whole import look
from cvlib.structures import Result


def predict(
    model: Model,
    source: str | Path | Iterable[str | Path] | Sources,
    *,
    score_threshold: float = 0.5,
    batch_size: int = 16,
    views: Views | None = None,
    on_damaged: OnDamaged | None = None,
) -> Iterator[tuple[Frame, Result]]:
    """Shows files, folders, patterns, videos, cameras and lists to a model, one after the other.

    Args:
        model: Of any task, on any device.
        source: One or several of them; see `Sources`.
        score_threshold: Least score of an object, for detectors.
        batch_size: Images, or parts of images, in one forward pass.
        views: Tiles and test-time augmentation; ``None`` shows each image once, whole.
        on_damaged: Called with each file that cannot be read, which is then skipped; ``None``
            raises instead.

    Yields:
        Each image or frame with its `Detections`, `Classification` or `Segmentation`. Nothing is
        kept beyond a batch, so sources may be endless.

    Raises:
        FileNotFoundError: Nothing was found there.
        ValueError: A file is damaged, ``batch_size`` is below 1, or ``score_threshold`` outside of
            [0, 1].

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
    check_fraction("predict", "score_threshold", score_threshold)
    if isinstance(source, str | Path):
        source = (source,)
    sources = source if isinstance(source, Sources) else Sources(tuple(source))
    frames = sources.frames(on_damaged)
    # A live image that waits for others is an old image.
    together = 1 if sources.is_live else batch_size
    while batch := list(islice(frames, together)):
        images = [frame.image for frame in batch]
        if views is None:
            results = look(model, images, score_threshold=score_threshold)
        else:
            results = [
                look_through(
                    model, image, views, score_threshold=score_threshold, batch_size=batch_size
                )
                for image in images
            ]
        yield from zip(batch, results, strict=True)
