"""Scores every item for every label, and keeps what the metrics need."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.item_vectors import ItemVectors
from models.evaluation.metrics import Floats, paired_auc, ranks
from models.evaluation.ranker import RankerFeatures
from models.evaluation.ranker_weights import JUDGE, RANK, Ranker
from models.evaluation.task import Task

Score = Callable[[NDArray[np.int64], int], NDArray[np.float32]]
"""Takes indices of labels of one day, and the day; returns float32 [indices, items]. Called with
ascending days."""


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
    score: Score,
    task: Task,
    judged: NDArray[np.float32] | None = None,
    batch: int = 512,
    only: NDArray[np.bool_] | None = None,
) -> LabelScores:
    """Rank each positive label's item among all known items and among all active ones.

    Items that the member acted on before the label are left out.

    Args:
        batch: Labels that are scored at once.
        only: Labels to measure, bool [labels]; None for all.
    """
    labels = task.labels
    measured = labels.positive if only is None else labels.positive & only
    found = [np.full(len(labels), np.nan) for _ in range(3)]
    for day in np.unique(labels.days[measured]):
        of_day = np.flatnonzero((labels.days == day) & measured)
        known, active = task.item_days.known(day), task.item_days.active(day)
        for start in range(0, len(of_day), batch):
            rows = of_day[start : start + batch]
            scores, own = score(rows, int(day)), labels.items[rows]
            seen = task.seen[rows].nonzero()
            found[0][rows] = ranks(scores, own, known, seen)
            found[1][rows] = np.where(active[own], ranks(scores, own, active, seen), np.nan)
            within = np.arange(len(rows))
            found[2][rows] = paired_auc(
                scores[within, own], scores[within[:, None], task.random_items[rows]]
            )
    return LabelScores(found[0], found[1], found[2], judged)


def measure_ranker(
    ranker: Ranker, task: Task, features: RankerFeatures, item_vectors: ItemVectors
) -> LabelScores:
    """Measure a fitted ranker on a task."""
    labels = task.labels
    sides = ranker.member_side(features.vectors, features.member_features)
    judged = ranker.bias(features.member_features)
    for day in np.unique(labels.days):
        rows = np.flatnonzero(labels.days == day)
        own = labels.items[rows]
        of_items = task.item_days.features(int(day), own)
        mixed, towers = (side[rows] for side in sides[JUDGE])
        judged[rows] += np.einsum("nd,nd->n", mixed, item_vectors.at(int(day), own))
        judged[rows] += np.einsum("nt,tn->n", towers, ranker.item_towers(of_items, JUDGE))

    def score(rows: NDArray[np.int64], day: int) -> NDArray[np.float32]:
        mixed, towers = (side[rows] for side in sides[RANK])
        scores = mixed @ item_vectors.at(day).T
        scores += towers @ ranker.item_towers(task.item_days.features(day), RANK)
        if features.pairs is not None:
            scores += ranker.pair_side(features.pair_features(rows))
        return scores

    return measure(score, task, judged)
