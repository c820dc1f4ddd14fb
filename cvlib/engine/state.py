"""A run while it goes on: what callbacks see."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cvlib.engine.batches import BadPicture
from cvlib.engine.config import TrainConfig
from cvlib.engine.meter import Meter
from cvlib.engine.sampling import Plan
from cvlib.models import Model

if TYPE_CHECKING:
    from accelerate import Accelerator

History = list[dict[str, float]]
Callback = Callable[[str, "Run"], None]


@dataclass
class Progress:
    """What a resumed run has to know beside weights and optimiser.

    Attributes:
        pictures: In the training set.
        precision: That was chosen.
        step: Steps done.
        sums: Of the losses of the epoch so far, times pictures.
        images: Pictures of the epoch so far.
        seconds: Of training in the epoch so far.
        waiting: Seconds of them spent waiting for data.
        elapsed: Seconds of the run so far, evaluation included.
        history: Figures of the epochs that are done.
        best: The best value of the figure that is looked at.
        since_best: Evaluations since then.
        bad: Unreadable training pictures, with reasons.
        ended_early: Why, where the run did.
    """

    pictures: int
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
    bad: list[BadPicture] = field(default_factory=list)
    ended_early: str = ""


@dataclass
class Run:
    """A run while it goes on. Callbacks get it beside the name of the event.

    Attributes:
        model: That is trained; in float32, outside of whatever wraps it.
        forward: Calls the model as steps do: in the precision of the run, on all processes.
        average: Of the weights, with ``ema``.
        optimizer: Its groups have ``lr`` and ``peak_lr``.
        accelerator: Of the library accelerate.
        config: Settings.
        plan: Which pictures make which step.
        out: The run folder.
        progress: What is saved.
        meter: Losses; ``meter.losses`` are those of the last step.
        say: Writes a line of report, in the first process alone.
        callbacks: Called in every process.
        workers: Processes that load pictures beside this one.
        row: Figures of the last epoch.
        end: Set it to a reason, in every process, and the run ends after the epoch.
    """

    model: Model
    forward: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    config: TrainConfig
    plan: Plan
    out: Path
    progress: Progress
    meter: Meter
    say: Callable[[str], None]
    callbacks: Sequence[Callback] = ()
    workers: int = 0
    row: dict[str, float] = field(default_factory=dict)
    end: str = ""
    started: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)

    @property
    def is_first(self) -> bool:
        """Says whether this process is the one that prints and writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.progress.step // self.plan.steps_per_epoch

    @property
    def steps_done(self) -> int:
        """Of the epoch."""
        return self.progress.step % self.plan.steps_per_epoch

    @property
    def best_model(self) -> Model:
        """What is evaluated: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def is_over(self) -> bool:
        """Says whether all epochs are done, or the run has ended early."""
        return bool(self.progress.ended_early) or self.progress.step >= self.plan.total_steps

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, without the time between interruption and resumption."""
        return self.progress.elapsed + time.perf_counter() - self.started

    def tell(self, event: str) -> None:
        """Calls every callback."""
        for callback in self.callbacks:
            callback(event, self)

    def finishing_time(self, now: float | None = None) -> float:
        """The projected end, in seconds since 1970: every step to come takes as long as those done.

        Args:
            now: Instead of the clock's time.
        """
        done, total = self.progress.step, self.plan.total_steps
        now = time.time() if now is None else now
        return now + self.elapsed / max(1, done) * (total - done)
