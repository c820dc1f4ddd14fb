"""How good a model is on a data set."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as T
from tqdm.auto import tqdm

from cvlib._distributed import gather_objects, rank, world_size
from cvlib.engine.batches import leave_interrupts_to_others
from cvlib.engine.evaluation_results import (
    ClassificationEvaluation,
    DetectionEvaluation,
    Evaluation,
    SegmentationEvaluation,
)
from cvlib.metrics import (
    AnchorMeter,
    ClassificationMeter,
    CocoMeter,
    SegmentationMeter,
    evaluate_masks,
)
from cvlib.structures import Classification, GroundTruth, Result, Segmentation
from cvlib.targets import check_targets

# Class maps are kept of so many images, the worst ones: all of them would fill the memory.
_KEPT_MAPS = 32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def read_results(
    model: Any, raw: Any, sizes: Sequence[tuple[int, int]], **thresholds: Any
) -> list[Result]:
    """Says what raw output means, in the pixels of each image.

    Args:
        model: Of any task.
        raw: What its ``forward`` gave for images that had been brought to its size.
        sizes: Height and width of each image as it was before.
        thresholds: Of ``decode``.

    Returns:
        One for each image, on the model's device: `Detections`, a `Classification`, or a
        `Segmentation` of the image's size.
    """
    decoded = model.decode(raw, **thresholds)
    if model.task == "detection":
        return [
            one.resize(model.image_size, size) for one, size in zip(decoded, sizes, strict=True)
        ]
    if model.task == "classification":
        return [Classification(one, model.classes) for one in decoded.float()]
    maps = [
        one if isinstance(one, Segmentation) else Segmentation(one, model.classes)
        for one in decoded
    ]
    return [one.resize(size) for one, size in zip(maps, sizes, strict=True)]


def evaluate(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 32, workers: int = 0
) -> Evaluation:
    """Compares what a model finds in every image of a set with the truth.

    Images may have any sizes: each is resized to the model's, and what is found there is brought
    back to the image's own pixels before it is compared.

    Args:
        model: A detector, a classifier or a segmentation model, as its ``task`` says; on any
            device. Its mode is restored afterwards.
        dataset: Samples ``(image, target)`` of the model's task and classes.
        batch_size: Images in one forward pass.
        workers: Processes that read images; 0: this one.

    Returns:
        For a detector COCO's figures, of masks too where both sides have them, and the book's where
        it has anchors; for a classifier accuracies; for segmentation mean IoU and accuracies.

    Raises:
        TypeError: The model has no known ``task``, or targets are those of another task.
        ValueError: The set is empty or has other classes than the model, or its labels are wrong
            (see `check_targets`).

    Note:
        Under ``torch.distributed`` every process must call it; each looks at its share of the
        images, no image is seen twice, and all get the figures of the whole set.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.models import TinySSD
        >>> model = TinySSD(("banana",), image_size=(64, 64))
        >>> found = evaluate(model, SyntheticBananas(2, image_size=80))
        >>> found.primary[0], 0 <= found.as_dict()["ap50"] <= 1
        ('ap', True)
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    judge = _choose_judge(model)
    _check_dataset(model, dataset, batch_size)
    problem: Exception | None = None
    try:
        _look(model, dataset, judge, batch_size, workers)
    except Exception as error:
        problem = error
    # A process that failed tells the others, which would wait for it.
    texts = gather_objects(None if problem is None else f"{type(problem).__name__}: {problem}")
    if problem is not None:
        raise problem
    for number, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f"evaluate: process {number} failed with {text}")
    return judge.finish()


def _look(model: Any, dataset: Dataset, judge: _Judge, batch_size: int, workers: int) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    loader = DataLoader(
        _Share(dataset, model),
        batch_size,
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=leave_interrupts_to_others,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # or it would draw from the global one
    )
    quiet = True if rank() else None
    bar = tqdm(loader, desc="evaluating", unit="batch", leave=False, disable=quiet)
    with evaluating(model), bar:
        for images, shots in bar:
            judge.look(model(images.to(device, non_blocking=True)), shots)


def _check_dataset(model: Any, dataset: Any, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"evaluate: expected batch_size >= 1, got {batch_size}")
    if not len(dataset):
        raise ValueError("evaluate: expected at least one image, got an empty set")
    classes = tuple(getattr(dataset, "classes", model.classes))
    if classes != tuple(model.classes):
        raise ValueError(
            f"evaluate: expected a set with the classes of the model {tuple(model.classes)}, got "
            f"{classes}"
        )
    task = getattr(dataset, "task", model.task)
    if task != model.task:
        raise TypeError(f"evaluate: expected a set for {model.task}, as the model is, got {task}")


@dataclass(frozen=True)
class _Shot:
    """What is known of an image beside its pixels: place in the set, own size, target."""

    index: int
    size: tuple[int, int]
    target: Mapping[str, Any]

    def read(self, name: str) -> Any:
        if name not in self.target:
            raise TypeError(
                f"evaluate: expected targets with {name!r}, got {sorted(self.target)} in sample "
                f"{self.index}; is the set one for another task than the model?"
            )
        return self.target[name]


