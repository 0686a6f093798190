"""How popular each item was in the week before any day: what a vector need not spend itself on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import tf
from models.sequences import DAY

WEEK = 7
STRENGTH = 50.0
"""Positive labels by the popularity of all time that each week's counts are smoothed with."""
CELLS = 64_000_000
"""Numbers a table may hold (256 MB): days are taken several at a time for more items than that."""


@dataclass(frozen=True, eq=False)
class RecentPopularity:
    """Logs of the items' shares of the positive labels, by day.

    Attributes:
        first: The first day, in days since 1970.
        step: Days that share a row.
        logs: float32 [rows, items + 1]; the first column, of PAD, is 0.
    """

    first: int
    step: int
    logs: NDArray[np.float32]

    @classmethod
    def count(
        cls, rows: NDArray[np.integer], times: NDArray[np.int64], items: int, cells: int = CELLS
    ) -> "RecentPopularity":
        """Count positive labels.

        Args:
            rows: Of the labels' items in the item table, 1 to `items`.
            times: Microseconds since 1970.
        """
        days = times // DAY
        first, last = int(days.min()), int(days.max())
        step = -(-(last - first + 1) * items // cells)
        counts = np.zeros(((last - first) // step + 1, items + 1), np.float32)
        np.add.at(counts, ((days - first) // step, rows), 1)
        # A row knows what came before its first day: the rows of the week before, not itself.
        before = np.zeros((len(counts) + 1, items + 1), np.float32)
        np.cumsum(counts, axis=0, out=before[1:])
        whole = before[:-1]
        week = whole - before[np.maximum(np.arange(len(counts)) - -(-WEEK // step), 0)]
        ever = (whole + 1.0) / (whole.sum(axis=1, keepdims=True) + items)
        share = (week + STRENGTH * ever) / (week.sum(axis=1, keepdims=True) + STRENGTH)
        logs = np.log(share)
        logs[:, 0] = 0.0
        return cls(first, step, logs.astype(np.float32))

    def rows_of(self, days: Any) -> Any:
        """Return the row of each day, int32; days beyond the table have its ends."""
        places = (tf.cast(days, tf.int32) - self.first) // self.step
        return tf.clip_by_value(places, 0, len(self.logs) - 1)
