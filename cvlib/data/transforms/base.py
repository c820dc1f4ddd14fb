"""Geometric steps, and how a chain of them is applied with one interpolation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvlib.data.transforms.targets import MIN_VISIBILITY, Target, boxes_of, move_target
from cvlib.geometry.view import Boxes, View

Sample = tuple[Tensor, Mapping[str, Any]]


class GeometryPlan:
    """Decisions of the geometric steps applied to an image so far.

    Args:
        size: Height and width of the image in pixels.
        boxes: Boxes in (x1, y1, x2, y2) format in image pixels, shape (N, 4), float64.

    Attributes:
        view: Part of the image that will be visible, and where.
        kept: Objects that no step has removed, bool, shape (N,).
        min_visibility: Objects of which a smaller share remains in the image are removed.
    """

    def __init__(self, size: tuple[int, int], boxes: Boxes) -> None:
        self.view = View.whole(size)
        self.kept = np.ones(len(boxes), bool)
        self.min_visibility = MIN_VISIBILITY
        self._boxes = boxes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the current canvas."""
        return self.view.canvas

    @property
    def boxes(self) -> Boxes:
        """Boxes in pixels of the current canvas, removed objects included, shape (N, 4)."""
        return self.view.map_boxes(self._boxes)


class GeometricStep(v2.Transform, ABC):
    """Base class of transforms that move pixels, boxes and masks.

    Subclasses implement `plan` and draw their random numbers there with `torch.rand`. Empty canvas
    is grey, and void (255) in class maps. An object of which less than a quarter or less than one
    pixel remains is removed with its label, area, crowd flag and mask.

    A single step is a transform like those of torchvision. Combine several with `Geometry`, which
    interpolates once.
    """

    @abstractmethod
    def plan(self, plan: GeometryPlan) -> None:
        """Update the plan in place."""

    def forward(self, image: Tensor, target: Mapping[str, Any] | None = None) -> Any:
        """Transform an image and its target.

        Args:
            image: Image, uint8, shape (3, H, W).
            target: Boxes, masks and other annotations, or ``None``.

        Returns:
            ``(image, target)``, or only the image without a target.

        Raises:
            TypeError: The image is not a uint8 tensor.
            ValueError: The image has another shape.
        """
        check_image(type(self).__name__, image)
        plan = GeometryPlan((image.shape[1], image.shape[2]), boxes_of(target))
        self.plan(plan)
        moved = move_sample((image, target or {}), plan)
        return moved[0] if target is None else moved


class Geometry(GeometricStep):
    """Chain of geometric steps that interpolates pixels only once.

    Args:
        steps: Steps in order of application.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.data.transforms import HorizontalFlip, Resize
        >>> move = Geometry([HorizontalFlip(p=1.0), Resize((300, 300))])
        >>> image, target = move(*SyntheticBananas(1)[0])
        >>> image.shape, target["boxes"].canvas_size
        (torch.Size([3, 300, 300]), (300, 300))
    """

    def __init__(self, steps: Sequence[GeometricStep]) -> None:
        super().__init__()
        self.steps = tuple(steps)

    def plan(self, plan: GeometryPlan) -> None:
        """Apply all steps to the plan."""
        for step in self.steps:
            step.plan(plan)

    def extra_repr(self) -> str:
        """Comma-separated steps."""
        return ", ".join(map(repr, self.steps))


def check_image(function: str, image: object) -> None:
    """Raise unless an image is uint8 of shape (3, H, W)."""
    if not isinstance(image, Tensor) or image.dtype != torch.uint8:
        actual = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"{function}: expected `image` to be a uint8 tensor, got {actual}; transforms work on "
            "pixels 0..255 and leave scaling to the model"
        )
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"{function}: expected `image` to have shape (3, H, W) and at least one pixel, got "
            f"{tuple(image.shape)}"
        )


def move_sample(sample: Sample, plan: GeometryPlan) -> tuple[Tensor, Target]:
    """Apply a plan to an image and its target."""
    image, target = sample
    view = plan.view.on_whole_pixels()
    moved = tv_tensors.Image(view.show(image))
    return moved, move_target(target, view, plan.kept, plan.min_visibility)


def draw_uniform(count: int) -> list[float]:
    """Draw numbers in [0, 1) from the global generator of torch."""
    numbers: list[float] = torch.rand(count, dtype=torch.float64).tolist()
    return numbers


def draw_uniform_array(rows: int, columns: int) -> NDArray[np.float64]:
    """Draw an array of numbers in [0, 1) from the global generator of torch."""
    return np.asarray(torch.rand(rows, columns, dtype=torch.float64))


def lerp(low: float, high: float, weight: float) -> float:
    """Interpolate linearly from ``low`` (weight 0) to ``high`` (weight 1)."""
    return low + (high - low) * weight
