"""What a ranker is fitted on: labels, and negatives drawn from what could have been shown then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.rankers.inputs import Floats, Rows
from models.rankers.spec import Ranker
from pipelines.ranking.candidates import Lists
from pipelines.ranking.labels import Labels


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a label's member with items; every array is [pairs].

    Attributes:
        labels: The row of the label, ascending.
        items: Ids.
        own: Whether it is the label's own item.
        actions, signs: What came of each pair that was shown; None of drawn ones, of which only
            the label's own has an action, that of the label.
    """

    labels: Rows
    items: NDArray[Any]
    own: NDArray[np.bool_]
    actions: NDArray[Any] | None = None
    signs: NDArray[np.int32] | None = None

    def take(self, rows: slice, first: int = 0) -> "Pairs":
        """Return some of them.

        Args:
            first: The label that is row 0 of the labels that are left.
        """
        return Pairs(
            self.labels[rows] - first,
            self.items[rows],
            self.own[rows],
            None if self.actions is None else self.actions[rows],
            None if self.signs is None else self.signs[rows],
        )


def draw(
    line: Ranker,
    labels: Labels,
    seen: Sequence[NDArray[Any]],
    candidates: Mapping[str, Lists],
    of_days: Sequence[NDArray[Any]],
    seed: int,
) -> Pairs:
    """Return each label's own item, and negatives for each positive label.

    `hard` ones come from what the sources brought at its time, where its own item is among that:
    else the ranker would learn that what no source brings is liked. `easy` ones come from the items
    that anybody acted on that day. None is an item that the member had acted on, nor its own.

    Args:
        seen: Items that each label's member had acted on.
        of_days: Items of each label's day.
    """
    rng = np.random.default_rng(seed)
    rows, items, own = [], [], []
    for row in range(len(labels)):
        mine = labels.items[row]
        drawn: list[Any] = []
        if labels.signs[row] > 0:
            out = {mine, *seen[row].tolist()}
            brought = {item for lists in candidates.values() for item in lists[row].tolist()}
            if mine in brought:
                drawn += _draw(rng, sorted(brought - out), line.hard)
            drawn += _draw(rng, of_days[row], line.easy, {*out, *drawn})
        rows += [row] * (1 + len(drawn))
        items += [mine, *drawn]
        own += [True, *[False] * len(drawn)]
    return Pairs(np.array(rows, np.int64), np.array(items, labels.items.dtype), np.array(own, bool))


def _draw(
    rng: np.random.Generator,
    pool: Sequence[Any] | NDArray[Any],
    count: int,
    out: set[Any] | None = None,
) -> list[Any]:
    """Draw up to `count` distinct items of a pool that are not `out`."""
    if not len(pool) or not count:
        return []
    drawn: dict[Any, None] = {}
    # A few more, since some are out.
    for place in rng.integers(len(pool), size=2 * count + 4).tolist():
        item = pool[place]
        item = item.item() if hasattr(item, "item") else item
        if item not in (out or ()) and len(drawn) < count:
            drawn[item] = None
    return list(drawn)


def ranks_of(
    candidates: Mapping[str, Lists], where: Rows, items: NDArray[Any]
) -> dict[str, Floats]:
    """Return each pair's rank in each source, from 0; NaN where it is not there; float32 [pairs].

    >>> ranks_of({"popular": [np.array([8, 7])]}, np.array([0, 0]), np.array([7, 9]))
    {'popular': array([ 1., nan], dtype=float32)}

    Args:
        where: The row of `candidates` of each pair.
        items: Of each pair.
    """
    found = {}
    for source, lists in candidates.items():
        lengths = np.array([len(one) for one in lists], np.int64)
        owners = np.repeat(np.arange(len(lists)), lengths)
        listed = np.concatenate([items[:0], *lists])
        places = np.arange(len(listed)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        codes, names = pd.factorize(np.concatenate([listed, items]))
        keys = np.concatenate([owners, where]) * max(len(names), 1) + codes
        of_lists, of_pairs = keys[: len(listed)], keys[len(listed) :]
        order = np.argsort(of_lists, kind="stable")
        known = of_lists[order]
        ranks = np.full(len(items), np.nan, np.float32)
        if len(known):
            place = np.minimum(np.searchsorted(known, of_pairs), len(known) - 1)
            hit = known[place] == of_pairs
            ranks[hit] = places[order][place[hit]]
        found[source] = ranks
    return found


def targets_of(heads: Mapping[str, float], labels: Labels, pairs: Pairs) -> Floats:
    """Return whether each head's action came of each pair, float32 [pairs, heads].

    An action that says the opposite of what its head stands for, as a rating with one star does,
    counts as none.

    Args:
        heads: Actions, each with its weight in the score.
    """
    if pairs.actions is None or pairs.signs is None:
        actions, signs, there = labels.actions[pairs.labels], labels.signs[pairs.labels], pairs.own
    else:
        actions, signs = pairs.actions, pairs.signs
        there = np.ones(len(actions), bool)
    targets = [
        there & (actions == action) & (signs * weight > 0) for action, weight in heads.items()
    ]
    return np.stack(targets, axis=1).astype(np.float32)
