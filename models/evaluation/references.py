"""Recommenders without vectors, which a ranker with activity features must beat.

Like the ranker's item features, what they know of items is from before a midnight. A member's
history is given to them: it may be fresher than that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from transformations.errors import InputError
from transformations.timestamps import DAY_US

# Faded pairs below this are dropped, or the matrix would fill with ever smaller numbers.
FORGOTTEN = 1e-12


@dataclass(frozen=True)
class PositiveEvents:
    """Positive actions in the order of time.

    Attributes:
        members: Any code of the member, int [events].
        items: Index of the item, int [events].
        times: Microseconds since 1970, int64 [events], ascending.
    """

    members: NDArray[np.integer]
    items: NDArray[np.integer]
    times: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.members) == len(self.items) == len(self.times):
            raise InputError(
                f"expected members, items and times of equal length, got {len(self.members)}, "
                f"{len(self.items)} and {len(self.times)}"
            )
        if (np.diff(self.times) < 0).any():
            raise InputError("expected events in the order of time, got others; sort them first")

    def before(self, timestamp: int) -> int:
        """Return the number of events before a timestamp in microseconds."""
        return int(np.searchsorted(self.times, timestamp, side="left"))


class Popular:
    """Scores an item by its positive actions in the last days before `as_of`.

    Args:
        events: All events; each call uses those before its `as_of`.
        items: Number of items.
        days: Length of the window.
    """

    def __init__(self, events: PositiveEvents, items: int, days: float = 7.0) -> None:
        self._events = events
        self._items = items
        self._window = int(days * DAY_US)

    def at(self, as_of: int) -> NDArray[np.float32]:
        """Return each item's count as of one timestamp, float32 [items]."""
        window = slice(self._events.before(as_of - self._window), self._events.before(as_of))
        counts = np.bincount(self._events.items[window], minlength=self._items)
        return counts.astype(np.float32)

    def scores(
        self,
        as_of: NDArray[np.int64],
        histories: NDArray[np.integer] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        """Score every item for every label, float32 [n, items].

        Args:
            as_of: Microseconds, int64 [n].
            histories: Ignored: all members get the same scores.
        """
        distinct, which = np.unique(as_of, return_inverse=True)
        counts = np.zeros((len(distinct), self._items), np.float32)
        for index, timestamp in enumerate(distinct):
            counts[index] = self.at(int(timestamp))
        return counts[which]


class DecayedCooccurrence:
    """Scores an item by its co-occurrence with a member's last positive actions.

    Two items co-occur when one member acts on both, not at one timestamp, with fewer than `last` of
    its positive actions in between. The score of item j for a history i_1, i_2, ... (newest first):

        sum over k of decay^(k-1) * together(i_k, j) / (count(i_k) * count(j))^damping

    Pairs and counts fade with age, halved in every `half_life`.

    Items without any co-occurrence follow, by popularity in the last days. So a member without a
    history gets the popular items.

    The matrix grows with `as_of`: calls must not go back in time.

    Args:
        events: All events; each call uses those before its `as_of`.
        items: Number of items.
        last: Number of newest actions used.
        decay: Factor on an action's weight for each newer action.
        damping: 0 counts pairs, which favours popular items; 0.5 is the cosine of two items.
            The defaults of damping and half_life did best on MovieTweetings' validation period.
        half_life: In days; None: events never fade.
        days: Window of the popularity.
    """

    def __init__(
        self,
        events: PositiveEvents,
        items: int,
        last: int = 10,
        decay: float = 0.8,
        damping: float = 0.0,
        half_life: float | None = 7.0,
        days: float = 7.0,
    ) -> None:
        if last < 1 or not 0 < decay <= 1:
            raise InputError(f"expected last >= 1 and 0 < decay <= 1, got {last} and {decay}")
        self._events = events
        self._items = items
        self._weights = decay ** np.arange(last)
        self._damping = damping
        self._half_life = half_life
        self._popular = Popular(events, items, days)
        self._earlier = _earlier(events, last)
        self._seen = 0
        self._as_of: int | None = None
        self._counts = np.zeros(items)
        self._together = csr_array((items, items), dtype=np.float32)

    def scores(
        self, as_of: NDArray[np.int64], histories: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Score every item for every label, float32 [n, items].

        Args:
            as_of: Microseconds, int64 [n], ascending, and not before that of an earlier call.
            histories: Items of the member's positive actions before as_of, int [n, length], the
                newest last; -1 for padding and for actions that are not positive.

        Raises:
            InputError: as_of goes back in time.
        """
        distinct, starts = np.unique(as_of, return_index=True)
        if (np.diff(as_of) < 0).any():
            raise InputError("expected as_of in ascending order, got others; sort the labels")
        scores = np.zeros((len(as_of), self._items), np.float32)
        ends = np.append(starts, len(as_of))[1:]
        for timestamp, start, end in zip(distinct, starts, ends, strict=True):
            scores[start:end] = self._at(int(timestamp), histories[start:end])
        return scores

    def related(self, as_of: int, histories: NDArray[np.integer]) -> csr_array:
        """Return the scores of one timestamp without the popular items, sparse float32 [n, items].

        Raises:
            InputError: as_of goes back in time.
        """
        self._advance(as_of)
        damp = np.maximum(self._counts, 1.0) ** -self._damping
        scores = csr_array(self._newest(histories, damp) @ self._together)
        scores.data *= damp.astype(np.float32)[scores.indices]
        return scores

    def _at(self, as_of: int, histories: NDArray[np.integer]) -> NDArray[np.float32]:
        scores = self.related(as_of, histories).toarray()
        popularity = self._popular.at(as_of)
        return np.where(scores > 0, scores, popularity - (popularity.max() + 1.0))

    def _newest(self, histories: NDArray[np.integer], damp: NDArray[np.float64]) -> csr_array:
        """Return the weights of the last actions, sparse float32 [n, items]."""
        there = histories >= 0
        back = np.cumsum(there[:, ::-1], axis=1)[:, ::-1] - 1  # 0 for the newest
        labels, slots = np.nonzero(there & (back < len(self._weights)))
        columns = histories[labels, slots]
        weights = self._weights[back[labels, slots]] * damp[columns]
        shape = (len(histories), self._items)
        return csr_array((weights.astype(np.float32), (labels, columns)), shape=shape)

    def _advance(self, as_of: int) -> None:
        """Add the events before `as_of` to the matrix; earlier ones fade."""
        if self._as_of is not None and as_of < self._as_of:
            raise InputError(
                f"expected as_of not to go back in time, got {as_of} after {self._as_of}; sort "
                "the labels, or make a new recommender"
            )
        if self._as_of is not None and as_of > self._as_of:
            faded = self._faded(np.array([as_of - self._as_of]))
            self._counts *= faded
            self._together *= np.float32(faded[0])
            self._together.data[self._together.data < FORGOTTEN] = 0.0
            self._together.eliminate_zeros()
        new = slice(self._seen, self._events.before(as_of))
        self._seen, self._as_of = new.stop, as_of
        weights = self._faded(as_of - self._events.times[new])
        self._counts += np.bincount(self._events.items[new], weights, self._items)
        events, slots = np.nonzero(self._earlier[new] >= 0)
        later, earlier = self._events.items[new][events], self._earlier[new][events, slots]
        apart = later != earlier
        pairs = np.concatenate([later[apart], earlier[apart]])
        partners = np.concatenate([earlier[apart], later[apart]])
        weighed = np.tile(weights[events[apart]], 2).astype(np.float32)
        self._together += csr_array((weighed, (pairs, partners)), shape=self._together.shape)

    def _faded(self, ages: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what remains of a weight of 1 at each age in microseconds."""
        if self._half_life is None:
            return np.ones(len(ages))
        return np.asarray(0.5 ** (ages / (self._half_life * DAY_US)))


def _earlier(events: PositiveEvents, last: int) -> NDArray[np.int32]:
    """Return the items of the member's `last` events before each event, int32 [events, last].

    -1 where it has fewer, and where one has the event's own timestamp: actions of a basket or a
    bulk import say nothing of each other. In the order of the events.
    """
    order = np.argsort(events.members, kind="stable")
    members, items, times = events.members[order], events.items[order], events.times[order]
    found = np.full((len(order), last), -1, np.int32)
    for back in range(1, min(last, len(order) - 1) + 1):
        same = np.flatnonzero((members[back:] == members[:-back]) & (times[back:] != times[:-back]))
        found[order[same + back], back - 1] = items[same]
    return found
