"""Figures of a run as files: CSV, JSON and learning curves."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cvlib.engine.checkpoint import save_json, write_text


def write_history(out: Path, history: list[dict[str, float]]) -> None:
    """Writes ``metrics.csv`` and ``metrics.json``.

    Args:
        out: The run folder.
        history: One row for each epoch; a figure that was not measured stays empty.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "metrics.csv", text.getvalue())
    save_json(out / "metrics.json", history)


def plot_history(path: Path, history: list[dict[str, float]]) -> None:
    """Draws the learning curves: losses on the left, average precision on the right.

    Args:
        path: Of the PNG.
        history: As of `write_history`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in (name for name in history[0] if name.startswith("loss_")):
        left.plot(epochs, [row[name] for row in history], label=f"{name[5:]} loss")
    is_positive = all(row[name] > 0 for row in history for name in row if name[:5] == "loss_")
    left.set(xlabel="epoch", yscale="log" if is_positive else "linear", title="training")
    left.legend()
    measured = [row for row in history if "ap" in row]
    for name, label in (("ap50", "AP50"), ("ap75", "AP75"), ("ap", "AP")):
        xs = [row["epoch"] for row in measured]
        right.plot(xs, [row[name] for row in measured], marker=".", label=label)
    right.set(xlabel="epoch", ylim=(0, 1.02), title="validation")
    right.legend(loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
