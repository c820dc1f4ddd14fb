"""Settings of a training run: defaults by model, YAML files and the command line."""

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
from cvlib.models import Model, list_models

Config = TypeVar("Config", bound="TrainConfig")

OptimizerName = Literal["muon", "adamw", "sgd"]
ScheduleName = Literal["cosine", "step", "one-cycle", "constant"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are those of TinySSD.

    Note:
        `config_for` returns the defaults of other models.

    Example:
        >>> TrainConfig(epochs=10, optimizer="sgd").epochs
        10
    """

    images: int = 20_000
    """Number of images to train on in total; rounded to whole epochs."""
    epochs: int | None = None
    """Number of passes over the training dataset; overrides --images."""
    batch_size: int = 8
    """Images per batch in each process."""
    accumulate: int = 1
    """Number of batches whose gradients are averaged for one step: large batches in little memory.
    Batches are weighted by their images, even where a loss is divided by its number of objects."""
    optimizer: OptimizerName = "muon"
    """muon: Muon for the convolutions of the backbone, AdamW for everything else."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW or SGD; with Muon, of heads, biases and normalisation."""
    muon_learning_rate: float = 0.03
    """Peak learning rate of Muon, for the convolutions of the backbone."""
    head_factor: float = 1.0
    """Learning rate of the head relative to that of the backbone: 10 for fine-tuning."""
    freeze_backbone: bool = False
    """Train only the head."""
    freeze_norm: bool = False
    """Keep the statistics of batch normalisation: for small batches and a pretrained backbone."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.05
    """Weight decay, decoupled except for SGD; not applied to biases and normalisation."""
    clip_norm: float | None = None
    """Maximum norm of all gradients together; larger gradients are scaled down."""
    schedule: ScheduleName = "cosine"
    """Learning rate schedule after the warm-up: cosine to 0, in steps, one-cycle (whose warm-up is
    a cosine, too), or constant."""
    warmup: float = 0.1
    """Share of all steps for the linear warm-up."""
    milestones: tuple[float, ...] = (0.6, 0.85)
    """Shares of all steps after which the step schedule lowers the learning rates."""
    step_factor: float = 0.1
    """Factor of the learning rates at each milestone of the step schedule."""
    ema: float | None = None
    """Decay of a moving average of the weights, such as 0.999, used for evaluation and best.pt."""
    patience: int | None = None
    """Stop early after this many evaluations without improvement."""
    recipe: str = "auto"
    """Augmentation recipe of the training images; auto chooses by the model's task."""
    precision: Precision = "auto"
    """Floating-point precision; auto times float32 and bfloat16 on this machine and takes the
    faster one, float16 needs CUDA."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, faster steps afterwards."""
    sync_norm: bool = False
    """Synchronise batch normalisation over all processes; needs CUDA."""
    eval_every: int = 1
    """Number of epochs between evaluations; the last epoch is always evaluated."""
    keep_every: int | None = None
    """Number of epochs between checkpoints to keep (epoch-0010.pt); unset keeps none."""
    save_minutes: float = 10.0
    """Minutes between writing last.pt within an epoch; it is also written after every epoch."""
    max_bad_share: float = 0.01
    """Maximum share of unreadable training images, at least one image unless 0; they are skipped
    and counted, and more of them stop the run."""
    tensorboard: bool = False
    """Also log metrics for TensorBoard (pip install tensorboard)."""
    check: bool = True
    """Check the labels of both datasets before the first step: errors stop the run with a list,
    warnings are logged."""
    workers: int | None = None
    """Number of processes that load images; 0 loads them between steps. Unset: half of the cores
    for datasets of cvlib that are not tiny. Results do not depend on it."""
    device: str = "auto"
    """Device: auto (CUDA if available), cpu, cuda or cuda:N."""
    seed: int = 0
    """Random seed of order, augmentation and dropout."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, _as_hint("TrainConfig", name, getattr(self, name), hint))
        for name, bound in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(
                    f"TrainConfig: expected `{name}` to be at least {bound}, got {value}"
                )
        for name, (requirement, fits) in _RANGES.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not fits(number):
                    raise ValueError(
                        f"TrainConfig: expected `{name}` to be {requirement}, got {number}"
                    )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                f"TrainConfig: expected `milestones` in rising order, got {self.milestones}"
            )
        check_device_name(self.device)

    def train_config(self) -> TrainConfig:
        """The settings without the additional options of a subclass."""
        names = [field.name for field in fields(TrainConfig)]
        return TrainConfig(**{name: getattr(self, name) for name in names})

    def epochs_for(self, size: int) -> int:
        """Number of epochs for a training dataset of ``size`` images."""
        return self.epochs if self.epochs is not None else max(1, round(self.images / size))

    def as_dict(self) -> dict[str, Any]:
        """Settings by name, as stored in run folders and checkpoints."""
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
    """Convert a value to its type hint: integers to floats, lists to tuples."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in choices:
            raise ValueError(
                f"{owner}: expected `{name}` to be one of {', '.join(choices)}, got {value!r}"
            )
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _as_hint(owner, name, value, choices[0])
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{owner}: expected `{name}` to be a list of numbers, got {value!r}")
        return tuple(_as_hint(owner, name, item, choices[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(
            f"{owner}: expected `{name}` to be {_KINDS[hint]}, got {value!r} of type "
            f"{type(value).__name__}"
        )
    return value


_KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


# Defaults that differ from those of TrainConfig, by task. Fine-tuning: a pretrained backbone learns
# slowly and keeps its normalisation statistics, while the new head learns ten times as fast.
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
# The same by model, for models that differ from their task.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {}


def config_for(model: str | type[Model] | Model, **settings: Any) -> TrainConfig:
    """Return the default settings for a model, with changes.

    Args:
        model: A name from `list_models`, or a model (class) of your own, whose task decides.
        settings: Fields of `TrainConfig` that differ from the defaults.

    Returns:
        The settings.

    Raises:
        ValueError: Unknown model, unknown field (the message suggests the nearest one), or a value
            out of range.
        TypeError: A value of the wrong type.

    Example:
        >>> config_for("resnet18").head_factor, config_for("tiny_ssd").head_factor
        (10.0, 1.0)
    """
    check_names("config_for", settings, TrainConfig)
    name = model if isinstance(model, str) else getattr(model, "name", "")
    defaults = {**TASK_DEFAULTS[_task_of(model)], **MODEL_DEFAULTS.get(name, {})}
    return TrainConfig(**{**defaults, **settings})


def _task_of(model: str | type[Model] | Model) -> str:
    if not isinstance(model, str):
        return model.task
    for task in TASK_DEFAULTS:
        if model in list_models(task):
            return task
    near = difflib.get_close_matches(model, list_models(), 1)
    advice = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"config_for: expected `model` to be a name from list_models(), got {model!r}{advice}"
    )


def load_config(path: str | Path, base: Config) -> Config:
    """Read settings from a YAML file.

    Args:
        path: File with one ``name: value`` per line, such as ``epochs: 10``.
        base: Settings for everything that the file does not name: a `TrainConfig`, or a subclass,
            whose additional options may not be in the file.

    Returns:
        ``base`` with the settings of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not YAML, not settings, an unknown name (the message suggests the nearest one),
            or a value out of range.
        TypeError: A value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_config: expected `path` to be an existing YAML file, got {path}"
        )
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
    """Write all settings as YAML for `load_config`, atomically."""
    text = yaml.safe_dump(config.as_dict(), sort_keys=False)
    write_text(path, f"# Train with these settings: --config {path.name}\n{text}")


def check_names(function: str, given: dict[Any, Any], kind: type) -> None:
    """Raise ValueError for the first name that is not a field of ``kind``."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"settings: {', '.join(known)}"
            raise ValueError(f"{function}: expected the name of a setting, got {name!r}; {advice}")


def parse_command_line(
    kind: type[Config],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
    base: Callable[[], Config] | None = None,
) -> Config:
    """Read settings from the command line; other options override those of ``--config FILE``.

    Args:
        kind: `TrainConfig`, or a subclass with additional options.
        description: First paragraph of ``--help``.
        arguments: Command line arguments, by default those of the process.
        base: Creates the defaults, by default those of ``kind``.

    Returns:
        The settings.

    Raises:
        SystemExit: ``--help``, or an unknown or invalid option.
        FileNotFoundError: The settings file does not exist.
        ValueError: Unknown settings or values out of range in the file.
        TypeError: A setting of the wrong type in the file.
    """
    import tyro

    rest = list(sys.argv[1:] if arguments is None else arguments)
    default = kind() if base is None else base()
    for i, argument in enumerate(rest):
        name, _, value = argument.partition("=")
        if name == "--config":
            if not value and i + 1 == len(rest):
                raise ValueError("--config: expected a YAML file, got nothing")
            default = load_config(value or rest[i + 1], default)
            del rest[i : i + (1 if value else 2)]
            break
    return tyro.cli(kind, description=description, args=rest, default=default)
