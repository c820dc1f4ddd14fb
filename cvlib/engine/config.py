"""What a training run can be told. A dataclass, and nothing else."""

from __future__ import annotations

import difflib
import math
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cvlib._files import write_text
from cvlib.engine.device import check_device_name
from cvlib.models import list_models

Config = TypeVar("Config", bound="TrainConfig")

# What differs from the defaults of TrainConfig, by task. Fine-tuning: the backbone knows images,
# look like, so it learns slowly, with the statistics that it has, and the new head ten times as
# fast.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "detection": {},
    "segmentation": {"optimizer": "adamw", "learning_rate": 1e-4, "head_factor": 10.0},
    "classification": {
        "epochs": 5,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "head_factor": 10.0,
        "freeze_norm": True,
        "weight_decay": 0.01,
    },
}
# The same by model, where one needs something else than its task.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {}


def config_for(model: str, **settings: Any) -> TrainConfig:
    """The settings for a model: its own defaults, and what is given.

    Args:
        model: A name of `list_models`.
        settings: Fields of `TrainConfig`.

    Returns:
        The settings.

    Raises:
        ValueError: No such model, no such field (with the nearest right name), or a value out of
            range.
        TypeError: A value of the wrong type.

    Example:
        >>> config_for("resnet18").head_factor, config_for("tiny_ssd").head_factor
        (10.0, 1.0)
    """
    tasks = [task for task in TASK_DEFAULTS if model in list_models(task)]
    if not tasks:
        raise ValueError(f"config_for: expected a name of list_models(), got {model!r}")
    check_names("config_for", settings, TrainConfig)
    own = {**TASK_DEFAULTS[tasks[0]], **MODEL_DEFAULTS.get(model, {})}
    return TrainConfig(**{**own, **settings})


def load_config(path: str | Path, base: Config) -> Config:
    """Reads settings from a YAML file.

    Args:
        path: Of the file: one ``name: value`` a line, such as ``epochs: 10``.
        base: Has the settings that the file does not name; a `TrainConfig`, or a dataclass on top
            of it, whose own options the file may not have.

    Returns:
        ``base`` with the settings of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not YAML, not settings, an unknown name (with the nearest right one), or a value
            out of range.
        TypeError: A value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_config: expected a file of settings, got {path}")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"load_config: expected YAML in {path}, got {error}") from error
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(
            f"load_config: expected settings as name: value in {path}, got {type(given).__name__}"
        )
    check_names(f"load_config: {path}", given, TrainConfig)
    try:
        return replace(base, **given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def save_config(path: Path, config: TrainConfig) -> None:
    """Writes all settings as YAML that `load_config` reads, atomically."""
    text = yaml.safe_dump(config.as_dict(), sort_keys=False)
    write_text(path, f"# Train with these settings: --config {path.name}\n{text}")


def check_names(function: str, given: dict[Any, Any], kind: type) -> None:
    """Raises ValueError for the first name that is no field of ``kind``."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{function}: expected names of settings, got {name!r}; {advice}")


def parse_command_line(
    kind: type[Config],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
    base: Callable[[], Config] | None = None,
) -> Config:
    """Reads settings from the command line; ``--config FILE`` is read first, the rest overrides it.

    Args:
        kind: `TrainConfig`, or a dataclass on top of it with further options.
        description: What ``--help`` says first.
        arguments: Instead of those of the process.
        base: Makes the defaults, where they are not those of ``kind``.

    Returns:
        The settings.

    Raises:
        SystemExit: ``--help``, or an option that is unknown or wrong.
        FileNotFoundError: No such file.
        ValueError: A file with unknown or wrong settings.
        TypeError: A setting of the wrong type in the file.
    """
    import tyro

    rest = list(sys.argv[1:] if arguments is None else arguments)
    default = kind() if base is None else base()
    for i, argument in enumerate(rest):
        name, _, value = argument.partition("=")
        if name == "--config":
            if not value and i + 1 == len(rest):
                raise ValueError("--config: expected a file of settings, got nothing")
            default = load_config(value or rest[i + 1], default)
            del rest[i : i + (1 if value else 2)]
            break
    return tyro.cli(kind, description=description, args=rest, default=default)


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
    """Images to train on altogether; as many epochs as come nearest to it."""
    epochs: int | None = None
    """Passes over the training set; given, it counts instead of the number of images."""
    batch_size: int = 8
    """Images that a process computes at a time."""
    accumulate: int = 1
    """Batches of which the gradients are averaged for one step: a large batch in little memory.
    Each counts by its images, also where a loss is divided by its number of objects."""
    optimizer: OptimizerName = "muon"
    """"muon": Muon for the convolutions of the backbone and AdamW for everything else."""
    learning_rate: float = 3e-3
    """Peak for AdamW or SGD; with Muon it trains heads, biases and normalisation."""
    muon_learning_rate: float = 0.03
    """Peak for Muon, which trains the convolutions of the backbone."""
    head_factor: float = 1.0
    """Learning rates of the head are this many times those of the backbone: 10 for fine-tuning."""
    freeze_backbone: bool = False
    """Train the head alone."""
    freeze_norm: bool = False
    """Leave the statistics of batch normalisation as they are: for small batches of a backbone that
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
    """How training images are changed at random; "auto" takes the one for the model's task."""
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
    """Share of training images that may be unreadable, but at least one image (none with 0);
    they are skipped and counted, and more of them stop the run."""
    tensorboard: bool = False
    """Write figures for TensorBoard, too (pip install tensorboard)."""
    check: bool = True
    """Look the labels of both sets over before the first step: what would teach something false
    stops the run with the list, what is doubtful is told."""
    workers: int | None = None
    """Processes that load images; 0 loads them between the steps. Unset: half of the cores, where
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
        """Passes over a training set of ``size`` images."""
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
