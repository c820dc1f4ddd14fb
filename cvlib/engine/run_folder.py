"""What happens before the first step of a run."""

from __future__ import annotations

import time
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
from cvlib.data.check.doctor import unwrap
from cvlib.engine.checkpoint import (
    describe_model,
    load_checkpoint,
    save_checkpoint,
    save_safetensors,
)
from cvlib.engine.config import TrainConfig, save_config
from cvlib.engine.device import from_first, make_accelerator
from cvlib.engine.optim import make_average, make_optimizer
from cvlib.engine.precision import choose_precision
from cvlib.engine.run import Callback, Meter, Progress, Run
from cvlib.engine.sampling import Plan
from cvlib.models import Model

# Settings that do not change what is learnt.
FREE_ON_RESUME = (
    *("check", "workers", "eval_every", "device", "keep_every", "save_minutes", "tensorboard"),
    "max_bad_share",
)


def publish(run: Run, is_best: bool) -> None:
    """Writes what is handed on: ``best.pt`` and ``best.safetensors``, and checkpoints to keep."""
    keep = run.config.keep_every is not None and run.epoch % run.config.keep_every == 0
    if not run.is_first or not (is_best or keep):
        return
    state = {
        **describe_model(run.model),
        "model": run.best_model.state_dict(),
        "config": run.config.as_dict(),
        "metrics": run.row,
    }
    if is_best:
        save_safetensors(run.out / "best.safetensors", state)
        save_checkpoint(run.out / "best.pt", state)
    if keep:
        save_checkpoint(run.out / f"epoch-{run.epoch:04d}.pt", state)


def save(run: Run) -> None:
    """Writes ``last.pt``, unless a step has broken the weights."""
    if run.is_first:
        check_finite(run)
        save_checkpoint(run.out / "last.pt", snapshot(run))
        run.saved = time.perf_counter()
        run.notify("saved")


def check_finite(run: Run) -> None:
    """Raises FloatingPointError for broken weights, before they are evaluated or saved."""
    weights = run.model.state_dict()
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"fit: NaN or infinite values in {', '.join(broken[:3])} after step "
            f"{run.progress.step}; lower the learning rate; the checkpoints of earlier epochs are "
            "unharmed"
        )


def restore_best(run: Run) -> dict[str, float]:
    """Puts the best weights into the model; gives their figures."""
    best = from_first(lambda: load_checkpoint(run.out / "best.pt"))
    run.model.load_state_dict(best["model"])
    metrics: dict[str, float] = best.get("metrics") or best["figures"]  # the older name
    return metrics


def snapshot(run: Run) -> dict[str, Any]:
    """Everything that a resumed run needs, as plain values and tensors."""
    progress = vars(run.progress) | {"elapsed": run.elapsed}
    progress |= {"sums": run.meter.sums, "images": run.meter.images}
    scaler = run.accelerator.scaler
    return {
        **describe_model(run.model),
        "model": run.model.state_dict(),
        "average": None if run.average is None else run.average.state_dict(),
        "config": run.config.as_dict(),
        "processes": run.plan.processes,
        "optimizer": run.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "progress": {**progress, "bad": [list(one) for one in run.progress.bad]},
    }


def read_progress(state: dict[str, Any]) -> Progress:
    """The progress in a snapshot."""
    saved = dict(state["progress"])
    return Progress(**{**saved, "bad": [(int(index), text) for index, text in saved["bad"]]})


def check_is_run(state: dict[str, Any], path: Path) -> None:
    """Raises ValueError for a checkpoint that is no snapshot of a run."""
    if "progress" not in state or "processes" not in state:
        raise ValueError(
            f"fit: expected a run to resume, got {path}, which holds weights alone or was written "
            "by an older version of cvlib; load its model and start anew in another folder"
        )


def check_resumable(
    state: dict[str, Any], path: Path, model: Model, config: TrainConfig, dataset_size: int
) -> None:
    """Raises ValueError for a snapshot of another configuration, model or training set."""
    check_is_run(state, path)
    new = config.as_dict()
    changed = {
        name: (old, new.get(name))
        for name, old in state["config"].items()
        if name not in FREE_ON_RESUME and old != new.get(name)
    }
    if changed:
        text = ", ".join(f"{name} was {old}, is {now}" for name, (old, now) in changed.items())
        raise ValueError(
            f"fit: expected the configuration of the run to resume ({path}), but {text}; start "
            "anew in another folder, or give the old settings"
        )
    now = {**describe_model(model), "number of training images": dataset_size}
    then = {**state, "number of training images": state["progress"]["dataset_size"]}
    for name, value in now.items():
        if then.get(name) != value:
            raise ValueError(f"fit: expected {name} {then.get(name)} as in {path}, got {value}")


def restore(run: Run, state: dict[str, Any], path: Path) -> None:
    """Puts a snapshot back."""
    if state["processes"] != run.plan.processes:
        raise ValueError(
            f"fit: expected {state['processes']} processes as in {path}, got "
            f"{run.plan.processes}; another number takes other steps"
        )
    run.model.load_state_dict(state["model"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])


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
        raise ValueError(f"fit: expected at least one {name} image, got an empty set")
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
    log: Callable[[str], None],
) -> None:
    """Looks both sets over, quickly, before anything is learnt from them; tells what is doubtful.

    Sets whose labels can be had only with their images are left to the check of every batch. A
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
        log(f"doubtful data: {finding}")
    more = len(report.warnings) - _WARNINGS_SHOWN
    if more > 0:
        log(f"doubtful data: {more} more warnings; check_dataset tells all")


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
    log: Callable[[str], None],
    callbacks: Sequence[Callback],
) -> Run:
    """Prepares a new run, or puts the one to resume back."""
    size: int = len(train)  # type: ignore[arg-type]
    plan = Plan(size, config, rank(), world_size())
    log = log if plan.rank == 0 else lambda line: None
    state = from_first(lambda: open_folder(out, model, config, size, resume))
    model.to(device).to(memory_format=torch.channels_last)
    if state is None:
        precision = from_first(lambda: choose_precision(model, config, device, log))
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
        log,
        callbacks,
    )
    if state is not None:
        restore(run, state, out / "last.pt")
        run.log(f"going on with {out} after step {progress.step} of {plan.total_steps}")
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
    out: Path, model: Model, config: TrainConfig, images: int, resume: bool | Literal["auto"]
) -> dict[str, Any] | None:
    """Makes the folder of a new run, or gives the snapshot of the one to resume."""
    path = out / "last.pt"
    if path.exists() if resume == "auto" else resume:
        state = load_checkpoint(path)
        check_resumable(state, path, model, config, images)
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
