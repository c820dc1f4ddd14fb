"""One image seen several times: in tiles, mirrored, nearer and farther."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cvlib._checks import check_fraction
from cvlib.models import Model
from cvlib.models.base import MEAN
from cvlib.predict.merging import Merge, Piece, fuse, join_tiles
from cvlib.predict.whole import check_task, look
from cvlib.structures import Classification, Detections, Result

# What is fused later may have been seen less clearly in one of the views.
_VIEW_THRESHOLD = 0.5


@dataclass(frozen=True)
class Views:
    """How one image is seen several times.

    Attributes:
        tile: Side of square tiles in pixels of the image, for big images with small objects;
            ``None``: the image whole.
        overlap: Share of a tile that the next one sees, too, in [0, 1): objects smaller than that
            are whole in some tile. Larger ones are put together from their parts.
        whole: See the whole image beside the tiles, too, for objects larger than a tile.
        flip: See it mirrored, too (left and right exchanged).
        scales: See it at these sizes: 0.5 from farther away, 2 in four overlapping parts.
        merge: How objects that several views have are merged: ``"nms"`` keeps the best box,
            ``"wbf"`` averages boxes and scores (weighted boxes fusion); ``"auto"``: NMS for tiles
            alone and where there are masks, fusion else.
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
            raise ValueError(f"Views: expected tile >= 1, got {self.tile}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"Views: expected overlap in [0, 1), got {self.overlap}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"Views: expected scales > 0, got {self.scales}")
        if self.merge not in ("auto", "nms", "wbf"):
            raise ValueError(f"Views: expected merge one of auto, nms, wbf, got {self.merge!r}")
        check_fraction("Views", "iou_threshold", self.iou_threshold)

    @property
    def count(self) -> int:
        """How many times an image is seen, tiles counted once."""
        return len(self.scales) * (2 if self.flip else 1)


class Window(NamedTuple):
    """A part of an image; more than the image where numbers lie outside of it."""

    left: int
    top: int
    width: int
    height: int


def sliced_detect(
    model: Model,
    image: Tensor,
    *,
    tile: int = 640,
    overlap: float = 0.2,
    whole: bool = True,
    merge: Merge = "nms",
    iou_threshold: float = 0.55,
    score_threshold: float = 0.5,
    batch_size: int = 16,
) -> Detections:
    """Finds the objects in a big image, tile by tile.

    An object that the border of a tile cuts is taken from the tile that has it whole; where none
    has, its parts are joined.

    Args:
        model: A detector, on any device.
        image: uint8, shape (3, H, W), RGB.
        tile: Side of the tiles in pixels; each is resized to the model's size.
        overlap: Share of a tile that the next one has, too, in [0, 1).
        whole: Look at the whole image, too, for objects larger than a tile.
        merge: ``"nms"`` or ``"wbf"``; see `Views`.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        score_threshold: Least score of an object.
        batch_size: Tiles in one forward pass.

    Returns:
        Objects in pixels of the image, best first.

    Raises:
        TypeError: The model is no detector.
        ValueError: A number out of range.

    Example:
        >>> from cvlib.models import create_model
        >>> model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
        >>> len(sliced_detect(model, torch.zeros(3, 150, 200, dtype=torch.uint8), tile=64))
        0
    """
    views = Views(tile, overlap, whole, merge=merge, iou_threshold=iou_threshold)
    check_task("sliced_detect", model, "detection")
    return _detect_through(model, image, views, score_threshold, batch_size)


def augmented_detect(
    model: Model,
    image: Tensor,
    *,
    flip: bool = True,
    scales: tuple[float, ...] = (1.0,),
    merge: Merge = "wbf",
    iou_threshold: float = 0.55,
    score_threshold: float = 0.5,
    batch_size: int = 16,
) -> Detections:
    """Finds the objects in an image that is also seen mirrored, from nearer and from farther.

    With fusion an object's score is the average over all views, those that did not see it
    included: what only one of them saw loses.

    Args:
        model: A detector, on any device.
        image: uint8, shape (3, H, W), RGB.
        flip: See it mirrored, too.
        scales: See it at these sizes; see `Views`.
        merge: ``"wbf"`` or ``"nms"``.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        score_threshold: Least score of an object.
        batch_size: Views in one forward pass.

    Returns:
        Objects in pixels of the image, best first.

    Raises:
        TypeError: The model is no detector.
        ValueError: A number out of range.
    """
    views = Views(flip=flip, scales=scales, merge=merge, iou_threshold=iou_threshold)
    check_task("augmented_detect", model, "detection")
    return _detect_through(model, image, views, score_threshold, batch_size)


