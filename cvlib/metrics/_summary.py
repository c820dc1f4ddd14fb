"""Shares, means and tables, in which -1 marks values that are undefined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvlib.metrics._packing import Array

# Value of a metric without objects, as in pycocotools.
UNDEFINED = -1.0


def share(part: Any, total: Any) -> Array:
    """Divide, with ``UNDEFINED`` where ``total`` is 0."""
    return np.where(total > 0, part / np.maximum(total, 1), UNDEFINED)


def mean(values: Array) -> float:
    """Return the mean of the defined values, or ``UNDEFINED`` without any."""
    valid = values[values > UNDEFINED]
    return float(np.mean(valid)) if len(valid) else UNDEFINED


def make_table(header: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    """Format rows as text: names left-aligned, numbers right-aligned, ``UNDEFINED`` as a dash.

    Args:
        header: Title of each column.
        rows: A name and numbers; floats are rounded to three decimals.
    """
    lines = [list(header), *([_format(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])
        for name, *numbers in lines
    )


def _format(value: str | int | float) -> str:
    if isinstance(value, float):
        return "-" if value == UNDEFINED else f"{value:.3f}"
    return str(value)
