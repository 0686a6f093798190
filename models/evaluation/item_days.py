"""The ranker's item features besides vectors, by day: popularity and age."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformations.timestamps import DAY_US

# Windows of the counts of positive actions.
WINDOW_DAYS = (1, 7, 28)
ACTIVE_DAYS = 7
# The prior of an item's share of positive actions: that many actions, that share of them positive.
PRIOR, PRIOR_SHARE = 2.0, 0.8
N_FEATURES = len(WINDOW_DAYS) + 5


@dataclass(frozen=True, eq=False)
class ItemDays:
    """Counts of the actions on every item before each midnight.

    Attributes:
        first: The first day, in days since 1970.
        before: int32 [days + 1, items, 2]: positive and negative actions before day `first + i`.
        available_at: When each item's vector became available, microseconds since 1970, [items].
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
        """Count events: index of the item, microseconds since 1970, whether it is positive."""
        days = times // DAY_US
        first = int(days.min())
        counts = np.zeros((int(days.max()) - first + 2, len(available_at), 2), np.int32)
        np.add.at(counts, (days - first + 1, items, (~positive).astype(int)), 1)
        for day in range(1, len(counts)):  # in place: years of days times items are large
            counts[day] += counts[day - 1]
        return cls(first, counts, available_at)

    def _index(self, day: int) -> int:
        return min(max(day - self.first, 0), len(self.before) - 1)

    def window(self, day: int, days: int) -> NDArray[np.int32]:
        """Return the actions of the `days` days before a midnight, int32 [items, 2]."""
        return self.before[self._index(day)] - self.before[self._index(day - days)]

    def known(self, day: int) -> NDArray[np.bool_]:
        """Return which items had a vector by the midnight at the start of `day`, bool [items]."""
        return self.available_at <= day * DAY_US

    def active(self, day: int) -> NDArray[np.bool_]:
        """Return which known items had any action in the week before, bool [items]."""
        return self.known(day) & (self.window(day, ACTIVE_DAYS).sum(axis=1) > 0)

    def popular_share(self, day: int) -> NDArray[np.float64]:
        """Return each item's share of the positive actions of the week before, float64 [items]."""
        counts = self.window(day, ACTIVE_DAYS)[:, 0] * self.known(day)
        return counts / max(int(counts.sum()), 1)

    def features(self, day: int) -> NDArray[np.float32]:
        """Return the item features at a midnight, float32 [items, N_FEATURES].

        log(1 + positive actions) in each window and in all, log(1 + negative actions), smoothed
        log odds of positive, age (log of days, scaled), and whether it is younger than a day.
        """
        positive, negative = self.before[self._index(day)].T.astype(np.float64)
        odds = np.log(positive + PRIOR * PRIOR_SHARE) - np.log(negative + PRIOR * (1 - PRIOR_SHARE))
        age = np.maximum(day - self.available_at / DAY_US, 0.0)
        columns = [np.log1p(self.window(day, days)[:, 0]) for days in WINDOW_DAYS]
        columns += [np.log1p(positive), np.log1p(negative)]
        columns += [odds - np.log(PRIOR_SHARE / (1 - PRIOR_SHARE)), np.log1p(age) / 3, age < 1]
        return np.stack(columns, axis=1).astype(np.float32)
