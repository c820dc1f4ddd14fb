"""cvlib info: the installation, or a summary of a model or dataset."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import torchvision
import tyro

from cvlib import build_info
from cvlib.cli import GOOD
from cvlib.cli.models import load_model
from cvlib.cli.options import parse
from cvlib.data.check import check_dataset
from cvlib.engine.summary import summary
from cvlib.models import list_models
from cvlib.models.base import Task

DESCRIPTION = """Show the installation and its kernels, or a summary of a model or dataset.

    cvlib info
    cvlib info runs/bananas
    cvlib info runs/mine --model package.module:MyModel
    cvlib info bananas/
"""
# Maximum number of listed values.
_MAX_LISTED = 20


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib info``."""

    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATH]")] = None
    """Run folder or checkpoint, to summarise its model; or a dataset, to summarise its labels.
    Unset: this installation."""
    model: str | None = None
    """Class of a model of your own, package.module:Class. Unset: a built-in model."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib info", DESCRIPTION, arguments)
    if options.path is None:
        print(describe_installation())
    elif is_model(options.path):
        print(describe_model(options.path, options.model))
    else:
        print(describe_data(options.path))
    return GOOD


def is_model(path: Path) -> bool:
    """Whether a path is a checkpoint or a run folder, not a dataset."""
    if path.is_dir():
        return (path / "best.pt").exists() or (path / "last.pt").exists()
    return path.suffix in (".pt", ".safetensors")


def describe_installation() -> str:
    """Describe versions, devices, kernels and built-in models."""
    info = build_info()
    lines = [
        f"cvlib {info.pop('cvlib')}, torch {info.pop('torch')}, torchvision "
        f"{torchvision.__version__}, Python {platform.python_version()}",
        f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    ]
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append("CUDA: no device")
    loaded, missing = info.pop("loaded"), info.pop("not_loaded")
    lines += [f"kernels: {name} from {file}" for name, file in loaded.items()]
    lines += [f"not loaded: {name}: {reason}" for name, reason in missing.items()]
    lines += [f"{name}: {value}" for name, value in info.items()]
    for task in get_args(Task):
        lines.append(f"models for {task}: {_format(list_models(task)) or 'none built in'}")
    return "\n".join(lines)


def describe_model(path: Path, model_class: str | None = None) -> str:
    """Describe task, classes, parts, parameters and operations of a trained model."""
    model = load_model(path, model_class)
    names = _format(model.classes)
    return f"{model.name} for {model.task}, {len(model.classes)} classes: {names}\n{summary(model)}"


def describe_data(path: Path) -> str:
    """Describe a dataset by its labels and headers."""
    report = check_dataset(path, fast=True)
    lines = [report.source, *_format_table(report.summary)]
    errors = sum(finding.count for finding in report.errors)
    warnings = sum(finding.count for finding in report.warnings)
    lines.append(f"{errors} errors, {warnings} warnings: cvlib check {path} lists them")
    return "\n".join(lines)


def _format_table(values: dict[str, Any], indent: str = "  ") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_format_table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_format(value)}")
    return lines


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, list | tuple):
        return str(value)
    more = f" and {len(value) - _MAX_LISTED} more" if len(value) > _MAX_LISTED else ""
    return ", ".join(map(_format, value[:_MAX_LISTED])) + more
