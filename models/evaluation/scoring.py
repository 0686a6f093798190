"""Scores every item for every label, and keeps what the metrics need."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.history import events_before, padded_rows
from models.evaluation.item_days import ItemDays
from models.evaluation.metrics import Floats, full_ranks, paired_auc
from models.evaluation.ranker import JUDGE, RANK, Ranker, RankerFeatures, RankerLabels
from transformations.timestamps import DAY_US

RANDOM_ITEMS = 8

Score = Callable[[NDArray[np.int64], int], NDArray[np.float32]]
"""Takes indices of labels of one day, and the day; returns float32 [indices, items]. Called with
ascending days."""


@dataclass(frozen=True, eq=False)
class Task:
    """Labels, and the items that each is ranked among.

    Attributes:
        labels: In any order.
        seen: Items that the member acted on before the label's midnight, which are not recommended
            again, int [labels, m]; padded with -1.
        random_items: Items drawn from those with an action on the label's day, int [labels,
            RANDOM_ITEMS].
    """

    labels: RankerLabels
    item_days: ItemDays
    seen: NDArray[np.int32]
    random_items: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Task":
        """Return the task of some of the labels."""
        return Task(
            self.labels.take(rows), self.item_days, self.seen[rows], self.random_items[rows]
        )


@dataclass(frozen=True, eq=False)
class LabelScores:
    """One ranker's scores, one number per label; NaN where it does not apply.

    Attributes:
        rank: Of the label's item among all known ones, float64 [labels]; positive labels only.
        rank_recent: Among items active in the week before; only for labels on such an item.
        random: Share of the random items that score lower, float64 [labels]; positive labels only.
        judged: Logit of the action being positive, [labels]; None for a recommender, which does
            not judge.
    """

    rank: Floats
    rank_recent: Floats
    random: Floats
    judged: NDArray[np.float32] | None


def measure(
    score: Score, task: Task, judged: NDArray[np.float32] | None = None, batch: int = 512
) -> LabelScores:
    """Rank each positive label's item among all known items and among all active ones."""
    labels = task.labels
    found = [np.full(len(labels), np.nan) for _ in range(3)]
    for day in np.unique(labels.days):
        rows = np.flatnonzero((labels.days == day) & labels.positive)
        if not len(rows):
            continue
        known, active = task.item_days.known(day), task.item_days.active(day)
        scores = score(rows, int(day))
        own = labels.items[rows]
        by_set = full_ranks(
            scores.__getitem__,
            own,
            {"known": _same(known), "active": _same(active)},
            task.seen[rows],
            batch,
        )
        found[0][rows] = by_set["known"]
        found[1][rows] = np.where(active[own], by_set["active"], np.nan)
        within = np.arange(len(rows))
        found[2][rows] = paired_auc(
            scores[within, own], scores[within[:, None], task.random_items[rows]]
        )
    return LabelScores(found[0], found[1], found[2], judged)


def _same(mask: NDArray[np.bool_]) -> Callable[[slice], NDArray[np.bool_]]:
    return lambda _: mask


def measure_ranker(
    ranker: Ranker, task: Task, features: RankerFeatures, embeddings: NDArray[np.float32]
) -> LabelScores:
    """Measure a fitted ranker; shapes as for `fit_ranker`."""
    labels = task.labels
    members = ranker.member_side(features.vectors, features.member_features)
    sides = [np.asarray(side) for side in members]
    judged = np.array(ranker.bias(features.member_features))[:, 0]
    for day in np.unique(labels.days):
        rows = np.flatnonzero(labels.days == day)
        own = labels.items[rows]
        items = ranker.item_side(embeddings[own], task.item_days.features(int(day))[own])[JUDGE]
        judged[rows] += np.einsum("nd,nd->n", sides[JUDGE][rows], np.asarray(items))

    def score(rows: NDArray[np.int64], day: int) -> NDArray[np.float32]:
        items = ranker.item_side(embeddings, task.item_days.features(day))[RANK]
        return np.asarray(sides[RANK][rows] @ np.asarray(items).T)

    return measure(score, task, judged)


def random_items(
    labels: RankerLabels,
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
    seed: int = 0,
) -> NDArray[np.int64]:
    """Draw items for each label from the distinct items of its day, except its own item.

    Args:
        event_items: Index of each event's item.
        event_times: Microseconds since 1970.

    Returns:
        int64 [labels, RANDOM_ITEMS]; the label's own item if its day has no other, which counts
        as a tie.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(labels), RANDOM_ITEMS), np.int64)
    label_days, event_days = labels.times // DAY_US, event_times // DAY_US
    for day in np.unique(label_days):
        rows = np.flatnonzero(label_days == day)
        pool = np.unique(event_items[event_days == day])
        own = labels.items[rows]
        index = np.searchsorted(pool, own)
        inside = (index < len(pool)) & (pool[np.minimum(index, len(pool) - 1)] == own)
        others = len(pool) - inside
        picks = (rng.random((len(rows), RANDOM_ITEMS)) * others[:, None]).astype(np.int64)
        picks += inside[:, None] & (picks >= index[:, None])
        picked = pool[np.minimum(picks, len(pool) - 1)]
        drawn[rows] = np.where(others[:, None] > 0, picked, own[:, None])
    return drawn


def seen_items(
    labels: RankerLabels,
    event_members: NDArray[np.integer],
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Return the items that each label's member acted on before the label's midnight.

    Args:
        event_members: Codes as in `labels.members`; other arrays as for `random_items`.

    Returns:
        int32 [labels, m], oldest first, padded on the right with -1.
    """
    order = np.lexsort((event_times, event_members))
    rows, events = events_before(
        event_members[order], event_times[order], labels.members, labels.days * DAY_US
    )
    return padded_rows(rows, event_items[order][events], len(labels))
