"""What a training run can be told. A dataclass, and nothing else."""

from __future__ import annotations

import math
import types
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cvlib.engine.device import check_device_name

OptimizerName = Literal["muon", "adamw", "sgd"]
ScheduleName = Literal["cosine", "step", "one-cycle", "constant"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are the recipe for TinySSD.

    Note:
        `config_for` has the defaults of other models.

    Example:
        >>> TrainConfig(epochs=10, optimizer="sgd").epochs
        10
    """

    images: int = 20_000
    """Pictures to train on altogether; as many epochs as come nearest to it."""
    epochs: int | None = None
    """Passes over the training set; given, it counts instead of the number of images."""
    batch_size: int = 8
    """Pictures that a process computes at a time."""
    accumulate: int = 1
    """Batches of which the gradients are averaged for one step: a large batch in little memory.
    Each counts by its pictures, also where a loss is divided by its number of objects."""
    optimizer: OptimizerName = "muon"
    """"muon": Muon for the convolutions of the trunk and AdamW for everything else."""
    learning_rate: float = 3e-3
    """Peak for AdamW or SGD; with Muon it trains heads, biases and normalisation."""
    muon_learning_rate: float = 0.03
    """Peak for Muon, which trains the convolutions of the trunk."""
    head_factor: float = 1.0
    """Learning rates of the head are this many times those of the trunk: 10 for fine-tuning."""
    freeze_trunk: bool = False
    """Train the head alone."""
    freeze_norm: bool = False
    """Leave the statistics of batch normalisation as they are: for small batches of a trunk that
    has been trained before."""
    momentum: float = 0.9
    """Share of the last step that SGD keeps in the next one."""
    weight_decay: float = 0.05
    """Not applied to biases and normalisation; decoupled, except for SGD."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; larger ones are scaled down to it."""
    schedule: ScheduleName = "cosine"
    """How learning rates fall after the warm-up: to 0 as a cosine, in steps, as one cycle (which
    rises as a cosine, too), or not at all."""
    warmup: float = 0.1
    """Share of all steps in which learning rates rise, linearly, to their peak."""
    milestones: tuple[float, ...] = (0.6, 0.85)
    """Shares of all steps after which the schedule "step" lowers the learning rates."""
    step_factor: float = 0.1
    """What the schedule "step" multiplies the learning rates by, each time."""
    ema: float | None = None
    """Decay of a moving average of the weights, such as 0.999; evaluation and best.pt take it."""
    patience: int | None = None
    """Evaluations without a better one after which the run ends early."""
    recipe: str = "auto"
    """How training pictures are changed at random; "auto" takes the one for the model's task."""
    precision: Precision = "auto"
    """"auto" times a few steps of float32 and bfloat16 on this machine and takes the faster one;
    float16 is for CUDA."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, faster steps after it."""
    sync_norm: bool = False
    """Statistics of batch normalisation over the batches of all processes; on CUDA."""
    eval_every: int = 1
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""
    keep_every: int | None = None
    """Epochs from one checkpoint that is kept (epoch-0010.pt) to the next; unset: none are."""
    save_minutes: float = 10.0
    """last.pt is written after every epoch, and within one whenever so many minutes have passed."""
    max_bad_share: float = 0.01
    """Share of training pictures that may be unreadable, but at least one picture (none with 0);
    they are skipped and counted, and more of them stop the run."""
    tensorboard: bool = False
    """Write figures for TensorBoard, too (pip install tensorboard)."""
    check: bool = True
    """Look the labels of both sets over before the first step: what would teach something false
    stops the run with the list, what is doubtful is told."""
    workers: int | None = None
    """Processes that load pictures; 0 loads them between the steps. Unset: half of the cores, where
    the set is one of cvlib's and not tiny. What is learnt does not depend on it."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""
    seed: int = 0
    """Of order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, _as_hint("TrainConfig", name, getattr(self, name), hint))
        for name, bound in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(
                    f"TrainConfig: expected {name} to be an integer >= {bound}, got {value}"
                )
        for name, (requirement, fits) in _RANGES.items():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None and not fits(one):
                    raise ValueError(f"TrainConfig: expected {name} {requirement}, got {one}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                f"TrainConfig: expected milestones in rising order, got {self.milestones}"
            )
        check_device_name(self.device)

    def train_config(self) -> TrainConfig:
        """The settings alone, where a subclass has further options."""
        return TrainConfig(**{one.name: getattr(self, one.name) for one in fields(TrainConfig)})

    def epochs_for(self, size: int) -> int:
        """Passes over a training set of ``size`` pictures."""
        return self.epochs if self.epochs is not None else max(1, round(self.images / size))

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as they stand in the run folder and in checkpoints."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


_LEAST = {
    **dict.fromkeys(("images", "epochs", "batch_size", "accumulate", "eval_every"), 1),
    **dict.fromkeys(("keep_every", "patience"), 1),
    "workers": 0,
}
_POSITIVE = ("> 0", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = (">= 0", lambda value: 0 <= value < math.inf)
_RANGES: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("learning_rate", "muon_learning_rate", "head_factor", "clip_norm"), _POSITIVE),
    **dict.fromkeys(("weight_decay", "save_minutes"), _NOT_NEGATIVE),
    "warmup": ("in [0, 1)", lambda value: 0 <= value < 1),
    "momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "max_bad_share": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "step_factor": ("in (0, 1]", lambda value: 0 < value <= 1),
    **dict.fromkeys(("ema", "milestones"), ("in (0, 1)", lambda value: 0 < value < 1)),
}


def _as_hint(owner: str, name: str, value: Any, hint: Any) -> Any:
    """The value in the kind that is wanted: integers may stand for floats, lists for tuples."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in choices:
            raise ValueError(
                f"{owner}: expected {name} to be one of {', '.join(choices)}, got {value!r}"
            )
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _as_hint(owner, name, value, choices[0])
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{owner}: expected {name} to be a list of numbers, got {value!r}")
        return tuple(_as_hint(owner, name, one, choices[0]) for one in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(
            f"{owner}: expected {name} to be {_KINDS[hint]}, got {value!r} of type "
            f"{type(value).__name__}"
        )
    return value


_KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
