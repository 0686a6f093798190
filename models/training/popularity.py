"""How popular each item was in the week before any day, which a vector then need not encode."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backend import tf
from transformations.timestamps import DAY_US

WEEK = 7
STRENGTH = 50.0
"""Each week's counts are smoothed with this many labels, distributed as all labels before."""
CELLS = 64_000_000
"""Numbers in a table at most (256 MB); with more items, several days share a row."""


@dataclass(frozen=True, eq=False)
class RecentPopularity:
    """Logs of the items' shares of the positive labels, by day.

    Attributes:
        first: The first day, in days since 1970.
        step: Days per row.
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

        Day 0 knows no label, day 1 one of each item. Day 2 knows 1 label of item 1 and 2 of item 2,
        all of them within a week: (1 + 50 · (1 + 1) / (3 + 2)) / (3 + 50) = 0.396.

        >>> days = np.array([0, 0, 1, 2])
        >>> recent = RecentPopularity.count(np.array([1, 2, 2, 2]), days * DAY_US, items=2)
        >>> np.exp(recent.logs[:, 1].astype(float)).round(3).tolist()
        [0.5, 0.5, 0.396]

        Args:
            rows: Rows of the labels' items in the item table, 1 to `items`.
            times: Microseconds since 1970.
            cells: Numbers in the table at most.
        """
        days = times // DAY_US
        first, last = int(days.min()), int(days.max())
        step = math.ceil((last - first + 1) * items / cells)
        counts = np.zeros(((last - first) // step + 1, items + 1), np.float32)
        np.add.at(counts, ((days - first) // step, rows), 1)
        # totals[n]: the labels before row n. A row knows the week before it, not itself.
        totals = np.zeros((len(counts) + 1, items + 1), np.float32)
        np.cumsum(counts, axis=0, out=totals[1:])
        before = totals[:-1]
        week_ago = np.maximum(np.arange(len(counts)) - math.ceil(WEEK / step), 0)
        week = before - totals[week_ago]
        ever = (before + 1.0) / (before.sum(axis=1, keepdims=True) + items)
        share = (week + STRENGTH * ever) / (week.sum(axis=1, keepdims=True) + STRENGTH)
        logs = np.log(share)
        logs[:, 0] = 0.0
        return cls(first, step, logs.astype(np.float32))

    def rows_of(self, days: Any) -> Any:
        """Return the row of each day, int32; days beyond the table have its first or last row."""
        rows = (tf.cast(days, tf.int32) - self.first) // self.step
        return tf.clip_by_value(rows, 0, len(self.logs) - 1)
