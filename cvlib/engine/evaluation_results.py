"""Results of an evaluation: metrics by name, a line for the log, a table by class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from cvlib.metrics import ClassificationMeter, CocoMeter, CocoMetrics, SegmentationMeter
from cvlib.metrics.anchors import AnchorMetrics
from cvlib.metrics.classification import ClassificationMetrics
from cvlib.metrics.segmentation import SegmentationMetrics
from cvlib.structures import Segmentation


class Evaluation(ABC):
    """Metrics of a model on a dataset."""

    @abstractmethod
    def as_dict(self) -> dict[str, float]:
        """All metrics by name."""

    @property
    @abstractmethod
    def primary(self) -> tuple[str, float]:
        """Name and value of the metric that models are compared by; higher is better."""

    @abstractmethod
    def report(self) -> str:
        """Text table with one line per class."""


@dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """Metrics of a detector.

    Attributes:
        boxes: COCO metrics of the boxes.
        anchors: The book's metrics and their baselines; ``None`` for models without anchors.
        masks: COCO metrics of the masks; ``None`` if model or dataset have none.
        images: Ground truth and detections of every image by its index in the dataset, for curves,
            confusions and error analysis.
    """

    boxes: CocoMetrics
    anchors: AnchorMetrics | None = None
    masks: CocoMetrics | None = None
    images: CocoMeter | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All metrics by name; those of masks begin with ``mask_``."""
        masks = {} if self.masks is None else self.masks.as_dict()
        return {
            **self.boxes.as_dict(),
            **{f"mask_{name}": value for name, value in masks.items()},
            **({} if self.anchors is None else self.anchors.as_dict()),
        }

    @property
    def primary(self) -> tuple[str, float]:
        """COCO's average precision of the boxes."""
        return "ap", self.boxes.ap

    def report(self) -> str:
        """Text table with one line per class."""
        if self.masks is None:
            return self.boxes.table()
        return f"boxes\n{self.boxes.table()}\n\nmasks\n{self.masks.table()}"

    def __str__(self) -> str:
        b, a, m = self.boxes, self.anchors, self.masks
        line = f"AP {b.ap:.3f}  AP50 {b.ap50:.3f}  AP75 {b.ap75:.3f}"
        if m is not None:
            line += f"  mask AP {m.ap:.3f}  mask AP50 {m.ap50:.3f}"
        if a is not None:
            line += (
                f"  positive recall {a.positive_recall:.3f}  "
                f"class error {a.class_error:.2e} (background everywhere: "
                f"{a.class_error_baseline:.2e})  box MAE {a.box_mae:.2e} (zeros: "
                f"{a.box_mae_baseline:.2e})"
            )
        return line


@dataclass(frozen=True)
class ClassificationEvaluation(Evaluation):
    """Metrics of a classifier.

    Attributes:
        metrics: Accuracies, metrics by class, confusions.
        images: Predictions for every image by its index in the dataset.
    """

    metrics: ClassificationMetrics
    images: ClassificationMeter | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All metrics by name."""
        return self.metrics.as_dict()

    @property
    def primary(self) -> tuple[str, float]:
        """Share of images whose most probable class is right."""
        return "accuracy", self.metrics.accuracy

    def report(self) -> str:
        """Text table with one line per class."""
        return self.metrics.table()

    def __str__(self) -> str:
        return "  ".join(f"{_words(name)} {value:.3f}" for name, value in self.as_dict().items())


@dataclass(frozen=True)
class SegmentationEvaluation(Evaluation):
    """Metrics of a semantic segmentation model.

    Attributes:
        metrics: Mean IoU, accuracies, metrics by class, confusions.
        images: Pixel counts of every image by its index in the dataset.
        maps: Predicted class maps of the worst images by their index in the dataset.
    """

    metrics: SegmentationMetrics
    images: SegmentationMeter | None = field(default=None, repr=False, compare=False)
    maps: Mapping[int, Segmentation] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All metrics by name."""
        return self.metrics.as_dict()

    @property
    def primary(self) -> tuple[str, float]:
        """Mean intersection over union."""
        return "miou", self.metrics.miou

    def report(self) -> str:
        """Text table with one line per class."""
        return self.metrics.table()

    def __str__(self) -> str:
        return "  ".join(f"{_words(name)} {value:.3f}" for name, value in self.as_dict().items())


def _words(name: str) -> str:
    return "mIoU" if name == "miou" else name.replace("_", " ")
