"""The book's metrics of anchors, with baselines of an untrained model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from cvlib._distributed import gather_objects
from cvlib.targets import AnchorTargets


@dataclass(frozen=True)
class AnchorMetrics:
    """Metrics over all anchors of a dataset.

    Attributes:
        class_error: Share of anchors with a wrong most probable class (the book's).
        class_error_baseline: Class error of a model that always predicts background.
        box_mae: Mean absolute error of the masked offsets over all anchors (the book's).
        box_mae_baseline: Mean absolute error of a model that always predicts offsets of 0.
        positive_recall: Share of matched anchors with the right most probable class.
    """

    class_error: float
    class_error_baseline: float
    box_mae: float
    box_mae_baseline: float
    positive_recall: float

    def as_dict(self) -> dict[str, float]:
        """Return the metrics, keyed by name."""
        return asdict(self)


class AnchorMeter:
    """Meter of `AnchorMetrics`, updated batch by batch.

    It stores sums instead of images, so `merge` and `gather` count images twice that two meters
    share: assign each image to one process, as `cvlib.evaluate` does.
    """

    def __init__(self) -> None:
        self._anchors = self._positives = self._wrong = self._right = 0
        self._error = self._size = 0.0

    def update(self, class_logits: Tensor, offsets: Tensor, targets: AnchorTargets) -> None:
        """Add a batch.

        Args:
            class_logits: Class scores, background first, shape (B, A, K + 1).
            offsets: Predicted box offsets, shape (B, A, 4).
            targets: True classes and offsets of the anchors.
        """
        positive = targets.positive
        right = class_logits.argmax(dim=-1) == targets.classes
        self._anchors += positive.numel()
        self._positives += int(positive.sum())
        self._wrong += int((~right).sum())
        self._right += int((right & positive).sum())
        true_offsets = targets.offsets[positive]
        self._error += float((offsets[positive] - true_offsets).abs().sum())
        self._size += float(true_offsets.abs().sum())

    def merge(self, other: AnchorMeter) -> AnchorMeter:
        """Add the sums of another meter; return this meter."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def gather(self) -> AnchorMeter:
        """Add the sums of all processes of ``torch.distributed``; each one must call it."""
        meters = gather_objects(dict(vars(self)))
        for name in vars(self):
            setattr(self, name, sum(meter[name] for meter in meters))
        return self

    def compute(self) -> AnchorMetrics:
        """Compute the metrics over all batches."""
        anchors = max(self._anchors, 1)
        return AnchorMetrics(
            class_error=self._wrong / anchors,
            class_error_baseline=self._positives / anchors,
            box_mae=self._error / anchors / 4,
            box_mae_baseline=self._size / anchors / 4,
            positive_recall=self._right / max(self._positives, 1),
        )
