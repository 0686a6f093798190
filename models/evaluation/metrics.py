"""Ranking metrics over all items, without sampling: one number per label, to be resampled.

Ties share the mean of their ranks, so constant scores put every item in the middle.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from transformations.errors import RunFailedError

Floats = NDArray[np.float64]


def ranks(
    scores: NDArray[np.float32],
    targets: NDArray[np.integer],
    candidates: NDArray[np.bool_] | None = None,
    exclude: NDArray[np.integer] | None = None,
) -> Floats:
    """Return the rank of each label's item, from 1; float64 [n], halves where there are ties.

    >>> scores = np.array([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5]], np.float32)
    >>> ranks(scores, np.array([2, 0]))
    array([2., 2.])

    Args:
        scores: float [n, items], higher is better; -inf is allowed, NaN is not.
        targets: Index of the label's item, int [n]; always a candidate.
        candidates: bool [n, items], or [items] for all labels; None: all items.
        exclude: Indices of items to leave out, int [n, m]; -1 for none.

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
        rows, columns = np.nonzero(exclude >= 0)
        greater[rows, exclude[rows, columns]] = False
        equal[rows, exclude[rows, columns]] = False
    equal[labels, targets] = False
    return 1.0 + _counts(greater) + _counts(equal) / 2.0


def _counts(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    # count_nonzero with an axis sums integers, which is far slower than row by row.
    return np.fromiter(map(np.count_nonzero, flags), np.int64, len(flags))


def full_ranks(
    score_batch: Callable[[slice], NDArray[np.float32]],
    targets: NDArray[np.integer],
    candidates: Mapping[str, Callable[[slice], NDArray[np.bool_]] | None],
    exclude: NDArray[np.integer] | None = None,
    batch: int = 1024,
) -> dict[str, Floats]:
    """Rank each label's item in every candidate set; each batch is scored once.

    Args:
        score_batch: Takes a slice of the labels, returns their scores: float [batch, items].
        targets: Index of the label's item, int [labels].
        candidates: Name of the set → function of a slice of the labels that returns `candidates`
            of `ranks`; None for all items.
        exclude: As in `ranks`, int [labels, m].
        batch: Labels per batch; memory is about 6 * batch * items bytes besides the scores.

    Returns:
        Name of the set → float64 [labels].
    """
    found = {name: np.empty(len(targets)) for name in candidates}
    for start in range(0, len(targets), batch):
        rows = slice(start, min(start + batch, len(targets)))
        scores = score_batch(rows)
        without = None if exclude is None else exclude[rows]
        for name, mask in candidates.items():
            found[name][rows] = ranks(scores, targets[rows], mask and mask(rows), without)
    return found


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


def reciprocal_rank(ranks: Floats) -> Floats:
    """Return 1 / rank, float64 [labels]; its mean is MRR, or MAP with one relevant item each."""
    return 1.0 / ranks


def grouped_average_precision(ranks: Floats, queries: NDArray[np.integer]) -> Floats:
    """Return the average precision of each query, float64 [queries].

    The j-th best of a query's relevant items, at rank r, has precision j / r; the query's value is
    their mean.

    >>> grouped_average_precision(np.array([1.0, 4.0, 2.0]), np.array([0, 0, 1]))
    array([0.75, 0.5 ])

    Args:
        ranks: Of each relevant item among all, the query's other relevant ones included; [labels].
        queries: Each one's query, from 0 without gaps: the positives of a member at one timestamp.
    """
    ordered, query, nth, sizes = _by_query(ranks, queries)
    return np.bincount(query, nth / ordered, len(sizes)) / sizes


def grouped_ndcg(ranks: Floats, queries: NDArray[np.integer], k: int) -> Floats:
    """Return NDCG@k of each query, float64 [queries]; arguments as for average precision.

    At most k items of a query count, even if ties put more of them within rank k.
    """
    ordered, query, nth, sizes = _by_query(ranks, queries)
    gains = np.where((ordered <= k) & (nth <= k), 1.0 / np.log2(1.0 + ordered), 0.0)
    ideal = np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))
    return np.bincount(query, gains, len(sizes)) / ideal[np.minimum(sizes, k) - 1]


def _by_query(
    ranks: Floats, queries: NDArray[np.integer]
) -> tuple[Floats, NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
    """Return ranks and queries in order, each rank's number in its query (from 1), query sizes."""
    order = np.lexsort((ranks, queries))
    sizes = np.bincount(queries)
    starts = np.cumsum(sizes) - sizes
    nth = np.arange(1, len(ranks) + 1) - starts.repeat(sizes)
    return ranks[order], queries[order], nth, sizes


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
