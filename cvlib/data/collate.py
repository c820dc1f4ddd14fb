"""Samples of different numbers of objects made into one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Sample = tuple[Tensor, Mapping[str, Any]]


def collate(samples: Sequence[Sample]) -> tuple[Tensor, dict[str, Tensor]]:
    """Stack samples into a batch, padding boxes and labels with -1.

    Args:
        samples: Pairs ``(image, target)`` as the datasets of ``cvlib.data`` give them: image
            uint8 (3, H, W), all of one size; target with ``boxes`` float32 (N, 4), ``labels``
            int64 (N,) and ``image_id`` int. N differs from sample to sample and may be 0.

    Returns:
        ``(images, targets)``: images uint8 (B, 3, H, W); targets a dict of ``boxes`` float32
        (B, M, 4) and ``labels`` int64 (B, M), rows past a sample's own N filled with -1, and
        ``image_id`` int64 (B,). M is the largest N of the batch, at least 1.

    Raises:
        TypeError: an image is not uint8.
        ValueError: no samples, images of different sizes, boxes that do not match labels.

    Example:
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> box = {"boxes": torch.tensor([[0., 1., 4., 5.]]), "labels": torch.tensor([0])}
        >>> none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        >>> samples = [(image, box | {"image_id": 7}), (image, none | {"image_id": 9})]
        >>> images, targets = collate(samples)
        >>> images.shape, targets["labels"]
        (torch.Size([2, 3, 8, 8]), tensor([[ 0],
                [-1]]))
    """
    if len(samples) == 0:
        raise ValueError("collate: expected at least one sample, got none")
    # as_subclass: every operation on a tv_tensor costs several microseconds more.
    images = [image.as_subclass(Tensor) for image, _ in samples]
    targets = [target for _, target in samples]
    _check_images(images, targets)
    boxes = [target["boxes"].as_subclass(Tensor) for target in targets]
    labels = [target["labels"] for target in targets]
    _check_objects(boxes, labels, targets)
    padded_boxes, padded_labels = _pad(boxes, labels)
    image_ids = torch.tensor([int(target["image_id"]) for target in targets], dtype=torch.int64)
    batch = {"boxes": padded_boxes, "labels": padded_labels, "image_id": image_ids}
    return torch.stack(images), batch


def _pad(boxes: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    counts = [len(one) for one in labels]
    size, width = len(counts), max(1, *counts)
    padded_boxes = torch.full((size, width, 4), -1.0)
    padded_labels = torch.full((size, width), -1, dtype=torch.int64)
    slots = torch.tensor(
        [row * width + column for row, count in enumerate(counts) for column in range(count)],
        dtype=torch.int64,
    )
    padded_boxes.view(-1, 4)[slots] = torch.cat(boxes).to(torch.float32)
    padded_labels.view(-1)[slots] = torch.cat(labels).to(torch.int64)
    return padded_boxes, padded_labels


def _check_images(images: list[Tensor], targets: list[Mapping[str, Any]]) -> None:
    first = images[0].shape
    for image, target in zip(images, targets, strict=True):
        name = f"image_id {target['image_id']}"
        if image.dtype != torch.uint8:
            raise TypeError(
                f"collate: expected uint8 images, got {image.dtype} in {name}; "
                "leave scaling to the model"
            )
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"collate: expected images of shape (3, H, W), got {tuple(image.shape)} in {name}"
            )
        if image.shape != first:
            raise ValueError(
                "collate: expected images of one size (height, width), got "
                f"{tuple(first[1:])} in image_id {targets[0]['image_id']} and "
                f"{tuple(image.shape[1:])} in {name}; add a transforms.v2.Resize to the dataset"
            )


def _check_objects(
    boxes: list[Tensor], labels: list[Tensor], targets: list[Mapping[str, Any]]
) -> None:
    for box, label, target in zip(boxes, labels, targets, strict=True):
        if box.ndim != 2 or box.shape[1] != 4 or label.shape != box.shape[:1]:
            raise ValueError(
                "collate: expected boxes of shape (N, 4) and labels of shape (N,), got "
                f"{tuple(box.shape)} and {tuple(label.shape)} in image_id {target['image_id']}"
            )
