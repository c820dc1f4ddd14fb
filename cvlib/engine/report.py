"""Figures of a run: lines, tables and learning curves."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvlib._files import save_json, write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cvlib.engine.run import Run

# Figures that curves are drawn of, where a run has them.
_CURVES = {
    "ap50": "AP50",
    "ap75": "AP75",
    "ap": "AP",
    "mask_ap": "AP of masks",
    "accuracy": "accuracy",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}
# Drawing takes a third of a second: not after every short epoch.
_SECONDS_BETWEEN_CURVES = 60


class Logs:
    """Writes the figures of a run to its folder; in the first process alone.

    Args:
        run: With ``tensorboard`` in its configuration, ``out/tensorboard`` gets events, too; those
            of epochs that are done again replace the old ones.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.writer = run, None
        self._drawn = time.perf_counter()
        if run.config.tensorboard and run.is_first:
            self.writer = _open_tensorboard(run.out / "tensorboard", run.epoch)

    def write(self) -> None:
        """Writes the figures of every epoch so far."""
        history = self.run.progress.history
        if not self.run.is_first:
            return
        write_history(self.run.out, history)
        if self.writer is not None:
            for name, value in history[-1].items():
                self.writer.add_scalar(_tag(name), value, int(history[-1]["epoch"]))
            self.writer.flush()
        if time.perf_counter() - self._drawn > _SECONDS_BETWEEN_CURVES:
            self.finish()

    def finish(self) -> None:
        """Draws the curves."""
        if self.run.is_first and self.run.progress.history:
            plot_history(self.run.out / "curves.png", self.run.progress.history)
            self._drawn = time.perf_counter()

    def close(self) -> None:
        """Closes what is open."""
        if self.writer is not None:
            self.writer.close()


def _open_tensorboard(folder: Path, epochs_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "fit: expected TensorBoard for --tensorboard, got none; pip install tensorboard"
        ) from error
    return SummaryWriter(folder, purge_step=epochs_done + 1 if epochs_done else None)


def _tag(name: str) -> str:
    if name.startswith("loss_"):
        return f"training/{name}"
    return f"{'speed' if name in TIMES else 'validation'}/{name}"


# Columns about time: the only ones that differ between two runs of equal seed.
TIMES = ("images_per_second", "data_wait", "seconds")


def write_history(out: Path, history: Sequence[dict[str, float]]) -> None:
    """Writes ``metrics.csv``, ``metrics.jsonl`` and ``metrics.json``.

    Args:
        out: The run folder.
        history: One row for each epoch; a figure that was not measured stays empty in the table.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "metrics.csv", text.getvalue())
    write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
    save_json(out / "metrics.json", list(history))


def plot_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Writes the learning curves.

    Args:
        path: Of the PNG.
        history: As of `write_history`, with at least one row.
    """
    png = io.BytesIO()
    draw_history(history).savefig(png, dpi=110, format="png")
    write_atomically(path, png.getbuffer())


def draw_history(history: Sequence[dict[str, float]]) -> Figure:
    """Draws the learning curves: losses on the left, figures of the validation on the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in (name for name in history[0] if name.startswith("loss_")):
        left.plot(epochs, [row[name] for row in history], label=f"{name[5:]} loss")
    is_positive = all(row[name] > 0 for row in history for name in row if name[:5] == "loss_")
    left.set(xlabel="epoch", yscale="log" if is_positive else "linear", title="training")
    left.legend()
    for name, label in _CURVES.items():
        measured = [row for row in history if name in row]
        if measured:
            xs, ys = [row["epoch"] for row in measured], [row[name] for row in measured]
            right.plot(xs, ys, marker=".", label=label)
    right.set(xlabel="epoch", ylim=(0, 1.02), title="validation")
    if right.lines:
        right.legend(loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def finish_row(run: Run) -> dict[str, float]:
    """The figures of training in the epoch that is done; the sums start anew."""
    progress, meter = run.progress, run.meter
    images = max(meter.images, 1)
    row = {"epoch": float(run.epoch)}
    row.update({f"loss_{name}": total / images for name, total in meter.sums.items()})
    row["images_per_second"] = images / max(progress.seconds, 1e-9)
    row["data_wait"] = progress.waiting / max(progress.seconds, 1e-9)
    row["seconds"] = progress.seconds
    meter.sums, meter.images = {}, 0
    progress.seconds = progress.waiting = 0.0
    return row


def describe(run: Run, evaluation: object | None) -> str:
    """One clear line about the last epoch."""
    row = run.row
    losses = "  ".join(
        f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_")
    )
    line = (
        f"epoch {row['epoch']:.0f}/{run.plan.epochs}  {losses}  "
        f"{row['images_per_second']:.1f} images/s (waiting for data {row['data_wait']:.0%})"
    )
    if not run.is_over:
        line += f"  ends {format_time(run.finishing_time())}"
    return line if evaluation is None else f"{line}  |  {evaluation}"


def format_time(moment: float, now: float | None = None) -> str:
    """A moment as the clock shows it, with the day when it is not today.

    Example:
        >>> format_time(time.mktime((2030, 1, 2, 13, 5, 0, 0, 0, -1)))
        'Wed 2 Jan 13:05'
    """
    then, today = time.localtime(moment), time.localtime(now)
    clock = time.strftime("%H:%M", then)
    if then[:3] == today[:3]:
        return clock
    return f"{time.strftime('%a', then)} {then.tm_mday} {time.strftime('%b', then)} {clock}"
