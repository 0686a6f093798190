"""What a ranker knows of the items on each day besides their vectors: popularity and age."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.sequences import DAY

# Windows of the counts of positive actions, in days.
WINDOWS = (1, 7, 28)
RECENT = 7
# Positive actions, and the share of them, that an item without any is credited with.
PRIOR, PRIOR_SHARE = 2.0, 0.8
FEATURES = len(WINDOWS) + 5


@dataclass(frozen=True, eq=False)
class ItemDays:
    """Counts of actions on every item before each midnight.

    Attributes:
        first: The first day, in days since 1970.
        before: int32 [days + 1, items, 2]: positive and negative actions before day `first + i`.
        available_at: Microseconds since 1970 from which each item's vector may be used, [items].
    """

    first: int
    before: NDArray[np.int32]
    available_at: NDArray[np.int64]

    @classmethod
    def count(
        cls,
        items: NDArray[np.integer],
        times: NDArray[np.int64],
        positive: NDArray[np.bool_],
        available_at: NDArray[np.int64],
    ) -> "ItemDays":
        """Count events: column of the item, microseconds since 1970, whether it is positive."""
        days = times // DAY
        first = int(days.min())
        counts = np.zeros((int(days.max()) - first + 2, len(available_at), 2), np.int32)
        np.add.at(counts, (days - first + 1, items, (~positive).astype(int)), 1)
        return cls(first, np.cumsum(counts, axis=0, dtype=np.int32), available_at)

    def _place(self, day: int) -> int:
        return min(max(day - self.first, 0), len(self.before) - 1)

    def window(self, day: int, days: int) -> NDArray[np.int32]:
        """Return the actions of the `days` days before a midnight, int32 [items, 2]."""
        return self.before[self._place(day)] - self.before[self._place(day - days)]

    def known(self, day: int) -> NDArray[np.bool_]:
        """Return which items had a vector by the midnight that begins `day`, bool [items]."""
        return self.available_at <= day * DAY

    def active(self, day: int) -> NDArray[np.bool_]:
        """Return which known items anybody acted on in the week before, bool [items]."""
        return self.known(day) & (self.window(day, RECENT).sum(axis=1) > 0)

    def popular_share(self, day: int) -> NDArray[np.float64]:
        """Return each item's share of the positive actions of the week before, float64 [items]."""
        counts = self.window(day, RECENT)[:, 0] * self.known(day)
        return counts / max(int(counts.sum()), 1)

    def features(self, day: int) -> NDArray[np.float32]:
        """Return what the ranker sees of each item at a midnight, float32 [items, FEATURES].

        log(1 + positive actions) of each window and of all time, log(1 + negative ones), log odds
        of positive (smoothed), age (log of days, scaled) and whether it is younger than a day.
        """
        positive, negative = self.before[self._place(day)].T.astype(np.float64)
        odds = np.log(positive + PRIOR * PRIOR_SHARE) - np.log(negative + PRIOR * (1 - PRIOR_SHARE))
        age = np.maximum(day - self.available_at / DAY, 0.0)
        columns = [np.log1p(self.window(day, days)[:, 0]) for days in WINDOWS]
        columns += [np.log1p(positive), np.log1p(negative)]
        columns += [odds - np.log(PRIOR_SHARE / (1 - PRIOR_SHARE)), np.log1p(age) / 3, age < 1]
        return np.stack(columns, axis=1).astype(np.float32)
