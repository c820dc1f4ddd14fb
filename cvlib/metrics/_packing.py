"""Objects of many images, packed into a few long arrays.

The evaluators sort and sum these arrays in seconds, where a loop over images, classes and boxes
would take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvlib._checks import check_box_values
from cvlib.boxes import box_convert
from cvlib.structures import Detections, GroundTruth
from cvlib.structures.masks import mask_areas

Kind = Literal["boxes", "masks"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Objects:
    """All detections, or all true objects.

    Attributes:
        image: Index of the image, shape (N,), int64.
        label: Class, shape (N,), int64.
        box: x, y, width, height as in pycocotools, shape (N, 4), float64.
        area: Shape (N,), float64.
        score: Shape (N,), float64; 0 for true objects.
        crowd: Shape (N,), bool; False for detections.
        masks: Run lengths; empty if boxes are compared.
    """

    image: Array
    label: Array
    box: Array
    area: Array
    score: Array
    crowd: Array
    masks: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: Array) -> Objects:
        return Objects(
            self.image[index],
            self.label[index],
            self.box[index],
            self.area[index],
            self.score[index],
            self.crowd[index],
            [self.masks[i] for i in np.arange(len(self))[index]] if self.masks else [],
        )


@dataclass(frozen=True)
class Comparison:
    """Detections and true objects of all images.

    Attributes:
        detections: Detections by class and image, the best first, at most ``most`` of each.
        truths: True objects by class and image.
        rank: Rank of a detection within its class and image, from 0, shape (N,), int64.
        num_images: Number of images.
        num_classes: Number of classes.
        kind: What is compared.
    """

    detections: Objects
    truths: Objects
    rank: Array
    num_images: int
    num_classes: int
    kind: Kind


def pack(
    function: str,
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    kind: Kind,
    most: int,
) -> Comparison:
    """Validate ground truth and detections and pack them into arrays.

    Args:
        function: Function name used as the prefix of error messages.
        truths: Ground truth of each image.
        detections: Detections of each image, in the same order.
        classes: Names of the classes.
        kind: ``"boxes"`` or ``"masks"``.
        most: Number of detections of a class that count per image, the best ones.

    Raises:
        ValueError: Lists of different lengths, detections of other classes, labels out of range,
            NaN, missing masks.
    """
    if len(truths) != len(detections):
        raise ValueError(
            f"{function}: expected `detections` of {len(truths)} images, got {len(detections)}"
        )
    _check_classes(function, detections, tuple(classes))
    packed = _pack_detections(function, detections, len(classes), kind)
    true = _pack_truths(function, truths, len(classes), kind)
    # Stable: equal scores keep the order of images and objects.
    best_first = np.argsort(-packed.score, kind="stable")
    group = packed.label * len(truths) + packed.image
    order = best_first[np.argsort(group[best_first], kind="stable")]
    group = group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    counts = rank < most
    true = true[np.argsort(true.label * len(truths) + true.image, kind="stable")]
    return Comparison(packed[order[counts]], true, rank[counts], len(truths), len(classes), kind)


def _pack_detections(
    function: str, detections: Sequence[Detections], classes: int, kind: Kind
) -> Objects:
    images, label, box, masks = _pack_images(function, "detections", detections, classes, kind)
    score = _join([image.scores for image in detections], torch.float64).numpy()
    _check_scores(function, score, images)
    area = box[:, 2] * box[:, 3] if kind == "boxes" else mask_areas(masks).numpy()
    return Objects(images, label, box, area, score, np.zeros(len(label), bool), masks)


def _pack_truths(function: str, truths: Sequence[GroundTruth], classes: int, kind: Kind) -> Objects:
    images, label, box, masks = _pack_images(function, "truths", truths, classes, kind)
    area = box[:, 2] * box[:, 3]
    if any(image.area is not None or image.masks is not None for image in truths):
        area = _join([image.areas for image in truths], torch.float64).numpy()
    crowd = np.zeros(len(label), bool)
    if any(image.iscrowd is not None for image in truths):
        crowd = _join([image.crowds for image in truths], torch.bool).numpy()
    return Objects(images, label, box, area, np.zeros(len(label)), crowd, masks)


def _pack_images(
    function: str,
    argument: str,
    images: Sequence[Detections | GroundTruth],
    classes: int,
    kind: Kind,
) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
    counts = [len(image) for image in images]
    owners = np.repeat(np.arange(len(counts)), counts)
    label = _join([image.labels for image in images], torch.int64).numpy()
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        raise ValueError(
            f"{function}: expected labels of `{argument}` in 0..{classes - 1}, got "
            f"{label[wrong[0]]} in {argument}[{owners[wrong[0]]}]"
        )
    corners = _join([image.boxes for image in images])
    check_box_values(function, f"boxes of {argument}", corners)
    # Rounded like `Detections.to_coco`, so that the digits agree with pycocotools on its rows.
    box = box_convert(corners, "xyxy", "xywh").double().numpy()
    masks = _pack_masks(function, argument, images) if kind == "masks" else []
    return owners, label, box, masks


def _pack_masks(
    function: str, argument: str, images: Sequence[Detections | GroundTruth]
) -> list[dict[str, Any]]:
    masks: list[dict[str, Any]] = []
    for index, image in enumerate(images):
        if image.masks is not None:
            masks += image.rles()
        elif len(image):
            raise ValueError(
                f"{function}: expected masks in every image with objects, got none in "
                f"{argument}[{index}]"
            )
    return masks


def check_kind(function: str, kind: str) -> None:
    """Raise ValueError unless ``kind`` is boxes or masks."""
    if kind not in ("boxes", "masks"):
        raise ValueError(f"{function}: expected `kind` to be 'boxes' or 'masks', got {kind!r}")


def _check_classes(
    function: str, detections: Sequence[Detections], classes: tuple[str, ...]
) -> None:
    for index, image in enumerate(detections):
        if tuple(image.classes) != classes:
            raise ValueError(
                f"{function}: expected `detections` of the classes {classes}, got "
                f"{image.classes} in detections[{index}]; labels are indices of these names"
            )


def _check_scores(function: str, score: Array, images: Array) -> None:
    wrong = np.flatnonzero(np.isnan(score))
    if len(wrong):
        raise ValueError(
            f"{function}: expected scores without NaN, got nan in detections[{images[wrong[0]]}]; "
            "a diverged model returns NaN: check its loss and learning rate"
        )


def _join(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Concatenate rows on the CPU; half-precision boxes become float32."""
    # Only where needed: 5,000 images have 30,000 tensors, and as_subclass takes 8 us.
    plain = [
        tensor if type(tensor) is Tensor and tensor.is_cpu else tensor.as_subclass(Tensor).cpu()
        for tensor in tensors
        if len(tensor)
    ]
    if not plain:
        return torch.zeros(0, dtype=dtype) if dtype else torch.zeros(0, 4)
    joined = torch.cat(plain).detach()
    if dtype is None:
        return joined if joined.dtype == torch.float64 else joined.float()
    return joined.to(dtype)
