"""Scores every item for every label, and keeps of them what the metrics are made from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.item_days import ItemDays
from models.evaluation.metrics import Floats, full_ranks, paired_auc
from models.evaluation.ranker import JUDGE, RANK, Labels, Ranker
from models.sequences import DAY

RANDOM_ITEMS = 8

Score = Callable[[NDArray[np.int64], int], NDArray[np.float32]]
"""Given rows of the labels, all of one day, and the day: the items' scores, float32 [rows, items].
Called with the days in ascending order."""


@dataclass(frozen=True, eq=False)
class Task:
    """Labels to be ranked for, and what they are ranked among.

    Attributes:
        labels: In any order.
        seen: Columns of items that the member acted on before the label's midnight, which are not
            recommended again, int [labels, m]; -1 fills up.
        random_items: Columns of items drawn from those that anybody acted on on the day of the
            label, int [labels, RANDOM_ITEMS].
    """

    labels: Labels
    item_days: ItemDays
    seen: NDArray[np.int32]
    random_items: NDArray[np.int64]

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Task":
        """Return the task of some of the labels."""
        return Task(
            self.labels.take(rows), self.item_days, self.seen[rows], self.random_items[rows]
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one ranker makes of a task; NaN where it does not apply.

    Attributes:
        rank: Of the label's item among all known ones, float64 [labels]; positive labels only.
        rank_recent: The same among those active in the week before; only where the label's is one.
        random: Share of the random items that score lower, float64 [labels]; positive labels only.
        judged: How sure the action is to be positive, [labels]; None for what does not judge.
    """

    rank: Floats
    rank_recent: Floats
    random: Floats
    judged: NDArray[np.float32] | None


def measure(
    score: Score, task: Task, judged: NDArray[np.float32] | None = None, batch: int = 512
) -> Outcome:
    """Rank each positive label's item among all known and among the active ones; in full."""
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
        places = np.arange(len(rows))
        found[2][rows] = paired_auc(
            scores[places, own], scores[places[:, None], task.random_items[rows]]
        )
    return Outcome(found[0], found[1], found[2], judged)


def _same(mask: NDArray[np.bool_]) -> Callable[[slice], NDArray[np.bool_]]:
    return lambda _: mask


def measure_ranker(
    ranker: Ranker, task: Task, vectors: NDArray[np.float32], embeddings: NDArray[np.float32]
) -> Outcome:
    """Measure a fitted ranker; shapes as for `fit_ranker`."""
    labels = task.labels
    sides = [np.asarray(side) for side in ranker.member_side(vectors, labels.habits)]
    judged = np.array(ranker.bias(labels.habits))[:, 0]
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
    labels: Labels,
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
    seed: int = 0,
) -> NDArray[np.int64]:
    """Draw for each label from the different items acted on on its own day, itself left out.

    Args:
        event_items: Column of each event's item.
        event_times: Microseconds since 1970.

    Returns:
        int64 [labels, RANDOM_ITEMS]; the label's own item where nobody acted on another one that
        day, which counts as a tie.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(labels), RANDOM_ITEMS), np.int64)
    label_days, event_days = labels.times // DAY, event_times // DAY
    for day in np.unique(label_days):
        rows = np.flatnonzero(label_days == day)
        pool = np.unique(event_items[event_days == day])
        own = labels.items[rows]
        place = np.searchsorted(pool, own)
        inside = (place < len(pool)) & (pool[np.minimum(place, len(pool) - 1)] == own)
        others = len(pool) - inside
        picks = (rng.random((len(rows), RANDOM_ITEMS)) * others[:, None]).astype(np.int64)
        picks += inside[:, None] & (picks >= place[:, None])
        picked = pool[np.minimum(picks, len(pool) - 1)]
        drawn[rows] = np.where(others[:, None] > 0, picked, own[:, None])
    return drawn


def seen_items(
    labels: Labels,
    event_members: NDArray[np.integer],
    event_items: NDArray[np.integer],
    event_times: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Return the items that each label's member acted on before the label's midnight.

    Args:
        event_members: Codes as in `labels.members`; other arrays as for `random_items`.

    Returns:
        Columns, int32 [labels, m], -1 filling up on the right.
    """
    order = np.lexsort((event_times, event_members))
    members, items, times = event_members[order], event_items[order], event_times[order]
    starts = np.searchsorted(members, labels.members, side="left")
    ends = np.searchsorted(members, labels.members, side="right")
    counts = np.array(
        [
            np.searchsorted(times[start:end], day * DAY)
            for start, end, day in zip(starts, ends, labels.days, strict=True)
        ],
        np.int64,
    )
    seen = np.full((len(labels), max(int(counts.max(initial=0)), 1)), -1, np.int32)
    rows = np.repeat(np.arange(len(labels)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    seen[rows, within] = items[np.repeat(starts, counts) + within]
    return seen
