"""METRICS, and their estimates on every resample of members and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate, Resamples
from models.evaluation.metrics import (
    Floats,
    grouped_average_precision,
    hit_rate,
    ndcg,
    reciprocal_rank,
)
from models.evaluation.ranker import RankerLabels
from models.evaluation.scoring import LabelScores

AT = 10


@dataclass(frozen=True)
class PerLabel:
    """A mean over labels of a value that is NaN for labels without one."""

    label: str
    of: Callable[[LabelScores], Floats]

    def estimate(
        self,
        scores: Sequence[LabelScores],
        labels: RankerLabels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate:
        """Estimate it on the labels in `mask`; one entry of `scores` per seed."""
        values = np.stack([self.of(one) for one in scores])
        # Whether a label has a value depends on the label alone, so it is the same for all rankers.
        return resamples.mean(values, labels.members, mask & ~np.isnan(values[0]))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """A mean over queries: the positives of one member after one midnight."""

    label: str

    def estimate(
        self,
        scores: Sequence[LabelScores],
        labels: RankerLabels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate:
        """Estimate it on the labels in `mask`; one entry of `scores` per seed."""
        rows = np.flatnonzero(mask & ~np.isnan(scores[0].rank))
        keys = np.stack([labels.members[rows], labels.days[rows]], axis=1)
        distinct, queries = np.unique(keys, axis=0, return_inverse=True)
        values = np.stack([grouped_average_precision(one.rank[rows], queries) for one in scores])
        return resamples.mean(values, distinct[:, 0])


@dataclass(frozen=True)
class JudgementAuc:
    """AUC of positive against negative actions, pooled over members."""

    label: str

    def estimate(
        self,
        scores: Sequence[LabelScores],
        labels: RankerLabels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate | None:
        """Estimate it on the labels in `mask`.

        None for a recommender that does not judge, and without both kinds of labels.
        """
        judged = [one.judged for one in scores if one.judged is not None]
        if not judged or len(np.unique(labels.positive[mask])) < 2:
            return None
        return resamples.auc(np.stack(judged), labels.positive, labels.members, mask)


def _where(ranks: Floats, values: Floats) -> Floats:
    return np.where(np.isnan(ranks), np.nan, values)


METRICS: Mapping[str, PerLabel | MeanAveragePrecision | JudgementAuc] = {
    "hr10_recent": PerLabel(
        "HR@10, active items", lambda s: _where(s.rank_recent, hit_rate(s.rank_recent, AT))
    ),
    "ndcg10_recent": PerLabel(
        "NDCG@10, active items", lambda s: _where(s.rank_recent, ndcg(s.rank_recent, AT))
    ),
    "hr10": PerLabel("HR@10", lambda s: _where(s.rank, hit_rate(s.rank, AT))),
    "ndcg10": PerLabel("NDCG@10", lambda s: _where(s.rank, ndcg(s.rank, AT))),
    "mrr": PerLabel("MRR", lambda s: reciprocal_rank(s.rank)),
    "map": MeanAveragePrecision("MAP"),
    "auc_random": PerLabel("AUC, random item", lambda s: s.random),
    "auc_dismiss": JudgementAuc("AUC, dismissed"),
}


def estimates(
    scores: Sequence[LabelScores],
    labels: RankerLabels,
    resamples: Resamples,
    mask: NDArray[np.bool_] | None = None,
    metrics: Sequence[str] = tuple(METRICS),
) -> dict[str, Estimate]:
    """Estimate each metric of one variant; one entry of `scores` per seed.

    Args:
        mask: Labels to use, bool [labels]: a cohort; None for all.
    """
    used = np.ones(len(labels), bool) if mask is None else mask
    found = {name: METRICS[name].estimate(scores, labels, resamples, used) for name in metrics}
    return {name: estimate for name, estimate in found.items() if estimate is not None}
