"""What a run leaves on the disk, and how it is put back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cvlib.engine.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from cvlib.engine.config import TrainConfig
from cvlib.engine.processes import from_first
from cvlib.engine.state import Progress, Run
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
        "figures": run.row,
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
        run.tell("saved")


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
    figures: dict[str, float] = best["figures"]
    return figures


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


def describe_model(model: Model) -> dict[str, Any]:
    """What rebuilds a model, without its weights."""
    return {
        "name": model.name,
        "classes": list(model.classes),
        "image_size": list(model.image_size),
        "options": model.options,
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
    state: dict[str, Any], path: Path, model: Model, config: TrainConfig, pictures: int
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
    now = {**describe_model(model), "number of training pictures": pictures}
    then = {**state, "number of training pictures": state["progress"]["pictures"]}
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
