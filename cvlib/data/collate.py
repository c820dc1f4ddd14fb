"""Collation of samples into batches, with padding of images and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cvlib.geometry.framing import stack_padded
from cvlib.geometry.view import VOID

Sample = tuple[Tensor, Mapping[str, Any]]

# Entries of a target that identify its task: objects, a class map, a class of the image.
_KINDS = ("boxes", "mask", "label")


def collate(samples: Sequence[Sample], *, multiple: int = 1) -> tuple[Tensor, dict[str, Any]]:
    """Stack samples into a batch, padding images and objects.

    Images of different sizes are padded at the bottom and right with ImageNet's mean colour, class
    maps with 255 (void), instance masks with 0; boxes, labels and crowd flags with -1.

    Args:
        samples: Pairs ``(image, target)`` as returned by the datasets of ``cvlib.data``: image
            uint8 (3, H, W); target with ``image_id`` int and

            - for detection ``boxes`` float32 (N, 4) and ``labels`` int64 (N,), optionally
              ``iscrowd`` int64 (N,) and ``masks`` uint8 (N, H, W); N may differ and be 0;
            - for segmentation ``mask`` uint8 (H, W);
            - for classification ``label`` int64, a single number.
        multiple: Height and width of the batch are rounded up to a multiple of this.

    Returns:
        ``(images, targets)``: images uint8 (B, 3, H, W), channels-last in memory if the images of
        the samples are; targets a dict of ``image_id`` int64 (B,), ``size`` int64 (B, 2), the
        (height, width) of each image without padding, and

        - for detection ``boxes`` float32 (B, M, 4), ``labels`` and ``iscrowd`` int64 (B, M), and
          ``masks``, a list of B tensors uint8 (N, H, W). M is the largest N, at least 1;
        - for segmentation ``mask`` uint8 (B, H, W);
        - for classification ``label`` int64 (B,).

    Raises:
        TypeError: An image is not uint8.
        ValueError: No samples, samples of two tasks, boxes that do not match labels, or masks that
            do not match boxes or image.

    Example:
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> box = {"boxes": torch.tensor([[0., 1., 4., 5.]]), "labels": torch.tensor([0])}
        >>> none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        >>> samples = [(image, box | {"image_id": 7}), (image[:, :6], none | {"image_id": 9})]
        >>> images, targets = collate(samples)
        >>> images.shape, targets["labels"], targets["size"]
        (torch.Size([2, 3, 8, 8]), tensor([[ 0],
                [-1]]), tensor([[8, 8],
                [6, 8]]))
    """
    if len(samples) == 0:
        raise ValueError("collate: expected at least one sample, got none")
    # as_subclass: every operation on a tv_tensor costs several microseconds more.
    images = [image.as_subclass(Tensor) for image, _ in samples]
    targets = [target for _, target in samples]
    _check_images(images, targets)
    stacked = _stack_images(images, multiple)
    canvas = (stacked.shape[2], stacked.shape[3])
    stackers = {"boxes": _stack_objects, "mask": _stack_maps, "label": _stack_labels}
    batch = stackers[_kind_of(targets)](targets, images, canvas)
    ids = [int(target["image_id"]) for target in targets]
    batch["image_id"] = torch.tensor(ids, dtype=torch.int64)
    batch["size"] = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)
    return stacked, batch


def _stack_images(images: list[Tensor], multiple: int) -> Tensor:
    height, width = images[0].shape[1:]
    is_even = all(image.shape == images[0].shape for image in images)
    if not is_even or height % multiple or width % multiple:
        return stack_padded(images, multiple).contiguous(memory_format=torch.channels_last)
    if any(image.stride(0) != 1 or image.device.type != "cpu" for image in images):
        return torch.stack(images)
    # Copied by NumPy: torch.stack takes ten times as long in this memory layout.
    size = (len(images), *images[0].shape)
    batch = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last)
    for slot, image in zip(batch.permute(0, 2, 3, 1).numpy(), images, strict=True):
        slot[:] = image.permute(1, 2, 0).numpy()
    return batch


def _stack_objects(
    targets: list[Mapping[str, Any]], images: list[Tensor], canvas: tuple[int, int]
) -> dict[str, Any]:
    boxes = [target["boxes"].as_subclass(Tensor) for target in targets]
    labels = [target["labels"] for target in targets]
    _check_objects(boxes, labels, targets)
    slots, width = _slots([len(row) for row in labels])
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
        _check_rows("masks", masks, labels, targets, [image.shape[1:] for image in images])
        batch["masks"] = [_fill(mask, canvas, 0) for mask in masks]
    return batch


def _stack_maps(
    targets: list[Mapping[str, Any]], images: list[Tensor], canvas: tuple[int, int]
) -> dict[str, Any]:
    maps = [target["mask"].as_subclass(Tensor) for target in targets]
    for mask, image, target in zip(maps, images, targets, strict=True):
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"collate: expected `mask` of the image's size {tuple(image.shape[1:])}, got "
                f"{tuple(mask.shape)} in image_id {target['image_id']}"
            )
    return {"mask": torch.stack([_fill(mask, canvas, VOID) for mask in maps])}


def _stack_labels(
    targets: list[Mapping[str, Any]], images: list[Tensor], canvas: tuple[int, int]
) -> dict[str, Any]:
    labels = [int(target["label"]) for target in targets]
    return {"label": torch.tensor(labels, dtype=torch.int64)}


def _fill(masks: Tensor, canvas: tuple[int, int], value: int) -> Tensor:
    """Pad masks (..., h, w) at the bottom and right."""
    bottom, right = canvas[0] - masks.shape[-2], canvas[1] - masks.shape[-1]
    if not bottom and not right:
        return masks
    return torch.nn.functional.pad(masks, (0, right, 0, bottom), value=value)


def _kind_of(targets: list[Mapping[str, Any]]) -> str:
    """Kind of target that all samples have."""
    for kind in _KINDS:
        if all(kind in target for target in targets):
            return kind
    first = next((kind for kind in _KINDS if kind in targets[0]), "none of them")
    other = next((target for target in targets if first not in target), targets[0])
    raise ValueError(
        "collate: expected targets that all have boxes, mask or label, got "
        f"{first} in image_id {targets[0].get('image_id')} and {', '.join(other) or 'nothing'} in "
        f"image_id {other.get('image_id')}"
    )


def _slots(counts: list[int]) -> tuple[Tensor, int]:
    """Slot of each object in a table with one row per image, and the width of the table."""
    width = max(1, *counts)
    slots = [row * width + column for row, count in enumerate(counts) for column in range(count)]
    return torch.tensor(slots, dtype=torch.int64).reshape(-1), width


def _pad(values: list[Tensor], slots: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    rest = values[0].shape[1:]
    padded = torch.full((len(values) * width, *rest), -1, dtype=dtype)
    padded[slots] = torch.cat(values).to(dtype)
    return padded.view(len(values), width, *rest)


def _check_images(images: list[Tensor], targets: list[Mapping[str, Any]]) -> None:
    for image, target in zip(images, targets, strict=True):
        if image.dtype == torch.uint8 and image.ndim == 3 == len(image):
            continue
        name = f"image_id {target['image_id']}"
        if image.dtype != torch.uint8:
            raise TypeError(
                f"collate: expected images to be uint8, got {image.dtype} in {name}; leave "
                "scaling to the model"
            )
        raise ValueError(
            f"collate: expected images of shape (3, H, W), got {tuple(image.shape)} in {name}"
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
    sizes: Sequence[Sequence[int]] | None = None,
) -> None:
    """Raise ValueError unless there is one row, of the image's size, for each object."""
    for i, (value, label, target) in enumerate(zip(values, labels, targets, strict=True)):
        expected = (len(label), *(() if sizes is None else sizes[i]))
        if tuple(value.shape) != expected:
            raise ValueError(
                f"collate: expected `{name}` of shape {expected}, one row per box, got "
                f"{tuple(value.shape)} in image_id {target['image_id']}"
            )
