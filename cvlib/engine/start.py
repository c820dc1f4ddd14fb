"""What happens before the first step of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cvlib._distributed import rank, world_size
from cvlib._files import save_json
from cvlib.data import ClassificationDataset, DetectionDataset, SegmentationDataset
from cvlib.data.check import check_dataset
from cvlib.data.check._sources import unwrap
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.config import TrainConfig
from cvlib.engine.config_files import save_config
from cvlib.engine.ema import make_average
from cvlib.engine.meter import Meter
from cvlib.engine.optim import make_optimizer
from cvlib.engine.precision import choose_precision
from cvlib.engine.processes import from_first, make_accelerator
from cvlib.engine.sampling import Plan
from cvlib.engine.saving import check_resumable, read_progress, restore
from cvlib.engine.state import Callback, Progress, Run
from cvlib.models import Model

_WARNINGS_SHOWN = 5


class Forward(nn.Module):
    """What is wrapped for steps, so that the model itself stays as it is: plain, and in float32."""

    def __init__(self, model: Model, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.call = torch.compile(model.forward) if compiled else model.forward

    def forward(self, images: Tensor) -> Any:
        """Gives the model's raw output."""
        return self.call(images)


def check_set(name: str, dataset: Any, model: Model) -> None:
    """Raises ValueError for an empty set, or one of another task or other classes."""
    if not len(dataset):
        raise ValueError(f"fit: expected at least one {name} picture, got an empty set")
    for fact in ("task", "classes"):
        own = getattr(model, fact)
        found = getattr(dataset, fact, own)  # a list of samples knows neither
        if tuple(found) != tuple(own):
            raise ValueError(
                f"fit: expected a {name} set with the {fact} of the model, {own}, got {found}"
            )


def check_labels(
    train: Dataset[Any],
    val: Dataset[Any],
    model: Model,
    config: TrainConfig,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Looks both sets over, quickly, before anything is learnt from them; tells what is doubtful.

    Sets whose labels can be had only with their pictures are left to the check of every batch. A
    run that is resumed has been through this.

    Raises:
        BadLabelsError: What would teach something false.
    """
    if not config.check or (out / "last.pt").exists():
        return
    if not (has_labels_at_hand(train) and has_labels_at_hand(val)):
        return
    anchored = model if hasattr(model, "anchors") else None
    report = check_dataset(train, val=val, model=anchored, fast=True, progress=False)
    report.raise_if_bad()
    for finding in report.warnings[:_WARNINGS_SHOWN]:
        say(f"doubtful data: {finding}")
    more = len(report.warnings) - _WARNINGS_SHOWN
    if more > 0:
        say(f"doubtful data: {more} more warnings; check_dataset tells all")


def has_labels_at_hand(dataset: Any) -> bool:
    """Says whether a set is one of cvlib's, or a part of one."""
    whole, _ = unwrap(dataset)
    return isinstance(whole, DetectionDataset | SegmentationDataset | ClassificationDataset)


def start(
    model: Model,
    train: Dataset[Any],
    config: TrainConfig,
    out: Path,
    device: torch.device,
    resume: bool | Literal["auto"],
    say: Callable[[str], None],
    callbacks: Sequence[Callback],
) -> Run:
    """Prepares a new run, or puts the one to resume back."""
    size: int = len(train)  # type: ignore[arg-type]
    plan = Plan(size, config, rank(), world_size())
    say = say if plan.rank == 0 else lambda line: None
    state = from_first(lambda: open_folder(out, model, config, size, resume))
    model.to(device).to(memory_format=torch.channels_last)
    if state is None:
        precision = from_first(lambda: choose_precision(model, config, device, say))
        progress = Progress(size, precision)
    else:
        progress = read_progress(state)
    if config.sync_norm:
        share_norm(model, device)
    accelerator = make_accelerator(device, progress.precision)
    forward, optimizer = accelerator.prepare(
        Forward(model, config.compile), make_optimizer(model, config)
    )
    average = make_average(model, config.ema) if config.ema else None
    meter = Meter(device, progress.sums, progress.images)
    run = Run(
        model,
        forward,
        average,
        optimizer,
        accelerator,
        config,
        plan,
        out,
        progress,
        meter,
        say,
        callbacks,
    )
    if state is not None:
        restore(run, state, out / "last.pt")
        run.say(f"going on with {out} after step {progress.step} of {plan.total_steps}")
    return run


def share_norm(model: Model, device: torch.device) -> None:
    """Makes batch normalisation take its statistics over all processes.

    Raises:
        ValueError: On the CPU, where PyTorch cannot.
    """
    if device.type != "cuda":
        raise ValueError(f"fit: expected CUDA for sync_norm, got {device.type}")
    if world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def open_folder(
    out: Path, model: Model, config: TrainConfig, pictures: int, resume: bool | Literal["auto"]
) -> dict[str, Any] | None:
    """Makes the folder of a new run, or gives the snapshot of the one to resume."""
    path = out / "last.pt"
    if path.exists() if resume == "auto" else resume:
        state = load_checkpoint(path)
        check_resumable(state, path, model, config, pictures)
        return state
    if path.exists():
        raise FileExistsError(
            f"fit: {out} holds a run already; go on with it (--resume) or choose another folder "
            "(--out)"
        )
    out.mkdir(parents=True, exist_ok=True)
    save_config(out / "run.yaml", config)
    save_json(out / "config.json", config.as_dict())
    return None
