"""SSD's loss: cross-entropy with hard negative mining, and smooth L1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cvlib._checks import (
    check_is_number,
    check_same_device,
    check_same_kind,
    check_shape,
    check_tensor,
    first_true,
    index_text,
    is_value_error,
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
    """Gives the loss of SSD: of classes over matched anchors and the hardest others, and of boxes.

    Positive are the anchors whose class is not background. The class loss is the softmax
    cross-entropy of all positives and, in each image, of the background anchors with the greatest
    cross-entropy: those whose rank 0, 1, .. among them is below ``negative_ratio`` times the number
    of positives of the image. Equal losses: the lower anchor is harder; NaN is hardest. An image
    without positives has no loss. The box loss is smooth L1 (beta 1) over the positives. Both are
    sums over the batch, divided by its number of positives (at least one).

    Args:
        class_logits: Shape (B, A, K + 1), floating point, background first.
        offsets: Shape (B, A, 4), same dtype and device.
        classes: Shape (B, A), int64: 0 is background, k + 1 is class k, -1 leaves the anchor out.
        target_offsets: Shape (B, A, 4), same dtype and device; read where the anchor is positive.
        negative_ratio: Background anchors for each positive one, at least 0.

    Returns:
        Two scalars, class loss and box loss; float32 for half types, else the dtype of the logits.

    Raises:
        TypeError: Not tensors, not floating point, of two dtypes, or classes that are not int64.
        ValueError: Wrong shapes, two devices, a ratio out of range; on the CPU also a class out of
            range. On CUDA such an anchor is left out.

    Note:
        Differentiable once, in logits and both offsets; which anchors are kept is not
        differentiated. Deterministic: the cross-entropies that decide have the same bits for any
        number of threads, any instruction set, and CUDA; the plain-PyTorch reference may round
        them differently. Memory beside the gradients: four numbers for each anchor. Selection is
        linear in A.

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
            _raise_first_bad_class(classes, class_logits.shape[2])
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
    check_shape(name, "class_logits", class_logits, "(B, A, K + 1)")
    batch, anchors, columns = class_logits.shape
    if columns < 1:
        raise ValueError(
            f"{name}: expected class_logits of shape (B, A, K + 1) with K >= 0, "
            f"got {tuple(class_logits.shape)}"
        )
    for argument, value in (("offsets", offsets), ("target_offsets", target_offsets)):
        check_tensor(name, argument, value)
        if value.shape != (batch, anchors, 4):
            raise ValueError(
                f"{name}: expected {argument} of shape (B, A, 4) = {(batch, anchors, 4)} as in "
                f"class_logits, got {tuple(value.shape)}"
            )
        check_same_kind(name, "class_logits", class_logits, argument, value)
    if not isinstance(classes, Tensor) or classes.dtype != torch.int64:
        actual = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
        raise TypeError(f"{name}: expected classes to be an int64 tensor, got {actual}")
    if classes.shape != (batch, anchors):
        raise ValueError(
            f"{name}: expected classes of shape (B, A) = {(batch, anchors)} as in class_logits, "
            f"got {tuple(classes.shape)}"
        )
    check_same_device(name, "class_logits", class_logits, "classes", classes)
    check_is_number(name, "negative_ratio", negative_ratio)
    if not 0 <= negative_ratio < math.inf:
        raise ValueError(f"{name}: expected negative_ratio >= 0 and finite, got {negative_ratio}")


def _raise_first_bad_class(classes: Tensor, columns: int) -> None:
    index = first_true((classes < -1) | (classes >= columns))
    if index is not None:
        raise ValueError(
            f"ssd_loss: expected classes in 0..{columns - 1} (0 is background, -1 leaves an anchor "
            f"out), got classes{index_text(index)} = {int(classes[index])}"
        )


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
    logits, offsets, wanted = as_real(class_logits), as_real(offsets), as_real(target_offsets)
    classes = _without_bad_classes(classes, logits.shape[2])
    largest = logits.amax(dim=2, keepdim=True)
    log_sum_exp = (largest + (logits - largest).exp().sum(dim=2, keepdim=True).log())[..., 0]
    own = logits.gather(2, classes.clamp(min=0)[..., None])[..., 0]
    losses = log_sum_exp - own
    positive, negative = classes > 0, classes == 0
    order = torch.where(negative, losses, -1).sort(dim=1, descending=True, stable=True).indices
    rank = order.argsort(dim=1)
    limit = negative_ratio * positive.sum(dim=1, keepdim=True).double()
    kept = positive | (negative & (rank < limit))
    divisor = positive.sum().clamp(min=1)
    distance = (offsets - wanted).abs()
    boxes = torch.where(distance < 1, 0.5 * distance * distance, distance - 0.5)
    class_sum = torch.where(kept, losses, 0).sum(dtype=torch.float64)
    box_sum = torch.where(positive[..., None], boxes, 0).sum(dtype=torch.float64)
    sums = (class_sum / divisor, box_sum / divisor, divisor)
    class_loss, box_loss, number = (one.to(logits.dtype) for one in sums)
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
    own = torch.arange(logits.shape[2], device=logits.device) == classes[..., None]
    to_logits = grad_class / divisor * (probability - own.to(logits.dtype))
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
