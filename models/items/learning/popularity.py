"""How popular and how old each item was at a time: what an item's vector need not say."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.items.protocol import Behaviour
from transformations.timestamps import DAY_US

SPANS = (7, 28, 90)
"""Days of the recent counts."""
N_FEATURES = len(SPANS) + 3
CELLS = 32_000_000
"""Numbers in the table at most (128 MB); with more items or years, several days share a row."""
YOUNG_DAYS = 7.0
NEVER = np.iinfo(np.int64).max
"""Since when an item is known that is never to be predicted."""


@dataclass(frozen=True, eq=False)
class PopularityByDay:
    """Counts of positive actions before the start of each row, which spans `step` days.

    Attributes:
        first: The first row's day, in days since 1970.
        step: Days per row.
        before: int32 [rows, items].
        known_since: Days since 1970, with a fraction, float64 [items].
    """

    first: int
    step: int
    before: NDArray[np.int32]
    known_since: NDArray[np.float64]

    @classmethod
    def count(
        cls, behaviour: Behaviour, known_since: NDArray[np.int64], cells: int = CELLS
    ) -> Self:
        """Count the positive actions of some behaviour, which must not be empty.

        Args:
            known_since: Microseconds since 1970 at which each item was there, int64 [items]; or
                NEVER.
            cells: Numbers in the table at most.
        """
        positive = behaviour.signs > 0
        days = behaviour.timestamps // DAY_US
        first, last = int(days.min()), int(days.max())
        n_items = len(known_since)
        step = -(-(last - first + 1) * n_items // cells)
        counts = np.zeros(((last - first) // step + 2, n_items), np.int32)
        rows = (days[positive] - first) // step + 1  # counted from the next row on
        np.add.at(counts, (rows, behaviour.items[positive]), 1)
        np.cumsum(counts, axis=0, out=counts)
        return cls(first, step, counts, known_since / DAY_US)

    @property
    def n_items(self) -> int:
        """How many items it counts."""
        return len(self.known_since)

    @cached_property
    def n_candidates(self) -> int:
        """How many of them may be predicted once they are known."""
        return int((self.known_since < float(NEVER) / DAY_US).sum())

    def rows_of(self, timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each time."""
        rows = (timestamps // DAY_US - self.first) // self.step
        return np.clip(rows, 0, len(self.before) - 1)

    def features(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logs of 1 + the counts of 7, 28, 90 days and all, log age, and whether it is new.

        `rows` and `items` broadcast; the features are the last axis.
        """
        now = self.before[rows, items]
        counts = [
            now - self.before[np.maximum(rows - -(-days // self.step), 0), items] for days in SPANS
        ]
        age = np.maximum(self._start(rows) - self.known_since[items], 0.0)
        logs = [np.log1p(count) for count in (*counts, now)]
        return np.stack([*logs, np.log1p(age), age < YOUNG_DAYS], axis=-1).astype(np.float32)

    def is_known(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether items were there when rows start; both broadcast."""
        return self.known_since[items] < self._start(rows)

    def _start(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.first + self.step * rows
