"""IoU of every pair of boxes, its generalised, distance and complete variants, and its maximum."""

from __future__ import annotations

import torch
from torch import Tensor

from cvlib._checks import (
    are_ordered,
    check_boxes,
    check_same_dtype_and_device,
    explain_boxes,
    signal_bad_values,
)
from cvlib._extension import define, refuse_gradient, vmap_by_loop
from cvlib.ops._similarity import (
    COMPLETE,
    DISTANCE,
    GENERALIZED,
    PLAIN,
    as_real,
    check_kind,
    empty_gradients,
    register_gradient,
    similarity,
    similarity_gradient,
)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the intersection over union of every pair of boxes.

    The IoU with an empty box is 0 (torchvision returns NaN for two empty boxes), and so is the IoU
    of boxes whose area overflows the dtype.

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Shape (N, M), in [0, 1]; float32 for float16 and bfloat16 boxes, otherwise the dtype of
        the boxes.

    Raises:
        TypeError: Not tensors, not floating point, or different dtypes.
        ValueError: Wrong shapes, different devices; on the CPU also a NaN or a box with x2 < x1 or
            y2 < y1. On CUDA such a box has IoU 0 with every box.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Jaccard, "The distribution of the flora in the alpine zone" (1912).

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> box_iou(a, b)
        tensor([[0.3333, 0.0000]])
    """
    return _pairwise("box_iou", boxes1, boxes2, PLAIN)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalised IoU of every pair of boxes, which also ranks disjoint boxes.

    GIoU = IoU - (C - U) / C, with the area C of the smallest box around both and the union U. Where
    C is 0 (two boxes on one line) it equals the IoU (torchvision returns NaN).

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Shape (N, M), in [-1, 1]; dtype as in `box_iou`.

    Raises:
        TypeError: See `box_iou`.
        ValueError: See `box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> b = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0], [3.0, 0.0, 4.0, 1.0]])
        >>> generalized_box_iou(a, b)
        tensor([[ 1.0000,  0.0000, -0.5000]])
    """
    return _pairwise("generalized_box_iou", boxes1, boxes2, GENERALIZED)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the distance IoU of every pair of boxes, which also compares their centres.

    DIoU = IoU - D / E, with the squared distance D of the centres and the squared diagonal E of the
    smallest box around both. Where E is 0 (equal points) it is 0. torchvision adds 1e-7 to E,
    which changes results for boxes normalised to 0..1.

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Shape (N, M), in [-1, 1]; dtype as in `box_iou`.

    Raises:
        TypeError: See `box_iou`.
        ValueError: See `box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Zheng et al., "Distance-IoU Loss" (2020), equations 6 and 7.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> b = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
        >>> distance_box_iou(a, b)
        tensor([[ 1.0000, -0.2000]])
    """
    return _pairwise("distance_box_iou", boxes1, boxes2, DISTANCE)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the complete IoU of every pair of boxes: distance IoU minus an aspect ratio penalty.

    CIoU = DIoU - a v with v = (2 / pi x (atan(w1 / h1) - atan(w2 / h2)))^2 and a = v / (1 - IoU +
    v), which is a constant for the gradient. The aspect ratio of a point counts as 0.

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Shape (N, M), in [-1.5, 1]; dtype as in `box_iou`.

    Raises:
        TypeError: See `box_iou`.
        ValueError: See `box_iou`.

    Note:
        Differentiable once, in both arguments. Deterministic. Needs no memory besides the result.

    References:
        Zheng et al., "Distance-IoU Loss" (2020), equations 8 to 11.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])
        >>> complete_box_iou(a, b)
        tensor([[1.0000, 0.4655]])
    """
    return _pairwise("complete_box_iou", boxes1, boxes2, COMPLETE)


def max_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest IoU of each box with any other box, and the index of that box.

    Equals ``box_iou(boxes1, boxes2).max(dim=1)`` with the first index at ties, but does not store
    the matrix, so millions of anchors can be compared with the ground truths.

    Args:
        boxes1: Shape (N, 4), floating point, (x1, y1, x2, y2) in any unit.
        boxes2: Shape (M, 4), same dtype, device and unit.

    Returns:
        Values of shape (N,), in [0, 1], dtype as in `box_iou`, and indices of shape (N,), int64,
        into ``boxes2``. If ``boxes2`` is empty: 0 and -1.

    Raises:
        TypeError: See `box_iou`.
        ValueError: See `box_iou`.

    Note:
        Not differentiable: use `paired_box_iou` with ``boxes2[indices]``. Deterministic; CPU and
        CUDA choose the same boxes. Needs no memory besides the result.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> b = torch.tensor([[9.0, 9.0, 10.0, 10.0], [0.0, 0.0, 2.0, 1.0]])
        >>> max_iou(a, b)
        (tensor([0.5000, 0.0000]), tensor([1, 0]))
    """
    _check_arguments("max_iou", boxes1, boxes2)
    try:
        return torch.ops.cvlib.max_iou(boxes1, boxes2)
    except RuntimeError as error:
        explain_boxes("max_iou", error, boxes1=boxes1, boxes2=boxes2)
        raise


def _pairwise(function: str, boxes1: Tensor, boxes2: Tensor, kind: int) -> Tensor:
    _check_arguments(function, boxes1, boxes2)
    try:
        return torch.ops.cvlib.box_iou(boxes1, boxes2, kind)
    except RuntimeError as error:
        explain_boxes(function, error, boxes1=boxes1, boxes2=boxes2)
        raise


def _check_arguments(function: str, boxes1: Tensor, boxes2: Tensor) -> None:
    check_boxes(function, "boxes1", boxes1)
    check_boxes(function, "boxes2", boxes2, "M", 4)
    check_same_dtype_and_device(function, "boxes1", boxes1, "boxes2", boxes2)


def _box_iou_reference(boxes1: Tensor, boxes2: Tensor, kind: int = PLAIN) -> Tensor:
    check_kind(kind)
    if boxes1.device.type == "cpu":
        signal_bad_values(are_ordered(boxes1), are_ordered(boxes2))
    return similarity(as_real(boxes1)[:, None], as_real(boxes2)[None, :], kind)


def _box_iou_fake(boxes1: Tensor, boxes2: Tensor, kind: int = PLAIN) -> Tensor:
    return as_real(boxes1).new_empty(boxes1.shape[0], boxes2.shape[0])


def _box_iou_backward_reference(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int = PLAIN
) -> tuple[Tensor, Tensor]:
    check_kind(kind)
    a, b, g = as_real(boxes1)[:, None], as_real(boxes2)[None, :], as_real(grad)
    return similarity_gradient(g, a, b, kind).sum(1), similarity_gradient(g, b, a, kind).sum(0)


def _max_iou_reference(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    iou = _box_iou_reference(boxes1, boxes2)
    if boxes2.shape[0] == 0:
        none = torch.full((boxes1.shape[0],), -1, dtype=torch.int64, device=boxes1.device)
        return iou.new_zeros(boxes1.shape[0]), none
    value, index = iou.max(dim=1)
    return value, index


def _max_iou_fake(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    shape = boxes1.shape[:1]
    return as_real(boxes1).new_empty(shape), boxes1.new_empty(shape, dtype=torch.int64)


define(
    "box_iou(Tensor boxes1, Tensor boxes2, int kind=0) -> Tensor",
    _box_iou_reference,
    _box_iou_fake,
)
define(
    "box_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2, int kind=0) -> (Tensor, Tensor)",
    _box_iou_backward_reference,
    empty_gradients,
)
define(
    "max_iou(Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)", _max_iou_reference, _max_iou_fake
)
register_gradient("box_iou")
refuse_gradient("max_iou")
for _name in ("box_iou", "box_iou_backward", "max_iou"):
    vmap_by_loop(_name)
