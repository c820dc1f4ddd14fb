"""The contract that every model fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from cvlib.geometry.framing import Framing
from cvlib.geometry.inputs import ImageLike, to_image_tensor
from cvlib.structures import Result

Task = Literal["detection", "segmentation", "classification"]

# ImageNet statistics. Pretrained backbones expect them; for others only centring matters, so
# one pair serves all models.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Model(nn.Module, ABC):
    """A network with its classes, its view of images, its loss and the meaning of its output.

    Training, evaluation, prediction and checkpoints use what is declared here and nothing else. A
    model of your own defines three methods and passes ``framing``, ``name`` and ``options`` on:

    * ``forward(images)`` returns raw output, the same in training and evaluation;
    * ``loss(raw, targets)`` compares raw output with a batch of targets from `collate`;
    * ``decode(raw, sizes)`` turns raw output into a list of results, one per image.

    The path of an image through a model is ``framing.batch`` -> ``forward`` -> ``decode`` ->
    ``Result.restore``; `predict` follows it. Pixels are normalised inside `forward`: images are
    uint8, or floating point in 0..1.

    Args:
        classes: Names of the K classes, all different, without background.
        framing: How images of any size are brought onto the model's canvas; or the (height, width)
            that they are stretched to.

    Attributes:
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``, as for datasets.
        name: Name of the model for `create_model`, or of a model of your own.
        classes: Class names.
        framing: See above; stored in checkpoints.
        options: Plain values (numbers, strings, booleans, lists) for the constructor, which is
            called as ``type(model)(classes, **options)`` when a checkpoint is loaded.
        head: Name prefixes of the parameters that start from random values. All others are the
            backbone, which may be pretrained, frozen, or trained more slowly.

    Raises:
        ValueError: No classes, or a class twice.
    """

    task: ClassVar[Task]
    name: str
    options: dict[str, Any]
    head: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, classes: Sequence[str], framing: Framing | Sequence[int]) -> None:
        super().__init__()
        model = type(self).__name__
        if isinstance(classes, str) or not len(classes):
            raise ValueError(f"{model}: expected `classes` to be a list of names, got {classes!r}")
        twice = sorted({name for name in classes if list(classes).count(name) > 1})
        if twice:
            raise ValueError(f"{model}: expected `classes` to be all different, got {twice} twice")
        self.classes = tuple(classes)
        self.framing = framing if isinstance(framing, Framing) else _stretch(model, framing)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the canvas, a typical one for models that take any size."""
        return self.framing.nominal_size

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.mean.device

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return len(self.classes)

    def is_head(self, parameter: str) -> bool:
        """Whether the parameter of that name belongs to the head."""
        return parameter.startswith(tuple(f"{prefix}." for prefix in self.head))

    def normalise(self, images: Tensor) -> Tensor:
        """Standardise uint8 pixels, or floating point ones in 0..1, with ImageNet statistics."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    @abstractmethod
    def loss(self, raw: Any, targets: dict[str, Any]) -> dict[str, Tensor]:
        """Compare raw output with the ground truth.

        Args:
            raw: Output of `forward`.
            targets: Batch of targets from `collate`, on the model's device.

        Returns:
            Scalars by name; their sum is minimised. Divide by counts only through
            `cvlib._distributed.mean_over_ranks`, so that several processes train as one.
        """

    @abstractmethod
    def decode(
        self,
        raw: Any,
        sizes: Sequence[tuple[int, int]] | None = None,
        *,
        score_threshold: float | None = None,
    ) -> Sequence[Result]:
        """Turn raw output into results.

        Args:
            raw: Output of `forward`.
            sizes: Height and width of each image on the canvas, without the padding of the batch;
                ``None``: the whole canvas.
            score_threshold: Minimum score of a detection, ``None`` for the model's own; models
                without detections ignore it.

        Returns:
            One result per image, in canvas pixels.
        """

    @overload
    def predict(self, images: ImageLike, *, score_threshold: float | None = ...) -> Result: ...
    @overload
    def predict(
        self, images: Sequence[ImageLike], *, score_threshold: float | None = ...
    ) -> list[Result]: ...
    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, score_threshold: float | None = 0.5
    ) -> Result | list[Result]:
        """Predict on images in memory; for files and videos see `cvlib.predict`.

        Args:
            images: One image or a list: PIL images, uint8 arrays (H, W, 3) in RGB order, or uint8
                tensors (3, H, W); sizes may differ.
            score_threshold: Minimum score of a detection in [0, 1].

        Returns:
            One result for one image, a list for a list; on the CPU, in pixels of the images. The
            mode of the model (training or evaluation) is restored.

        Raises:
            TypeError: Not an image, or not uint8.
            ValueError: An image of another shape, or ``score_threshold`` outside of [0, 1].

        Example:
            >>> from cvlib.models import create_model
            >>> model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
            >>> len(model.predict(torch.zeros(3, 40, 30, dtype=torch.uint8)))
            0
        """
        name = f"{type(self).__name__}.predict"
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(
                f"{name}: expected `score_threshold` to be in [0, 1], got {score_threshold}"
            )
        if not isinstance(images, list | tuple):
            return self.predict([images], score_threshold=score_threshold)[0]  # type: ignore[list-item]
        if not images:
            return []
        batch, views = self.framing.batch([to_image_tensor(name, image) for image in images])
        with evaluation_mode(self):
            raw = self(batch.to(self.device))
            sizes = [view.canvas for view in views]
            results = self.decode(raw, sizes, score_threshold=score_threshold)
            return [result.restore(view).cpu() for result, view in zip(results, views, strict=True)]


Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def evaluation_mode(model: Module) -> Iterator[Module]:
    """Put a model into evaluation mode without gradients, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(was_training)


def _stretch(model: str, size: Sequence[int]) -> Framing:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"{model}: expected `image_size` to be (height, width) in pixels, got {size}"
        )
    return Framing("stretch", (int(size[0]), int(size[1])))
