"""Report of a run: log lines, tables of metrics and learning curves."""

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

# Metrics to plot, if a run has them.
_CURVES = {
    "ap50": "AP50",
    "ap75": "AP75",
    "ap": "AP",
    "mask_ap": "AP of masks",
    "accuracy": "accuracy",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}
# Drawing takes a third of a second, too long for every short epoch.
_SECONDS_BETWEEN_CURVES = 60


class MetricsLog:
    """Writes the metrics of a run to its folder, in the first process only.

    Args:
        run: The run. With ``tensorboard`` in its configuration, events go to ``out/tensorboard``;
            those of repeated epochs replace the old ones.

    Raises:
        ImportError: TensorBoard is requested but not installed.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.writer = run, None
        self._drawn = time.perf_counter()
        if run.config.tensorboard and run.is_first:
            self.writer = _open_tensorboard(run.out / "tensorboard", run.epoch)

    def write(self) -> None:
        """Write the metrics of every epoch so far."""
        history = self.run.progress.history
        if not self.run.is_first:
            return
        write_history(self.run.out, history)
        if self.writer is not None:
            for name, value in history[-1].items():
                self.writer.add_scalar(_tag(name), value, int(history[-1]["epoch"]))
            self.writer.flush()
        if time.perf_counter() - self._drawn > _SECONDS_BETWEEN_CURVES:
            self.draw_curves()

    def draw_curves(self) -> None:
        """Draw the learning curves."""
        if self.run.is_first and self.run.progress.history:
            plot_history(self.run.out / "curves.png", self.run.progress.history)
            self._drawn = time.perf_counter()

    def close(self) -> None:
        """Close the TensorBoard writer."""
        if self.writer is not None:
            self.writer.close()


def _open_tensorboard(folder: Path, epochs_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "fit: expected TensorBoard to be installed for `tensorboard`; pip install tensorboard"
        ) from error
    return SummaryWriter(folder, purge_step=epochs_done + 1 if epochs_done else None)


def _tag(name: str) -> str:
    if name.startswith("loss_"):
        return f"training/{name}"
    return f"{'speed' if name in TIMES else 'validation'}/{name}"


# Columns about time, the only ones that differ between runs of equal seed.
TIMES = ("images_per_second", "data_wait", "seconds")


def write_history(out: Path, history: Sequence[dict[str, float]]) -> None:
    """Write ``metrics.csv``, ``metrics.jsonl`` and ``metrics.json``.

    Args:
        out: The run folder.
        history: Metrics of each epoch; missing ones are empty in the table.
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
    """Write the learning curves.

    Args:
        path: PNG file.
        history: Metrics of each epoch, at least one.
    """
    png = io.BytesIO()
    draw_history(history).savefig(png, dpi=110, format="png")
    write_atomically(path, png.getbuffer())


def draw_history(history: Sequence[dict[str, float]]) -> Figure:
    """Draw the learning curves: losses on the left, validation metrics on the right."""
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
    """Training metrics of the finished epoch; resets the sums."""
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


def describe_epoch(run: Run, evaluation: object | None) -> str:
    """Log line about the last epoch."""
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
    """Time of day, with the date if it is not today.

    Example:
        >>> format_time(time.mktime((2030, 1, 2, 13, 5, 0, 0, 0, -1)))
        'Wed 2 Jan 13:05'
    """
    then, today = time.localtime(moment), time.localtime(now)
    clock = time.strftime("%H:%M", then)
    if then[:3] == today[:3]:
        return clock
    return f"{time.strftime('%a', then)} {then.tm_mday} {time.strftime('%b', then)} {clock}"
