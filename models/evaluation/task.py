"""What is to be predicted: labels, and the items that each is ranked among."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from models.evaluation.history import events_before
from models.evaluation.item_days import ItemDays
from transformations.timestamps import DAY_US

RANDOM_ITEMS = 8
REDRAWS = 20


@dataclass(frozen=True, eq=False)
class RankerLabels:
    """Actions to predict; every array is [labels].

    Attributes:
        members: Code of the member, for resampling.
        items: Index of the item.
        days: The day (since 1970) at whose midnight the item features are taken.
        times: Microseconds since 1970.
        positive: Whether the action is a positive one.
    """

    members: NDArray[np.int64]
    items: NDArray[np.int64]
    days: NDArray[np.int64]
    times: NDArray[np.int64]
    positive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "RankerLabels":
        """Return some of the labels."""
        return RankerLabels(
            self.members[rows],
            self.items[rows],
            self.days[rows],
            self.times[rows],
            self.positive[rows],
        )


@dataclass(frozen=True, eq=False)
class Task:
    """Labels, and the items that each is ranked among.

    Attributes:
        labels: In any order.
        seen: Which items the member acted on before the label; they are not recommended again.
            Sparse bool [labels, items].
        random_items: Items drawn from those with an action on the label's day, int [labels,
            RANDOM_ITEMS].
    """

    labels: RankerLabels
    item_days: ItemDays
    seen: csr_array
    random_items: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer]) -> "Task":
        """Return the task of the labels at these indices."""
        return Task(
            self.labels.take(rows), self.item_days, self.seen[rows], self.random_items[rows]
        )

    def with_positive(self, positive: NDArray[np.bool_]) -> "Task":
        """Return the task with other signs of the labels, for a control."""
        return replace(self, labels=replace(self.labels, positive=positive))


def seen_items(
    labels: RankerLabels,
    event_members: NDArray[np.integer],
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
    items: int,
) -> csr_array:
    """Return which items each label's member acted on before it; sparse bool [labels, items].

    Actions at the label's own timestamp do not count.

    Args:
        event_members: Codes as in `labels.members`.
        event_items: Index of each event's item.
        event_times: Microseconds since 1970.
        items: Number of items.
    """
    order = np.lexsort((event_times, event_members))
    rows, events = events_before(
        event_members[order], event_times[order], labels.members, labels.times
    )
    return which(rows, event_items[order][events], (len(labels), items))


def which(
    rows: NDArray[np.integer], columns: NDArray[np.integer], shape: tuple[int, int]
) -> csr_array:
    """Return a sparse bool array of this shape that is true at these pairs."""
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=shape)


def random_items(
    labels: RankerLabels,
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
    seed: int = 0,
    seen: csr_array | None = None,
) -> NDArray[np.int64]:
    """Draw items for each label from the distinct items of its day, except its own item.

    Args:
        event_items: Index of each event's item.
        event_times: Microseconds since 1970.
        seen: Pairs that are drawn again, up to REDRAWS times: nobody would show them again.

    Returns:
        int64 [labels, RANDOM_ITEMS]; the label's own item if its day has no other, which counts
        as a tie.
    """
    rng = np.random.default_rng(seed)
    label_days, event_days = labels.times // DAY_US, event_times // DAY_US
    pools = {int(day): np.unique(event_items[event_days == day]) for day in np.unique(label_days)}

    def draw() -> NDArray[np.int64]:
        drawn = np.empty((len(labels), RANDOM_ITEMS), np.int64)
        for day, pool in pools.items():
            rows = np.flatnonzero(label_days == day)
            drawn[rows] = _from_pool(pool, labels.items[rows], rng)
        return drawn

    drawn = draw()
    for _ in range(REDRAWS if seen is not None else 0):
        repeated = _lookup(seen, drawn)
        if not repeated.any():
            break
        drawn = np.where(repeated, draw(), drawn)
    return drawn


def _from_pool(
    pool: NDArray[np.integer], own: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    index = np.searchsorted(pool, own)
    inside = (index < len(pool)) & (pool[np.minimum(index, len(pool) - 1)] == own)
    others = len(pool) - inside
    picks = (rng.random((len(own), RANDOM_ITEMS)) * others[:, None]).astype(np.int64)
    picks += inside[:, None] & (picks >= index[:, None])
    picked = pool[np.minimum(picks, len(pool) - 1)]
    return np.where(others[:, None] > 0, picked, own[:, None])


def _lookup(pairs: Any, columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each row has these columns; bool, as `columns`."""
    rows = np.arange(len(columns)).repeat(columns.shape[1])
    found = np.asarray(pairs[rows, columns.ravel()]).ravel()
    return found.astype(bool).reshape(columns.shape)
