"""What a training run can be told. A dataclass, and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cvlib.engine.device import check_device_name

LossName = Literal["multibox", "book"]
Precision = Literal["auto", "float32", "bfloat16"]
LOSS_NAMES: tuple[str, ...] = get_args(LossName)
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are the recipe for TinySSD."""

    images: int = 20_000
    """Pictures to train on altogether; as many epochs as come nearest to it."""
    epochs: int | None = None
    """Passes over the training set; given, it counts instead of --images."""
    batch_size: int = 8
    """Pictures in a step."""
    learning_rate: float = 3e-3
    """Peak for AdamW, which trains heads, biases and normalisation."""
    muon_learning_rate: float = 0.03
    """Peak for Muon, which trains the convolutions of the trunk."""
    warmup: float = 0.1
    """Share of all steps in which learning rates rise linearly; then they fall as a cosine."""
    weight_decay: float = 0.05
    """Decoupled; not applied to biases and normalisation."""
    loss: LossName = "multibox"
    """"multibox": quality focal loss and generalised IoU. "book": cross-entropy over all anchors
    and L1."""
    augment: bool = True
    """Random flips, shifts, changes of scale and colour of the training pictures."""
    precision: Precision = "auto"
    """"auto" times a few steps of both on this machine and takes the faster one."""
    eval_every: int = 1
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""
    workers: int = 0
    """Processes that load pictures; 0 loads them between the steps."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""
    seed: int = 0
    """Of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        least = {"images": 1, "epochs": 1, "batch_size": 1, "eval_every": 1, "workers": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < bound):
                raise ValueError(
                    f"TrainConfig: expected {name} to be an integer >= {bound}, got {value}"
                )
        for name in ("learning_rate", "muon_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"TrainConfig: expected {name} > 0, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"TrainConfig: expected weight_decay >= 0, got {self.weight_decay}")
        check_device_name(self.device)
        if not 0 <= self.warmup < 1:
            raise ValueError(f"TrainConfig: expected warmup in [0, 1), got {self.warmup}")
        for name, choices in (("loss", LOSS_NAMES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"TrainConfig: expected {name} to be one of {', '.join(choices)}, got "
                    f"{getattr(self, name)!r}"
                )

    def epochs_for(self, size: int) -> int:
        """Passes over a training set of ``size`` pictures."""
        return self.epochs if self.epochs is not None else max(1, round(self.images / size))

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as they stand in the run folder and in checkpoints."""
        return asdict(self)
