"""Several views of one image: tiles, mirrored, at other scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cvlib._checks import check_fraction
from cvlib.geometry.view import View
from cvlib.models import Model
from cvlib.predict.merging import Merge, Piece, Window, fuse, join_tiles
from cvlib.structures import Classification, Detections, Result

# Views that are averaged later may score an object lower, down to this share of the threshold.
_VIEW_THRESHOLD = 0.5


@dataclass(frozen=True)
class Views:
    """Tiles and test-time augmentation for `predict`.

    Attributes:
        tile: Side of square tiles in pixels of the image, for large images with small objects;
            ``None``: no tiles.
        overlap: Share of a tile that overlaps the next one, in [0, 1). Objects smaller than the
            overlap are complete in some tile; larger ones are joined from their parts.
        whole: Whether the whole image is shown in addition to the tiles, for objects larger than a
            tile.
        flip: Whether the mirrored image is shown as well.
        scales: Relative sizes at which the image is shown: 0.5 from farther away, 2 in four
            overlapping parts.
        merge: How detections of several views are merged: ``"nms"`` keeps the best box, ``"wbf"``
            averages boxes and scores (weighted boxes fusion), ``"auto"`` uses NMS for tiles alone
            and for masks, fusion otherwise. With fusion the score of an object is its mean over
            all views, including those that missed it.
        iou_threshold: Boxes of one class that overlap more than this are one object.

    Raises:
        ValueError: A number out of range, or an unknown way of merging.

    Example:
        >>> Views(flip=True, scales=(1.0, 0.5)).count
        4
    """

    tile: int | None = None
    overlap: float = 0.2
    whole: bool = True
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    merge: Literal["auto", "nms", "wbf"] = "auto"
    iou_threshold: float = 0.55

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"Views: expected `tile` to be at least 1, got {self.tile}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"Views: expected `overlap` to be in [0, 1), got {self.overlap}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"Views: expected `scales` to be positive numbers, got {self.scales}")
        if self.merge not in ("auto", "nms", "wbf"):
            raise ValueError(
                f"Views: expected `merge` to be one of auto, nms, wbf, got {self.merge!r}"
            )
        check_fraction("Views", "iou_threshold", self.iou_threshold)

    @property
    def count(self) -> int:
        """Number of views; the tiles of an image count as one."""
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def is_whole(self) -> bool:
        """Whether every view shows the whole image at its own size."""
        return self.tile is None and self.scales == (1.0,)


def predict_views(
    model: Model, image: Tensor, views: Views, score_threshold: float, batch_size: int
) -> Result:
    """Predict on one image through several views and merge the results.

    Args:
        model: A detector; or a classifier, for views of the whole image.
        image: uint8, shape (3, H, W), RGB.
        views: The views.
        score_threshold: Minimum score of a detection.
        batch_size: Views per forward pass.

    Returns:
        Detections in pixels of the image, best first; or the mean of the class probabilities.

    Raises:
        TypeError: The model's results cannot be merged.
        ValueError: Tiles or scales for a classifier, or masks with fusion.
    """
    is_auto = views.merge == "auto"
    within: Merge = "nms" if is_auto else views.merge  # type: ignore[assignment]
    averages = views.merge == "wbf" or (is_auto and views.count > 1)
    threshold = score_threshold * (_VIEW_THRESHOLD if averages else 1)
    size = (image.shape[1], image.shape[2])
    seen: list[Result] = []
    for scale in views.scales:
        windows = list_windows(size, views, scale)
        for is_mirrored in (False, True) if views.flip else (False,):
            results = _predict_windows(model, image, windows, is_mirrored, threshold, batch_size)
            if not all(isinstance(result, Detections) for result in results):
                seen += results
                continue
            pieces = [Piece(*pair) for pair in zip(windows, results, strict=True)]  # type: ignore[arg-type]
            seen.append(join_tiles(pieces, size, within, views.iou_threshold))
    return _merge_views(model, seen, views, within, score_threshold)


def _merge_views(
    model: Model, seen: list[Result], views: Views, within: Merge, score_threshold: float
) -> Result:
    detections = [result for result in seen if isinstance(result, Detections)]
    if detections:
        merged = detections[0]
        if len(detections) > 1:
            has_masks = any(result.masks is not None for result in detections)
            is_auto = views.merge == "auto"
            across: Merge = ("nms" if has_masks else "wbf") if is_auto else within
            merged = fuse(detections, across, views.iou_threshold)
        return merged[merged.scores >= score_threshold]
    probabilities = [one.probabilities for one in seen if isinstance(one, Classification)]
    if not probabilities:
        raise TypeError(
            "predict: expected `views` only with models for detection or classification, got "
            f"{type(model).__name__} for {model.task}"
        )
    if not views.is_whole:
        raise ValueError(
            "predict: expected `views` with neither tiles nor scales for a classifier, which can "
            "only be shown mirrored images"
        )
    return Classification(torch.stack(probabilities).mean(0), model.classes)


def _predict_windows(
    model: Model,
    image: Tensor,
    windows: list[Window],
    is_mirrored: bool,
    threshold: float,
    batch_size: int,
) -> list[Result]:
    """Results of each window, in pixels of the window."""
    results: list[Result] = []
    for start in range(0, len(windows), batch_size):
        views = [window_view(image, window) for window in windows[start : start + batch_size]]
        shown = [view.show(image) for view in views]
        if not is_mirrored:
            results += model.predict(shown, score_threshold=threshold)
            continue
        mirrors = [View.whole(view.canvas).mirror() for view in views]
        shown = [mirror.show(part) for mirror, part in zip(mirrors, shown, strict=True)]
        found = model.predict(shown, score_threshold=threshold)
        results += [one.restore(mirror) for one, mirror in zip(found, mirrors, strict=True)]
    return results


def window_view(image: Tensor, window: Window) -> View:
    """View that shows a window of an image; beyond the image lies ImageNet's mean colour."""
    left, top, width, height = window
    view = View.whole((image.shape[1], image.shape[2]))
    return view.crop((left, top, left + width, top + height)).on_whole_pixels()


def list_windows(size: tuple[int, int], views: Views, scale: float = 1.0) -> list[Window]:
    """List the windows of an image that are shown one by one.

    Args:
        size: Height and width of the image.
        views: Size and overlap of tiles.
        scale: Relative size at which the image is shown: above 1 in parts, below 1 with a margin.

    Returns:
        Windows that cover the image: tiles row by row, the whole image last.

    Example:
        >>> [window.left for window in list_windows((100, 160), Views(tile=100, whole=False))]
        [0, 60]
    """
    height, width = size
    if views.tile is not None:
        sides = [max(1, round(views.tile / scale))] * 2
    elif scale > 1:
        sides = [max(1, math.ceil(side / scale)) for side in size]
    else:
        # From farther away: the image in the middle of a larger, empty canvas.
        tall, wide = round(height / scale), round(width / scale)
        return [Window((width - wide) // 2, (height - tall) // 2, wide, tall)]
    tall, wide = min(sides[0], height), min(sides[1], width)
    windows = [
        Window(left, top, wide, tall)
        for top in _starts(height, tall, views.overlap)
        for left in _starts(width, wide, views.overlap)
    ]
    if views.tile is not None and views.whole and len(windows) > 1:
        windows.append(Window(0, 0, width, height))
    return windows


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Offsets of evenly spaced tiles, from one border to the other."""
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1, math.floor(side * (1 - overlap)))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
