"""The collection of truths and detections that every figure of a detector is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cvlib.metrics._collection import Collection
from cvlib.metrics._objects import Kind, Problem, check_kind, pack
from cvlib.structures import Detections, GroundTruth

# COCO counts so many detections of a class in an image.
MOST_DETECTIONS = 100


class ImageMeter(Collection[tuple[GroundTruth, Detections]]):
    """Truth and detections of each image, by its number, in the memory of the host.

    Args:
        classes: Names of the K classes.
        kind: ``"boxes"`` or ``"masks"``: what figures are computed of.

    Raises:
        ValueError: An unknown kind.
    """

    def __init__(self, classes: Sequence[str], kind: Kind = "boxes") -> None:
        super().__init__(classes)
        check_kind(type(self).__name__, kind)
        self.kind: Kind = kind

    @property
    def image_ids(self) -> list[int]:
        """Numbers of the images, ascending: the order of `truths` and `detections`."""
        return sorted(self._images)

    @property
    def truths(self) -> list[GroundTruth]:
        """The true objects of each image."""
        return [self._images[number][0] for number in self.image_ids]

    @property
    def detections(self) -> list[Detections]:
        """What was found in each image."""
        return [self._images[number][1] for number in self.image_ids]

    def update(
        self,
        image_ids: Sequence[int],
        truths: Sequence[GroundTruth],
        detections: Sequence[Detections],
    ) -> None:
        """Adds images.

        Args:
            image_ids: A number of its own for each image.
            truths: True objects of each.
            detections: What was found in each. Masks are kept as run lengths.

        Raises:
            ValueError: Lists of different lengths.
        """
        if not len(image_ids) == len(truths) == len(detections):
            raise ValueError(
                f"{type(self).__name__}.update: expected truths and detections of "
                f"{len(image_ids)} images, got {len(truths)} and {len(detections)}"
            )
        for number, truth, found in zip(image_ids, truths, detections, strict=True):
            if int(number) not in self._images:
                self._images[int(number)] = (_kept_truth(truth), _kept_detections(found))

    def _pack(self, most: int = MOST_DETECTIONS) -> Problem:
        """All images as arrays, with the best detections of each class in each image."""
        function = type(self).__name__
        return pack(function, self.truths, self.detections, self.classes, self.kind, most)


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
