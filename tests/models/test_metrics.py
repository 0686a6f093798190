import math

import keras_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from models.backend import keras
from models.evaluation.metrics import (
    auc,
    hit_rate,
    ndcg,
    paired_auc,
    ranks,
    reciprocal_rank,
)
from transformations.errors import RunFailedError

# Few different values, so that ties are common.
SCORES = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0])


def brute_rank(scores, target, is_candidate):
    """The rank by counting, and the mean over the ranks that ties could take."""
    others = [s for i, s in enumerate(scores) if i != target and is_candidate(i)]
    greater = sum(s > scores[target] for s in others)
    equal = sum(s == scores[target] for s in others)
    return sum(1 + greater + tied for tied in range(equal + 1)) / (equal + 1)


@st.composite
def ranking(draw):
    items = draw(st.integers(1, 7))
    labels = draw(st.integers(1, 5))
    row = st.lists(SCORES, min_size=items, max_size=items)
    flags = st.lists(st.booleans(), min_size=items, max_size=items)
    scores = np.array([draw(row) for _ in range(labels)], np.float32)
    targets = np.array([draw(st.integers(0, items - 1)) for _ in range(labels)])
    mask = np.array([draw(flags) for _ in range(labels)])
    pair = st.tuples(st.integers(0, labels - 1), st.integers(0, items - 1))
    return scores, targets, mask, draw(st.lists(pair, max_size=6))


@settings(max_examples=60, deadline=None)
@given(ranking())
def test_ranks_are_those_of_counting(case):
    scores, targets, mask, exclude = case
    pairs = np.array(exclude, np.int64).reshape(-1, 2).T
    got = ranks(scores, targets, mask, (pairs[0], pairs[1]))
    for n, target in enumerate(targets):
        expected = brute_rank(
            scores[n], target, lambda i, n=n: mask[n, i] and (n, i) not in exclude
        )
        assert got[n] == expected
    shared = ranks(scores, targets, mask[0])
    assert shared.tolist() == [
        brute_rank(scores[n], t, lambda i: mask[0, i]) for n, t in enumerate(targets)
    ]


def test_constant_scores_rank_in_the_middle():
    got = ranks(np.zeros((3, 101), np.float32), np.array([0, 50, 100]))
    assert got.tolist() == [51.0, 51.0, 51.0]
    assert hit_rate(got, 10).sum() == ndcg(got, 10).sum() == 0


def test_a_nan_score_is_refused():
    scores = np.array([[1.0, 2.0], [1.0, np.nan]], np.float32)
    with pytest.raises(RunFailedError, match="NaN for label 1 and item 1"):
        ranks(scores, np.array([0, 0]))
    with pytest.raises(RunFailedError, match="NaN in 1 of 2"):
        auc(scores[1], np.array([True, False]))
    with pytest.raises(RunFailedError, match="NaN in 1 of 4"):
        paired_auc(scores[0], scores)


def test_metrics_of_a_rank():
    got = np.array([1.0, 2.0, 3.0, 10.0, 11.0])
    assert hit_rate(got, 10).tolist() == [1, 1, 1, 1, 0]
    assert reciprocal_rank(got).tolist() == [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11]
    np.testing.assert_allclose(
        ndcg(got, 10), [1, 1 / math.log2(3), 1 / 2, 1 / math.log2(11), 0], rtol=1e-12
    )


def test_metrics_are_those_of_keras_rs():
    """Scores without ties, with one relevant item."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.linspace(-1, 1, 40), (50, 1)), axis=1).astype(np.float32)
    one = rng.integers(0, 40, 50)
    in_one = ranks(scores, one)
    single = np.eye(40, dtype=np.float32)[one]
    for metric, relevant, got in (
        (keras_rs.metrics.RecallAtK(k=10), single, hit_rate(in_one, 10)),
        (keras_rs.metrics.NDCG(k=10), single, ndcg(in_one, 10)),
        (keras_rs.metrics.MeanReciprocalRank(), single, reciprocal_rank(in_one)),
        (keras_rs.metrics.MeanAveragePrecision(), single, reciprocal_rank(in_one)),
    ):
        metric.update_state(relevant.astype(np.float32), scores)
        expected = float(keras.ops.convert_to_numpy(metric.result()))
        assert got.mean() == pytest.approx(expected, abs=1e-6), metric.name


ROWS = st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 3)), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_auc_is_the_share_of_pairs_in_order(rows):
    scores = np.array([row[0] for row in rows])
    positive = np.array([row[1] for row in rows])
    weights = np.array([row[2] for row in rows], float)
    pairs = won = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            weight = weights[i] * weights[j]
            pairs += weight
            won += weight * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    got = auc(scores, positive, weights)
    assert got == pytest.approx(won / pairs) if pairs else math.isnan(got)


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, weights = rng.integers(0, 50, 500).astype(np.float32), rng.random(500)
    positive = rng.random(500) < 0.3
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert auc(scores, positive, weights) == pytest.approx(expected)


def test_auc_against_a_labels_own_negatives():
    got = paired_auc(np.array([0.5, 0.5]), np.array([[0.4, 0.5, 0.6, 0.1], [0.5, 0.5, 0.5, 0.5]]))
    assert got.tolist() == [(1 + 0.5 + 0 + 1) / 4, 0.5]
