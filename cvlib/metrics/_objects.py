"""The objects of many images as a few long arrays, and which of them overlap.

Every evaluator here works on all images at once: what a loop over images, classes and boxes
would take minutes for is a handful of sorts and sums over such arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
# Pairs that are compared at once: some hundred megabytes of coordinates.
_CHUNK = 2**20


@dataclass(frozen=True)
class Objects:
    """Either side of an evaluation: all detections, or all true objects.

    Attributes:
        image: Shape (N,), int64: which image, from 0.
        label: Shape (N,), int64.
        box: Shape (N, 4), float64: x, y, width, height, as pycocotools computes with them.
        area: Shape (N,), float64.
        score: Shape (N,), float64; 0 for true objects.
        crowd: Shape (N,), bool; False for detections.
        masks: Run lengths; empty where boxes are compared.
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
class Edges:
    """Pairs of a detection and a true object that overlap, those of a detection together.

    Attributes:
        found: Shape (E,), int64: index of the detection, never falling.
        true: Shape (E,), int64: index of the true object.
        iou: Shape (E,), float64; over the detection's own area for a crowd.
    """

    found: Array
    true: Array
    iou: Array

    def __getitem__(self, index: Array) -> Edges:
        return Edges(self.found[index], self.true[index], self.iou[index])


@dataclass(frozen=True)
class Problem:
    """What is to be compared.

    Attributes:
        found: Detections by class and image, the best first, at most ``most`` of each.
        true: True objects by class and image.
        rank: Shape (N,), int64: the place of a detection within its class and image, from 0.
        images: Their number.
        classes: Their number.
        kind: What is compared.
    """

    found: Objects
    true: Objects
    rank: Array
    images: int
    classes: int
    kind: Kind


def pack(
    function: str,
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    kind: Kind,
    most: int,
) -> Problem:
    """Checks both sides and turns them into arrays.

    Args:
        function: Name for messages.
        truths: One for each image.
        detections: One for each image, in the same order.
        classes: Names of the classes.
        kind: ``"boxes"`` or ``"masks"``.
        most: Detections of a class that count in one image, the best ones.

    Raises:
        ValueError: Lists of different lengths, detections of other classes, labels that are no
            class, NaN, missing masks.
    """
    if len(truths) != len(detections):
        raise ValueError(
            f"{function}: expected detections for {len(truths)} images, got {len(detections)}"
        )
    _check_classes(function, detections, tuple(classes))
    found = _read_detections(function, detections, len(classes), kind)
    true = _read_truths(function, truths, len(classes), kind)
    # Stable: equal scores keep the order in which the images and their objects are given.
    best_first = np.argsort(-found.score, kind="stable")
    group = found.label * len(truths) + found.image
    order = best_first[np.argsort(group[best_first], kind="stable")]
    group = group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    counts = rank < most
    true = true[np.argsort(true.label * len(truths) + true.image, kind="stable")]
    return Problem(found[order[counts]], true, rank[counts], len(truths), len(classes), kind)


