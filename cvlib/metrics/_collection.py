"""What is kept of every picture of an evaluation, in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from cvlib._distributed import gather_objects

T = TypeVar("T")
Self = TypeVar("Self", bound="Collection[Any]")


class Collection(Generic[T]):
    """Something of each picture, by the picture's number.

    A picture counts once, whoever brings it: one that was already there is dropped, so that
    samplers may pad a process's share with pictures of another's.

    Args:
        classes: Names of the K classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._pictures: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def merge(self: Self, other: Collection[T]) -> Self:
        """Adds the pictures of another meter that are not here yet; gives this meter.

        Raises:
            ValueError: The other one has other classes.
        """
        if other.classes != self.classes:
            raise ValueError(
                f"{type(self).__name__}.merge: expected a meter of the same classes "
                f"{self.classes}, got one of {other.classes}"
            )
        self._add(other._pictures)
        return self

    def gather(self: Self) -> Self:
        """Adds the pictures of all processes of ``torch.distributed``; gives this meter.

        Every process must call it, and then holds all pictures. Without several processes nothing
        happens.
        """
        for pictures in gather_objects(self._pictures):
            self._add(pictures)
        return self

    def _add(self, pictures: Mapping[int, T]) -> None:
        for number, picture in pictures.items():
            self._pictures.setdefault(number, picture)
