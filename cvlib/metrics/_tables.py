"""Shares, means and tables of figures that there may be nothing to measure for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvlib.metrics._objects import Array

# Stands where there is nothing to measure, as in pycocotools.
NOTHING = -1.0


def share(part: Any, whole: Any) -> Array:
    """Divides; ``NOTHING`` where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), NOTHING)


def mean(values: Array) -> float:
    """Over what there is to measure; ``NOTHING`` without any."""
    valid = values[values > NOTHING]
    return float(np.mean(valid)) if len(valid) else NOTHING


def make_table(header: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """Text in columns: names on the left, figures on the right, a dash for ``NOTHING``.

    Args:
        header: Of each column.
        rows: A name and figures; shares are floats.
    """
    lines = [list(header), *([_write(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, figures, widths[1:])])
        for name, *figures in lines
    )


def _write(value: str | int | float) -> str:
    if isinstance(value, float):
        return "-" if value == NOTHING else f"{value:.3f}"
    return str(value)
