"""The training loop, in one file to be read from top to bottom."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from cvlib.engine.batches import Batch, Batches, choose_workers, load_batches
from cvlib.engine.config import TrainConfig
from cvlib.engine.device import from_first, join_processes
from cvlib.engine.memory import explain_out_of_memory
from cvlib.engine.optim import schedule, set_learning_rate, set_training_mode
from cvlib.engine.report import MetricsLog, describe_epoch, finish_row, format_time
from cvlib.engine.run import Callback, History, Run
from cvlib.engine.run_folder import (
    check_finite,
    check_labels,
    check_trainable,
    open_run,
    publish,
    restore_best,
    save,
)
from cvlib.engine.sampling import SEED_STRIDE
from cvlib.engine.unreadable import evaluate_readable, note_unreadable
from cvlib.models import Model

# Evaluation stores no activations, so batches can be this many times larger.
EVALUATION_FACTOR = 4


@dataclass
class TrainingResult:
    """Result of `fit`.

    Attributes:
        model: The model with the weights of the best epoch.
        history: Metrics of each epoch.
        finished: False if the run was interrupted.
        best: Metrics of the best epoch.
    """

    model: Model
    history: History
    finished: bool
    best: dict[str, float] = field(default_factory=dict)


def fit(
    model: Model,
    train: Dataset[Any],
    val: Dataset[Any],
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool | Literal["auto"] = False,
    log: Callable[[str], None] = print,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train a model and write a run folder.

    The folder gets ``config.json`` and ``run.yaml`` (the settings), ``metrics.csv``,
    ``metrics.jsonl`` and ``metrics.json`` (metrics of every epoch), ``curves.png``, ``last.pt``
    after every epoch and every few minutes, and ``best.pt`` and ``best.safetensors`` whenever the
    model improves on the validation dataset. Ctrl-C finishes the step, saves ``last.pt`` and
    returns.

    Started by ``torchrun``, all processes train one model: each takes its share of every step, and
    the first one prints and writes.

    Args:
        model: Model to train, in place.
        train: Training dataset. Images for which it raises OSError or UnreadableImageError are
            logged and skipped; see ``max_bad_share``.
        val: Validation dataset.
        config: Settings; its ``recipe`` augments the training images.
        out: Run folder, created if it does not exist.
        resume: Whether to continue from ``last.pt`` in ``out``. On the CPU, with the same number of
            threads and processes, the result is bit for bit that of an uninterrupted run.
            ``"auto"`` resumes if there is something to resume, for jobs that restart themselves.
        log: Called with each line of the report.
        callbacks: Functions called in every process with the name of an event and the `Run`:
            ``"start"``, ``"step"`` after each step, ``"epoch"`` before and ``"evaluated"`` after
            evaluation, ``"saved"`` after writing ``last.pt`` (first process only), ``"end"``.

    Returns:
        The best model and the metrics of every epoch.

    Raises:
        BadLabelsError: Wrong labels; see `check_dataset`.
        ValueError: Datasets that do not fit the model, too many unreadable images, or another
            configuration than that of the run to resume.
        FileNotFoundError: There is no run to resume.
        FileExistsError: ``out`` holds a run, and ``resume`` is False.
        FloatingPointError: The loss became NaN or infinite; the last checkpoint is unharmed.
        MemoryError: Device or host ran out of memory; the message gives advice.
        OSError: The run folder cannot be written.

    Example:
        >>> import tempfile
        >>> from cvlib.data import SyntheticBananas
        >>> from cvlib.models import create_model
        >>> bananas = SyntheticBananas(4, image_size=64)
        >>> model = create_model("tiny_ssd", bananas.classes, image_size=(64, 64))
        >>> config = TrainConfig(epochs=1, batch_size=2, precision="float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit(model, bananas, bananas, config, folder, log=lambda line: None)
        >>> result.finished, len(result.history)
        (True, 1)
    """
    check_trainable("training", train, model)
    check_trainable("validation", val, model)
    device = join_processes(config.device)
    gpus = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(gpus),
        explain_out_of_memory(config),
        _interruptible() as is_interrupted,
    ):
        from_first(lambda: check_labels(train, val, model, config, Path(out), log))
        run = open_run(model, train, config, Path(out), device, resume, log, callbacks)
        run.workers = choose_workers(config.workers, train, val)
        if run.workers and config.workers is None:
            run.log(f"workers: {run.workers} processes load images (change with --workers)")
        with contextlib.closing(MetricsLog(run)) as metrics_log:
            batches = Batches(train, model, config.recipe, config.seed)
            steps = load_batches(batches, run.plan, run.progress.step, run.workers, device)
            run.notify("start")
            while not run.is_over:
                interrupted = train_epoch(run, steps, is_interrupted)
                if not (interrupted and run.steps_done):
                    val = finish_epoch(run, val, metrics_log)
                if interrupted and not run.is_over:
                    save(run)
                    run.log(f"interrupted; --resume continues from {run.out / 'last.pt'}")
                    break
            metrics_log.draw_curves()
        run.notify("end")
        best = restore_best(run) if run.is_over else {}
    return TrainingResult(model, run.progress.history, run.is_over, best)


