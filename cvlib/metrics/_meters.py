"""Base classes of meters, which collect images in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from cvlib._distributed import gather_objects
from cvlib.metrics._packing import Comparison, Kind, check_kind, pack
from cvlib.structures import Detections, GroundTruth

T = TypeVar("T")
Self = TypeVar("Self", bound="Meter[Any]")

# COCO counts this many detections of a class per image.
MOST_DETECTIONS = 100


class Meter(Generic[T]):
    """Values of images, keyed by image id.

    An image counts once: one that is already present is dropped, so that samplers may pad the
    share of a process with images of another.

    Args:
        classes: Names of the K classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._images: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._images)

    def merge(self: Self, other: Meter[T]) -> Self:
        """Add the images of another meter that are not present yet; return this meter.

        Raises:
            ValueError: The classes differ.
        """
        if other.classes != self.classes:
            raise ValueError(
                f"{type(self).__name__}.merge: expected `other` to have the classes "
                f"{self.classes}, got {other.classes}"
            )
        self._add(other._images)
        return self

    def gather(self: Self) -> Self:
        """Add the images of all processes of ``torch.distributed``; return this meter.

        Every process must call it, and has all images afterwards. It does nothing in a single
        process.
        """
        for images in gather_objects(self._images):
            self._add(images)
        return self

    def _add(self, images: Mapping[int, T]) -> None:
        for image_id, image in images.items():
            self._images.setdefault(image_id, image)


class DetectionMeter(Meter[tuple[GroundTruth, Detections]]):
    """Ground truth and detections of images, on the CPU.

    Args:
        classes: Names of the K classes.
        kind: What is compared, ``"boxes"`` or ``"masks"``.

    Raises:
        ValueError: Unknown ``kind``.
    """

    def __init__(self, classes: Sequence[str], kind: Kind = "boxes") -> None:
        super().__init__(classes)
        check_kind(type(self).__name__, kind)
        self.kind: Kind = kind

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images, ascending: the order of `truths` and `detections`."""
        return sorted(self._images)

    @property
    def truths(self) -> list[GroundTruth]:
        """Ground truth of each image."""
        return [self._images[image_id][0] for image_id in self.image_ids]

    @property
    def detections(self) -> list[Detections]:
        """Detections of each image."""
        return [self._images[image_id][1] for image_id in self.image_ids]

    def update(
        self,
        image_ids: Sequence[int],
        truths: Sequence[GroundTruth],
        detections: Sequence[Detections],
    ) -> None:
        """Add images.

        Args:
            image_ids: Unique id of each image.
            truths: Ground truth of each image.
            detections: Detections of each image. Masks are stored as run lengths.

        Raises:
            ValueError: The lengths differ.
        """
        if not len(image_ids) == len(truths) == len(detections):
            raise ValueError(
                f"{type(self).__name__}.update: expected `truths` and `detections` of "
                f"{len(image_ids)} images, got {len(truths)} and {len(detections)}"
            )
        for image_id, truth, detected in zip(image_ids, truths, detections, strict=True):
            if int(image_id) not in self._images:
                self._images[int(image_id)] = _compress_truth(truth), _compress_detections(detected)

    def _pack(self, most: int = MOST_DETECTIONS) -> Comparison:
        """Return all images as arrays, with the best detections of each class per image."""
        function = type(self).__name__
        return pack(function, self.truths, self.detections, self.classes, self.kind, most)


def _compress_truth(truth: GroundTruth) -> GroundTruth:
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


def _compress_detections(detections: Detections) -> Detections:
    if detections.masks is not None:
        detections = replace(detections, masks=detections.rles())
    return detections if detections.boxes.device.type == "cpu" else detections.cpu()
