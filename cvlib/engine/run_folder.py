"""The run folder: starting and resuming a run, and the checkpoints that it writes."""

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
from cvlib.engine.run import Callback, LossMeter, Progress, Run
from cvlib.engine.sampling import SamplingPlan
from cvlib.models import Model

# Settings that do not affect training and may change on resuming.
FREE_ON_RESUME = (
    *("check", "workers", "eval_every", "device", "keep_every", "save_minutes", "tensorboard"),
    "max_bad_share",
)
_MAX_SHOWN_WARNINGS = 5


def check_trainable(name: str, dataset: Any, model: Model) -> None:
    """Raise ValueError for an empty dataset, or one of another task or other classes.

    Args:
        name: ``"training"`` or ``"validation"``.
        dataset: The dataset; a plain list of samples has neither task nor classes.
        model: The model to train.
    """
    if not len(dataset):
        raise ValueError(f"fit: expected at least one {name} image, got an empty dataset")
    for fact in ("task", "classes"):
        expected = getattr(model, fact)
        actual = getattr(dataset, fact, expected)
        if tuple(actual) != tuple(expected):
            raise ValueError(
                f"fit: expected a {name} dataset with the {fact} of the model, {expected}, got "
                f"{actual}"
            )


def check_labels(
    train: Dataset[Any],
    val: Dataset[Any],
    model: Model,
    config: TrainConfig,
    out: Path,
    log: Callable[[str], None],
) -> None:
    """Check both datasets quickly before the first step, and log what is doubtful.

    Datasets that must decode images to know their labels are only checked batch by batch. A
    resumed run has been checked before.

    Raises:
        BadLabelsError: Labels that cannot be right.
    """
    if not config.check or (out / "last.pt").exists():
        return
    if not (_has_fast_labels(train) and _has_fast_labels(val)):
        return
    anchored = model if hasattr(model, "anchors") else None
    report = check_dataset(train, val=val, model=anchored, fast=True, progress=False)
    report.raise_if_bad()
    for finding in report.warnings[:_MAX_SHOWN_WARNINGS]:
        log(f"doubtful data: {finding}")
    more = len(report.warnings) - _MAX_SHOWN_WARNINGS
    if more > 0:
        log(f"doubtful data: {more} more warnings; check_dataset lists all")


def _has_fast_labels(dataset: Any) -> bool:
    """Whether this is a dataset of cvlib or a part of one, with labels in memory."""
    complete, _ = unwrap(dataset)
    return isinstance(complete, DetectionDataset | SegmentationDataset | ClassificationDataset)