def train_epoch(run: Run, steps: Iterator[list[Batch]], is_interrupted: Callable[[], bool]) -> bool:
    """Train on the rest of an epoch: all of it, unless the run was resumed in between.

    Returns:
        Whether the run was interrupted.
    """
    progress, device, interrupted = run.progress, run.model.device, False
    set_training_mode(run.model, run.config)
    with tqdm(
        total=run.plan.steps_per_epoch,
        initial=run.steps_done,
        desc=f"epoch {run.epoch + 1}/{run.plan.epochs}",
        unit="step",
        leave=False,
        disable=None if run.is_first else True,
    ) as bar:
        marked = time.perf_counter()
        for _ in range(run.plan.steps_per_epoch - run.steps_done):
            batches = next(steps)
            progress.waiting += time.perf_counter() - marked
            train_step(run, batches)
            is_synchronised = run.meter.is_due(progress.step) or run.steps_done == 0
            if is_synchronised:
                interrupted, bad = run.meter.synchronise(is_interrupted())
                note_unreadable(run, bad)
                losses = {name: f"{value:.3f}" for name, value in run.meter.losses.items()}
                ends = format_time(run.finishing_time())
                bar.set_postfix({**losses, "ends": ends}, refresh=False)
            bar.update()
            if run.steps_done == 0 and device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            progress.seconds, marked = progress.seconds + now - marked, now
            run.notify("step")
            if interrupted:
                break
            is_late = now - run.saved > 60 * run.config.save_minutes
            if is_late and is_synchronised and run.steps_done:  # finish_epoch saves at the end
                save(run)
    return interrupted


def train_step(run: Run, batches: list[Batch]) -> None:
    """Update the weights from the batches of one step."""
    config, optimizer, step = run.config, run.optimizer, run.progress.step
    set_learning_rate(optimizer, schedule(step, run.plan.total_steps, config))
    # Dropout must not depend on earlier random numbers, or a resumed run would differ.
    torch.manual_seed((config.seed * SEED_STRIDE + step) * run.plan.processes + run.plan.rank)
    optimizer.zero_grad()
    for batch in batches:
        images, targets = batch.to(run.model.device)
        is_last = batch.key.is_last  # gradients are averaged over processes once per step
        with contextlib.nullcontext() if is_last else run.accelerator.no_sync(run.forward):
            losses = run.model.loss(run.forward(images), targets)
            total = torch.stack(list(losses.values())).sum()
            run.accelerator.backward(total if batch.key.weight == 1 else total * batch.key.weight)
        run.meter.add(batch, losses)
    if config.clip_norm is not None:
        run.accelerator.clip_grad_norm_(run.model.parameters(), config.clip_norm)
    optimizer.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    run.progress.step += 1


def finish_epoch(run: Run, val: Dataset[Any], metrics_log: MetricsLog) -> Dataset[Any]:
    """Evaluate, log and save; return the readable part of the validation dataset."""
    progress, evaluation, is_best = run.progress, None, False
    check_finite(run)
    run.row = finish_row(run)
    run.notify("epoch")
    if run.is_over or run.end or run.epoch % run.config.eval_every == 0:
        evaluation, val = evaluate_readable(
            run.best_model,
            val,
            run.config.max_bad_share,
            run.log,
            batch_size=EVALUATION_FACTOR * run.config.batch_size,
            workers=run.workers,
        )
        run.row.update(evaluation.as_dict())
        is_best = is_improvement(run, *evaluation.primary)
        run.notify("evaluated")
    progress.ended_early = run.end
    progress.history.append(run.row)
    run.log(describe_epoch(run, evaluation))
    if run.end:
        run.log(f"ended early: {run.end}")
    # Best before last: a run killed in between repeats the epoch and writes both.
    publish(run, is_best)
    metrics_log.write()
    save(run)
    return val


def is_improvement(run: Run, name: str, value: float) -> bool:
    """Whether the model is better than ever; ends the run after too many evaluations without."""
    progress, patience = run.progress, run.config.patience
    if progress.best is None or value > progress.best:
        progress.best, progress.since_best = value, 0
        return True
    progress.since_best += 1
    if patience is not None and progress.since_best >= patience:
        run.end = f"{name} has not improved on {progress.best:.3f} in {patience} evaluations"
    return False


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag; the second one interrupts at once."""
    interrupted = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        print("\nfinishing the step, then saving; Ctrl-C again stops at once", file=sys.stderr)

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread, which alone receives signals
        yield lambda: False
        return
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
