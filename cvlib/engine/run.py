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

from cvlib.engine.batches import BadImage
from cvlib.engine.config import TrainConfig
from cvlib.engine.sampling import Plan
from cvlib.models import Model

if TYPE_CHECKING:
    from accelerate import Accelerator
import math

from torch import Tensor

from cvlib._distributed import gather_objects, sum_over_ranks, world_size
from cvlib.engine.batches import Batch
from cvlib.engine.sampling import Key

# Steps between two looks at the losses on CUDA: looking waits for the device.
LOOK_EVERY = 20


class Meter:
    """Collects losses, images and requests to stop, and adds them up now and then.

    Losses stay on the device until `look`, which is the only place where processes talk to each
    other about anything but gradients. It must be called at the same steps in all of them.

    Attributes:
        sums: Of each loss, times images.
        images: Images of the epoch so far.
        losses: Of the last step.
    """

    def __init__(self, device: torch.device, sums: dict[str, float], images: int) -> None:
        self.device, self.sums, self.images = device, sums, images
        self.losses: dict[str, float] = {}
        self._names: list[str] = []
        self._pending: list[Tensor] = []
        # Without their images, which would be kept in memory.
        self._facts: list[tuple[Key, int]] = []
        self._bad: list[BadImage] = []

    def add(self, batch: Batch, losses: dict[str, Tensor]) -> None:
        """Notes the losses of one batch."""
        self._names = list(losses)
        self._pending.append(torch.stack(list(losses.values())).detach())
        self._facts.append((batch.key, len(batch.images)))
        self._bad += batch.bad

    def is_due(self, step: int) -> bool:
        """Says whether it is time for `look`, the same in all processes."""
        return self.device.type == "cpu" or step % LOOK_EVERY == 0

    def look(self, wants_to_stop: bool) -> tuple[bool, list[BadImage]]:
        """Adds up what has been noted.

        Args:
            wants_to_stop: Whether this process was asked to.

        Returns:
            Whether any process wants to stop, and new unreadable images of all of them.

        Raises:
            FloatingPointError: A loss is NaN or infinite; in all processes alike.
        """
        counts = torch.tensor([[count] for _, count in self._facts], dtype=torch.float64)
        values = torch.stack(self._pending).double().cpu()
        table = torch.cat([values, counts], dim=1)
        flags = torch.zeros(1, table.shape[1], dtype=torch.float64)
        flags[0, 0], flags[0, 1] = wants_to_stop, len(self._bad)
        # On the device: NCCL knows no other place.
        total = sum_over_ranks(torch.cat([table, flags]).to(self.device)).cpu()
        rows = total[:-1].tolist()
        self.losses = dict.fromkeys(self._names, 0.0)
        for (key, _), row in zip(self._facts, rows, strict=True):
            images = row.pop()
            found = {n: v / world_size() for n, v in zip(self._names, row, strict=True)}
            if not all(map(math.isfinite, found.values())):
                raise FloatingPointError(
                    f"fit: the loss is {found} at step {key.step}; lower the learning rate; the "
                    "checkpoints of earlier epochs are unharmed"
                )
            self.images += int(images)
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + value * images
                if key.step == self._facts[-1][0].step:
                    self.losses[name] += value * key.weight
        stop, count = total[-1, :2].tolist()
        bad = [one for part in gather_objects(self._bad) for one in part] if count else []
        self._pending, self._facts, self._bad = [], [], []
        return stop > 0, bad


History = list[dict[str, float]]
Callback = Callable[[str, "Run"], None]


@dataclass
class Progress:
    """What a resumed run has to know beside weights and optimiser.

    Attributes:
        dataset_size: Number of images in the training set.
        precision: That was chosen.
        step: Steps done.
        sums: Of the losses of the epoch so far, times images.
        images: Images of the epoch so far.
        seconds: Of training in the epoch so far.
        waiting: Seconds of them spent waiting for data.
        elapsed: Seconds of the run so far, evaluation included.
        history: Figures of the epochs that are done.
        best: The best value of the figure that is looked at.
        since_best: Evaluations since then.
        bad: Unreadable training images, with reasons.
        ended_early: Why, where the run did.
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
    """A run while it goes on. Callbacks get it beside the name of the event.

    Attributes:
        model: That is trained; in float32, outside of whatever wraps it.
        forward: Calls the model as steps do: in the precision of the run, on all processes.
        average: Of the weights, with ``ema``.
        optimizer: Its groups have ``lr`` and ``peak_lr``.
        accelerator: Of the library accelerate.
        config: Settings.
        plan: Which images make which step.
        out: The run folder.
        progress: What is saved.
        meter: Losses; ``meter.losses`` are those of the last step.
        log: Writes a line of report, in the first process alone.
        callbacks: Called in every process.
        workers: Processes that load images beside this one.
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
    log: Callable[[str], None]
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

    def notify(self, event: str) -> None:
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
