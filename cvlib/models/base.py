"""What every model of cvlib is and can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

Task = Literal["detection", "segmentation", "classification"]

# ImageNet statistics. Pretrained backbones expect them; for others only centring matters, so
# one pair serves all models.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Model(nn.Module, ABC):
    """A network that knows its classes, its images' size, its loss and what its output means.

    The training loop, evaluation, prediction and checkpoints use what is named here and nothing
    else, so that a new model finds its place by filling it in:

    * ``forward(images)`` gives raw output of fixed kind, the same in training and evaluation;
    * ``loss(raw, targets)`` compares it with a batch of targets as `collate` makes them;
    * ``decode(raw)`` says what it means;
    * ``resize(image)`` brings an image of any size to ``image_size``;
    * ``options`` rebuilds the model: ``create_model(model.name, model.classes, **model.options)``.

    Pixels are normalised inside `forward`: images are uint8, or floating point in 0..1.

    Args:
        classes: Names of the K real classes, all different.
        image_size: Height and width of the images that `forward` gets.

    Attributes:
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``, as of data sets.
        name: What `create_model` calls it.
        classes: Tuple of names.
        image_size: ``(height, width)`` in pixels.
        options: Plain values (numbers, texts, booleans, lists) that rebuild it.
        head: Prefixes of the names of the parameters that start from random numbers; all others are
            the backbone, which may come from another task, be frozen, or learn more slowly.

    Raises:
        ValueError: No classes, a class twice, or a size below 1.
    """

    task: ClassVar[Task]
    name: str
    options: dict[str, Any]
    head: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, classes: Sequence[str], image_size: Sequence[int]) -> None:
        super().__init__()
        owner = type(self).__name__
        if isinstance(classes, str) or not len(classes):
            raise ValueError(f"{owner}: expected classes to be a list of names, got {classes!r}")
        twice = sorted({name for name in classes if list(classes).count(name) > 1})
        if twice:
            raise ValueError(f"{owner}: expected classes of different names, got {twice} twice")
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(
                f"{owner}: expected image_size (height, width) in pixels, got {image_size}"
            )
        self.classes = tuple(classes)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return len(self.classes)

    def is_head(self, parameter: str) -> bool:
        """Says whether the parameter of that name belongs to the head."""
        return parameter.startswith(tuple(f"{prefix}." for prefix in self.head))

    def normalise(self, images: Tensor) -> Tensor:
        """Centres and scales pixels: uint8 0..255, or floating point 0..1."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    def resize(self, image: Tensor) -> Tensor:
        """Brings an image to ``image_size`` as evaluation and prediction do: by stretching it.

        Args:
            image: uint8, shape (3, H, W).

        Returns:
            uint8, shape (3, *image_size).
        """
        return F.resize(image, list(self.image_size), antialias=True)

    @abstractmethod
    def loss(self, raw: Any, targets: dict[str, Any]) -> dict[str, Tensor]:
        """Compares raw output with the truth.

        Args:
            raw: Of `forward`.
            targets: Of `collate`, on the model's device.

        Returns:
            Scalars by name; their sum is what is minimised. What a loss is divided by goes through
            `cvlib._distributed.mean_over_ranks`.
        """

    @abstractmethod
    def decode(self, *args: Any, **thresholds: Any) -> Any:
        """Says what raw output means.

        Args:
            args: The raw output of `forward`.
            thresholds: By name, as the model has them.

        Returns:
            Detection: a list of `Detections`, one for each image, in pixels of ``image_size``.
            Classification: probabilities, shape (B, K). Segmentation: class maps, (B, H, W).
        """
