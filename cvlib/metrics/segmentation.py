"""Pixel accuracy, class accuracy and mean IoU of class maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from torch import Tensor

from cvlib.metrics._meters import Meter
from cvlib.metrics._packing import Array
from cvlib.metrics._summary import UNDEFINED, make_table, mean, share
from cvlib.metrics.confusion import ConfusionMatrix

# Name of the column of pixels without a predicted class.
NO_CLASS = "(none)"


@dataclass(frozen=True)
class PixelClassMetrics:
    """Segmentation metrics of one class; -1 for a class that does not occur.

    Attributes:
        name: Name of the class.
        pixels: Number of pixels of this class in the ground truth.
        iou: Intersection over union of predicted and true pixels.
        accuracy: Share of its pixels that are predicted as this class.
    """

    name: str
    pixels: int
    iou: float
    accuracy: float


@dataclass(frozen=True)
class SegmentationMetrics:
    """Segmentation metrics over all pixels that are not ignored; -1 without any.

    Attributes:
        miou: Mean IoU of the classes that occur in ground truth or predictions.
        pixel_accuracy: Share of pixels with the right class.
        class_accuracy: Mean accuracy of the classes.
        classes: Metrics of each class; not part of `as_dict`.
        confusion: Pixels by true and predicted class; the last column has no predicted class.
    """

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    classes: tuple[PixelClassMetrics, ...] = field(default=(), repr=False)
    confusion: ConfusionMatrix | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, float]:
        """Return the three metrics, keyed by name."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "class_accuracy": self.class_accuracy,
        }

    def table(self) -> str:
        """Format the metrics as text, one line per class."""
        header = ("class", "pixels", "IoU", "accuracy")
        return make_table(header, [astuple(row) for row in self.classes])


# Nonzero cells of the flattened confusion matrix of an image, and their counts.
_Cells = tuple[Array, Array]


class SegmentationMeter(Meter[_Cells]):
    """Meter of `SegmentationMetrics`, which counts pixels on the device of the class maps.

    Pixels with ``ignore_index`` in the ground truth are not counted. Pixels without a predicted
    class (``ignore_index`` in the prediction) are wrong.

    Args:
        classes: Names of the K classes.
        ignore_index: Value of void pixels.

    Note:
        An image counts once; an id that is already present is dropped. Only the pairs of classes
        that occur in an image are stored, some hundred bytes.

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
        """Add images.

        Args:
            image_ids: Unique id of each image.
            predicted: Predicted class maps of an integer dtype, (B, H, W) or a list of (H, W).
            truth: True class maps in the same form.

        Raises:
            TypeError: Class maps of another dtype.
            ValueError: Sizes differ, or a value is not a class.
        """
        if not len(image_ids) == len(predicted) == len(truth):
            raise ValueError(
                f"SegmentationMeter.update: expected {len(image_ids)} class maps, got "
                f"{len(predicted)} predicted and {len(truth)} true ones"
            )
        for image_id, predicted_map, true_map in zip(image_ids, predicted, truth, strict=True):
            if int(image_id) not in self._images:
                self._images[int(image_id)] = self._count(int(image_id), predicted_map, true_map)

    def _count(self, image_id: int, predicted: Tensor, truth: Tensor) -> _Cells:
        for name, class_map in (("predicted", predicted), ("truth", truth)):
            if class_map.is_floating_point() or class_map.dtype == torch.bool:
                raise TypeError(
                    f"SegmentationMeter.update: expected `{name}` to have an integer dtype, got "
                    f"{class_map.dtype}; take the best class first, as in scores.argmax(dim=1)"
                )
        if predicted.shape != truth.shape:
            raise ValueError(
                "SegmentationMeter.update: expected `predicted` to have the size of `truth` "
                f"{tuple(truth.shape)}, got {tuple(predicted.shape)} in image {image_id}"
            )
        truth = truth.as_subclass(Tensor).to(predicted.device)
        counted = truth != self.ignore_index
        true_class = truth[counted].long()
        predicted_class = predicted.as_subclass(Tensor)[counted].long()
        size = len(self.classes)
        self._check(image_id, "truth", true_class)
        has_class = predicted_class != self.ignore_index
        self._check(image_id, "predicted", predicted_class[has_class])
        predicted_class = torch.where(has_class, predicted_class, size)
        cells = true_class * (size + 1) + predicted_class
        cells = torch.bincount(cells, minlength=size * (size + 1))
        used = cells.nonzero()[:, 0]
        return used.cpu().numpy(), cells[used].cpu().numpy()

    def _check(self, image_id: int, name: str, values: Tensor) -> None:
        wrong = values[(values < 0) | (values >= len(self.classes))]
        if len(wrong):
            raise ValueError(
                f"SegmentationMeter.update: expected `{name}` in 0..{len(self.classes) - 1} or "
                f"{self.ignore_index} (ignored), got {int(wrong[0])} in image {image_id}"
            )

    def compute(self) -> SegmentationMetrics:
        """Compute the metrics over all images."""
        return _compute_metrics(self._confusion(self._images.values()))

    def worst(self, count: int = 10) -> list[tuple[int, float]]:
        """Return the images with the lowest pixel accuracy.

        Args:
            count: Maximum number of images.

        Returns:
            (image id, pixel accuracy), the worst first; equal ones by id.
        """
        rows = [(image_id, self.accuracy(image_id)) for image_id in sorted(self._images)]
        return sorted((row for row in rows if row[1] != UNDEFINED), key=lambda row: row[1])[:count]

    def accuracy(self, image_id: int) -> float:
        """Return the pixel accuracy of an image; -1 if no pixel is counted."""
        size = len(self.classes) + 1
        cells, counts = self._images[image_id]
        return float(share(counts[cells // size == cells % size].sum(), counts.sum()))

    def confusion(self, image_id: int) -> ConfusionMatrix:
        """Return the confusion matrix of an image; see `SegmentationMetrics`."""
        return self._confusion([self._images[image_id]])

    def _confusion(self, images: Iterable[_Cells]) -> ConfusionMatrix:
        size = len(self.classes)
        counts = np.zeros(size * (size + 1), np.int64)
        for cells, cell_counts in images:
            counts[cells] += cell_counts
        names = (*self.classes, NO_CLASS)
        return ConfusionMatrix(counts.reshape(size, size + 1), self.classes, names)


def _compute_metrics(confusion: ConfusionMatrix) -> SegmentationMetrics:
    counts, names = confusion.counts, confusion.rows
    right = np.diagonal(counts)
    true = counts.sum(axis=1)
    union = true + counts.sum(axis=0)[: len(names)] - right
    iou, accuracy = share(right, union), share(right, true)
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
