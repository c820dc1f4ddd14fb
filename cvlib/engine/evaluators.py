"""Evaluators: collect predictions and ground truth of one task, batch by batch."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvlib._distributed import gather_objects
from cvlib.engine.evaluation_results import (
    ClassificationEvaluation,
    DetectionEvaluation,
    Evaluation,
    SegmentationEvaluation,
)
from cvlib.geometry.view import View
from cvlib.metrics import (
    AnchorMeter,
    ClassificationMeter,
    CocoMeter,
    SegmentationMeter,
    evaluate_masks,
)
from cvlib.models import Model
from cvlib.structures import GroundTruth, Segmentation
from cvlib.targets import check_targets

# Class maps are kept only for this many images, the worst ones; all would fill the memory.
_MAX_KEPT_MAPS = 32


@dataclass(frozen=True)
class Sample:
    """Per-image metadata of an evaluation.

    Attributes:
        index: Index in the dataset.
        view: How the model sees the image.
        target: Target as the dataset returns it, in pixels of the image.
    """

    index: int
    view: View
    target: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.view.image_size

    def read(self, name: str) -> Any:
        """Return an entry of the target; TypeError if the dataset is for another task."""
        if name not in self.target:
            raise TypeError(
                f"evaluate: expected targets with {name!r}, got {sorted(self.target)} in sample "
                f"{self.index}; is the dataset for another task than the model?"
            )
        return self.target[name]


class Evaluator(ABC):
    """Compares raw output of a model with targets.

    Args:
        model: The model being evaluated.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def update(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Add one batch: raw output of the model and the samples it belongs to."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """Gather the batches of all processes and compute the metrics."""

    def results(self, raw: Any, samples: Sequence[Sample]) -> list[Any]:
        """Decode raw output into results in pixels of the images."""
        decoded = self.model.decode(raw, [sample.view.canvas for sample in samples])
        return [
            result.restore(sample.view) for result, sample in zip(decoded, samples, strict=True)
        ]


class DetectionEvaluator(Evaluator):
    """COCO metrics of boxes and masks, and anchor metrics for models with anchors."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._images = CocoMeter(model.classes)
        self._anchors = AnchorMeter() if hasattr(model, "assign") else None

    def update(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Add one batch."""
        truths = [self._read_truth(sample) for sample in samples]
        if self._anchors is not None:
            model: Any = self.model
            boxes, labels = _pad(truths, samples)
            targets = model.assign(raw.anchors, boxes, labels, model.image_size)
            self._anchors.update(raw.class_logits, raw.offsets, targets)
        indices = [sample.index for sample in samples]
        self._images.update(indices, truths, self.results(raw, samples))

    def compute(self) -> DetectionEvaluation:
        """Gather the batches of all processes and compute the metrics."""
        images = self._images.gather()
        masks = None
        if all(
            any(objects.masks is not None for objects in side)
            for side in (images.truths, images.detections)
        ):
            masks = evaluate_masks(images.truths, images.detections, images.classes)
        anchors = None if self._anchors is None else self._anchors.gather().compute()
        return DetectionEvaluation(images.compute(), anchors, masks, images)

    def _read_truth(self, sample: Sample) -> GroundTruth:
        boxes, labels = sample.read("boxes"), sample.read("labels")
        try:
            check_targets(
                boxes.as_subclass(Tensor)[None], labels[None], self.model.num_classes, sample.size
            )
        except ValueError as error:
            raise ValueError(
                f"evaluate: expected valid labels, got in sample {sample.index}: {error}"
            ) from None
        return GroundTruth.from_target(sample.target, sample.size)


def _pad(truths: Sequence[GroundTruth], samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Boxes in canvas pixels and labels, without crowds, padded with -1 as `collate` does."""
    longest = max(1, *(len(truth) for truth in truths))
    boxes = torch.full((len(truths), longest, 4), -1.0)
    labels = torch.full((len(truths), longest), -1, dtype=torch.int64)
    for row, (truth, sample) in enumerate(zip(truths, samples, strict=True)):
        kept = ~truth.crowds
        moved = sample.view.map_boxes(truth.boxes[kept].numpy().astype(np.float64))
        boxes[row, : len(moved)] = torch.from_numpy(moved)
        labels[row, : len(moved)] = truth.labels[kept]
    return boxes, labels


class ClassificationEvaluator(Evaluator):
    """Accuracy, metrics by class and confusions."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._images = ClassificationMeter(model.classes)

    def update(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Add one batch."""
        labels = torch.tensor([int(sample.read("label")) for sample in samples])
        probabilities = [result.probabilities for result in self.results(raw, samples)]
        self._images.update(
            [sample.index for sample in samples], torch.stack(probabilities).float(), labels
        )

    def compute(self) -> ClassificationEvaluation:
        """Gather the batches of all processes and compute the metrics."""
        images = self._images.gather()
        return ClassificationEvaluation(images.compute(), images)


class SegmentationEvaluator(Evaluator):
    """Mean IoU, pixel accuracies and confusions; keeps the class maps of the worst images."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._images = SegmentationMeter(model.classes)
        # A heap of (-accuracy, -index, map): the least bad of the kept images comes first.
        self._maps: list[tuple[float, int, Segmentation]] = []

    def update(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Add one batch."""
        for sample, result in zip(samples, self.results(raw, samples), strict=True):
            self._images.update([sample.index], [result.labels], [sample.read("mask")])
            self._keep(sample.index, result)

    def _keep(self, index: int, result: Segmentation) -> None:
        accuracy = self._images.accuracy(index)
        if accuracy < 0:  # nothing but void
            return
        rank = (-accuracy, -index)
        if len(self._maps) < _MAX_KEPT_MAPS:
            heapq.heappush(self._maps, (*rank, result.cpu()))
        elif rank > self._maps[0][:2]:
            heapq.heapreplace(self._maps, (*rank, result.cpu()))

    def compute(self) -> SegmentationEvaluation:
        """Gather the batches of all processes and compute the metrics."""
        images = self._images.gather()
        maps = {-i: result for part in gather_objects(self._maps) for _, i, result in part}
        return SegmentationEvaluation(images.compute(), images, maps)


EVALUATORS: dict[str, type[Evaluator]] = {
    "detection": DetectionEvaluator,
    "classification": ClassificationEvaluator,
    "segmentation": SegmentationEvaluator,
}
