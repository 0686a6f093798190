"""Which items the same members acted on close together: counts, and their shrunk positive PMI.

A member's positive actions stand in a row, oldest first. Actions of one timestamp share the mean of
their positions (midranks), so the order inside a timestamp, of which nothing is known, decides
nothing. Two actions are a pair if their positions differ by at most `reach` and their timestamps
and items differ. It counts decay^(difference), for both directions.

Counts are made for some items at a time, so memory is bounded by the pairs of those.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from models.items import spec
from models.items.protocol import Behaviour

EVENTS_AT_ONCE = 200_000
"""Actions whose pairs are in memory at once: some 30 bytes times four times `reach` each."""


FAR: dict[type, int] = {np.int32: 2**30, np.int64: 2**62}
"""A position that is far from all, of each type that holds positions."""


@dataclass(frozen=True)
class Weighing:
    """How a pair counts, and how its count becomes a weight; the settings of `CoActions`.

    Attributes:
        reach: Positions between two actions of a pair at most.
        decay: What a pair keeps of its count per position.
        context_power: Power of the contexts' distribution; below 1, rare ones get less weight.
        shrink: n / (n + shrink) is the weight of a pair's count n.
    """

    reach: int
    decay: float
    context_power: float
    shrink: float

    @classmethod
    def of(cls, line: spec.CoActions) -> Self:
        """Return what a line says."""
        return cls(line.reach, line.decay, line.context_power, line.shrink)


class Pairs:
    """The pairs of some behaviour, as rows of items over the columns of contexts.

    Args:
        contexts: Ids of the items that are columns. Pairs with others are left out.

    Attributes:
        counts: How many positive actions each item has, int64 [items of the behaviour].
        of_items: The sum of each item's counts over the contexts, float64 [items].
        of_contexts: The sum of each context's counts over the items, float64 [contexts].
    """

    def __init__(self, behaviour: Behaviour, contexts: pa.Array, weighing: Weighing) -> None:
        positive = np.flatnonzero(behaviour.signs > 0)
        self.weighing = weighing
        self.n_contexts = len(contexts)
        self.n_items = len(behaviour.item_ids)
        found = pc.fill_null(pc.index_in(behaviour.item_ids, contexts), -1)
        self._context = found.to_numpy(zero_copy_only=False).astype(np.int32)
        items = behaviour.items[positive]
        self.counts = np.bincount(items, minlength=self.n_items)
        doubled = twice_the_positions(
            behaviour.members[positive], behaviour.timestamps[positive], weighing.reach
        )
        # How many actions away the other of a pair may be: without equal timestamps, `reach`. Two
        # neighbouring groups of m and n actions differ by (m + n) / 2 in position.
        changes = np.flatnonzero(np.diff(doubled, prepend=-1, append=-1))
        largest = int(np.diff(changes).max(initial=1))
        self._most = min(2 * weighing.reach - 1, weighing.reach + largest - 1)
        # Where a position has no action, one is put that is far from all.
        kind = np.int32 if doubled.max(initial=0) < FAR[np.int32] // 2 else np.int64
        far: NDArray[Any] = np.full(self._most, FAR[kind], kind)
        self._doubled = np.concatenate([-far, doubled.astype(kind), far])
        self._padded = np.pad(items, self._most)
        self._items = self._padded[self._most : self._most + len(items)]
        steps = 0.5 * np.arange(2 * weighing.reach + 2)
        self._weights = weighing.decay**steps
        self._weights[[0, -1]] = 0.0  # of one timestamp, and too far apart
        self.of_items, self.of_contexts = self._totals()

    def rows(self, wanted: NDArray[np.int64]) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Yield the PPMI of some items, as rows over the contexts: float32, where above 0.

        PPMI = max(0, log(n / (row · p))) · n / (n + shrink), where n is the pair's count, `row`
        the sum of the item's counts, and p the context's share of all counts to `context_power`
        (Levy, Goldberg & Dagan, "Improving distributional similarity with lessons learned from
        word embeddings", 2015).

        Args:
            wanted: Items, as indices into the behaviour's item_ids, each once.

        Yields:
            Which of the wanted items, and their rows.
        """
        share = self.of_contexts**self.weighing.context_power
        share /= max(float(share.sum()), 1e-300)
        log_share = np.log(np.maximum(share, 1e-300))
        for chosen, counted in self._counted(wanted):
            n = counted.data
            row = np.repeat(self.of_items[wanted[chosen]], np.diff(counted.indptr))
            weights = np.log(n / row) - log_share[counted.indices]
            weights *= n / (n + self.weighing.shrink)
            above = weights > 0
            ends = np.concatenate([[0], np.cumsum(above)])[counted.indptr]
            # Copies of what is kept: many blocks stay in memory while a space is fitted.
            kept = (
                weights[above].astype(np.float32),
                counted.indices[above].astype(np.int32),
                ends,
            )
            yield chosen, sparse.csr_array(kept, shape=counted.shape)

    def _totals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return `of_items` and `of_contexts`."""
        of_items = np.zeros(self.n_items)
        of_all = np.zeros(self.n_items)
        is_context = (self._context >= 0).astype(np.float64)
        n, most = len(self._items), self._most
        for start in range(0, n, EVENTS_AT_ONCE):
            stop = min(start + EVENTS_AT_ONCE, n)
            left = slice(start + most, stop + most)
            items = self._padded[left]
            for step in range(1, most + 1):
                right = slice(left.start + step, left.stop + step)
                others = self._padded[right]
                n_pairs = self._weigh(self._doubled[right] - self._doubled[left])
                n_pairs[items == others] = 0.0
                for one, other in ((items, others), (others, items)):
                    of_items += np.bincount(one, n_pairs * is_context[other], self.n_items)
                    of_all += np.bincount(other, n_pairs, self.n_items)
        of_contexts = np.zeros(self.n_contexts)
        seen = self._context >= 0
        of_contexts[self._context[seen]] = of_all[seen]
        return of_items, of_contexts

    def _counted(self, wanted: NDArray[np.int64]) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Yield the counts of the wanted items over the contexts; rows are whole."""
        events, ends = self._events_of(wanted)
        first = 0
        while first < len(wanted):
            begin = ends[first - 1] if first else 0
            # As many items as fit, and at least one.
            last = max(int(np.searchsorted(ends, begin + EVENTS_AT_ONCE, "right")), first + 1)
            counted = None
            for start in range(begin, max(int(ends[last - 1]), begin + 1), EVENTS_AT_ONCE):
                stop = min(start + EVENTS_AT_ONCE, int(ends[last - 1]))
                bounds = np.clip(np.concatenate([[begin], ends[first:last]]), start, stop) - start
                part = self._count(events[start:stop], bounds)
                counted = part if counted is None else counted + part
            yield slice(first, last), counted
            first = last

    def _events_of(
        self, wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
        """Return the wanted items' actions, item by item, and where each item's end."""
        place = np.full(self.n_items, -1, np.int32)
        place[wanted] = np.arange(len(wanted))
        of = place[self._items]
        events = np.flatnonzero(of >= 0)
        events = events[np.argsort(of[events], kind="stable")]
        small = len(self._items) < FAR[np.int32]
        return events.astype(np.int32 if small else np.int64), np.cumsum(self.counts[wanted])

    def _count(
        self, events: NDArray[np.signedinteger], bounds: NDArray[np.int64]
    ) -> sparse.csr_array:
        """Return the counts of some items' actions; item i has events[bounds[i]:bounds[i + 1]]."""
        steps = np.arange(-self._most, self._most + 1)
        others = (events + self._most)[:, None] + steps[steps != 0]
        here = self._doubled[events + self._most]
        n_pairs = self._weigh(np.abs(self._doubled[others] - here[:, None]))
        items = self._padded[others]
        columns = self._context[items]
        n_pairs[(columns < 0) | (items == self._items[events][:, None])] = 0.0
        kept = n_pairs > 0
        ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        shape = (len(events), self.n_contexts)
        each = sparse.csr_array((n_pairs[kept], columns[kept], ends), shape=shape)
        ones = np.ones(len(events))
        belongs = sparse.csr_array(
            (ones, np.arange(len(events)), bounds), shape=(len(bounds) - 1, len(events))
        )
        return belongs @ each

    def _weigh(self, doubled: NDArray[np.signedinteger]) -> NDArray[np.float64]:
        weights = self._weights[np.minimum(doubled, len(self._weights) - 1)]
        return np.asarray(weights, np.float64)


def twice_the_positions(
    members: NDArray[np.int64], timestamps: NDArray[np.int64], reach: int
) -> NDArray[np.int64]:
    """Return twice the position of each action, so that midranks are whole; int64 [actions].

    Positions of two members differ by more than `reach`.

    >>> members, timestamps = np.array([1, 1, 1, 1, 2]), np.array([10, 20, 20, 30, 5])
    >>> (twice_the_positions(members, timestamps, reach=2) / 2).tolist()
    [0.0, 1.5, 1.5, 3.0, 7.0]
    """
    if not len(members):
        return np.zeros(0, np.int64)
    other_member = np.diff(members, prepend=members[0]) != 0
    starts = other_member | (np.diff(timestamps, prepend=timestamps[0]) != 0)
    starts[0] = True
    first = np.flatnonzero(starts)
    sizes = np.diff(first, append=len(members))
    middle = np.repeat(2 * first + sizes - 1, sizes)
    return middle + 2 * (reach + 1) * np.cumsum(other_member)
