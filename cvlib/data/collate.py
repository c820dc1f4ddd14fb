"""Collating samples with different numbers of objects into a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Sample = tuple[Tensor, Mapping[str, Any]]

# Target keys that identify detection, segmentation and classification.
_TASK_KEYS = ("boxes", "mask", "label")


def collate(samples: Sequence[Sample]) -> tuple[Tensor, dict[str, Any]]:
    """Stack samples into a batch, padding boxes, labels and crowd flags with -1.

    Args:
        samples: Pairs ``(image, target)`` as in the datasets of ``cvlib.data``: image uint8
            (3, H, W), all of one size; target with ``image_id`` int and

            - for detection ``boxes`` float32 (N, 4) and ``labels`` int64 (N,); also ``iscrowd``
              int64 (N,) and ``masks`` uint8 (N, H, W), if all samples have them. N differs from
              sample to sample and may be 0;
            - for segmentation ``mask`` uint8 (H, W);
            - for classification ``label`` int64, a single number.

    Returns:
        ``(images, targets)``: images uint8 (B, 3, H, W), channels-last in memory if those of the
        samples are; targets a dict of ``image_id`` int64 (B,) and

        - for detection ``boxes`` float32 (B, M, 4), ``labels`` and ``iscrowd`` int64 (B, M), rows
          past a sample's own N filled with -1, and ``masks``, a list of B tensors uint8 (N, H, W).
          M is the largest N of the batch, at least 1;
        - for segmentation ``mask`` uint8 (B, H, W);
        - for classification ``label`` int64 (B,).

    Raises:
        TypeError: An image is not uint8.
        ValueError: There are no samples, or their tasks or image sizes differ, or boxes, labels,
            crowd flags and masks of a sample do not match.

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
        raise ValueError("collate: expected `samples` to have at least one sample, got none")
    # Plain tensors, because every operation on a tv_tensor takes several microseconds more.
    images = [image.as_subclass(Tensor) for image, _ in samples]
    targets = [target for _, target in samples]
    _check_images(images, targets)
    stackers = {"boxes": _stack_objects, "mask": _stack_masks, "label": _stack_labels}
    batch = stackers[_find_task_key(targets)](targets, images)
    batch["image_id"] = torch.tensor([int(t["image_id"]) for t in targets], dtype=torch.int64)
    return _stack_images(images), batch


def _stack_images(images: list[Tensor]) -> Tensor:
    if any(image.stride(0) != 1 or image.device.type != "cpu" for image in images):
        return torch.stack(images)
    # Copied by NumPy, because torch.stack takes ten times as long for channels-last images.
    size = (len(images), *images[0].shape)
    batch = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
    for slot, image in zip(batch.permute(0, 2, 3, 1).numpy(), images, strict=True):
        slot[:] = image.permute(1, 2, 0).numpy()
    return batch


def _stack_objects(targets: list[Mapping[str, Any]], images: list[Tensor]) -> dict[str, Any]:
    boxes = [target["boxes"].as_subclass(Tensor) for target in targets]
    labels = [target["labels"] for target in targets]
    _check_objects(boxes, labels, targets)
    slots, width = _find_slots([len(label) for label in labels])
    batch: dict[str, Any] = {
        "boxes": _pad(boxes, slots, width, torch.float32),
        "labels": _pad(labels, slots, width, torch.int64),
    }
    if all("iscrowd" in target for target in targets):
        flags = [target["iscrowd"] for target in targets]
        _check_rows("iscrowd", flags, labels, targets)
        batch["iscrowd"] = _pad(flags, slots, width, torch.int64)
    if all("masks" in target for target in targets):
        masks = [target["masks"].as_subclass(Tensor) for target in targets]
        _check_rows("masks", masks, labels, targets, images[0].shape[1:])
        batch["masks"] = masks
    return batch


def _stack_masks(targets: list[Mapping[str, Any]], images: list[Tensor]) -> dict[str, Any]:
    masks = [target["mask"].as_subclass(Tensor) for target in targets]
    size = images[0].shape[1:]
    for mask, target in zip(masks, targets, strict=True):
        if mask.shape != size:
            raise ValueError(
                f"collate: expected `mask` of the image size {tuple(size)}, got "
                f"{tuple(mask.shape)} in image_id {target['image_id']}"
            )
    return {"mask": torch.stack(masks)}


def _stack_labels(targets: list[Mapping[str, Any]], images: list[Tensor]) -> dict[str, Any]:
    return {"label": torch.tensor([int(t["label"]) for t in targets], dtype=torch.int64)}


def _find_task_key(targets: list[Mapping[str, Any]]) -> str:
    """Return the key of `_TASK_KEYS` that all targets have."""
    for key in _TASK_KEYS:
        if all(key in target for target in targets):
            return key
    first = next((key for key in _TASK_KEYS if key in targets[0]), "none of them")
    other = next((target for target in targets if first not in target), targets[0])
    raise ValueError(
        "collate: expected targets that all have boxes, mask or label, got "
        f"{first} in image_id {targets[0].get('image_id')} and {', '.join(other) or 'nothing'} in "
        f"image_id {other.get('image_id')}"
    )


def _find_slots(counts: list[int]) -> tuple[Tensor, int]:
    """Return the flat position of each object in a table with a row per image, and its width."""
    width = max(1, *counts)
    slots = [row * width + column for row, count in enumerate(counts) for column in range(count)]
    return torch.tensor(slots, dtype=torch.int64).reshape(-1), width


def _pad(values: list[Tensor], slots: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    rest = values[0].shape[1:]
    padded = torch.full((len(values) * width, *rest), -1, dtype=dtype)
    padded[slots] = torch.cat(values).to(dtype)
    return padded.view(len(values), width, *rest)


def _check_images(images: list[Tensor], targets: list[Mapping[str, Any]]) -> None:
    first = images[0].shape
    for image, target in zip(images, targets, strict=True):
        if image.dtype == torch.uint8 and image.shape == first and image.ndim == 3 == len(image):
            continue
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
                "collate: expected `boxes` of shape (N, 4) and `labels` of shape (N,), got "
                f"{tuple(box.shape)} and {tuple(label.shape)} in image_id {target['image_id']}"
            )


def _check_rows(
    name: str,
    values: list[Tensor],
    labels: list[Tensor],
    targets: list[Mapping[str, Any]],
    size: Sequence[int] = (),
) -> None:
    """Raise ValueError unless values have one row of the given size per object."""
    for value, label, target in zip(values, labels, targets, strict=True):
        expected = (len(label), *size)
        if tuple(value.shape) != expected:
            raise ValueError(
                f"collate: expected `{name}` of shape {expected}, one row per box, got "
                f"{tuple(value.shape)} in image_id {target['image_id']}"
            )
