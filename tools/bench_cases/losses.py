"""Cases of the losses, forward and backward, against torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from bench_cases.case import Case, close, size_in_bytes
from cvlib.ops.focal import _backward_reference, _loss_reference, sigmoid_focal_loss
from cvlib.ops.multibox_loss import _ssd_loss_backward_reference, _ssd_loss_reference, ssd_loss

# Share of positive anchors; batches of detectors have fewer.
POSITIVE = 0.01
SUM = 2


def with_gradient(loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor) -> Any:
    """Return the sum of a loss and its gradient."""
    total = loss(inputs, targets, reduction="sum")
    return total.detach(), torch.autograd.grad(total, inputs)[0]


def focal_reference(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Run the reference forward and backward."""
    inputs = inputs.detach()
    settings = (inputs, targets, 0.25, 2.0, SUM)
    return _loss_reference(*settings), _backward_reference(inputs.new_ones(()), *settings)


def loss_close(a: Any, b: Any) -> bool:
    """Like ``close``; torchvision's float32 sums of millions are only accurate to four digits."""
    if isinstance(a, tuple):
        return close(a[1:], b[1:]) and loss_close(a[0], b[0])
    return abs(float(a) - float(b)) <= 1e-3 * abs(float(b))


def one_hot(classes: Tensor, columns: int) -> Tensor:
    """Return classes as one-hot targets, which torchvision needs."""
    return (classes[..., None] == torch.arange(columns, device=classes.device)).float()


def with_gradient_of_one_hot(loss: Callable[..., Tensor], inputs: Tensor, classes: Tensor) -> Any:
    """Like ``with_gradient``, but converts classes to one-hot targets first."""
    return with_gradient(loss, inputs, one_hot(classes, inputs.shape[-1]))


def focal_cases(device: str) -> Iterator[Case]:
    """Forward with gradient and forward alone, with dense targets and with classes."""
    generator = torch.Generator().manual_seed(4)
    tv = torchvision.ops.sigmoid_focal_loss
    for shape in ((32, 8732, 81), (8, 100, 80), (10, 4)):
        inputs = torch.randn(shape, generator=generator).to(device).requires_grad_()
        positive = torch.rand(shape[:-1], generator=generator) < POSITIVE
        drawn = torch.randint(shape[-1], shape[:-1], generator=generator)
        classes = torch.where(positive, drawn, -1).to(device)
        targets = one_hot(classes, shape[-1])
        name = " x ".join(map(str, shape))
        count = inputs.numel()
        yield Case(
            "sigmoid_focal_loss",
            f"{name}, with gradient",
            "torchvision",
            partial(with_gradient, sigmoid_focal_loss, inputs, targets),
            partial(with_gradient, tv, inputs, targets),
            partial(focal_reference, inputs, targets),
            loss_close,
            # The backward reads both again and writes the gradient.
            bytes_moved=2 * size_in_bytes(inputs, targets) + size_in_bytes(inputs),
            operations=100 * count,
        )
        yield Case(
            "sigmoid_focal_loss",
            f"{name}, classes, with gradient",
            "torchvision, one-hot",
            partial(with_gradient, sigmoid_focal_loss, inputs, classes),
            partial(with_gradient_of_one_hot, tv, inputs, classes),
            partial(focal_reference, inputs, classes),
            loss_close,
            bytes_moved=2 * size_in_bytes(inputs, classes) + size_in_bytes(inputs),
            operations=80 * count,
        )
        plain = inputs.detach()
        yield Case(
            "sigmoid_focal_loss",
            f"{name}, forward",
            "torchvision",
            partial(sigmoid_focal_loss, plain, targets, reduction="sum"),
            partial(tv, plain, targets, reduction="sum"),
            partial(_loss_reference, plain, targets, 0.25, 2.0, SUM),
            loss_close,
            bytes_moved=size_in_bytes(plain, targets),
            operations=50 * count,
        )


def ssd_loss_in_pytorch(
    class_logits: Tensor, offsets: Tensor, classes: Tensor, target_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Torchvision's ``SSD.compute_loss`` after its encoding of boxes."""
    positive = classes > 0
    boxes = F.smooth_l1_loss(offsets[positive], target_offsets[positive], reduction="sum")
    entropy = F.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), reduction="none")
    entropy = entropy.view(classes.shape)
    hardness = entropy.clone()
    hardness[positive] = -float("inf")
    _, order = hardness.sort(1, descending=True)
    negative = order.sort(1)[1] < 3 * positive.sum(1, keepdim=True)
    count = max(1, int(positive.sum()))
    return (entropy[positive].sum() + entropy[negative].sum()) / count, boxes / count


def both_gradients(loss: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Any:
    """Return both losses and the gradients of their sum."""
    losses = loss(*arguments)
    return *(value.detach() for value in losses), *torch.autograd.grad(sum(losses), arguments[:2])


def ssd_reference(arguments: tuple[Tensor, Tensor, Tensor, Tensor]) -> Any:
    """Run the reference forward and backward."""
    logits, offsets, classes, wanted = (tensor.detach() for tensor in arguments)
    inputs = logits, offsets, classes, wanted
    class_loss, box_loss, divisor, log_sum_exp, kept = _ssd_loss_reference(*inputs, 3.0)
    one = torch.ones_like(class_loss)
    grads = _ssd_loss_backward_reference(one, one, *inputs, divisor, log_sum_exp, kept)
    return class_loss, box_loss, *grads


def ssd_loss_cases(device: str) -> Iterator[Case]:
    """SSD300 with the classes of VOC and of COCO, TinySSD, and a case of very few anchors."""
    generator = torch.Generator().manual_seed(5)
    for shape in ((32, 8732, 21), (32, 8732, 81), (32, 5444, 2), (1, 10, 4)):
        logits = (2 * torch.randn(shape, generator=generator)).to(device).requires_grad_()
        offsets, target_offsets = (
            torch.randn(*shape[:2], 4, generator=generator).to(device) for _ in range(2)
        )
        drawn = torch.randint(shape[2], shape[:2], generator=generator)
        positive = torch.rand(shape[:2], generator=generator) < POSITIVE
        classes = torch.where(positive, drawn, 0).to(device)
        arguments = (logits, offsets.requires_grad_(), classes, target_offsets)
        yield Case(
            "ssd_loss",
            f"{' x '.join(map(str, shape))}, with gradient",
            "torchvision's code",
            partial(both_gradients, ssd_loss, arguments),
            partial(both_gradients, ssd_loss_in_pytorch, arguments),
            partial(ssd_reference, arguments),
            close,
            # Logits are read, and both gradients written.
            bytes_moved=2 * size_in_bytes(logits) + size_in_bytes(offsets, classes),
            operations=22 * logits.numel(),
        )
