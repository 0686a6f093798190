"""The downstream ranker learns a planted preference, and is reproducible from its seed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from models.evaluation.item_days import N_FEATURES, ItemDays
from models.evaluation.item_vectors import ItemVectors
from models.evaluation.metrics import hit_rate
from models.evaluation.ranker import RankerFeatures, RankerSettings, fit_ranker, mean_norms
from models.evaluation.ranker_weights import N_PAIR, Batch, Ranker
from models.evaluation.scoring import LabelScores, measure_ranker
from models.evaluation.task import RankerLabels, Task, random_items, which
from transformations.errors import InputError
from transformations.timestamps import DAY_US

DIM, ITEMS, COUNT = 6, 80, 3000
TRAIN, TEST = np.arange(2000), np.arange(2000, COUNT)
SETTINGS = RankerSettings(epochs=5, negatives=64, batch_size=128, learning_rate=0.02)
NOTHING = np.zeros(0, np.int64)


def world(seed: int = 0) -> tuple[Task, RankerFeatures, ItemVectors]:
    """Members act on the item nearest to their taste; its first number decides the action."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    taste = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    items = np.argmax(taste @ embeddings.T, axis=1)
    days = rng.integers(50, 60, COUNT)
    labels = RankerLabels(
        np.arange(COUNT), items, days, days * DAY_US + 1, embeddings[items, 0] > -0.2
    )
    vectors = np.zeros((COUNT, 3, DIM), np.float32)
    vectors[:, 0] = taste
    item_days = ItemDays.count(items, days * DAY_US, labels.positive, np.zeros(ITEMS, np.int64))
    features = RankerFeatures(vectors, np.zeros((COUNT, 2), np.float32))
    seen = which(NOTHING, NOTHING, (COUNT, ITEMS))
    task = Task(labels, item_days, seen, random_items(labels, items, labels.times))
    return task, features, ItemVectors.fixed(embeddings)


def some(features: RankerFeatures, rows: np.ndarray) -> RankerFeatures:
    pairs = None if features.pairs is None else features.pairs[rows]
    return RankerFeatures(features.vectors[rows], features.member_features[rows], pairs)


def scored(task: Task, features: RankerFeatures, items: ItemVectors) -> LabelScores:
    ranker = fit_ranker(task.take(TRAIN), some(features, TRAIN), items, SETTINGS, seed=0)
    return measure_ranker(ranker, task.take(TEST), some(features, TEST), items)


def measured(scale: float, of_items: float = 1.0) -> tuple[float, float]:
    task, features, items = world()
    features = replace(features, vectors=features.vectors * np.float32(scale))
    items = ItemVectors.fixed(items.at(0) * np.float32(of_items))
    got = scored(task, features, items)
    assert got.judged is not None
    positive = task.labels.positive[TEST]
    apart = got.judged[positive].mean() - got.judged[~positive].mean()
    return float(np.nanmean(hit_rate(got.rank, 10)[positive])), float(apart)


def test_a_vector_of_the_taste_ranks_and_judges() -> None:
    with_taste, apart = measured(scale=1.0)
    without, _ = measured(scale=0.0)
    assert with_taste > 0.9
    assert without < 0.35
    assert apart > 0.5


@pytest.mark.parametrize(("scale", "of_items"), [(0.05, 1.0), (20.0, 1.0), (1.0, 0.1)])
def test_the_length_of_vectors_changes_nothing(scale: float, of_items: float) -> None:
    assert measured(scale, of_items) == pytest.approx(measured(1.0), abs=1e-3)


def test_another_recommenders_scores_are_an_input() -> None:
    """A score of 2 for the label's item, of 1 for another one: that alone puts it first."""
    task, features, items = world()
    rng, labels = np.random.default_rng(1), task.labels
    rows = np.arange(COUNT).repeat(2)
    columns = np.stack([labels.items, rng.integers(0, ITEMS, COUNT)], axis=1).ravel()
    scores = np.tile(np.float32([2.0, 1.0]), COUNT)
    pairs = csr_array((scores, (rows, columns)), shape=(COUNT, ITEMS))
    blind = replace(features, vectors=np.zeros_like(features.vectors), pairs=pairs)
    positive = labels.positive[TEST]
    assert np.nanmean(scored(task, blind, items).rank[positive] <= 1) > 0.85


def test_seen_items_are_not_held_against_a_label() -> None:
    """Everybody has seen items near to the taste; they must not teach to avoid it."""
    task, features, items = world()
    near = np.argsort(-(features.vectors[:, 0] @ items.at(0).T), axis=1)[:, 1:20]
    seen = which(np.arange(COUNT).repeat(19), near.ravel(), (COUNT, ITEMS))
    positive = task.labels.positive[TEST]
    got = scored(replace(task, seen=seen), features, items)
    assert np.nanmean(hit_rate(got.rank, 1)[positive]) > 0.85


def test_the_same_seed_gives_the_same_ranker() -> None:
    task, features, items = world()
    quick = RankerSettings(epochs=1, negatives=32, batch_size=256)
    one, same, other = (
        fit_ranker(task, features, items, quick, seed).weights for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_label_on_an_unknown_item_is_refused() -> None:
    task, features, items = world()
    late = np.zeros(ITEMS, np.int64)
    late[task.labels.items[0]] = 61 * DAY_US
    unknown = replace(task, item_days=replace(task.item_days, available_at=late))
    with pytest.raises(InputError, match="items known at their midnight"):
        fit_ranker(unknown, features, items, SETTINGS, seed=0)


def test_norms_are_means_over_the_rows_that_have_a_vector() -> None:
    vectors = np.array([[[3.0, 4.0], [0, 0]], [[0, 0], [0, 0]], [[0, 1.0], [0, 0]]], np.float32)
    assert mean_norms(vectors).tolist() == [3.0, 1.0]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
)
def test_the_gradient_is_that_of_finite_differences(
    seed: int, positive: list[bool], vectors: int, with_pairs: bool, l2: float
) -> None:
    rng, labels, drawn = np.random.default_rng(seed), len(positive), 6
    ranker = Ranker.new(rng.uniform(0.5, 2, vectors), 1.3, (DIM, 5, N_FEATURES), seed)
    # In float64, so that differences are exact enough.
    weights = ranker.weights + rng.normal(size=len(ranker.weights)) * 0.3
    ranker = replace(ranker, weights=weights, scales=ranker.scales.astype(np.float64))
    batch = Batch(
        vectors=rng.normal(size=(labels, vectors, DIM)),
        member_features=rng.normal(size=(labels, 5)),
        positive=np.array(positive),
        items=rng.normal(size=(labels + drawn, DIM)),
        item_features=rng.normal(size=(labels + drawn, N_FEATURES)),
        log_draws=rng.normal(size=labels + drawn),
        left_out=rng.random((labels, drawn)) < 0.2,
        pairs=rng.random((labels, labels + drawn, N_PAIR)) if with_pairs else None,
    )
    gradient, step = ranker.gradient(batch, l2), 1e-6
    direction = rng.normal(size=len(weights))
    around = [
        replace(ranker, weights=weights + sign * step * direction).loss(batch, l2)
        for sign in (1, -1)
    ]
    expected = (around[0] - around[1]) / (2 * step)
    assert gradient @ direction == pytest.approx(expected, rel=1e-5, abs=1e-6)
