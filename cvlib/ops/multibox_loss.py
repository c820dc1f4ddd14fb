"""The loss of SSD: cross-entropy with hard negative mining, and smooth L1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    check_dtype,
    check_entries,
    check_number,
    check_same_device,
    check_same_dtype_and_device,
    check_shape,
    check_shape_matches,
    check_tensor,
    is_value_error,
    mismatch,
    signal_bad_values,
)
from cvlib._extension import define, library, refuse_gradient
from cvlib.ops._similarity import as_real


def ssd_loss(
    class_logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    target_offsets: Tensor,
    *,
    negative_ratio: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """Return SSD's class loss with hard negative mining and its box loss.

    Anchors whose class is not background are positive. The class loss is the softmax cross-entropy
    of all positives and, per image, of the hardest negatives: the background anchors with the
    largest cross-entropy, at most ``negative_ratio`` times as many as the image has positives
    (ties: the lower anchor is harder; NaN is hardest). An image without positives has no loss. The
    box loss is smooth L1 (beta 1) over the positives. Both are sums over the batch, divided by its
    number of positives (at least one).

    Args:
        class_logits: Shape (B, A, K + 1), floating point, background first.
        offsets: Shape (B, A, 4), same dtype and device.
        classes: Shape (B, A), int64: 0 is background, k + 1 is class k, -1 ignores the anchor.
        target_offsets: Shape (B, A, 4), same dtype and device; used where the anchor is positive.
        negative_ratio: Number of hard negatives per positive, at least 0.

    Returns:
        Class loss and box loss, two scalars; float32 for half types, otherwise the dtype of the
        logits.

    Raises:
        TypeError: Not tensors, not floating point, different dtypes, or classes that are not int64.
        ValueError: Wrong shapes, different devices, a ratio out of range; on the CPU also a class
            out of range. On CUDA such an anchor is ignored.

    Note:
        Differentiable once, in logits and both offsets, but not through the selection of
        negatives. Deterministic: the cross-entropies that decide are bit-identical for any number
        of threads, any instruction set, and CUDA; the plain-PyTorch reference may round them
        differently. Needs four numbers per anchor in addition to the gradients. Selection is linear
        in A.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 2.2.

    Example:
        >>> logits = torch.tensor([[[0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [4.0, 0.0]]])
        >>> classes = torch.tensor([[1, 0, 0, 0]])
        >>> offsets = torch.zeros(1, 4, 4)
        >>> class_loss, box_loss = ssd_loss(logits, offsets, classes, offsets + 1, negative_ratio=1)
        >>> class_loss, box_loss  # the negative is anchor 2: log(1 + exp(-3)) + log(2)
        (tensor(0.7417), tensor(2.))
    """
    _check_arguments(class_logits, offsets, classes, target_offsets, negative_ratio)
    try:
        class_loss, box_loss, *_ = torch.ops.cvlib.ssd_loss(
            class_logits, offsets, classes, target_offsets, negative_ratio
        )
    except RuntimeError as error:
        if is_value_error(error):
            columns = class_logits.shape[2]
            requirement = f"be in 0..{columns - 1} (0 is background, -1 ignores the anchor)"
            is_class = (classes >= -1) & (classes < columns)
            check_entries("ssd_loss", "classes", classes, is_class, requirement)
        raise
    return class_loss, box_loss


def _check_arguments(
    class_logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    target_offsets: Tensor,
    negative_ratio: float,
) -> None:
    name = "ssd_loss"
    check_tensor(name, "class_logits", class_logits)
    check_shape(name, "class_logits", class_logits, "B", "A", "K + 1")
    batch, anchors, columns = class_logits.shape
    if columns < 1:
        requirement, actual = "have shape (B, A, K + 1) with K >= 0", tuple(class_logits.shape)
        raise ValueError(mismatch(name, "class_logits", requirement, actual))
    for argument, value in (("offsets", offsets), ("target_offsets", target_offsets)):
        check_tensor(name, argument, value)
        check_shape_matches(name, argument, value, (batch, anchors, 4), "class_logits")
        check_same_dtype_and_device(name, "class_logits", class_logits, argument, value)
    check_dtype(name, "classes", classes, torch.int64)
    check_shape_matches(name, "classes", classes, (batch, anchors), "class_logits")
    check_same_device(name, "class_logits", class_logits, "classes", classes)
    check_number(name, "negative_ratio", negative_ratio, 0)


def _without_bad_classes(classes: Tensor, columns: int) -> Tensor:
    good = (classes >= -1) & (classes < columns)
    if classes.device.type == "cpu":
        signal_bad_values(good)
    return torch.where(good, classes, -1)


def _ssd_loss_reference(
    class_logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    target_offsets: Tensor,
    negative_ratio: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    logits, offsets, targets = as_real(class_logits), as_real(offsets), as_real(target_offsets)
    classes = _without_bad_classes(classes, logits.shape[2])
    largest = logits.amax(dim=2, keepdim=True)
    log_sum_exp = (largest + (logits - largest).exp().sum(dim=2, keepdim=True).log())[..., 0]
    chosen = logits.gather(2, classes.clamp(min=0)[..., None])[..., 0]
    losses = log_sum_exp - chosen
    positive, negative = classes > 0, classes == 0
    order = torch.where(negative, losses, -1).sort(dim=1, descending=True, stable=True).indices
    rank = order.argsort(dim=1)
    limit = negative_ratio * positive.sum(dim=1, keepdim=True).double()
    kept = positive | (negative & (rank < limit))
    divisor = positive.sum().clamp(min=1)
    distance = (offsets - targets).abs()
    boxes = torch.where(distance < 1, 0.5 * distance * distance, distance - 0.5)
    class_sum = torch.where(kept, losses, 0).sum(dtype=torch.float64)
    box_sum = torch.where(positive[..., None], boxes, 0).sum(dtype=torch.float64)
    sums = (class_sum / divisor, box_sum / divisor, divisor)
    class_loss, box_loss, number = (total.to(logits.dtype) for total in sums)
    return class_loss, box_loss, number, log_sum_exp, kept


def _ssd_loss_fake(
    class_logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    target_offsets: Tensor,
    negative_ratio: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    real = as_real(class_logits)
    scalars = (real.new_empty(()), real.new_empty(()), real.new_empty(()))
    shape = class_logits.shape[:2]
    return *scalars, real.new_empty(shape), real.new_empty(shape, dtype=torch.bool)


def _ssd_loss_backward_reference(
    grad_class: Tensor,
    grad_box: Tensor,
    class_logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    target_offsets: Tensor,
    divisor: Tensor,
    log_sum_exp: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor]:
    logits = as_real(class_logits)
    classes = _without_bad_classes(classes, logits.shape[2])
    probability = (logits - log_sum_exp[..., None]).exp()
    is_class = torch.arange(logits.shape[2], device=logits.device) == classes[..., None]
    to_logits = grad_class / divisor * (probability - is_class.to(logits.dtype))
    slope = (as_real(offsets) - as_real(target_offsets)).clamp(-1, 1)
    to_offsets = torch.where((classes > 0)[..., None], grad_box / divisor * slope, 0)
    return torch.where(kept[..., None], to_logits, 0), to_offsets


def _ssd_loss_backward_fake(
    grad_class: Tensor, grad_box: Tensor, class_logits: Tensor, offsets: Tensor, *saved: Tensor
) -> tuple[Tensor, Tensor]:
    real = as_real(class_logits)
    return real.new_empty(class_logits.shape), real.new_empty(offsets.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*inputs[:4], *output[2:])


def _gradient(
    ctx: Any, grad_class: Tensor, grad_box: Tensor, *unused: Tensor
) -> tuple[Tensor | None, ...]:
    class_logits, offsets, _, target_offsets, *_ = ctx.saved_tensors
    to_logits, to_offsets = torch.ops.cvlib.ssd_loss_backward(
        grad_class, grad_box, *ctx.saved_tensors
    )
    to_targets = -to_offsets.to(target_offsets.dtype) if ctx.needs_input_grad[3] else None
    return to_logits.to(class_logits.dtype), to_offsets.to(offsets.dtype), None, to_targets, None


_INPUTS = "Tensor class_logits, Tensor offsets, Tensor classes, Tensor target_offsets"
define(
    f"ssd_loss({_INPUTS}, float negative_ratio) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _ssd_loss_reference,
    _ssd_loss_fake,
)
define(
    f"ssd_loss_backward(Tensor grad_class, Tensor grad_box, {_INPUTS}, Tensor divisor, "
    "Tensor log_sum_exp, Tensor kept) -> (Tensor, Tensor)",
    _ssd_loss_backward_reference,
    _ssd_loss_backward_fake,
)
torch.library.register_autograd("cvlib::ssd_loss", _gradient, setup_context=_save, lib=library)
refuse_gradient("ssd_loss_backward")
