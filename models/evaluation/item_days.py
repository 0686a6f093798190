"""The ranker's item features besides vectors, by day: popularity and age."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transformations.stats.item_stats import PRIOR, PRIOR_SHARE
from transformations.timestamps import DAY_US

# Windows of the counts of positive actions.
WINDOW_DAYS = (1, 7, 28, 90)
ACTIVE_DAYS = 7
N_FEATURES = len(WINDOW_DAYS) + 5
# Counts of all time are kept at every nth event; between, the events themselves are counted.
EVERY = 65_536
KEPT_BYTES = 1_000_000_000
"""Of features by day, which every ranker of an evaluation reads again."""


@dataclass(frozen=True, eq=False)
class ItemDays:
    """Counts of the actions on every item before each midnight.

    Attributes:
        keys: Of each action, in the order of time: 2 * item, plus 1 if it is negative; int64.
        times: Of each action, microseconds since 1970, int64 ascending.
        available_at: When each item became known, microseconds since 1970, int64 [items].
    """

    keys: NDArray[np.int64]
    times: NDArray[np.int64]
    available_at: NDArray[np.int64]
    _features: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @classmethod
    def count(
        cls,
        items: NDArray[np.integer],
        times: NDArray[np.int64],
        positive: NDArray[np.bool_],
        available_at: NDArray[np.int64],
    ) -> "ItemDays":
        """Count events: index of the item, microseconds since 1970, whether it is positive."""
        order = np.argsort(times, kind="stable")
        keys = 2 * items.astype(np.int64) + ~positive
        return cls(keys[order], times[order], available_at)

    def _counted(self, start: int, stop: int) -> NDArray[np.int32]:
        counts = np.bincount(self.keys[start:stop], minlength=2 * len(self.available_at))
        return counts.astype(np.int32).reshape(-1, 2)

    @cached_property
    def _kept(self) -> list[NDArray[np.int32]]:
        """The counts of all time after 0, EVERY, 2 * EVERY … events."""
        kept = [self._counted(0, 0)]
        for start in range(0, len(self.keys) - EVERY + 1, EVERY):
            kept.append(kept[-1] + self._counted(start, start + EVERY))
        return kept

    def _position(self, day: int) -> int:
        return int(np.searchsorted(self.times, day * DAY_US))

    def window(self, day: int, days: int) -> NDArray[np.int32]:
        """Return the actions of the `days` days before a midnight, int32 [items, 2]."""
        return self._counted(self._position(day - days), self._position(day))

    def so_far(self, day: int) -> NDArray[np.int32]:
        """Return all actions before a midnight, int32 [items, 2]: positive and negative ones."""
        stop = self._position(day)
        return self._kept[stop // EVERY] + self._counted(stop // EVERY * EVERY, stop)

    def known(self, day: int) -> NDArray[np.bool_]:
        """Return which items were known by the midnight at the start of `day`, bool [items]."""
        return self.available_at <= day * DAY_US

    def active(self, day: int) -> NDArray[np.bool_]:
        """Return which known items had any action in the week before, bool [items]."""
        return self.known(day) & (self.window(day, ACTIVE_DAYS).sum(axis=1) > 0)

    def popular_share(self, day: int) -> NDArray[np.float64]:
        """Return each item's share of the positive actions of the week before, float64 [items]."""
        counts = self.window(day, ACTIVE_DAYS)[:, 0] * self.known(day)
        return counts / max(int(counts.sum()), 1)

    def features(
        self, day: int, items: NDArray[np.integer] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the item features at a midnight, float32 [items, N_FEATURES].

        log(1 + positive actions) in each window and in all, log(1 + negative actions), smoothed
        log odds of positive, age (log of days, scaled), and whether it is younger than a day.

        Args:
            items: Their indices; default: all.
        """
        if day not in self._features:
            found = self._every(day)
            if found.nbytes * (len(self._features) + 1) > KEPT_BYTES:
                self._features.clear()
            self._features[day] = found
        return self._features[day][items]

    def _every(self, day: int) -> NDArray[np.float32]:
        """Return the features of all items; a feature of all of them lies together in memory."""
        counts = np.stack(
            [*(self.window(day, days)[:, 0] for days in WINDOW_DAYS), *self.so_far(day).T]
        ).astype(np.float32)
        positive, negative = counts[-2:]
        odds = np.log(positive + PRIOR * PRIOR_SHARE) - np.log(negative + PRIOR * (1 - PRIOR_SHARE))
        age = np.maximum(day - self.available_at / DAY_US, 0.0).astype(np.float32)
        columns = [odds - np.log(PRIOR_SHARE / (1 - PRIOR_SHARE)), np.log1p(age) / 3, age < 1]
        return np.concatenate([np.log1p(counts), columns]).astype(np.float32).T
