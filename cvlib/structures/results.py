"""The interface that the results of all models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from cvlib.geometry.view import View

Self = TypeVar("Self", bound="Result")


class Result(ABC):
    """Prediction of a model for one image.

    `Detections`, `Classification` and `Segmentation` are results, and a model of your own may
    define another: prediction, writers and drawing use only what is declared here.

    Attributes:
        task: Name of the task: ``"detection"``, ``"classification"``, ``"segmentation"``, ...
        columns: Names of the columns of `rows`.
        classes: Names of the K classes.
    """

    task: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    classes: tuple[str, ...]

    @abstractmethod
    def cpu(self: Self) -> Self:
        """Copy on the CPU."""

    @abstractmethod
    def resize(self: Self, size: tuple[int, int]) -> Self:
        """The result in the pixels of the image stretched to another (height, width)."""

    @abstractmethod
    def restore(self: Self, view: View) -> Self:
        """Map the result from the canvas of a view back to its image."""

    @abstractmethod
    def rows(self) -> list[tuple[Any, ...]]:
        """Table rows with the values of ``columns``, for CSV files and data frames."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @abstractmethod
    def draw(self, image: Image.Image | Tensor) -> Image.Image:
        """Draw the result on a copy of its image, a PIL image or a uint8 tensor (3, H, W)."""

    @property
    def num_objects(self) -> int | None:
        """Number of objects; ``None`` for results that do not consist of objects."""
        return None
