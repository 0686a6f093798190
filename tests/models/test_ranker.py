"""The downstream ranker learns a planted preference, and is reproducible from its seed."""

import numpy as np
import pytest

from models.evaluation.item_days import ItemDays
from models.evaluation.metrics import hit_rate
from models.evaluation.ranker import (
    RankerFeatures,
    RankerLabels,
    RankerSettings,
    fit_ranker,
)
from models.evaluation.scoring import Task, measure_ranker, random_items
from transformations.errors import InputError
from transformations.timestamps import DAY_US

DIM, ITEMS, COUNT = 6, 80, 3000
SETTINGS = RankerSettings(epochs=5, negatives=64, batch_size=128, learning_rate=0.02)


def world(seed: int = 0) -> tuple[RankerLabels, RankerFeatures, np.ndarray, ItemDays]:
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
    return labels, features, embeddings, item_days


def measured(scale: float) -> tuple[float, float]:
    labels, features, embeddings, item_days = world()
    test = np.arange(COUNT) >= 2000

    def rows_of(rows: np.ndarray) -> RankerFeatures:
        return RankerFeatures(
            features.vectors[rows] * np.float32(scale), features.member_features[rows]
        )

    ranker = fit_ranker(labels.take(~test), rows_of(~test), embeddings, item_days, SETTINGS, seed=0)
    drawn = random_items(labels, labels.items, labels.times)
    task = Task(labels, item_days, np.full((COUNT, 1), -1, np.int32), drawn).take(test)
    got = measure_ranker(ranker, task, rows_of(test), embeddings)
    assert got.judged is not None
    positive = task.labels.positive
    apart = got.judged[positive].mean() - got.judged[~positive].mean()
    return float(np.nanmean(hit_rate(got.rank, 10)[positive])), float(apart)


def test_a_vector_of_the_taste_ranks_and_judges() -> None:
    with_taste, apart = measured(scale=1.0)
    without, _ = measured(scale=0.0)
    assert with_taste > 0.9
    assert without < 0.35
    assert apart > 0.5


def test_the_same_seed_gives_the_same_ranker() -> None:
    labels, features, embeddings, item_days = world()
    settings = RankerSettings(epochs=1, negatives=32, batch_size=256)
    weights = [
        fit_ranker(labels, features, embeddings, item_days, settings, seed).get_weights()
        for seed in (3, 3, 4)
    ]
    for one, same in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(one, same)
    assert any((one != other).any() for one, other in zip(weights[0], weights[2], strict=True))


def test_a_label_on_an_item_without_a_vector_is_refused() -> None:
    labels, features, embeddings, item_days = world()
    late = np.zeros(ITEMS, np.int64)
    late[labels.items[0]] = 61 * DAY_US
    unknown = ItemDays(item_days.first, item_days.before, late)
    with pytest.raises(InputError, match="items known at their midnight"):
        fit_ranker(labels, features, embeddings, unknown, SETTINGS, seed=0)
