"""What is kept of every image of an evaluation, in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from cvlib._distributed import gather_objects

T = TypeVar("T")
Self = TypeVar("Self", bound="Collection[Any]")


class Collection(Generic[T]):
    """Something of each image, by the image's number.

    An image counts once, whoever brings it: one that was already there is dropped, so that
    samplers may pad a process's share with images of another's.

    Args:
        classes: Names of the K classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._images: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._images)

    def merge(self: Self, other: Collection[T]) -> Self:
        """Adds the images of another meter that are not here yet; gives this meter.

        Raises:
            ValueError: The other one has other classes.
        """
        if other.classes != self.classes:
            raise ValueError(
                f"{type(self).__name__}.merge: expected a meter of the same classes "
                f"{self.classes}, got one of {other.classes}"
            )
        self._add(other._images)
        return self

    def gather(self: Self) -> Self:
        """Adds the images of all processes of ``torch.distributed``; gives this meter.

        Every process must call it, and then holds all images. Without several processes nothing
        happens.
        """
        for images in gather_objects(self._images):
            self._add(images)
        return self

    def _add(self, images: Mapping[int, T]) -> None:
        for number, image in images.items():
            self._images.setdefault(number, image)
