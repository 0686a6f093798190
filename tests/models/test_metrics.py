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
    full_ranks,
    grouped_average_precision,
    grouped_ndcg,
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
    exclude = np.array(
        [[draw(st.integers(-1, items - 1)) for _ in range(3)] for _ in range(labels)]
    )
    return scores, targets, mask, exclude


@settings(max_examples=60, deadline=None)
@given(ranking())
def test_ranks_are_those_of_counting(case):
    scores, targets, mask, exclude = case
    got = ranks(scores, targets, mask, exclude)
    for n, target in enumerate(targets):
        expected = brute_rank(
            scores[n], target, lambda i, n=n: mask[n, i] and i not in exclude[n].tolist()
        )
        assert got[n] == expected
    shared = ranks(scores, targets, mask[0])
    assert shared.tolist() == [
        brute_rank(scores[n], t, lambda i: mask[0, i]) for n, t in enumerate(targets)
    ]


@settings(max_examples=60, deadline=None)
@given(ranking(), st.integers(1, 6))
def test_batches_change_nothing(case, batch):
    scores, targets, mask, exclude = case
    got = full_ranks(
        lambda rows: scores[rows],
        targets,
        {"all": None, "some": lambda rows: mask[rows]},
        exclude,
        batch,
    )
    np.testing.assert_array_equal(got["all"], ranks(scores, targets, None, exclude))
    np.testing.assert_array_equal(got["some"], ranks(scores, targets, mask, exclude))


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
    """Scores without ties, with one relevant item and with several."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.linspace(-1, 1, 40), (50, 1)), axis=1).astype(np.float32)
    one = rng.integers(0, 40, 50)
    several = rng.random((50, 40)) < 0.1
    several[:, 0] = True
    queries, columns = np.nonzero(several)
    in_one = ranks(scores, one)
    in_several = ranks(scores[queries], columns)
    single = np.eye(40, dtype=np.float32)[one]
    for metric, relevant, got in (
        (keras_rs.metrics.RecallAtK(k=10), single, hit_rate(in_one, 10)),
        (keras_rs.metrics.NDCG(k=10), single, ndcg(in_one, 10)),
        (keras_rs.metrics.MeanReciprocalRank(), single, reciprocal_rank(in_one)),
        (keras_rs.metrics.MeanAveragePrecision(), single, reciprocal_rank(in_one)),
        (keras_rs.metrics.NDCG(k=10), several, grouped_ndcg(in_several, queries, 10)),
        (
            keras_rs.metrics.MeanAveragePrecision(),
            several,
            grouped_average_precision(in_several, queries),
        ),
    ):
        metric.update_state(relevant.astype(np.float32), scores)
        expected = float(keras.ops.convert_to_numpy(metric.result()))
        assert got.mean() == pytest.approx(expected, abs=1e-6), metric.name


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=12), st.integers(1, 5))
def test_grouped_metrics_lie_between_0_and_1_whatever_the_ties(rows, k):
    scores = np.array([[score for score, _ in rows]], np.float32)
    relevant = np.flatnonzero([flag for _, flag in rows])
    if not len(relevant):
        return
    queries = np.zeros(len(relevant), int)
    got = ranks(scores.repeat(len(relevant), axis=0), relevant)
    for value in (grouped_ndcg(got, queries, k), grouped_average_precision(got, queries)):
        assert value.shape == (1,)
        assert 0 <= value[0] <= 1 + 1e-12
    if len(relevant) == 1:
        assert grouped_ndcg(got, queries, k).tolist() == ndcg(got, k).tolist()
        assert grouped_average_precision(got, queries).tolist() == reciprocal_rank(got).tolist()


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
