"""cvlib info: what is installed and accelerated; facts of a model or a data set."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
import tyro

from cvlib import build_info
from cvlib.cli import GOOD
from cvlib.cli.running import parse
from cvlib.data.check import check_dataset
from cvlib.engine import load
from cvlib.engine.summary import summary
from cvlib.models import list_models

DESCRIPTION = """Says what is installed and accelerated here, or facts of a model or a data set.

    cvlib info
    cvlib info runs/bananas
    cvlib info bananas/
"""
_SHOWN = 20


@dataclass(frozen=True)
class Arguments:
    """Says what is here."""

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """Run folder or checkpoint: its model; a data set: its figures. Left out: this installation."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib info", DESCRIPTION, arguments)
    if options.path is None:
        print(describe_installation())
    elif is_model(options.path):
        print(describe_model(options.path))
    else:
        print(describe_data(options.path))
    return GOOD


def is_model(path: Path) -> bool:
    """Whether it is a checkpoint or a run folder, and not a data set."""
    if path.is_dir():
        return (path / "best.pt").exists() or (path / "last.pt").exists()
    return path.suffix in (".pt", ".safetensors")


def describe_installation() -> str:
    """Versions, devices, and what is accelerated."""
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
    for task in ("detection", "segmentation", "classification"):
        names = list_models(task)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"models for {task}: {', '.join(names[:_SHOWN]) or 'none yet'}{more}")
    return "\n".join(lines)


def describe_model(path: Path) -> str:
    """Task, classes, parts, parameters and operations of a trained model."""
    model = load(path)
    names = ", ".join(model.classes[:_SHOWN]) + (" ..." if len(model.classes) > _SHOWN else "")
    return f"{model.name} for {model.task}, {len(model.classes)} classes: {names}\n{summary(model)}"


def describe_data(path: Path) -> str:
    """Figures of a data set, from its labels and headers."""
    report = check_dataset(path, fast=True)
    lines = [report.source, *_table(report.summary)]
    errors, warnings = (sum(one.count for one in some) for some in (report.errors, report.warnings))
    lines.append(f"{errors} errors, {warnings} warnings: cvlib check {path} lists them")
    return "\n".join(lines)


def _table(values: dict[str, Any], indent: str = "  ") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_table(value, indent + "  ")]
        elif isinstance(value, list | tuple) and len(value) > _SHOWN:
            lines.append(f"{indent}{name}: {_words(value[:_SHOWN])} and {len(value) - _SHOWN} more")
        else:
            lines.append(f"{indent}{name}: {_words(value)}")
    return lines


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)
