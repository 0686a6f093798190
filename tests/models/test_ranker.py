"""The downstream ranker: it learns what is there to be learned, and the same for every variant."""

import numpy as np
import pytest

from models.evaluation.item_days import ItemDays
from models.evaluation.metrics import hit_rate
from models.evaluation.ranker import SLOTS, Labels, RankerSettings, fit_ranker
from models.evaluation.scoring import Task, measure_ranker, random_items
from models.sequences import DAY
from transformations.errors import InputError

DIM, ITEMS, COUNT = 6, 80, 3000
SETTINGS = RankerSettings(epochs=5, negatives=64, batch_size=128, learning_rate=0.02)


def world(seed: int = 0) -> tuple[Labels, np.ndarray, np.ndarray, ItemDays]:
    """Members act on the item nearest to their taste; it is positive if its first number is."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    taste = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    items = np.argmax(taste @ embeddings.T, axis=1)
    days = rng.integers(50, 60, COUNT)
    given = Labels(
        np.arange(COUNT),
        items,
        days,
        days * DAY + 1,
        embeddings[items, 0] > -0.2,
        np.zeros((COUNT, 2), np.float32),
    )
    vectors = np.zeros((COUNT, SLOTS, DIM), np.float32)
    vectors[:, 0] = taste
    item_days = ItemDays.count(items, days * DAY, given.positive, np.zeros(ITEMS, np.int64))
    return given, vectors, embeddings, item_days


def measured(vectors: np.ndarray, seed: int = 0) -> tuple[float, float]:
    given, true_vectors, embeddings, item_days = world()
    held = np.arange(COUNT) >= 2000
    used = true_vectors * vectors
    ranker = fit_ranker(given.take(~held), used[~held], embeddings, item_days, SETTINGS, seed)
    drawn = random_items(given, given.items, given.times)
    asked = Task(given, item_days, np.full((COUNT, 1), -1, np.int32), drawn).take(held)
    got = measure_ranker(ranker, asked, used[held], embeddings)
    assert got.judged is not None
    positive = asked.labels.positive
    apart = got.judged[positive].mean() - got.judged[~positive].mean()
    return float(np.nanmean(hit_rate(got.rank, 10)[positive])), float(apart)


def test_a_vector_that_says_the_taste_ranks_and_judges() -> None:
    with_taste, apart = measured(np.float32(1.0))
    without, _ = measured(np.float32(0.0))
    assert with_taste > 0.9
    assert without < 0.35
    assert apart > 0.5


def test_the_same_seed_gives_the_same_ranker() -> None:
    given, vectors, embeddings, item_days = world()
    settings = RankerSettings(epochs=1, negatives=32, batch_size=256)
    weights = [
        fit_ranker(given, vectors, embeddings, item_days, settings, seed).get_weights()
        for seed in (3, 3, 4)
    ]
    for one, same in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(one, same)
    assert any((one != other).any() for one, other in zip(weights[0], weights[2], strict=True))


def test_a_label_on_an_item_that_was_not_known_is_refused() -> None:
    given, vectors, embeddings, item_days = world()
    late = np.zeros(ITEMS, np.int64)
    late[given.items[0]] = 61 * DAY
    unknown = ItemDays(item_days.first, item_days.before, late)
    with pytest.raises(InputError, match="items known at their midnight"):
        fit_ranker(given, vectors, embeddings, unknown, SETTINGS, seed=0)