def overlap(problem: Problem, least: float, *, same_class: bool = True) -> Edges:
    """Finds all pairs within an image that overlap.

    Args:
        problem: Of `pack`.
        least: IoU that a pair must have at least; what does not overlap is no pair, even at 0.
        same_class: Compare only detections and objects of one class.
    """
    found, true = problem.found, problem.true
    least = max(least, np.finfo(float).tiny)
    keys = [side.image + side.label * problem.images * same_class for side in (found, true)]
    order = np.argsort(keys[1], kind="stable")
    sorted_keys = keys[1][order]
    first = np.searchsorted(sorted_keys, keys[0], side="left")
    count = np.searchsorted(sorted_keys, keys[0], side="right") - first
    compare = _BoxPairs(found, true) if problem.kind == "boxes" else _MaskPairs(found, true)
    parts = []
    for rows in _chunks(count):
        left = np.repeat(rows, count[rows])
        offset = np.arange(len(left)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        right = order[np.repeat(first[rows], count[rows]) + offset]
        iou = compare(left, right)
        near = np.flatnonzero(iou >= least)
        parts.append(Edges(left[near], right[near], iou[near]))
    return Edges(
        np.concatenate([np.zeros(0, np.int64), *(part.found for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.true for part in parts)]),
        np.concatenate([np.zeros(0), *(part.iou for part in parts)]),
    )


def _chunks(count: Array) -> list[Array]:
    """Rows of detections, so many together that their pairs fill a chunk."""
    rows = np.flatnonzero(count)
    ends = np.cumsum(count[rows])
    if not len(rows):
        return []
    edges = np.arange(_CHUNK, ends[-1], _CHUNK)
    return [part for part in np.split(rows, np.searchsorted(ends, edges, "right")) if len(part)]


class _BoxPairs:
    """IoU of boxes, with pycocotools' operations in pycocotools' order: equal to the last bit."""

    def __init__(self, found: Objects, true: Objects) -> None:
        self._found, self._true = self._columns(found), self._columns(true)
        self._crowd = true.crowd if true.crowd.any() else None

    @staticmethod
    def _columns(side: Objects) -> list[Array]:
        x, y, width, height = (np.ascontiguousarray(column) for column in side.box.T)
        return [x, y, x + width, y + height, width * height]

    def __call__(self, left: Array, right: Array) -> Array:
        x1, y1, x2, y2, area = (column[left] for column in self._found)
        other = [column[right] for column in self._true]
        width = np.minimum(x2, other[2]) - np.maximum(x1, other[0])
        height = np.minimum(y2, other[3]) - np.maximum(y1, other[1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        whole = area + other[4] - shared
        if self._crowd is not None:
            whole = np.where(self._crowd[right], area, whole)
        return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


class _MaskPairs:
    """IoU of masks from their run lengths, by pycocotools, in double precision."""

    def __init__(self, found: Objects, true: Objects) -> None:
        self._found, self._true = found, true
        from pycocotools import mask

        self._iou: Callable[..., Array] = mask.iou

    def __call__(self, left: Array, right: Array) -> Array:
        result = np.zeros(len(left))
        for pairs in self._blocks(left, right):
            rows, columns = np.unique(left[pairs]), right[pairs][left[pairs] == left[pairs[0]]]
            result[pairs] = self._iou(
                [self._found.masks[i] for i in rows],
                [self._true.masks[i] for i in columns],
                self._true.crowd[columns].tolist(),
            ).ravel()
        return result

    def _blocks(self, left: Array, right: Array) -> list[Array]:
        """Pairs of one image and one set of true objects, which are compared by one call."""
        starts = np.flatnonzero(np.diff(left, prepend=-1))
        first_true = right[starts]
        same = (np.diff(first_true, prepend=-1) == 0) & (
            np.diff(np.diff(starts, append=len(left)), prepend=-1) == 0
        )
        return np.split(np.arange(len(left)), starts[~same][1:])


def _read_detections(
    function: str, detections: Sequence[Detections], classes: int, kind: Kind
) -> Objects:
    image, label, box, masks = _read(function, "detections", detections, classes, kind)
    score = _join([one.scores for one in detections], torch.float64).numpy()
    _check_scores(function, score, image)
    area = box[:, 2] * box[:, 3] if kind == "boxes" else mask_areas(masks).numpy()
    return Objects(image, label, box, area, score, np.zeros(len(label), bool), masks)


def _read_truths(function: str, truths: Sequence[GroundTruth], classes: int, kind: Kind) -> Objects:
    image, label, box, masks = _read(function, "truths", truths, classes, kind)
    area = box[:, 2] * box[:, 3]
    if any(one.area is not None or one.masks is not None for one in truths):
        area = _join([one.areas for one in truths], torch.float64).numpy()
    crowd = np.zeros(len(label), bool)
    if any(one.iscrowd is not None for one in truths):
        crowd = _join([one.crowds for one in truths], torch.bool).numpy()
    return Objects(image, label, box, area, np.zeros(len(label)), crowd, masks)


def _read(
    function: str,
    argument: str,
    images: Sequence[Detections | GroundTruth],
    classes: int,
    kind: Kind,
) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
    counts = [len(one) for one in images]
    image = np.repeat(np.arange(len(counts)), counts)
    label = _join([one.labels for one in images], torch.int64).numpy()
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        raise ValueError(
            f"{function}: expected labels of {argument} in 0..{classes - 1}, got "
            f"{label[wrong[0]]} in {argument}[{image[wrong[0]]}]"
        )
    corners = _join([one.boxes for one in images])
    check_box_values(function, f"boxes of {argument}", corners)
    # The rounded widths of `Detections.to_coco`: the digits of pycocotools on its rows.
    box = box_convert(corners, "xyxy", "xywh").double().numpy()
    masks = _read_masks(function, argument, images) if kind == "masks" else []
    return image, label, box, masks


def _read_masks(
    function: str, argument: str, images: Sequence[Detections | GroundTruth]
) -> list[dict[str, Any]]:
    masks: list[dict[str, Any]] = []
    for number, one in enumerate(images):
        if one.masks is not None:
            masks += one.rles()
        elif len(one):
            raise ValueError(
                f"{function}: expected masks in every image with objects, got none in "
                f"{argument}[{number}]"
            )
    return masks


def check_kind(function: str, kind: str) -> None:
    """Raises ValueError unless it is boxes or masks."""
    if kind not in ("boxes", "masks"):
        raise ValueError(f"{function}: expected kind boxes or masks, got {kind!r}")


def _check_classes(
    function: str, detections: Sequence[Detections], classes: tuple[str, ...]
) -> None:
    for number, one in enumerate(detections):
        if tuple(one.classes) != classes:
            raise ValueError(
                f"{function}: expected detections of the classes {classes}, got {one.classes} in "
                f"detections[{number}]; labels are numbers of these names"
            )


def _check_scores(function: str, score: Array, image: Array) -> None:
    wrong = np.flatnonzero(np.isnan(score))
    if len(wrong):
        raise ValueError(
            f"{function}: expected scores without NaN, got nan in detections[{image[wrong[0]]}]; "
            "a diverged model gives NaN: look at its loss and learning rate"
        )


def _join(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """All rows as one tensor of the host; boxes of half precision become float32."""
    # Only where it must be: 5,000 images have 30,000 tensors, and as_subclass takes 8 us.
    plain = [
        one if type(one) is Tensor and one.is_cpu else one.as_subclass(Tensor).cpu()
        for one in tensors
        if len(one)
    ]
    if not plain:
        return torch.zeros(0, dtype=dtype) if dtype else torch.zeros(0, 4)
    whole = torch.cat(plain).detach()
    if dtype is None:
        return whole if whole.dtype == torch.float64 else whole.float()
    return whole.to(dtype)
