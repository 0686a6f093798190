"""Paired bootstrap intervals over members and seeds, and over members, items and seeds.

Whole members are resampled, because a member's labels are correlated. Seeds are resampled too,
because the noise of a ranker's training can be as large as the effect. Both at once is the
pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007):
slightly too wide for the noise that members and seeds share. Few seeds make it too narrow: where
all noise comes from the seeds, a 95 % interval covers the truth about 85 % of the time with 6 seeds
and 90 % with 10.

Labels on one item are correlated too: a film at rank 10 or 11 for everybody moves all of its labels
together, and resampling members does not see that. So there is a second interval, over members and
items: each has a weight of Poisson(1), and a label counts with the product of both (Owen and
Eckles, "Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics 6(3), 2012).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from models.evaluation.metrics import auc
from transformations.errors import InputError

Floats = NDArray[np.float64]
# Resamples per batch: [labels, BLOCK] stays in the tens of megabytes.
BLOCK = 128
ITEM_DRAWS = 600


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; NaN where there was nothing to estimate from."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric on the labels, and on every resample of them.

    `a - b` is the paired difference, resample by resample, so shared noise cancels.

    Attributes:
        resampled: Over members and seeds, float64 [resamples]; NaN for a resample without labels.
        over_items: Likewise over members, items and seeds; empty where items were not given.
    """

    value: float
    resampled: Floats
    over_items: Floats
    source: "Resamples"

    def __sub__(self, other: "Estimate") -> "Estimate":
        if self.source is not other.source:
            raise InputError(
                "expected two estimates of the same Resamples, got estimates of two; their "
                "difference would not be paired"
            )
        return Estimate(
            self.value - other.value,
            self.resampled - other.resampled,
            self.over_items - other.over_items,
            self.source,
        )

    def interval(self) -> Interval:
        """Return the estimate with the 2.5th and 97.5th percentile over members and seeds."""
        return self._within(self.resampled)

    def interval_over_items(self) -> Interval:
        """Return the estimate with the 2.5th and 97.5th percentile over members, items, seeds."""
        return self._within(self.over_items)

    def _within(self, resampled: Floats) -> Interval:
        finite = resampled[~np.isnan(resampled)]
        if not len(finite) or np.isnan(self.value):
            return Interval(self.value, float("nan"), float("nan"))
        low, high = np.quantile(finite, [0.025, 0.975])
        return Interval(self.value, float(low), float(high))


