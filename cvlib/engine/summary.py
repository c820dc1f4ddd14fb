"""Size of a model and cost of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from cvlib.models import Model
from cvlib.models.base import evaluation_mode


@dataclass(frozen=True)
class Part:
    """One child module of a model.

    Attributes:
        name: Name in ``named_children``.
        kind: Class name.
        parameters: Number of parameters.
        trainable: Number of parameters with a gradient.
        flops: Operations per image; a multiply-add counts as two.
    """

    name: str
    kind: str
    parameters: int
    trainable: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """Size and cost of a model; ``str()`` formats a table.

    Attributes:
        name: Name of the model.
        image_size: Height and width of the counted image.
        parts: Child modules, in order.
        parameters: Number of parameters.
        trainable: Number of parameters with a gradient.
        flops: Operations per image; a multiply-add counts as two.
        megabytes: Size of the weights.
    """

    name: str
    image_size: tuple[int, int]
    parts: tuple[Part, ...]
    parameters: int
    trainable: int
    flops: int
    megabytes: float

    def __str__(self) -> str:
        rows = [("part", "kind", "parameters", "trained", "GFLOPs")]
        for one in self.parts:
            counts = (f"{one.parameters:,}", f"{one.trainable:,}", f"{one.flops / 1e9:.3f}")
            rows.append((one.name, one.kind, *counts))
        total = (f"{self.parameters:,}", f"{self.trainable:,}", f"{self.flops / 1e9:.3f}")
        rows.append((self.name, "", *total))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                text.ljust(width) if i < 2 else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        height, width = self.image_size
        lines.append(f"one image of {height} x {width}; weights of {self.megabytes:.1f} MB")
        return "\n".join(lines)


def summary(model: Model) -> Summary:
    """Count the parameters of a model and its operations per image.

    Args:
        model: The model, on any device. Its mode is restored afterwards.

    Returns:
        The counts. PyTorch's counter counts convolutions and matrix products, but not elementwise
        operations.

    Example:
        >>> from cvlib.models import create_model
        >>> size = summary(create_model("tiny_ssd", ("banana",)))
        >>> size.parameters, round(size.flops / 1e9, 2)
        (1010376, 1.95)
    """
    images = torch.zeros(1, 3, *model.image_size, dtype=torch.uint8, device=model.device)
    counter = FlopCounterMode(display=False)
    with evaluation_mode(model), counter:
        model(images)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    owner = type(model).__name__
    parts = tuple(
        Part(
            name,
            type(child).__name__,
            sum(p.numel() for p in child.parameters()),
            sum(p.numel() for p in child.parameters() if p.requires_grad),
            counts.get(f"{owner}.{name}", _of_children(counts, f"{owner}.{name}.")),
        )
        for name, child in model.named_children()
    )
    parameters = list(model.parameters())
    return Summary(
        model.name,
        model.image_size,
        parts,
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        counter.get_total_flops(),
        sum(p.numel() * p.element_size() for p in parameters) / 1e6,
    )


def _of_children(counts: dict[str, int], prefix: str) -> int:
    """Sum over the children of a ModuleList, which is never called itself."""
    return sum(
        count
        for name, count in counts.items()
        if name.startswith(prefix) and "." not in name[len(prefix) :]
    )