def look_through(
    model: Model, image: Tensor, views: Views, *, score_threshold: float, batch_size: int
) -> Result:
    """Shows one image to a model in several views.

    Args:
        model: A detector; or a classifier, which can only be shown images whole, mirrored or not.
        image: uint8, shape (3, H, W), RGB.
        views: What it is shown.
        score_threshold: Least score of an object.
        batch_size: Views in one forward pass.

    Raises:
        TypeError: The model has another task.
        ValueError: Tiles or scales for a classifier.
    """
    check_task("predict: tiles and test-time augmentation", model, "detection", "classification")
    if model.task == "detection":
        return _detect_through(model, image, views, score_threshold, batch_size)
    if views.tile is not None or views.scales != (1.0,):
        raise ValueError(
            "predict: expected a detector for tiles and scales, got a classifier, which can be "
            "shown images mirrored and nothing else"
        )
    seen = look(model, [F.horizontal_flip(image), image] if views.flip else [image])
    probabilities = [one.probabilities for one in seen if isinstance(one, Classification)]
    return Classification(torch.stack(probabilities).mean(0), model.classes)


def _detect_through(
    model: Model, image: Tensor, views: Views, score_threshold: float, batch_size: int
) -> Detections:
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size >= 1, got {batch_size}")
    check_fraction("predict", "score_threshold", score_threshold)
    is_auto = views.merge == "auto"
    several = views.count > 1
    within: Merge = "nms" if is_auto else views.merge  # type: ignore[assignment]
    averages = views.merge == "wbf" or (is_auto and several)
    threshold = score_threshold * (_VIEW_THRESHOLD if averages else 1)
    size = (image.shape[1], image.shape[2])
    seen = []
    for scale in views.scales:
        windows = list_windows(size, views, scale)
        for flipped in (False, True) if views.flip else (False,):
            pieces = _look_at_windows(model, image, windows, flipped, threshold, batch_size)
            seen.append(join_tiles(pieces, size, within, views.iou_threshold))
    found = seen[0]
    if several:
        has_masks = any(one.masks is not None for one in seen)
        across: Merge = ("nms" if has_masks else "wbf") if is_auto else within
        found = fuse(seen, across, views.iou_threshold)
    return found[found.scores >= score_threshold]


def list_windows(size: tuple[int, int], views: Views, scale: float = 1.0) -> list[Window]:
    """The parts of an image that are shown one by one.

    Args:
        size: Height and width of the image.
        views: Says whether in tiles.
        scale: The image seen at this size: beyond 1 in parts, below 1 with a margin.

    Returns:
        Windows that cover it: the tiles row by row, and the whole image last.

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
        # Seen from farther away: as much again on all sides, in the middle of nothing.
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
    """Where tiles begin: evenly, the first at 0, the last one ending at the border."""
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1, math.floor(side * (1 - overlap)))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _look_at_windows(
    model: Model,
    image: Tensor,
    windows: list[Window],
    flipped: bool,
    threshold: float,
    batch_size: int,
) -> list[Piece]:
    pieces = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        shown = [cut_out(image, window) for window in batch]
        if flipped:
            shown = [F.horizontal_flip(one) for one in shown]
        found = look(model, shown, score_threshold=threshold)
        for window, one in zip(batch, found, strict=True):
            assert isinstance(one, Detections)  # a detector's
            one = _mirrored(one, window.width) if flipped else one
            pieces.append(Piece(window, one))
    return pieces


def cut_out(image: Tensor, window: Window) -> Tensor:
    """The part of an image; what lies outside of it has the mean colour of images."""
    height, width = image.shape[1:]
    left, top = max(0, window.left), max(0, window.top)
    right, bottom = min(width, window.left + window.width), min(height, window.top + window.height)
    part = image[:, top:bottom, left:right]
    if (right - left, bottom - top) == (window.width, window.height):
        return part
    canvas = (torch.tensor(MEAN) * 255).round().to(image.dtype)[:, None, None]
    canvas = canvas.repeat(1, window.height, window.width)
    y, x = top - window.top, left - window.left
    canvas[:, y : y + bottom - top, x : x + right - left] = part
    return canvas


def _mirrored(found: Detections, width: int) -> Detections:
    boxes = found.boxes.clone()
    boxes[:, 0], boxes[:, 2] = width - found.boxes[:, 2], width - found.boxes[:, 0]
    masks = None if found.masks is None else found.bitmaps().flip(-1)
    return replace(found, boxes=boxes, masks=masks)
