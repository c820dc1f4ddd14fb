"""The training loop: one file, read from top to bottom."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from cvlib.data import collate
from cvlib.data.augment import augment_batch
from cvlib.engine.checkpoint import load_checkpoint, save_checkpoint, save_json
from cvlib.engine.config import TrainConfig
from cvlib.engine.device import choose_device
from cvlib.engine.evaluation import Evaluation, check_image_size, evaluate
from cvlib.engine.optim import make_optimizers
from cvlib.engine.report import write_history
from cvlib.models import TinySSD
from cvlib.targets import assign_targets, check_targets

History = list[dict[str, float]]


@dataclass
class TrainingResult:
    """What a run has given.

    Attributes:
        model: With the weights of the best epoch by AP.
        history: One row of figures for each epoch.
        finished: False when the run was interrupted.
        best: Evaluation figures of the best epoch.
    """

    model: TinySSD
    history: History
    finished: bool
    best: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """What a resumed run has to know beside weights and optimiser."""

    pictures: int = 0
    step: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=list)
    best_ap: float = -2.0
    precision: str = "float32"


def fit(
    model: TinySSD,
    train: Dataset,
    val: Dataset,
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> TrainingResult:
    """Trains a model and writes a run folder.

    The folder gets ``config.json``, ``metrics.csv``, ``metrics.json``, ``last.pt`` after every
    epoch and ``best.pt`` whenever AP on the validation set is higher than before. Ctrl-C finishes
    the step, saves ``last.pt`` and returns.

    Args:
        model: To train, in place.
        train: Training set; its samples are stacked by `collate`.
        val: Validation set.
        config: Settings.
        out: The run folder; made when it is not there.
        resume: Go on from ``last.pt`` in ``out``; on the CPU, with the same number of threads, the
            result is bit for bit that of an undisturbed run.
        say: Called with each line of report.

    Returns:
        The best model and the figures of every epoch.

    Raises:
        ValueError: Wrong labels, another configuration than that of the run to resume.
        FileNotFoundError: Nothing to resume.
        FileExistsError: ``out`` holds a run already, and ``resume`` is False.
        FloatingPointError: The loss has become NaN or infinite; the last checkpoint stays.
        OSError: The run folder cannot be written.

    Example:
        >>> import tempfile
        >>> from cvlib.data import SyntheticBananas
        >>> bananas = SyntheticBananas(4, image_size=64)
        >>> model = TinySSD(bananas.classes, image_size=(64, 64))
        >>> config = TrainConfig(epochs=1, batch_size=2, precision="float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit(model, bananas, bananas, config, folder, say=lambda line: None)
        >>> result.finished, len(result.history)
        (True, 1)
    """
    out = Path(out)
    for name, dataset in (("training", train), ("validation", val)):
        if not len(dataset):  # type: ignore[arg-type]
            raise ValueError(f"fit: expected at least one {name} picture, got an empty set")
    if not resume and (out / "last.pt").exists():
        raise FileExistsError(f"fit: {out} holds a run already; resume it or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    device = choose_device(config.device)
    size: int = len(train)  # type: ignore[arg-type]
    model.to(device).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(
        model, config.learning_rate, config.muon_learning_rate, config.weight_decay
    )
    progress = Progress(pictures=size)
    if resume:
        progress = restore(out / "last.pt", model, optimizers, config, size)
    else:
        progress.precision = choose_precision(model, config, device, say)
        save_json(out / "config.json", config.as_dict())
    steps_per_epoch, epochs = math.ceil(size / config.batch_size), config.epochs_for(size)
    with interruptible() as is_interrupted:
        for epoch in range(progress.step // steps_per_epoch, epochs):
            train_epoch(model, train, optimizers, config, progress, epoch, is_interrupted)
            if is_interrupted() and progress.step < (epoch + 1) * steps_per_epoch:
                save_checkpoint(out / "last.pt", snapshot(model, optimizers, config, progress))
                say(f"interrupted in epoch {epoch + 1}; resume goes on from {out / 'last.pt'}")
                return TrainingResult(model, progress.history, finished=False)
            check_finite(model, progress)
            last = epoch + 1 == epochs
            row = finish_epoch(progress, epoch)
            if last or (epoch + 1) % config.eval_every == 0:
                evaluation = evaluate(model, val)
                row.update(evaluation.as_dict())
            progress.history.append(row)
            say(describe(row, epochs, evaluation if "ap" in row else None))
            is_best = row.get("ap", -2.0) > progress.best_ap
            progress.best_ap = max(progress.best_ap, row.get("ap", -2.0))
            state = snapshot(model, optimizers, config, progress)
            # Best before last: killed in between, the epoch is done again and gives both.
            if is_best:
                published = {name: state[name] for name in PUBLISHED}
                save_checkpoint(out / "best.pt", published | {"figures": row})
            write_history(out, progress.history)
            save_checkpoint(out / "last.pt", state)
            if is_interrupted() and not last:
                say(f"interrupted after epoch {epoch + 1}; resume goes on from there")
                return TrainingResult(model, progress.history, finished=False)
    best = load_checkpoint(out / "best.pt", device)
    model.load_state_dict(best["model"])
    return TrainingResult(model, progress.history, finished=True, best=best["figures"])


def train_epoch(
    model: TinySSD,
    dataset: Dataset,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    progress: Progress,
    epoch: int,
    is_interrupted: Callable[[], bool],
) -> None:
    """Trains on the rest of an epoch: all of it, unless the run was resumed in its middle."""
    order = epoch_order(len(dataset), config, epoch)  # type: ignore[arg-type]
    done = progress.step - epoch * len(order)
    loader = DataLoader(
        dataset, batch_sampler=order[done:], collate_fn=collate, num_workers=config.workers
    )
    device = model.device
    epochs = config.epochs_for(len(dataset))  # type: ignore[arg-type]
    total = epochs * len(order)
    model.train()
    bar = tqdm(
        total=len(order),
        initial=done,
        desc=f"epoch {epoch + 1}/{epochs}",
        unit="batch",
        leave=False,
        disable=None,
    )
    start = waited_from = time.perf_counter()
    with bar:
        for images, targets in loader:
            progress.waiting += time.perf_counter() - waited_from
            set_learning_rate(optimizers, schedule(progress.step, total, config.warmup))
            losses = train_step(model, optimizers, images, targets, config, progress)
            for name, value in losses.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value * len(images)
            progress.images += len(images)
            progress.step += 1
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            waited_from = time.perf_counter()
            if is_interrupted():
                break
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    progress.seconds += time.perf_counter() - start


def train_step(
    model: TinySSD,
    optimizers: list[torch.optim.Optimizer],
    images: Tensor,
    targets: dict[str, Tensor],
    config: TrainConfig,
    progress: Progress,
) -> dict[str, float]:
    """Learns from one batch; gives the values of the losses."""
    device = model.device
    boxes, labels = targets["boxes"], targets["labels"]
    size = (images.shape[2], images.shape[3])
    check_image_size("fit", size, model)
    # Before augmentation, which would clip a wrong box into a right one.
    check_targets(boxes, labels, model.num_classes, size)
    if config.augment:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + progress.step)
        images, boxes, labels = augment_batch(images, boxes, labels, generator)
    images = images.to(device, memory_format=torch.channels_last)
    with torch.autocast(
        device.type, torch.bfloat16, enabled=progress.precision == "bfloat16", cache_enabled=True
    ):
        raw = model(images)
    assigned = assign_targets(raw.anchors, boxes.to(device), labels.to(device), size)
    losses = model.loss(raw, assigned, config.loss)
    total = torch.stack(list(losses.values())).sum()
    model.zero_grad(set_to_none=True)
    total.backward()
    values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
    if not all(map(math.isfinite, values.values())):
        raise FloatingPointError(
            f"fit: the loss is {values} at step {progress.step}; lower the learning rates (now "
            f"{config.learning_rate} and {config.muon_learning_rate}); the checkpoints of earlier "
            "epochs are unharmed"
        )
    for optimizer in optimizers:
        optimizer.step()
    return values


def check_finite(model: TinySSD, progress: Progress) -> None:
    """Raises FloatingPointError when a step has broken the weights, before they are saved."""
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"fit: NaN or infinite values in {', '.join(broken[:3])} after step {progress.step}; "
            "lower the learning rates; the checkpoints of earlier epochs are unharmed"
        )


def schedule(step: int, total: int, warmup: float) -> float:
    """The learning rate as a share of its peak: a linear rise, then half a cosine down to 0."""
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Sets every group to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def epoch_order(size: int, config: TrainConfig, epoch: int) -> list[list[int]]:
    """Indices of every batch of an epoch: the same for the same seed, whatever went before."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(size, generator=generator)
    return [batch.tolist() for batch in order.split(config.batch_size)]


def choose_precision(
    model: TinySSD, config: TrainConfig, device: torch.device, say: Callable[[str], None]
) -> str:
    """Times forward and backward in both precisions on this machine and takes the faster one."""
    if config.precision != "auto":
        return config.precision
    trial = copy.deepcopy(model).train()
    images = torch.rand(config.batch_size, 3, *model.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)

    def run(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            raw = trial(images)
        (raw.class_logits.sum() + raw.offsets.sum()).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    run(False), run(True)
    pairs = [(run(False), run(True)) for _ in range(5)]
    ratio = sorted(float32 / bfloat16 for float32, bfloat16 in pairs)[len(pairs) // 2]
    chosen = "bfloat16" if ratio > 1 else "float32"
    say(f"precision: {chosen} (a step in bfloat16 is {ratio:.2f} times as fast as in float32 here)")
    return chosen


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag; the second one stops at once."""
    interrupted = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        print("\nfinishing the step, then saving; Ctrl-C again stops at once", file=sys.stderr)

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: nobody can press Ctrl-C for it
        yield lambda: False
        return
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


# Settings that do not change what is learnt.
FREE_ON_RESUME = ("workers", "eval_every", "device")
# What best.pt holds: enough to predict.
PUBLISHED = ("model", "classes", "image_size", "config")


def snapshot(
    model: TinySSD, optimizers: list[torch.optim.Optimizer], config: TrainConfig, progress: Progress
) -> dict[str, Any]:
    """Everything that a resumed run needs, as plain values and tensors."""
    return {
        "model": model.state_dict(),
        "classes": list(model.classes),
        "image_size": list(model.image_size),
        "config": config.as_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": vars(progress),
    }


def restore(
    path: Path,
    model: TinySSD,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    pictures: int,
) -> Progress:
    """Puts a snapshot back; refuses one of another configuration, model or training set."""
    state = load_checkpoint(path, model.device)
    progress = Progress(**state["progress"])
    new = config.as_dict()
    changed = {
        name: (old, new.get(name))
        for name, old in state["config"].items()
        if name not in FREE_ON_RESUME and old != new.get(name)
    }
    if changed:
        text = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in changed.items())
        raise ValueError(
            f"fit: expected the configuration of the run to resume ({path}), but {text}; start "
            "anew in another folder, or give the old settings"
        )
    facts = {
        "classes": (state["classes"], list(model.classes)),
        "image_size": (state["image_size"], list(model.image_size)),
        "number of training pictures": (progress.pictures, pictures),
    }
    for name, (old, now) in facts.items():
        if old != now:
            raise ValueError(f"fit: expected {name} {old} as in {path}, got {now}")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return progress


def finish_epoch(progress: Progress, epoch: int) -> dict[str, float]:
    """The epoch's row of figures; the sums start anew."""
    images = max(progress.images, 1)
    row = {"epoch": float(epoch + 1)}
    row.update({f"loss_{name}": total / images for name, total in progress.sums.items()})
    row["images_per_second"] = images / max(progress.seconds, 1e-9)
    row["data_wait"] = progress.waiting / max(progress.seconds, 1e-9)
    row["seconds"] = progress.seconds
    progress.sums, progress.images = {}, 0
    progress.seconds = progress.waiting = 0.0
    return row


def describe(row: dict[str, float], epochs: int, evaluation: Evaluation | None) -> str:
    """One clear line."""
    losses = "  ".join(
        f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_")
    )
    line = (
        f"epoch {row['epoch']:.0f}/{epochs}  {losses}  {row['images_per_second']:.1f} images/s "
        f"(waiting for data {row['data_wait']:.0%})"
    )
    return line if evaluation is None else f"{line}  |  {evaluation}"
