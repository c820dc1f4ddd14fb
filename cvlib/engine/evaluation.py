"""Evaluation of a model on a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from cvlib._distributed import gather_objects, rank, world_size
from cvlib.engine.batches import ignore_interrupts
from cvlib.engine.evaluation_results import Evaluation
from cvlib.engine.evaluators import EVALUATORS, Evaluator, Sample
from cvlib.geometry.framing import Framing, stack_padded
from cvlib.models import Model
from cvlib.models.base import evaluation_mode


def evaluate(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 32, workers: int = 0
) -> Evaluation:
    """Compare the predictions of a model with the annotations of a dataset.

    Images may have any size: predictions are mapped back to the pixels of the image before they
    are compared.

    Args:
        model: A `Model`, on any device. Its mode is restored afterwards.
        dataset: Samples ``(image, target)`` of the model's task and classes.
        batch_size: Images per forward pass.
        workers: Processes that load images; 0 loads in this one.

    Returns:
        COCO metrics for detectors (of masks, too, if both sides have them, and the book's for
        models with anchors), accuracies for classifiers, mean IoU and accuracies for segmentation.

    Raises:
        TypeError: The model is not a `Model`, or the targets are for another task.
        ValueError: The dataset is empty, has other classes than the model, or wrong labels
            (see `check_targets`).

    Note:
        Under ``torch.distributed`` every process must call it. Each evaluates its share of the
        images, no image counts twice, and all get the metrics of the whole dataset.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.models import TinySSD
        >>> model = TinySSD(("banana",), image_size=(64, 64))
        >>> evaluation = evaluate(model, SyntheticBananas(2, image_size=80))
        >>> evaluation.primary[0], 0 <= evaluation.as_dict()["ap50"] <= 1
        ('ap', True)
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    if not isinstance(model, Model) or model.task not in EVALUATORS:
        raise TypeError(
            f"evaluate: expected `model` to be a cvlib Model for {', '.join(EVALUATORS)}, got "
            f"{type(model).__name__}"
        )
    _check_dataset(model, dataset, batch_size)
    evaluator = EVALUATORS[model.task](model)
    problem: Exception | None = None
    try:
        _run(model, dataset, evaluator, batch_size, workers)
    except Exception as error:
        problem = error
    # Other processes would wait for one that failed.
    texts = gather_objects(None if problem is None else f"{type(problem).__name__}: {problem}")
    if problem is not None:
        raise problem
    for number, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f"evaluate: process {number} failed with {text}")
    return evaluator.compute()


def _run(
    model: Model, dataset: Dataset, evaluator: Evaluator, batch_size: int, workers: int
) -> None:
    loader = DataLoader(
        _FramedSamples(dataset, model.framing),
        batch_size,
        num_workers=workers,
        collate_fn=_Collate(model.framing.multiple),
        worker_init_fn=ignore_interrupts,
        pin_memory=model.device.type == "cuda",
        generator=torch.Generator(),  # leaves the global generator alone
    )
    is_hidden = True if rank() else None
    bar = tqdm(loader, desc="evaluating", unit="batch", leave=False, disable=is_hidden)
    with evaluation_mode(model), bar:
        for images, samples in bar:
            evaluator.update(model(images.to(model.device, non_blocking=True)), samples)


def _check_dataset(model: Model, dataset: Any, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"evaluate: expected `batch_size` to be at least 1, got {batch_size}")
    if not len(dataset):
        raise ValueError("evaluate: expected `dataset` to hold at least one image, got none")
    classes = tuple(getattr(dataset, "classes", model.classes))
    if classes != model.classes:
        raise ValueError(
            f"evaluate: expected `dataset` to have the classes of the model {model.classes}, got "
            f"{classes}"
        )
    task = getattr(dataset, "task", model.task)
    if task != model.task:
        raise TypeError(
            f"evaluate: expected `dataset` to be for {model.task}, as the model is, got {task}"
        )


class _FramedSamples(Dataset[tuple[Tensor, Sample]]):
    """This process's share of a dataset: images on the model's canvas, targets unchanged."""

    def __init__(self, dataset: Dataset, framing: Framing) -> None:
        self._dataset, self._framing = dataset, framing
        self._indices = range(rank(), len(dataset), world_size())  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> tuple[Tensor, Sample]:
        index = self._indices[place]
        image, target = self._dataset[index]
        image = image.as_subclass(Tensor)
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(
                f"evaluate: expected images to be uint8 (3, H, W), got {image.dtype} "
                f"{tuple(image.shape)} in sample {index}"
            )
        view = self._framing.view((image.shape[1], image.shape[2]))
        return self._framing.apply(image), Sample(index, view, target)


class _Collate:
    """Stacks images, padded to one size, and lists their samples."""

    def __init__(self, multiple: int) -> None:
        self._multiple = multiple

    def __call__(self, samples: Sequence[tuple[Tensor, Sample]]) -> tuple[Tensor, list[Sample]]:
        images = stack_padded([image for image, _ in samples], self._multiple)
        return images, [sample for _, sample in samples]
