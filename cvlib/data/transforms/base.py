"""What a step of geometry is, and how a chain of them is carried out at once."""

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
from cvlib.geometry.view import BORDER, Boxes, View

Sample = tuple[Tensor, Mapping[str, Any]]


class Plan:
    """What the steps of a chain have decided so far.

    Args:
        size: (height, width) of the image.
        boxes: Shape (N, 4), float64, (x1, y1, x2, y2) in its pixels.

    Attributes:
        view: What will be shown.
        kept: Shape (N,), bool: objects that no step has removed.
        min_visibility: Objects of which a smaller share remains in the image are removed.
    """

    def __init__(self, size: tuple[int, int], boxes: Boxes) -> None:
        self.view = View.whole(size)
        self.kept = np.ones(len(boxes), bool)
        self.min_visibility = MIN_VISIBILITY
        self._boxes = boxes

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas so far."""
        return self.view.canvas

    @property
    def boxes(self) -> Boxes:
        """Shape (N, 4): the boxes in pixels of the canvas so far, removed ones included."""
        return self.view.map_boxes(self._boxes)


class GeometricStep(v2.Transform, ABC):
    """A change of geometry; what is empty afterwards is grey, class 255 (void) and no object.

    A subclass says in `plan` what it does. It draws its random numbers there with `torch.rand`. An
    object of which less than a quarter is left, or less than a pixel, is removed with its label,
    area, crowd flag and mask.

    Used alone, a step is a transform of a sample like those of torchvision; several in a row are
    better given to `Geometry`, which moves the pixels once.
    """

    @abstractmethod
    def plan(self, plan: Plan) -> None:
        """Changes the plan."""

    def forward(self, image: Tensor, target: Mapping[str, Any] | None = None) -> Any:
        """Moves an image with its target.

        Args:
            image: uint8, shape (3, H, W).
            target: Boxes, masks and so on, or ``None``.

        Returns:
            ``(image, target)``; the image alone where no target was given.

        Raises:
            TypeError: The image is not a uint8 tensor.
            ValueError: The image has another shape.
        """
        check_image(type(self).__name__, image)
        plan = Plan((image.shape[1], image.shape[2]), boxes_of(target))
        self.plan(plan)
        moved = move_sample((image, target or {}), plan)
        return moved[0] if target is None else moved


class Geometry(GeometricStep):
    """Steps of geometry that are carried out as one: pixels are interpolated only once.

    Args:
        steps: In order.

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

    def plan(self, plan: Plan) -> None:
        """Lets every step change the plan."""
        for step in self.steps:
            step.plan(plan)

    def extra_repr(self) -> str:
        """The steps."""
        return ", ".join(map(repr, self.steps))


def check_image(name: str, image: object) -> None:
    """Refuses what is not a uint8 image of shape (3, H, W)."""
    if not isinstance(image, Tensor) or image.dtype != torch.uint8:
        actual = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"{name}: expected image a uint8 tensor, got {actual}; transforms work on "
            "pixels 0..255 and leave scaling to the model"
        )
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"{name}: expected image of shape (3, H, W) with pixels, got {tuple(image.shape)}"
        )


def move_sample(
    sample: Sample, plan: Plan, fill: tuple[int, int, int] = BORDER
) -> tuple[Tensor, Target]:
    """Carries a plan out."""
    image, target = sample
    view = plan.view.on_whole_pixels()
    moved = tv_tensors.Image(view.show(image, fill))
    return moved, move_target(target, view, plan.kept, plan.min_visibility)


def draw(count: int) -> list[float]:
    """Random numbers in [0, 1) of torch's global generator."""
    numbers: list[float] = torch.rand(count, dtype=torch.float64).tolist()
    return numbers


def draw_rows(rows: int, columns: int) -> NDArray[np.float64]:
    """The same as an array, shape (rows, columns)."""
    return np.asarray(torch.rand(rows, columns, dtype=torch.float64))


def between(low: float, high: float, number: float) -> float:
    """A number in [0, 1) stretched to [low, high)."""
    return low + (high - low) * number
