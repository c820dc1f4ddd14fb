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

# Scores that are averaged over views later may start lower, down to this share of the threshold.
_VIEW_THRESHOLD = 0.5


@dataclass(frozen=True)
class Views:
    """Tiles and test-time augmentation for `predict`.

    Attributes:
        tile: Side of square tiles in pixels of the image, for large images with small objects;
            ``None``: no tiles.
        overlap: Share of a tile that overlaps the next one, in [0, 1). Objects smaller than the
            overlap are complete in some tile; larger ones are joined from their parts.
        whole: Whether to predict on the whole image in addition to the tiles, for objects larger
            than a tile.
        flip: Whether to predict on the mirrored image, too.
        scales: Relative sizes of the image: 0.5 with a margin around it, 2 in four overlapping
            parts.
        merge: How to merge detections of several views: ``"nms"`` keeps the best box, ``"wbf"``
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
        object.__setattr__(self, "scales", tuple(self.scales))

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
    within: Merge = "nms" if views.merge == "auto" else views.merge
    is_averaged = within == "wbf" or (views.merge == "auto" and views.count > 1)
    threshold = score_threshold * (_VIEW_THRESHOLD if is_averaged else 1)
    size = (image.shape[1], image.shape[2])
    detections: list[Detections] = []
    probabilities: list[Tensor] = []
    for scale in views.scales:
        windows = list_windows(size, views, scale)
        for is_mirrored in (False, True) if views.flip else (False,):
            pieces = []
            results = _predict_windows(model, image, windows, is_mirrored, threshold, batch_size)
            for window, result in zip(windows, results, strict=True):
                if isinstance(result, Detections):
                    pieces.append(Piece(window, result))
                elif isinstance(result, Classification):
                    probabilities.append(result.probabilities)
                else:
                    raise TypeError(
                        "predict: expected `views` only for detections and classifications, got "
                        f"a model whose results are {type(result).__name__}"
                    )
            if pieces:
                detections.append(join_tiles(pieces, size, within, views.iou_threshold))
    if detections:
        merged = _merge_views(detections, views)
        return merged[merged.scores >= score_threshold]
    if not views.is_whole:
        raise ValueError(
            "predict: expected `views` without tiles and scales for a classifier, which supports "
            "only `flip`"
        )
    return Classification(torch.stack(probabilities).mean(0), model.classes)


def _merge_views(detections: list[Detections], views: Views) -> Detections:
    if len(detections) == 1:
        return detections[0]
    merge: Merge
    if views.merge == "auto":
        merge = "nms" if any(view.masks is not None for view in detections) else "wbf"
    else:
        merge = views.merge
    return fuse(detections, merge, views.iou_threshold)


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
        views = [make_view(image, window) for window in windows[start : start + batch_size]]
        crops = [view.show(image) for view in views]
        if not is_mirrored:
            results += model.predict(crops, score_threshold=threshold)
            continue
        mirrors = [View.whole(view.canvas).mirror() for view in views]
        crops = [mirror.show(crop) for mirror, crop in zip(mirrors, crops, strict=True)]
        mirrored = model.predict(crops, score_threshold=threshold)
        pairs = zip(mirrored, mirrors, strict=True)
        results += [result.restore(mirror) for result, mirror in pairs]
    return results


def make_view(image: Tensor, window: Window) -> View:
    """Make the view of a window of an image; outside of the image it has ImageNet's mean colour."""
    left, top, width, height = window
    view = View.whole((image.shape[1], image.shape[2]))
    return view.crop((left, top, left + width, top + height)).on_whole_pixels()


def list_windows(size: tuple[int, int], views: Views, scale: float = 1.0) -> list[Window]:
    """List the windows through which a model sees an image.

    Args:
        size: Height and width of the image.
        views: Size and overlap of tiles.
        scale: Relative size of the image: above 1 in parts, below 1 with a margin.

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
        # Smaller: the image in the middle of a larger, empty canvas.
        tall, wide = round(height / scale), round(width / scale)
        return [Window((width - wide) // 2, (height - tall) // 2, wide, tall)]
    tall, wide = min(sides[0], height), min(sides[1], width)
    windows = [
        Window(left, top, wide, tall)
        for top in _space_tiles(height, tall, views.overlap)
        for left in _space_tiles(width, wide, views.overlap)
    ]
    if views.tile is not None and views.whole and len(windows) > 1:
        windows.append(Window(0, 0, width, height))
    return windows


def _space_tiles(length: int, side: int, overlap: float) -> list[int]:
    """Offsets of evenly spaced tiles, from one border to the other."""
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1, math.floor(side * (1 - overlap)))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
