"""Settings from files and from the command line; defaults by model."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cvlib._files import write_text
from cvlib.engine.config import TrainConfig
from cvlib.models import list_models

Config = TypeVar("Config", bound=TrainConfig)

# What differs from the defaults of TrainConfig, by task. Fine-tuning: the trunk knows what pictures
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
