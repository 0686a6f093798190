"""Ranking metrics over all items, without sampling: one number per label, to be resampled.

Ties share the mean of their ranks, so constant scores put every item in the middle.
"""

import numpy as np
from numpy.typing import NDArray

from transformations.errors import RunFailedError

Floats = NDArray[np.float64]


def ranks(
    scores: NDArray[np.float32],
    targets: NDArray[np.integer],
    candidates: NDArray[np.bool_] | None = None,
    exclude: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None,
) -> Floats:
    """Return the rank of each label's item, from 1; float64 [n], halves where there are ties.

    >>> scores = np.array([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5]], np.float32)
    >>> ranks(scores, np.array([2, 0]))
    array([2., 2.])

    Args:
        scores: float [n, items], higher is better; -inf is allowed, NaN is not.
        targets: Index of the label's item, int [n]; always a candidate.
        candidates: bool [n, items], or [items] for all labels; None: all items.
        exclude: Pairs to leave out: indices of labels and of items, int [pairs] each.

    Raises:
        RunFailedError: a score is NaN, which would win every comparison.
    """
    if scores.size and np.isnan(scores.min()):
        row, item = np.argwhere(np.isnan(scores))[0]
        raise RunFailedError(
            f"expected scores that are numbers, got NaN for label {row} and item {item}; "
            "look for values that are not finite in the ranker's features or weights"
        )
    labels = np.arange(len(scores))
    own = scores[labels, targets][:, None]
    greater, equal = scores > own, scores == own
    if candidates is not None:
        greater &= candidates
        equal &= candidates
    if exclude is not None:
        greater[exclude] = False
        equal[exclude] = False
    equal[labels, targets] = False
    return 1.0 + _counts(greater) + _counts(equal) / 2.0


def _counts(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    # count_nonzero with an axis sums integers, which is far slower than row by row.
    return np.fromiter(map(np.count_nonzero, flags), np.int64, len(flags))


def hit_rate(ranks: Floats, k: int) -> Floats:
    """Return 1 where rank <= k, else 0; float64 [labels]. Recall@k for one relevant item."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Floats, k: int) -> Floats:
    """Return 1 / log2(1 + rank) where rank <= k, else 0; float64 [labels].

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002, for one
    relevant item. Half ranks are used as they are: the function is convex, so ties get at most
    what breaking them at random would give on average.
    """
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def ndcg_in_groups(
    scores: NDArray[np.floating], gains: NDArray[np.floating], groups: NDArray[np.integer], k: int
) -> Floats:
    """Return the NDCG@k of each group that tells something, in order; float64 [groups].

    That is one of several pairs, of which one at least has a gain. Ties share the mean of their
    ranks.

    >>> ndcg_in_groups(np.array([0.9, 0.5]), np.array([0.0, 1.0]), np.array([4, 4]), 10)
    array([0.63092975])

    Args:
        scores: float [pairs].
        gains: What each pair is worth, float [pairs]; one below 0 counts as 0.
        groups: int [pairs].

    Raises:
        RunFailedError: a score is NaN.
    """
    _refuse_nan(scores)
    worth = np.maximum(gains, 0.0).astype(np.float64)
    by_score, by_worth = np.lexsort((-scores, groups)), np.lexsort((-worth, groups))
    # Both orders have the same groups at the same places.
    sorted_groups, sorted_scores = groups[by_score], scores[by_score]
    begins = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]][: len(groups)]
    group = np.cumsum(begins) - 1
    ranks = 1.0 + np.arange(len(groups)) - np.flatnonzero(begins)[group]
    ties = np.cumsum(begins | np.r_[True, sorted_scores[1:] != sorted_scores[:-1]][: len(begins)])
    shared = (np.bincount(ties, ranks) / np.maximum(np.bincount(ties), 1))[ties]
    gained = np.bincount(group, ndcg(shared, k) * worth[by_score])
    ideal = np.bincount(group, ndcg(ranks, k) * worth[by_worth])
    telling = (ideal > 0) & (np.bincount(group) > 1)
    return np.asarray(gained[telling] / ideal[telling])


def reciprocal_rank(ranks: Floats) -> Floats:
    """Return 1 / rank, float64 [labels]; its mean is MRR: MAP with one relevant item each."""
    return 1.0 / ranks


def auc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: Floats | None = None
) -> float:
    """Return the share of positive-negative pairs in order, ties as half; NaN without pairs.

    The Mann-Whitney statistic; a pair's weight is the product of its rows' weights.

    >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875

    Args:
        scores: float [rows].
        positive: bool [rows].
        weights: float [rows]; None for equal ones.
    """
    _refuse_nan(scores)
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    below = np.concatenate([[0.0], np.cumsum(weights[~positive][order])])
    low = below[np.searchsorted(negatives, scores[positive], side="left")]
    high = below[np.searchsorted(negatives, scores[positive], side="right")]
    pairs = below[-1] * weights[positive].sum()
    return float(weights[positive] @ (low + high) / 2 / pairs) if pairs > 0 else float("nan")


def paired_auc(positive: NDArray[np.floating], negatives: NDArray[np.floating]) -> Floats:
    """Return, for each label, the share of its negatives that score lower, ties as half.

    Args:
        positive: Score of the label's item, float [labels].
        negatives: Scores of items drawn for that label, float [labels, m].

    Returns:
        float64 [labels]; the mean is the AUC against a random item.
    """
    _refuse_nan(positive)
    _refuse_nan(negatives)
    own = positive[:, None]
    return (own > negatives).mean(axis=1) + (own == negatives).mean(axis=1) / 2


def _refuse_nan(scores: NDArray[np.floating]) -> None:
    wrong = np.isnan(scores)
    if wrong.any():
        raise RunFailedError(
            f"expected scores that are numbers, got NaN in {int(wrong.sum()):,} of "
            f"{scores.size:,}; look for values that are not finite in the ranker's features or "
            "weights"
        )