class _Share(Dataset[tuple[Tensor, _Shot]]):
    """This process's images of a set, at the model's size, with their targets as they are."""

    def __init__(self, dataset: Dataset, model: Any) -> None:
        self._dataset = dataset
        self._size: tuple[int, int] = tuple(model.image_size)
        self._resize: Callable[[Tensor], Tensor] | None = getattr(model, "resize", None)
        self._indices = range(rank(), len(dataset), world_size())  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> tuple[Tensor, _Shot]:
        index = self._indices[place]
        image, target = self._dataset[index]
        image = image.as_subclass(Tensor)
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(
                f"evaluate: expected images uint8 (3, H, W), got {image.dtype} "
                f"{tuple(image.shape)} in sample {index}"
            )
        size = (image.shape[1], image.shape[2])
        if size != self._size:
            image = self._resize(image) if self._resize else _stretch(image, self._size)
        return image, _Shot(index, size, target)


def _stretch(image: Tensor, size: tuple[int, int]) -> Tensor:
    return T.resize(image, list(size), antialias=True)


def _stack(samples: list[tuple[Tensor, _Shot]]) -> tuple[Tensor, list[_Shot]]:
    return torch.stack([image for image, _ in samples]), [shot for _, shot in samples]


class _Judge(ABC):
    """Compares raw output with targets, batch by batch."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def look(self, raw: Any, shots: list[_Shot]) -> None:
        """Takes one batch."""

    @abstractmethod
    def finish(self) -> Evaluation:
        """Gathers what all processes have seen and gives the figures."""


class _DetectionJudge(_Judge):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._images = CocoMeter(model.classes)
        self._anchors = AnchorMeter() if hasattr(model, "assign") else None

    def look(self, raw: Any, shots: list[_Shot]) -> None:
        truths = [self._read(shot) for shot in shots]
        if self._anchors is not None:
            boxes, labels = self._pad(truths)
            targets = self.model.assign(raw.anchors, boxes, labels, self.model.image_size)
            self._anchors.update(raw.class_logits, raw.offsets, targets)
        found: Any = read_results(self.model, raw, [shot.size for shot in shots])
        self._images.update([shot.index for shot in shots], truths, found)

    def _read(self, shot: _Shot) -> GroundTruth:
        boxes, labels = shot.read("boxes"), shot.read("labels")
        try:
            check_targets(
                boxes.as_subclass(Tensor)[None], labels[None], len(self.model.classes), shot.size
            )
        except ValueError as error:
            raise ValueError(
                f"evaluate: sample {shot.index} of the set is wrong: {error}"
            ) from None
        return GroundTruth.from_target(shot.target, shot.size)

    def _pad(self, truths: list[GroundTruth]) -> tuple[Tensor, Tensor]:
        """Boxes in the model's pixels, crowds left out, padded with -1 as `collate` does."""
        height, width = self.model.image_size
        longest = max(1, *(len(one) for one in truths))
        boxes = torch.full((len(truths), longest, 4), -1.0)
        labels = torch.full((len(truths), longest), -1, dtype=torch.int64)
        for row, one in enumerate(truths):
            kept = ~one.crowds
            scale = torch.tensor([width / one.size[1], height / one.size[0]] * 2)
            boxes[row, : int(kept.sum())] = one.boxes[kept] * scale
            labels[row, : int(kept.sum())] = one.labels[kept]
        return boxes, labels

    def finish(self) -> DetectionEvaluation:
        images = self._images.gather()
        masks = None
        if all(
            any(one.masks is not None for one in side)
            for side in (images.truths, images.detections)
        ):
            masks = evaluate_masks(images.truths, images.detections, images.classes)
        anchors = None if self._anchors is None else self._anchors.gather().compute()
        return DetectionEvaluation(images.compute(), anchors, masks, images)


class _ClassificationJudge(_Judge):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._images = ClassificationMeter(model.classes)

    def look(self, raw: Any, shots: list[_Shot]) -> None:
        labels = torch.tensor([int(shot.read("label")) for shot in shots])
        indices = [shot.index for shot in shots]
        self._images.update(indices, self.model.decode(raw).float(), labels)

    def finish(self) -> ClassificationEvaluation:
        images = self._images.gather()
        return ClassificationEvaluation(images.compute(), images)


class _SegmentationJudge(_Judge):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._images = SegmentationMeter(model.classes)
        # Of the worst images, the least bad one first: (-accuracy, -index, map).
        self._maps: list[tuple[float, int, Segmentation]] = []

    def look(self, raw: Any, shots: list[_Shot]) -> None:
        found: Any = read_results(self.model, raw, [shot.size for shot in shots])
        for shot, one in zip(shots, found, strict=True):
            self._images.update([shot.index], [one.labels], [shot.read("mask")])
            self._keep(shot.index, one)

    def _keep(self, index: int, found: Segmentation) -> None:
        share = self._images.accuracy(index)
        if share < 0:  # nothing but void
            return
        place = (-share, -index)
        if len(self._maps) < _KEPT_MAPS:
            heapq.heappush(self._maps, (*place, found.cpu()))
        elif place > self._maps[0][:2]:
            heapq.heapreplace(self._maps, (*place, found.cpu()))

    def finish(self) -> SegmentationEvaluation:
        images = self._images.gather()
        maps = {-i: found for part in gather_objects(self._maps) for _, i, found in part}
        return SegmentationEvaluation(images.compute(), images, maps)


_JUDGES: dict[str, type[_Judge]] = {
    "detection": _DetectionJudge,
    "classification": _ClassificationJudge,
    "segmentation": _SegmentationJudge,
}


def _choose_judge(model: Any) -> _Judge:
    task = getattr(model, "task", None)
    if task not in _JUDGES:
        raise TypeError(
            f"evaluate: expected a model whose task is one of {', '.join(_JUDGES)}, got "
            f"{type(model).__name__} with task {task!r}"
        )
    return _JUDGES[task](model)
