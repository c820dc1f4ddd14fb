"""What an evaluation gives: figures by name, a line for the log, a table for each task."""

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
    """Figures of a model on a set, whatever its task."""

    @abstractmethod
    def as_dict(self) -> dict[str, float]:
        """All figures by name."""

    @property
    @abstractmethod
    def primary(self) -> tuple[str, float]:
        """Name and value of the figure that models are compared by; higher is better."""

    @abstractmethod
    def report(self) -> str:
        """A table with a line for each class, as text."""


@dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """Figures of a detector.

    Attributes:
        boxes: COCO's figures of the boxes.
        anchors: The book's figures, beside their baselines; ``None`` for a model without anchors.
        masks: COCO's figures of the masks; ``None`` where model or set have none.
        images: Truth and detections of every image, by its place in the set, for curves,
            confusions and error splits.
    """

    boxes: CocoMetrics
    anchors: AnchorMetrics | None = None
    masks: CocoMetrics | None = None
    images: CocoMeter | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All figures by name; those of masks begin with ``mask_``."""
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
        """A table with a line for each class, as text."""
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
    """Figures of a classifier.

    Attributes:
        figures: Accuracies, figures of each class, confusions.
        images: What every image was taken for, by its place in the set.
    """

    figures: ClassificationMetrics
    images: ClassificationMeter | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All figures by name."""
        return self.figures.as_dict()

    @property
    def primary(self) -> tuple[str, float]:
        """The share of images whose most probable class is theirs."""
        return "accuracy", self.figures.accuracy

    def report(self) -> str:
        """A table with a line for each class, as text."""
        return self.figures.table()

    def __str__(self) -> str:
        return "  ".join(f"{_words(name)} {value:.3f}" for name, value in self.as_dict().items())


@dataclass(frozen=True)
class SegmentationEvaluation(Evaluation):
    """Figures of a model that gives every pixel a class.

    Attributes:
        figures: Mean IoU, accuracies, figures of each class, confusions.
        images: The pixels of every image by class, by its place in the set.
        maps: What was found in the worst images, by their place in the set.
    """

    figures: SegmentationMetrics
    images: SegmentationMeter | None = field(default=None, repr=False, compare=False)
    maps: Mapping[int, Segmentation] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All figures by name."""
        return self.figures.as_dict()

    @property
    def primary(self) -> tuple[str, float]:
        """The mean intersection over union."""
        return "miou", self.figures.miou

    def report(self) -> str:
        """A table with a line for each class, as text."""
        return self.figures.table()

    def __str__(self) -> str:
        return "  ".join(f"{_words(name)} {value:.3f}" for name, value in self.as_dict().items())


def _words(name: str) -> str:
    return "mIoU" if name == "miou" else name.replace("_", " ")