class Resamples:
    """How often each member, each seed and each item is drawn in each resample.

    Every metric of every variant uses the same resamples, which makes differences paired.

    >>> members = np.array([0, 0, 1, 2])
    >>> resamples = Resamples(members=3, seeds=2)
    >>> hits = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    >>> (resamples.mean(hits, members) - resamples.mean(hits, members)).interval()
    Interval(estimate=0.0, low=0.0, high=0.0)

    Args:
        members: Number of members. Methods take each label's member, from 0 to members - 1.
        seeds: Number of seeds.
        resamples: Number of draws; they take members * resamples bytes.
        seed: Of the random generator; equal seeds draw equally.
        items: Number of items; 0 for no intervals over items. Those take at most ITEM_DRAWS draws.
    """

    def __init__(
        self, members: int, seeds: int, resamples: int = 2000, seed: int = 0, items: int = 0
    ) -> None:
        if min(members, seeds, resamples) < 1:
            raise InputError(
                f"expected at least one member, seed and resample, got {members}, {seeds} and "
                f"{resamples}"
            )
        rng = np.random.default_rng(seed)
        self._seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
        # uint8 holds any count: up to 255 members cannot exceed it, and with more members each one
        # is drawn once on average.
        self._members = np.empty((members, resamples), np.uint8)
        for number in range(resamples):
            drawn = rng.integers(0, members, members)
            self._members[:, number] = np.bincount(drawn, minlength=members)
        # Poisson(1) exceeds 255 never; uint8 keeps them small.
        draws = min(resamples, ITEM_DRAWS) if items else 0
        self._member_weights, self._item_weights = (
            rng.poisson(1.0, (count, draws)).astype(np.uint8) for count in (members, items)
        )

    def mean(
        self,
        values: Floats,
        members: NDArray[np.integer],
        mask: NDArray[np.bool_] | None = None,
        items: NDArray[np.integer] | None = None,
        weights: Floats | None = None,
    ) -> Estimate:
        """Estimate the mean over labels, averaged over seeds.

        Args:
            values: float [seeds, labels], or [labels] for a recommender without seeds.
            members: Each label's member, int [labels].
            mask: Labels to use, bool [labels]: a cohort.
            items: Each label's item, int [labels]; None leaves out the resamples over items.
            weights: How much each label counts, float [labels]; None: all the same. The mean is
                divided by their sum, in each resample by its own.
        """
        counted = np.ones(len(members), bool) if mask is None else mask
        rows, of = np.atleast_2d(values)[:, counted], members[counted]
        counts = np.ones((1, len(of)))
        if weights is not None:
            counts = weights[None, counted]
            rows = rows * counts
        above, below = self._member_sums(rows, of), self._member_sums(counts, of)
        resampled = [_divide(above @ drawn, below @ drawn) for drawn in self._weights(np.float64)]
        over_items = [np.empty((len(rows), 0))]
        if items is not None:
            over_items = [
                _divide(rows @ drawn, counts @ drawn)
                for drawn in self._label_weights(of, items[counted])
            ]
        value = _divide(above.sum(axis=1), below.sum(axis=1)).mean()
        return Estimate(
            float(value),
            self._over_seeds(np.concatenate(resampled, axis=1)),
            self._over_seeds(np.concatenate(over_items, axis=1)),
            self,
        )

    def auc(
        self,
        scores: NDArray[np.floating],
        positive: NDArray[np.bool_],
        members: NDArray[np.integer],
        mask: NDArray[np.bool_] | None = None,
        items: NDArray[np.integer] | None = None,
    ) -> Estimate:
        """Estimate the AUC of positives against negatives, pooled over members; exact per resample.

        Args:
            scores: float [seeds, rows], or [rows] for a recommender without seeds.
            positive: bool [rows].
            members: Each row's member, int [rows].
            mask: Rows to use, bool [rows].
            items: Each row's item, int [rows]; None leaves out the resamples over items.
        """
        counted = np.ones(len(members), bool) if mask is None else mask
        kept, of = positive[counted], members[counted]
        of_items = None if items is None else items[counted]
        by_seed = [self._auc(row[counted], kept, of, of_items) for row in np.atleast_2d(scores)]
        value = np.mean([value for value, _, _ in by_seed])
        resampled = self._over_seeds(np.stack([resampled for _, resampled, _ in by_seed]))
        over_items = self._over_seeds(np.stack([over_items for _, _, over_items in by_seed]))
        return Estimate(float(value), resampled, over_items, self)

    def _auc(
        self,
        scores: NDArray[np.floating],
        positive: NDArray[np.bool_],
        members: NDArray[np.integer],
        items: NDArray[np.integer] | None,
    ) -> tuple[float, Floats, Floats]:
        """Return one seed's AUC, and that of every resample of members, and of both.

        Rows are sorted once. In each resample a positive wins the weight of all negatives with a
        lower score, and half the weight of those with an equal one.
        """
        group = _groups(scores, positive)
        groups, n_members = int(group.max(initial=-1)) + 1, len(self._members)
        won = _won(group, groups, positive, members, n_members, self._weights(np.float32))
        if items is None:
            return auc(scores, positive), won, np.empty(0)
        rows, weights = np.arange(len(members)), self._label_weights(members, items)
        both = _won(group, groups, positive, rows, len(rows), weights)
        return auc(scores, positive), won, both

    def _weights(self, dtype: type[np.floating]) -> Iterator[NDArray[np.floating]]:
        """Yield blocks of resamples: how often each member is drawn, [members, block]."""
        for start in range(0, self._members.shape[1], BLOCK):
            yield self._members[:, start : start + BLOCK].astype(dtype)

    def _label_weights(
        self, members: NDArray[np.integer], items: NDArray[np.integer]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of resamples over both: each label's weight, float32 [labels, block].

        Raises:
            InputError: these resamples were made without items.
        """
        if not len(self._item_weights):
            raise InputError("expected resamples that know the number of items, got none")
        for start in range(0, self._item_weights.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            of_items = self._item_weights[:, block].astype(np.float32)[items]
            yield of_items * self._member_weights[:, block].astype(np.float32)[members]

    def _member_sums(self, values: Floats, members: NDArray[np.integer]) -> Floats:
        """Return the sum of each member's values, float64 [seeds, members]."""
        return np.stack([np.bincount(members, row, len(self._members)) for row in values])

    def _over_seeds(self, resampled: Floats) -> Floats:
        """Average [seeds, resamples] over the seeds that each resample drew.

        There may be fewer resamples than draws of seeds: those over items.
        """
        if len(resampled) == 1:
            return resampled[0]
        if len(resampled) != self._seeds.shape[1]:
            raise InputError(
                f"expected values of 1 or {self._seeds.shape[1]} seeds, got {len(resampled)}"
            )
        drawn = self._seeds[: resampled.shape[1]]
        return np.asarray(np.einsum("sb,bs->b", resampled, drawn))


def _groups(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the rows by score, ascending; one number for rows that compare alike with all others.

    Rows share a number if their scores are equal, or if they are all positive (or all negative)
    and no row of the other class scores between them. That leaves far fewer numbers than rows.

    Positives at .1 and .2 have no negative between them; a negative and a positive tie at .3:

    >>> _groups(np.array([0.1, 0.2, 0.3, 0.3]), np.array([True, True, False, True])).tolist()
    [0, 0, 1, 1]
    """
    distinct, level = np.unique(scores, return_inverse=True)
    positives = np.bincount(level, positive, len(distinct)) > 0
    negatives = np.bincount(level, ~positive, len(distinct)) > 0
    kind = positives + 2 * negatives
    starts = np.r_[True, (kind[1:] != kind[:-1]) | (kind[1:] == 3)][: len(distinct)]
    return (np.cumsum(starts) - 1)[level]


def _won(
    group: NDArray[np.int64],
    groups: int,
    positive: NDArray[np.bool_],
    units: NDArray[np.integer],
    n_units: int,
    weights: Iterator[NDArray[np.floating]],
) -> Floats:
    """Return the AUC of every resample, float64 [resamples].

    Args:
        group: `_groups` of the rows.
        units: What is drawn: each row's member, or the row itself.
        weights: Blocks of resamples: how often each unit is drawn, float32 [units, block].
    """

    def counts(rows: NDArray[np.bool_]) -> Any:
        ones = np.ones(rows.sum(), np.float32)
        return csr_array((ones, (group[rows], units[rows])), shape=(groups, n_units))

    positives, negatives = counts(positive), counts(~positive)
    resampled = []
    for block in weights:
        # Whole numbers and halves below 2^23: exact in float32. Cumulated along rows, because
        # numpy does that about ten times as fast as along columns.
        drawn = np.ascontiguousarray((positives @ block).T)
        against = np.ascontiguousarray((negatives @ block).T)
        below = np.cumsum(against, axis=1) - against / 2
        won = np.einsum("bg,bg->b", drawn, below, dtype=np.float64)
        pairs = drawn.sum(axis=1, dtype=np.float64) * against.sum(axis=1, dtype=np.float64)
        resampled.append(_divide(won, pairs))
    return np.concatenate(resampled)


def _divide(above: Floats, below: Floats) -> Floats:
    """Divide; NaN where the denominator is zero."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
