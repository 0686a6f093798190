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
from models.evaluation.ranker import Labels
from models.evaluation.scoring import Outcome

AT = 10


@dataclass(frozen=True)
class PerLabel:
    """A mean over labels: each label's contribution, NaN where it has none."""

    label: str
    of: Callable[[Outcome], Floats]

    def estimate(
        self,
        outcomes: Sequence[Outcome],
        labels: Labels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate:
        """Estimate it on the labels in `mask`; one outcome a seed."""
        values = np.stack([self.of(outcome) for outcome in outcomes])
        # Which labels have one depends on the label alone: it is the same for every ranker.
        return resamples.mean(values, labels.members, mask & ~np.isnan(values[0]))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """A mean over queries: the positives of one member after one midnight."""

    label: str

    def estimate(
        self,
        outcomes: Sequence[Outcome],
        labels: Labels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate:
        """Estimate it on the labels in `mask`; one outcome a seed."""
        rows = np.flatnonzero(mask & ~np.isnan(outcomes[0].rank))
        keys = np.stack([labels.members[rows], labels.days[rows]], axis=1)
        distinct, queries = np.unique(keys, axis=0, return_inverse=True)
        values = np.stack(
            [grouped_average_precision(outcome.rank[rows], queries) for outcome in outcomes]
        )
        return resamples.mean(values, distinct[:, 0])


@dataclass(frozen=True)
class Judgement:
    """AUC of positive against negative actions, pooled over members."""

    label: str

    def estimate(
        self,
        outcomes: Sequence[Outcome],
        labels: Labels,
        resamples: Resamples,
        mask: NDArray[np.bool_],
    ) -> Estimate | None:
        """Estimate it on the labels in `mask`; None where the variant does not judge."""
        judged = [outcome.judged for outcome in outcomes if outcome.judged is not None]
        if not judged:
            return None
        return resamples.auc(np.stack(judged), labels.positive, labels.members, mask)


def _where(ranks: Floats, values: Floats) -> Floats:
    return np.where(np.isnan(ranks), np.nan, values)


METRICS: Mapping[str, PerLabel | MeanAveragePrecision | Judgement] = {
    "hr10_recent": PerLabel(
        "HR@10, active items", lambda o: _where(o.rank_recent, hit_rate(o.rank_recent, AT))
    ),
    "ndcg10_recent": PerLabel(
        "NDCG@10, active items", lambda o: _where(o.rank_recent, ndcg(o.rank_recent, AT))
    ),
    "hr10": PerLabel("HR@10", lambda o: _where(o.rank, hit_rate(o.rank, AT))),
    "ndcg10": PerLabel("NDCG@10", lambda o: _where(o.rank, ndcg(o.rank, AT))),
    "mrr": PerLabel("MRR", lambda o: reciprocal_rank(o.rank)),
    "map": MeanAveragePrecision("MAP"),
    "auc_random": PerLabel("AUC, random item", lambda o: o.random),
    "auc_dismiss": Judgement("AUC, dismissed"),
}


def estimates(
    outcomes: Sequence[Outcome],
    labels: Labels,
    resamples: Resamples,
    mask: NDArray[np.bool_] | None = None,
    metrics: Sequence[str] = tuple(METRICS),
) -> dict[str, Estimate]:
    """Estimate each metric of one variant; one outcome a seed.

    Args:
        mask: Which labels count, bool [labels]: a cohort; None for all.
    """
    counted = np.ones(len(labels), bool) if mask is None else mask
    found = {name: METRICS[name].estimate(outcomes, labels, resamples, counted) for name in metrics}
    return {name: estimate for name, estimate in found.items() if estimate is not None}