class _ForwardModule(nn.Module):
    """Calls the model; wrapped for steps, so that the model itself stays plain and float32."""

    def __init__(self, model: Model, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.call = torch.compile(model.forward) if compiled else model.forward

    def forward(self, images: Tensor) -> Any:
        """Return the model's raw output."""
        return self.call(images)


def open_run(
    model: Model,
    train: Dataset[Any],
    config: TrainConfig,
    out: Path,
    device: torch.device,
    resume: bool | Literal["auto"],
    log: Callable[[str], None],
    callbacks: Sequence[Callback],
) -> Run:
    """Prepare a new run, or restore the one to resume."""
    size: int = len(train)  # type: ignore[arg-type]
    plan = SamplingPlan(size, config, rank(), world_size())
    log = log if plan.rank == 0 else lambda line: None
    state = from_first(lambda: _open_folder(out, model, config, size, resume))
    model.to(device).to(memory_format=torch.channels_last)
    if state is None:
        precision = from_first(lambda: choose_precision(model, config, device, log))
        progress = Progress(size, precision)
    else:
        progress = _read_progress(state)
    if config.sync_norm:
        _synchronise_norm(model, device)
    accelerator = make_accelerator(device, progress.precision)
    forward, optimizer = accelerator.prepare(
        _ForwardModule(model, config.compile), make_optimizer(model, config)
    )
    run = Run(
        model,
        forward,
        make_average(model, config.ema) if config.ema else None,
        optimizer,
        accelerator,
        config,
        plan,
        out,
        progress,
        LossMeter(device, progress.sums, progress.images),
        log,
        callbacks,
    )
    if state is not None:
        _restore(run, state, out / "last.pt")
        run.log(f"resuming {out} after step {progress.step} of {plan.total_steps}")
    return run


def _open_folder(
    out: Path, model: Model, config: TrainConfig, size: int, resume: bool | Literal["auto"]
) -> dict[str, Any] | None:
    """Create the folder of a new run, or return the snapshot of the one to resume."""
    path = out / "last.pt"
    if path.exists() if resume == "auto" else resume:
        state = load_checkpoint(path)
        _check_resumable(state, path, model, config, size)
        return state
    if path.exists():
        raise FileExistsError(
            f"fit: expected `out` to be a new folder, got {out}, which holds a run; continue it "
            "(--resume) or choose another folder (--out)"
        )
    out.mkdir(parents=True, exist_ok=True)
    save_config(out / "run.yaml", config)
    save_json(out / "config.json", config.as_dict())
    return None


def _synchronise_norm(model: Model, device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(f"fit: expected a CUDA device for `sync_norm`, got {device.type}")
    if world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def save(run: Run) -> None:
    """Write ``last.pt``, unless a step has broken the weights."""
    if run.is_first:
        check_finite(run)
        save_checkpoint(run.out / "last.pt", _snapshot(run))
        run.saved = time.perf_counter()
        run.notify("saved")


def publish(run: Run, is_best: bool) -> None:
    """Write ``best.pt`` and ``best.safetensors``, and the checkpoints of ``keep_every``."""
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


def restore_best(run: Run) -> dict[str, float]:
    """Load the best weights into the model and return their metrics."""
    best = from_first(lambda: load_checkpoint(run.out / "best.pt"))
    run.model.load_state_dict(best["model"])
    metrics: dict[str, float] = best.get("metrics") or best["figures"]  # the older name
    return metrics


def check_finite(run: Run) -> None:
    """Raise FloatingPointError for broken weights, before they are evaluated or saved."""
    weights = run.model.state_dict()
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"fit: expected finite weights, got NaN or infinity in {', '.join(broken[:3])} after "
            f"step {run.progress.step}; lower the learning rate; the checkpoints of earlier epochs "
            "are unharmed"
        )


def _snapshot(run: Run) -> dict[str, Any]:
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
        "progress": {**progress, "bad": [list(image) for image in run.progress.bad]},
    }


def _read_progress(state: dict[str, Any]) -> Progress:
    saved = dict(state["progress"])
    return Progress(**{**saved, "bad": [(int(index), text) for index, text in saved["bad"]]})


def check_is_run(state: dict[str, Any], path: Path) -> None:
    """Raise ValueError for a checkpoint that is not a snapshot of a run."""
    if "processes" not in state or "dataset_size" not in state.get("progress", {}):
        raise ValueError(
            f"fit: expected a run to resume, got {path}, which holds only weights or was written "
            "by an older version of cvlib; load its model and start in another folder"
        )


def _check_resumable(
    state: dict[str, Any], path: Path, model: Model, config: TrainConfig, size: int
) -> None:
    """Raise ValueError for a snapshot of another configuration, model or training dataset."""
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
            f"fit: expected the configuration of the run to resume ({path}), but {text}; start in "
            "another folder, or restore the old settings"
        )
    now = {**describe_model(model), "number of training images": size}
    then = {**state, "number of training images": state["progress"]["dataset_size"]}
    for name, value in now.items():
        if name in then and then[name] != value:
            raise ValueError(f"fit: expected {name} {then[name]} as in {path}, got {value}")


def _restore(run: Run, state: dict[str, Any], path: Path) -> None:
    if state["processes"] != run.plan.processes:
        raise ValueError(
            f"fit: expected {state['processes']} processes as in {path}, got "
            f"{run.plan.processes}; with another number the steps would differ"
        )
    run.model.load_state_dict(state["model"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
