"""The collection of truths and detections that every figure of a detector is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from cvlib.metrics._gather import gather_objects
from cvlib.structures import Detections, GroundTruth

Self = TypeVar("Self", bound="PictureMeter")


class PictureMeter:
    """Truth and detections of each picture, by its number, in the memory of the host.

    A picture counts once, whoever brings it: one that was already there is dropped, so that
    samplers may pad a process's share with pictures of another's.

    Args:
        classes: Names of the K classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._pictures: dict[int, tuple[GroundTruth, Detections]] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def image_ids(self) -> list[int]:
        """Numbers of the pictures, ascending: the order of `truths` and `detections`."""
        return sorted(self._pictures)

    @property
    def truths(self) -> list[GroundTruth]:
        """The true objects of each picture."""
        return [self._pictures[number][0] for number in self.image_ids]

    @property
    def detections(self) -> list[Detections]:
        """What was found in each picture."""
        return [self._pictures[number][1] for number in self.image_ids]

    def update(
        self,
        image_ids: Sequence[int],
        truths: Sequence[GroundTruth],
        detections: Sequence[Detections],
    ) -> None:
        """Adds pictures.

        Args:
            image_ids: A number of its own for each picture.
            truths: True objects of each.
            detections: What was found in each. Masks are kept as run lengths.

        Raises:
            ValueError: Lists of different lengths.
        """
        if not len(image_ids) == len(truths) == len(detections):
            raise ValueError(
                f"{type(self).__name__}.update: expected truths and detections of "
                f"{len(image_ids)} pictures, got {len(truths)} and {len(detections)}"
            )
        for number, truth, found in zip(image_ids, truths, detections, strict=True):
            if int(number) not in self._pictures:
                self._pictures[int(number)] = (_kept_truth(truth), _kept_detections(found))

    def merge(self: Self, other: PictureMeter) -> Self:
        """Adds the pictures of another meter that are not here yet; gives this meter."""
        for number, picture in other._pictures.items():
            self._pictures.setdefault(number, picture)
        return self

    def gather(self: Self) -> Self:
        """Adds the pictures of all processes of ``torch.distributed``; gives this meter.

        Every process must call it, and then holds all pictures. Without several processes nothing
        happens.
        """
        for pictures in gather_objects(self._pictures):
            for number, picture in pictures.items():
                self._pictures.setdefault(number, picture)
        return self


def _kept_truth(truth: GroundTruth) -> GroundTruth:
    if truth.masks is None and truth.boxes.device.type == "cpu":
        return truth
    return replace(
        truth,
        boxes=truth.boxes.cpu(),
        labels=truth.labels.cpu(),
        iscrowd=None if truth.iscrowd is None else truth.iscrowd.cpu(),
        area=None if truth.area is None else truth.area.cpu(),
        masks=None if truth.masks is None else truth.rles(),
    )


def _kept_detections(found: Detections) -> Detections:
    if found.masks is not None:
        found = replace(found, masks=found.rles())
    return found if found.boxes.device.type == "cpu" else found.cpu()
