"""METRICS, their estimates on every resample, and the items that carry a difference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Estimate, Resamples
from models.evaluation.metrics import Floats, hit_rate, ndcg, reciprocal_rank
from models.evaluation.scoring import LabelScores
from models.evaluation.task import RankerLabels

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
        over_items: bool,
    ) -> Estimate:
        """Estimate it on the labels in `mask`; one entry of `scores` per seed."""
        values = np.stack([self.of(one) for one in scores])
        # Whether a label has a value depends on the label alone, so it is the same for all rankers.
        counted = mask & ~np.isnan(values[0])
        return resamples.mean(values, labels.members, counted, labels.items if over_items else None)


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
        over_items: bool,
    ) -> Estimate | None:
        """Estimate it on the labels in `mask`.

        None for a recommender that does not judge, and without both kinds of labels.
        """
        judged = [one.judged for one in scores if one.judged is not None]
        if not judged or len(np.unique(labels.positive[mask])) < 2:
            return None
        items = labels.items if over_items else None
        return resamples.auc(np.stack(judged), labels.positive, labels.members, mask, items)


def _where(ranks: Floats, values: Floats) -> Floats:
    return np.where(np.isnan(ranks), np.nan, values)


METRICS: Mapping[str, PerLabel | JudgementAuc] = {
    "hr10_recent": PerLabel(
        "HR@10, active items", lambda s: _where(s.rank_recent, hit_rate(s.rank_recent, AT))
    ),
    "ndcg10_recent": PerLabel(
        "NDCG@10, active items", lambda s: _where(s.rank_recent, ndcg(s.rank_recent, AT))
    ),
    "hr10": PerLabel("HR@10", lambda s: _where(s.rank, hit_rate(s.rank, AT))),
    "ndcg10": PerLabel("NDCG@10", lambda s: _where(s.rank, ndcg(s.rank, AT))),
    "mrr": PerLabel("MRR", lambda s: reciprocal_rank(s.rank)),
    "auc_random": PerLabel("AUC, random item", lambda s: s.random),
    "auc_dismiss": JudgementAuc("AUC, dismissed"),
}


def estimates(
    scores: Sequence[LabelScores],
    labels: RankerLabels,
    resamples: Resamples,
    mask: NDArray[np.bool_] | None = None,
    metrics: Sequence[str] = tuple(METRICS),
    over_items: bool = False,
) -> dict[str, Estimate]:
    """Estimate each metric of one variant; one entry of `scores` per seed.

    Args:
        mask: Labels to use, bool [labels]: a cohort; None for all.
        over_items: Resample members and items too.
    """
    used = np.ones(len(labels), bool) if mask is None else mask
    found = {
        name: METRICS[name].estimate(scores, labels, resamples, used, over_items)
        for name in metrics
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


@dataclass(frozen=True)
class Carrier:
    """An item, and what its labels add to a difference of means.

    Attributes:
        item: Its index.
        labels: How many labels are on it.
        share: What they add to the difference over all labels.
    """

    item: int
    labels: int
    share: float


def carriers(
    ours: Sequence[LabelScores],
    theirs: Sequence[LabelScores],
    labels: RankerLabels,
    metric: str,
    most: int = 10,
) -> list[Carrier]:
    """Return the items that add most to a difference, in either direction, the largest first.

    Args:
        ours: One entry per seed; so `theirs`.
        metric: One of METRICS that is a mean over labels.
    """
    of = METRICS[metric]
    if not isinstance(of, PerLabel):
        raise ValueError(f"expected a metric that is a mean over labels, got {metric}")
    means = [np.mean([of.of(one) for one in scores], axis=0) for scores in (ours, theirs)]
    difference = means[0] - means[1]
    counted = ~np.isnan(difference)
    items = labels.items[counted]
    adds = np.bincount(items, difference[counted]) / max(int(counted.sum()), 1)
    numbers = np.bincount(items)
    there = np.flatnonzero(numbers)
    largest = there[np.argsort(-np.abs(adds[there]), kind="stable")][:most]
    return [Carrier(int(i), int(numbers[i]), float(adds[i])) for i in largest]
