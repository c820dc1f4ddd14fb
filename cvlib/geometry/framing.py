"""How a model sees an image of any size: stretched, letterboxed, cropped or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cvlib.geometry.view import BORDER, View

Mode = Literal["stretch", "letterbox", "crop", "pad"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Framing:
    """The map from an image of any size to the canvas that a model takes as input.

    Training, evaluation, prediction, tiles and drawing share the framing of the model, and
    checkpoints store it. `view` gives the map for one image size, which moves boxes and masks in
    both directions.

    ============= =================================================================================
    mode          effect
    ============= =================================================================================
    ``stretch``   Resize to ``size``; the aspect ratio changes. (SSD, TinySSD)
    ``letterbox`` Resize to fit into ``size``, keep the aspect ratio, pad both sides equally.
    ``crop``      Resize so that ``size`` is ``crop_share`` of the image along its tighter side,
                  and cut out the centre. (classifiers)
    ``pad``       Keep the aspect ratio; resize the short side to ``short_side`` but the long side
                  to at most ``long_side``, or keep the size when both are ``None``. Batches are
                  padded at the bottom and right. (R-CNN, FCN)
    ============= =================================================================================

    Attributes:
        mode: See the table.
        size: Height and width of the canvas in pixels; ``None`` for mode ``pad``.
        crop_share: Share of the image's tighter side that the crop covers, in (0, 1].
        short_side: Length of the short side in pixels, for mode ``pad``.
        long_side: Maximum length of the long side in pixels, for mode ``pad``.
        multiple: Batches are padded to a multiple of this many pixels.
        antialias: Whether to average pixels when shrinking. Bilinear interpolation either way.

    Raises:
        ValueError: Unknown mode, or a number out of range.

    Example:
        >>> framing = Framing("letterbox", (60, 60))
        >>> framing.view((20, 30)).map_boxes(torch.tensor([[0.0, 0.0, 30.0, 20.0]]).numpy())
        array([[ 0., 10., 60., 50.]])
    """

    mode: Mode = "stretch"
    size: Size | None = None
    crop_share: float = 1.0
    short_side: int | None = None
    long_side: int | None = None
    multiple: int = 1
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"Framing: expected `mode` to be one of {', '.join(get_args(Mode))}, got "
                f"{self.mode!r}"
            )
        if (self.size is None) != (self.mode == "pad"):
            needs = "no `size` (use short_side)" if self.mode == "pad" else "a `size`"
            raise ValueError(f"Framing: expected {needs} for mode {self.mode!r}, got {self.size}")
        if self.size is not None:
            if len(self.size) != 2 or min(self.size) < 1:
                raise ValueError(
                    f"Framing: expected `size` to be (height, width) in pixels, got {self.size}"
                )
            object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        if not 0 < self.crop_share <= 1:
            raise ValueError(
                f"Framing: expected `crop_share` to be in (0, 1], got {self.crop_share}"
            )
        for name in ("short_side", "long_side", "multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Framing: expected `{name}` to be at least 1, got {value}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; ``Framing(**values)`` restores the framing."""
        return asdict(self)

    @property
    def nominal_size(self) -> Size:
        """Height and width of a typical canvas, for benchmarks and summaries."""
        if self.size is not None:
            return self.size
        short = self.short_side or self.long_side or 512
        return short, max(short, self.long_side or short)

    def view(self, size: Size) -> View:
        """Map of coordinates between an image and its canvas.

        Args:
            size: Height and width of the image in pixels.

        Returns:
            The view, which maps boxes forth (`View.map_boxes`) and back (`View.undo_boxes`).
        """
        return self.extend(View.whole(size))

    def extend(self, view: View) -> View:
        """Apply the framing to the canvas of a view, for transforms that end at the framing."""
        scaled, (top, left), canvas = self._placement(view.canvas)
        region = (-left, -top, canvas[1] - left, canvas[0] - top)
        return view.resize(scaled).crop(region)

    def apply(self, image: Tensor) -> Tensor:
        """Bring one image onto its canvas.

        Args:
            image: Shape (3, H, W), uint8 or floating point.

        Returns:
            Shape (3, *canvas), same dtype; padding has ImageNet's mean colour.
        """
        size = (image.shape[-2], image.shape[-1])
        scaled, (top, left), canvas = self._placement(size)
        image = image.as_subclass(Tensor)
        if scaled != size:
            image = F.resize(image, list(scaled), antialias=self.antialias)
        if scaled == canvas:
            return image
        image = image[:, max(0, -top) :, max(0, -left) :]
        return _on_canvas(image, canvas, max(0, top), max(0, left))

    def batch(self, images: Sequence[Tensor]) -> tuple[Tensor, list[View]]:
        """Bring images of any sizes onto canvases and stack them.

        Args:
            images: Each of shape (3, H, W), uint8 or floating point.

        Returns:
            The batch, shape (B, 3, H, W), padded at the bottom and right to the largest canvas
            (rounded up to ``multiple``), and the view of each image.
        """
        views = [self.view((image.shape[-2], image.shape[-1])) for image in images]
        return stack_padded([self.apply(image) for image in images], self.multiple), views

    def _placement(self, size: Size) -> tuple[Size, tuple[int, int], Size]:
        """Size of the resized image, its top left corner on the canvas, and the canvas."""
        height, width = size
        if self.size is None:
            scaled = self._scaled_sides(size)
            return scaled, (0, 0), scaled
        if self.mode == "stretch":
            return self.size, (0, 0), self.size
        ratios = self.size[0] / height, self.size[1] / width
        scale = min(ratios) if self.mode == "letterbox" else max(ratios) / self.crop_share
        scaled = max(1, round(height * scale)), max(1, round(width * scale))
        # Cropping rounds as torchvision's center_crop does: half to even.
        corner = tuple(-round((s - c) / 2) for s, c in zip(scaled, self.size, strict=True))
        return scaled, (corner[0], corner[1]), self.size

    def _scaled_sides(self, size: Size) -> Size:
        scales = []
        if self.short_side is not None:
            scales.append(self.short_side / min(size))
        if self.long_side is not None:
            scales.append(self.long_side / max(size))
        if not scales:
            return size
        scale = min(scales)
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def stack_padded(images: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """Stack images of any sizes, padded at the bottom and right with ImageNet's mean colour.

    Args:
        images: Each of shape (3, H, W), of one dtype.
        multiple: Height and width are rounded up to a multiple of this.

    Returns:
        Shape (B, 3, H, W).
    """
    sides = [max(image.shape[dim] for image in images) for dim in (1, 2)]
    height, width = (-(-side // multiple) * multiple for side in sides)
    return torch.stack([_on_canvas(image, (height, width), 0, 0) for image in images])


def _on_canvas(image: Tensor, canvas: Size, top: int, left: int) -> Tensor:
    """Place an image on an empty canvas; whatever does not fit is cut off."""
    if tuple(image.shape[1:]) == canvas:
        return image
    fill = torch.tensor(BORDER, dtype=torch.float32, device=image.device)
    fill = fill / 255 if image.is_floating_point() else fill
    result = fill.to(image.dtype)[:, None, None].repeat(1, *canvas)
    part = image[:, : canvas[0] - top, : canvas[1] - left]
    result[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return result
