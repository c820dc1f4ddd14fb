"""Pixel accuracy, class accuracy and mean intersection over union of class maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from torch import Tensor

from cvlib.metrics._collection import Collection
from cvlib.metrics._objects import Array
from cvlib.metrics._tables import NOTHING, make_table, mean, share
from cvlib.metrics.confusion import ConfusionMatrix

# How the column of pixels that got no class is called.
NO_CLASS = "(none)"


@dataclass(frozen=True)
class PixelClassMetrics:
    """Figures of one class of pixels; -1 where it does not occur.

    Attributes:
        name: Of the class.
        pixels: How many are of this class in truth.
        iou: Pixels that are of this class and were found to be, over those that are one of both.
        accuracy: Share of this class's pixels that was found.
    """

    name: str
    pixels: int
    iou: float
    accuracy: float


@dataclass(frozen=True)
class SegmentationMetrics:
    """Figures of class maps over all pixels that are not ignored; -1 where there are none.

    Attributes:
        miou: Mean of the IoU of the classes that occur in the truth or in the predictions.
        pixel_accuracy: Share of pixels that got their class.
        class_accuracy: Mean over the classes of the share of their pixels that was found.
        classes: The same for each class; not part of `as_dict`.
        confusion: Pixels by true and predicted class; the last column got no class.
    """

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    classes: tuple[PixelClassMetrics, ...] = field(default=(), repr=False)
    confusion: ConfusionMatrix | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, float]:
        """The three figures by name."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "class_accuracy": self.class_accuracy,
        }

    def table(self) -> str:
        """A line for each class, as text."""
        header = ("class", "pixels", "IoU", "accuracy")
        return make_table(header, [astuple(one) for one in self.classes])


# Of an image: the cells of the flattened matrix that are not 0, and their counts.
_Cells = tuple[Array, Array]


class SegmentationMeter(Collection[_Cells]):
    """Counts the pixels of class maps, image by image, on their device.

    Pixels whose truth is ``ignore_index`` count nowhere. Those that a model gives no class
    (``ignore_index`` in the prediction) are wrong for the class that they have.

    Args:
        classes: Names of the K classes.
        ignore_index: What void pixels hold.

    Note:
        An image counts once; one whose number was there before is dropped. What is kept of an
        image are the pairs of classes that occur in it, some hundred bytes.

    Example:
        >>> meter = SegmentationMeter(("road", "sky"))
        >>> truth = torch.tensor([[[0, 0, 1, 255]]])
        >>> meter.update([3], torch.tensor([[[0, 1, 1, 1]]]), truth)
        >>> meter.compute().as_dict()
        {'miou': 0.5, 'pixel_accuracy': 0.6666666666666666, 'class_accuracy': 0.75}
    """

    def __init__(self, classes: Sequence[str], ignore_index: int = 255) -> None:
        super().__init__(classes)
        self.ignore_index = ignore_index

    def update(
        self,
        image_ids: Sequence[int],
        predicted: Tensor | Sequence[Tensor],
        truth: Tensor | Sequence[Tensor],
    ) -> None:
        """Adds images.

        Args:
            image_ids: A number of its own for each image.
            predicted: Class maps of an integer dtype, (B, H, W), or a list of (H, W).
            truth: The same.

        Raises:
            TypeError: Maps of another dtype.
            ValueError: Sizes that differ, or numbers that are no class.
        """
        if not len(image_ids) == len(predicted) == len(truth):
            raise ValueError(
                f"SegmentationMeter.update: expected {len(image_ids)} maps, got {len(predicted)} "
                f"predicted and {len(truth)} true ones"
            )
        for number, found, wanted in zip(image_ids, predicted, truth, strict=True):
            if int(number) not in self._images:
                self._images[int(number)] = self._count(int(number), found, wanted)

    def _count(self, number: int, predicted: Tensor, truth: Tensor) -> _Cells:
        for name, one in (("predicted", predicted), ("truth", truth)):
            if one.is_floating_point() or one.dtype == torch.bool:
                raise TypeError(
                    f"SegmentationMeter.update: expected {name} of an integer dtype, got "
                    f"{one.dtype}; take the best class first, as in scores.argmax(dim=1)"
                )
        if predicted.shape != truth.shape:
            raise ValueError(
                f"SegmentationMeter.update: expected predicted of the size of truth "
                f"{tuple(truth.shape)}, got {tuple(predicted.shape)} in image {number}"
            )
        truth = truth.as_subclass(Tensor).to(predicted.device)
        counted = truth != self.ignore_index
        wanted = truth[counted].long()
        found = predicted.as_subclass(Tensor)[counted].long()
        size = len(self.classes)
        self._check(number, "truth", wanted)
        has_class = found != self.ignore_index
        self._check(number, "predicted", found[has_class])
        found = torch.where(has_class, found, size)
        cells = torch.bincount(wanted * (size + 1) + found, minlength=size * (size + 1))
        used = cells.nonzero()[:, 0]
        return used.cpu().numpy(), cells[used].cpu().numpy()

    def _check(self, number: int, name: str, values: Tensor) -> None:
        wrong = values[(values < 0) | (values >= len(self.classes))]
        if len(wrong):
            raise ValueError(
                f"SegmentationMeter.update: expected {name} in 0..{len(self.classes) - 1} or "
                f"{self.ignore_index} (ignored), got {int(wrong[0])} in image {number}"
            )

    def compute(self) -> SegmentationMetrics:
        """Gives the figures over all images."""
        return _metrics(self._confusion(self._images.values()))

    def worst(self, count: int = 10) -> list[tuple[int, float]]:
        """The images with the lowest pixel accuracy.

        Args:
            count: How many at most.

        Returns:
            (number, pixel accuracy), the worst first; equal ones by their number.
        """
        rows = [(number, self.accuracy(number)) for number in sorted(self._images)]
        return sorted((row for row in rows if row[1] != NOTHING), key=lambda row: row[1])[:count]

    def accuracy(self, number: int) -> float:
        """The share of an image's pixels that got their class; -1 where none counts."""
        size = len(self.classes) + 1
        cells, counts = self._images[number]
        return float(share(counts[cells // size == cells % size].sum(), counts.sum()))

    def confusion(self, number: int) -> ConfusionMatrix:
        """The pixels of one image by true and predicted class; the last column got no class."""
        return self._confusion([self._images[number]])

    def _confusion(self, images: Iterable[_Cells]) -> ConfusionMatrix:
        size = len(self.classes)
        counts = np.zeros(size * (size + 1), np.int64)
        for cells, number in images:
            counts[cells] += number
        names = (*self.classes, NO_CLASS)
        return ConfusionMatrix(counts.reshape(size, size + 1), self.classes, names)


def _metrics(confusion: ConfusionMatrix) -> SegmentationMetrics:
    counts, names = confusion.counts, confusion.rows
    right = np.diagonal(counts)
    true = counts.sum(axis=1)
    either = true + counts.sum(axis=0)[: len(names)] - right
    iou, accuracy = share(right, either), share(right, true)
    rows = tuple(
        PixelClassMetrics(name, int(true[k]), float(iou[k]), float(accuracy[k]))
        for k, name in enumerate(names)
    )
    return SegmentationMetrics(
        miou=mean(iou),
        pixel_accuracy=float(share(right.sum(), true.sum())),
        class_accuracy=mean(accuracy),
        classes=rows,
        confusion=confusion,
    )
