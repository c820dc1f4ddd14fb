"""What was taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvlib.metrics._objects import Array


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often an object, a pixel or a picture of one class was taken for one of another.

    Attributes:
        counts: Shape (R, C), int64: row is the truth, column what was predicted.
        rows: Names of the rows.
        columns: Names of the columns.
    """

    counts: Array
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def normalised(self) -> Array:
        """Shape (R, C), float64: each row as shares of its sum; 0 where there is nothing."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.divide(self.counts, totals, out=np.zeros(self.counts.shape), where=totals > 0)

    def worst(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The commonest confusions: (truth, predicted, how often), the most frequent first.

        Args:
            count: How many at most.
        """
        wrong = self.counts.copy()
        for row, name in enumerate(self.rows):
            wrong[row, [column for column, other in enumerate(self.columns) if other == name]] = 0
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        cells = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.rows[r], self.columns[c], int(wrong[r, c])) for r, c in cells if wrong[r, c]]
