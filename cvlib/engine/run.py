"""A training run in progress: what callbacks receive."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cvlib._distributed import gather_objects, sum_over_ranks, world_size
from cvlib.engine.batches import BadImage, Batch
from cvlib.engine.config import TrainConfig
from cvlib.engine.sampling import BatchKey, SamplingPlan
from cvlib.models import Model

if TYPE_CHECKING:
    from accelerate import Accelerator

# Steps between synchronisations on CUDA, which wait for the device.
_STEPS_BETWEEN_SYNCS = 20

History = list[dict[str, float]]
Callback = Callable[[str, "Run"], None]


class LossMeter:
    """Accumulates losses, image counts and requests to stop, and synchronises them now and then.

    Losses stay on the device until `synchronise`, which is the only place where processes exchange
    anything except gradients. All processes must call it at the same steps.

    Attributes:
        sums: Sum of each loss over the images of the epoch.
        images: Number of images in the epoch so far.
        losses: Losses of the last step.
    """

    def __init__(self, device: torch.device, sums: dict[str, float], images: int) -> None:
        self.device, self.sums, self.images = device, sums, images
        self.losses: dict[str, float] = {}
        self._names: list[str] = []
        self._pending: list[Tensor] = []
        # Keys and counts only: the images would stay in memory.
        self._facts: list[tuple[BatchKey, int]] = []
        self._bad: list[BadImage] = []

    def add(self, batch: Batch, losses: dict[str, Tensor]) -> None:
        """Record the losses of one batch."""
        self._names = list(losses)
        self._pending.append(torch.stack(list(losses.values())).detach())
        self._facts.append((batch.key, len(batch.images)))
        self._bad += batch.bad

    def is_due(self, step: int) -> bool:
        """Whether to synchronise after this step, the same in all processes."""
        return self.device.type == "cpu" or step % _STEPS_BETWEEN_SYNCS == 0

    def synchronise(self, wants_to_stop: bool) -> tuple[bool, list[BadImage]]:
        """Sum the recorded losses over all processes.

        Args:
            wants_to_stop: Whether this process was asked to stop.

        Returns:
            Whether any process wants to stop, and the new unreadable images of all processes.

        Raises:
            FloatingPointError: A loss is NaN or infinite; raised in all processes.
        """
        counts = torch.tensor([[count] for _, count in self._facts], dtype=torch.float64)
        values = torch.stack(self._pending).double().cpu()
        table = torch.cat([values, counts], dim=1)
        flags = torch.zeros(1, table.shape[1], dtype=torch.float64)
        flags[0, 0], flags[0, 1] = wants_to_stop, len(self._bad)
        # On the device, because NCCL only reduces there.
        total = sum_over_ranks(torch.cat([table, flags]).to(self.device)).cpu()
        rows = total[:-1].tolist()
        self.losses = dict.fromkeys(self._names, 0.0)
        for (key, _), row in zip(self._facts, rows, strict=True):
            images = row.pop()
            losses = {n: v / world_size() for n, v in zip(self._names, row, strict=True)}
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(
                    f"fit: expected finite losses, got {losses} at step {key.step}; lower the "
                    "learning rate; the checkpoints of earlier epochs are unharmed"
                )
            self.images += int(images)
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * images
                if key.step == self._facts[-1][0].step:
                    self.losses[name] += value * key.weight
        stop, count = total[-1, :2].tolist()
        bad = [image for part in gather_objects(self._bad) for image in part] if count else []
        self._pending, self._facts, self._bad = [], [], []
        return stop > 0, bad


@dataclass
class Progress:
    """State of a run that checkpoints store in addition to weights and optimizer.

    Attributes:
        dataset_size: Number of images in the training dataset.
        precision: Precision of the run.
        step: Number of finished steps.
        sums: Sum of each loss over the images of the epoch.
        images: Number of images in the epoch so far.
        seconds: Seconds of training in the epoch so far.
        waiting: Seconds of them spent waiting for data.
        elapsed: Seconds of the run so far, evaluation included.
        history: Metrics of the finished epochs.
        best: Best value of the primary metric.
        since_best: Number of evaluations since then.
        bad: Unreadable training images, with reasons.
        ended_early: Reason for ending early, if the run did.
    """

    dataset_size: int
    precision: str = "float32"
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    elapsed: float = 0.0
    history: History = field(default_factory=list)
    best: float | None = None
    since_best: int = 0
    bad: list[BadImage] = field(default_factory=list)
    ended_early: str = ""


@dataclass
class Run:
    """A training run in progress. Callbacks receive it together with the name of the event.

    Attributes:
        model: The unwrapped float32 model being trained.
        forward: The model as steps call it: in the precision of the run, on all processes.
        average: Moving average of the weights, with ``ema``.
        optimizer: The optimizer; its groups have ``lr`` and ``peak_lr``.
        accelerator: Accelerator of the library accelerate.
        config: Settings.
        plan: Assignment of images to steps.
        out: Run folder.
        progress: State that checkpoints store.
        meter: Losses; ``meter.losses`` are those of the last step.
        log: Logs a line, in the first process only.
        callbacks: Functions called in every process.
        workers: Number of worker processes that load images.
        row: Metrics of the last epoch.
        end: Set it to a reason, in every process, to end the run after the epoch.
    """

    model: Model
    forward: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    config: TrainConfig
    plan: SamplingPlan
    out: Path
    progress: Progress
    meter: LossMeter
    log: Callable[[str], None]
    callbacks: Sequence[Callback] = ()
    workers: int = 0
    row: dict[str, float] = field(default_factory=dict)
    end: str = ""
    started: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
        return self.progress.step // self.plan.steps_per_epoch

    @property
    def steps_done(self) -> int:
        """Number of finished steps in the epoch."""
        return self.progress.step % self.plan.steps_per_epoch

    @property
    def best_model(self) -> Model:
        """The model to evaluate: the average of the weights if there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def is_over(self) -> bool:
        """Whether all epochs are finished, or the run has ended early."""
        return bool(self.progress.ended_early) or self.progress.step >= self.plan.total_steps

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, not counting interruptions."""
        return self.progress.elapsed + time.perf_counter() - self.started

    def notify(self, event: str) -> None:
        """Call every callback."""
        for callback in self.callbacks:
            callback(event, self)

    def finishing_time(self, now: float | None = None) -> float:
        """Projected end of the run in seconds since 1970, at the average speed so far.

        Args:
            now: Current time, by default that of the clock.
        """
        done, total = self.progress.step, self.plan.total_steps
        now = time.time() if now is None else now
        return now + self.elapsed / max(1, done) * (total - done)
