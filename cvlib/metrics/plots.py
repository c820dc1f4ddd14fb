"""Plots of confusion matrices, precision-recall curves and errors by kind."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cvlib.metrics.confusion import ConfusionMatrix
from cvlib.metrics.curves import PrecisionRecall
from cvlib.metrics.errors import KINDS, ErrorSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more classes, numbers and names would be illegible.
_MOST_NUMBERS, _MOST_CURVES = 40, 8
# Size of a matrix cell with and without numbers, in inches.
_CELL, _SMALL_CELL = 0.42, 0.2
_LONGEST_NAME = 28


def plot_confusion(matrix: ConfusionMatrix) -> Image.Image:
    """Plot a confusion matrix, each row divided by its sum.

    Args:
        matrix: Confusion matrix of any meter. Cells show their counts for up to 40 rows; beyond,
            classes that do not occur are left out.

    Returns:
        Image with true classes as rows and predicted classes as columns.

    Example:
        >>> names = ("cat", "dog")
        >>> plot_confusion(ConfusionMatrix(np.array([[8, 2], [1, 9]]), names, names)).mode
        'RGB'
    """
    if len(matrix.rows) > _MOST_NUMBERS:
        matrix = _without_empty(matrix)
    shares = matrix.normalised()
    rows, columns = shares.shape
    has_numbers = rows <= _MOST_NUMBERS
    cell = _CELL if has_numbers else _SMALL_CELL
    row_names, column_names = (
        [_shorten(n) for n in names] for names in (matrix.rows, matrix.columns)
    )
    # 0.08 inches per letter.
    figure = _make_figure(
        1.2 + cell * columns + 0.08 * max(map(len, row_names)),
        0.8 + cell * rows + 0.08 * max(map(len, column_names)),
    )
    axis = figure.subplots()
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(columns), column_names, rotation=90, fontsize=8)
    axis.set_yticks(range(rows), row_names, fontsize=8)
    axis.set(xlabel="predicted", ylabel="truth")
    for r, c in np.ndindex(shares.shape) if has_numbers else ():
        if matrix.counts[r, c]:
            colour = "white" if shares[r, c] > 0.55 else "black"
            text = _format_count(int(matrix.counts[r, c]))
            axis.text(c, r, text, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(drawn, label="share of the row", shrink=0.8, aspect=max(20, 2 * rows))
    return _render(figure)


def plot_precision_recall(curves: Sequence[PrecisionRecall]) -> Image.Image:
    """Plot precision-recall curves.

    Args:
        curves: Curves from `PrecisionRecallMeter`. Up to eight classes have colours and a legend;
            beyond, all are grey. The mean over the classes is black.

    Returns:
        Image of the plot.

    Example:
        >>> line = np.array([1.0])
        >>> plot_precision_recall([PrecisionRecall("cat", 1, line, line, line, 1.0)]).mode
        'RGB'
    """
    figure = _make_figure(6.4, 4.4)
    axis = figure.subplots()
    curves = [curve for curve in curves if curve.objects]
    is_named = len(curves) <= _MOST_CURVES
    for curve in curves:
        # Extended to recall 0, as in interpolated precision.
        recall = np.concatenate([[0], curve.recall])
        precision = np.concatenate([curve.precision[:1], curve.precision])
        label = f"{_shorten(curve.name)}: AP {curve.ap:.3f}, {curve.objects} objects"
        style = {"label": label} if is_named else {"color": "#BBBBBB", "linewidth": 0.7}
        if len(curve.recall):
            axis.plot(recall, precision, **style)
        else:
            axis.plot([], [], **style)
    if len(curves) > 1:
        mean = np.mean([_envelope(curve) for curve in curves], axis=0)
        value = np.mean([curve.ap for curve in curves])
        label = f"mean of {len(curves)} classes: AP {value:.3f}"
        axis.plot(np.linspace(0, 1, 101), mean, color="black", linewidth=1.8, label=label)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    if curves:
        axis.legend(fontsize=8, loc="lower left")
    return _render(figure)


def plot_errors(split: ErrorSplit) -> Image.Image:
    """Plot the number of errors of each kind, and the gain in AP without them.

    Args:
        split: Errors from `ErrorMeter`.

    Returns:
        Image of the plot.

    Example:
        >>> zeros = dict.fromkeys(KINDS, 0)
        >>> plot_errors(ErrorSplit(1.0, zeros, zeros, 0.0, 0.0)).mode
        'RGB'
    """
    ap = "no objects" if split.ap < 0 else f"AP is {split.ap:.3f}"
    figure = _make_figure(9, 3)
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, values, form, title in (
        (left, split.delta_ap, "{:.3f}", f"AP gained without them ({ap})"),
        (right, split.counts, "{:.0f}", "number of errors"),
    ):
        bars = axis.barh(KINDS, [values[kind] for kind in KINDS], color="#56B4E9")
        axis.bar_label(bars, [form.format(values[kind]) for kind in KINDS], padding=3, fontsize=8)
        axis.set(title=title)
        axis.title.set_fontsize(10)
        axis.set_xlim(0, 1.18 * max(values.values()) or 1)
    left.invert_yaxis()
    return _render(figure)


def _envelope(curve: PrecisionRecall) -> np.ndarray:
    """Return the best precision at or beyond each of COCO's recalls."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    place = np.searchsorted(curve.recall, np.linspace(0, 1, 101))
    return np.append(best, 0)[np.minimum(place, len(best))]


def _without_empty(matrix: ConfusionMatrix) -> ConfusionMatrix:
    used = {matrix.rows[i] for i in np.flatnonzero(matrix.counts.any(axis=1))}
    used |= {matrix.columns[i] for i in np.flatnonzero(matrix.counts.any(axis=0))}
    rows = [i for i, name in enumerate(matrix.rows) if name in used]
    columns = [i for i, name in enumerate(matrix.columns) if name in used]
    if not rows:
        return matrix
    return ConfusionMatrix(
        matrix.counts[np.ix_(rows, columns)],
        tuple(matrix.rows[i] for i in rows),
        tuple(matrix.columns[i] for i in columns),
    )


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _format_count(count: int) -> str:
    """Format a count with at most four characters, up to a billion."""
    if count < 10**4:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 10**6 else f"{count / 1e6:.3g}M"


def _make_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _render(figure: Figure) -> Image.Image:
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=110)
    return Image.open(memory).convert("RGB")
