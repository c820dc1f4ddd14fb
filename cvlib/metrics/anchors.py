"""The book's figures, each beside what a model that has learnt nothing would score."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from cvlib._distributed import gather_objects
from cvlib.targets import AnchorTargets


@dataclass(frozen=True)
class AnchorMetrics:
    """Figures over all anchors of a set.

    Attributes:
        class_error: Share of anchors whose most probable class is wrong (the book's).
        class_error_baseline: The same for a model that answers "background" everywhere.
        box_mae: Mean absolute error of the masked offsets over all anchors (the book's).
        box_mae_baseline: The same for a model whose offsets are all 0.
        positive_recall: Share of matched anchors whose most probable class is right.
    """

    class_error: float
    class_error_baseline: float
    box_mae: float
    box_mae_baseline: float
    positive_recall: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


class AnchorMeter:
    """Adds up `AnchorMetrics` batch by batch.

    It keeps sums and not images, so that `merge` and `gather` count twice what two meters have
    seen both: give every process images of its own, as `cvlib.evaluate` does.
    """

    def __init__(self) -> None:
        self._anchors = self._positives = self._wrong = self._found = 0
        self._error = self._size = 0.0

    def update(self, class_logits: Tensor, offsets: Tensor, targets: AnchorTargets) -> None:
        """Counts one batch.

        Args:
            class_logits: Shape (B, A, K + 1), background first.
            offsets: Shape (B, A, 4).
            targets: What the anchors should have predicted.
        """
        positive = targets.positive
        right = class_logits.argmax(dim=-1) == targets.classes
        self._anchors += positive.numel()
        self._positives += int(positive.sum())
        self._wrong += int((~right).sum())
        self._found += int((right & positive).sum())
        wanted = targets.offsets[positive]
        self._error += float((offsets[positive] - wanted).abs().sum())
        self._size += float(wanted.abs().sum())

    def merge(self, other: AnchorMeter) -> AnchorMeter:
        """Adds what another meter has counted; gives this meter."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def gather(self) -> AnchorMeter:
        """Adds the counts of all processes of ``torch.distributed``; every one must call it."""
        everyone = gather_objects(dict(vars(self)))
        for name in vars(self):
            setattr(self, name, sum(one[name] for one in everyone))
        return self

    def compute(self) -> AnchorMetrics:
        """Gives the figures over everything counted so far."""
        anchors = max(self._anchors, 1)
        return AnchorMetrics(
            class_error=self._wrong / anchors,
            class_error_baseline=self._positives / anchors,
            box_mae=self._error / anchors / 4,
            box_mae_baseline=self._size / anchors / 4,
            positive_recall=self._found / max(self._positives, 1),
        )
