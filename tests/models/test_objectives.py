"""Each loss against the same thing written out in NumPy, one example at a time."""

from typing import Any

import keras_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backend import keras, tf
from models.layers.build import build
from models.layers.one_vector import NO_SCORE
from models.spec import Average
from models.training.fitting import Fitting
from models.training.objectives import AT, OBJECTIVES, Labels, NextAction, NextItem, above_dismissed
from models.training.popularity import STRENGTH, RecentPopularity
from models.training.recipe import Recipe
from tests.worlds.tiny_models import tiny_config
from transformations.timestamps import DAY_US

ITEMS, DIM = 6, 3


def world(rows: int = 4, fields: int = 1, seed: int = 0) -> tuple[Any, Labels, Any]:
    """Vectors [rows, fields, DIM], labels, and an item table with a PAD row of zeros."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(ITEMS + 1, DIM)).astype(np.float32)
    table[0] = 0.0
    positive = rng.random(rows) < 0.6
    labels = Labels(
        rows=tf.constant(rng.integers(1, ITEMS + 1, rows), tf.int32),
        positive=tf.constant(positive),
        random=tf.constant(~positive & (rng.random(rows) < 0.5)),
        weight=tf.constant(rng.uniform(0.1, 1.0, rows), tf.float32),
        days=tf.constant(rng.integers(100, 130, rows), tf.int32),
    )
    return tf.constant(rng.normal(size=(rows, fields, DIM)), tf.float32), labels, tf.constant(table)


POPULARITY = np.array([0, 5, 0, 1, 2, 9, 1], np.float32)


def next_item(**changes: Any) -> NextItem:
    return NextItem(Recipe(**changes), fields=1, popularity=POPULARITY)


def sampled(**changes: Any) -> NextItem:
    """One that draws, however few the items are."""
    head = next_item(**changes)
    head.compared = head.draw
    return head


def full_softmax(head: NextItem, vectors: Any, labels: Labels, table: Any) -> np.ndarray:
    """The loss that the sampled one estimates: over every item."""
    bias = head.log_popularity[1:]
    scores = vectors.numpy()[:, 0] @ table.numpy()[1:].T / head.temperature + bias
    own = scores[np.arange(len(scores)), labels.rows.numpy() - 1]
    return np.log(np.exp(scores).sum(axis=1)) - own


@pytest.mark.parametrize("popular_share", [0.0, 0.5, 1.0])
def test_the_sampled_softmax_goes_to_the_full_one(popular_share: float) -> None:
    """With many draws, whatever they are drawn from; at 1.0 the items nobody took are missing."""
    vectors, labels, table = world()
    head = sampled(popular_share=popular_share, temperature=0.7)
    if popular_share == 1.0:
        head.share = np.full(ITEMS + 1, 1 / ITEMS, np.float32)
        head.cumulated = np.cumsum(head.share[1:])
    got = head(vectors, labels, table, negatives=200_000, seed=tf.constant([1, 2]))
    np.testing.assert_allclose(got.loss, full_softmax(head, vectors, labels, table), atol=0.02)


def test_without_the_correction_it_would_not() -> None:
    """So the test above does see logQ."""
    vectors, labels, table = world()
    head = sampled(popular_share=0.9)
    head.correct = lambda logits, _: logits + np.log(ITEMS)
    got = head(vectors, labels, table, negatives=200_000, seed=tf.constant([1, 2]))
    assert np.abs(got.loss - full_softmax(head, vectors, labels, table)).max() > 0.1


@given(
    negatives=st.integers(1, 9),
    popular_share=st.floats(0, 1),
    temperature=st.floats(0.1, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_the_loss_of_a_few_draws_by_hand(
    negatives: int, popular_share: float, temperature: float, seed: int
) -> None:
    vectors, labels, table = world(seed=seed)
    head = sampled(popular_share=popular_share, temperature=temperature)
    rows, expected = head.draw(negatives, tf.constant([seed, 0]))
    got = head(vectors, labels, table, negatives=negatives, seed=tf.constant([seed, 0]))
    scores = vectors.numpy()[:, 0] @ table.numpy().T / temperature + head.log_popularity
    for i, own in enumerate(labels.rows.numpy()):
        others = sum(
            np.exp(scores[i, row]) / times
            for row, times in zip(rows.numpy(), expected.numpy(), strict=True)
            if row != own
        )
        loss = np.log(np.exp(scores[i, own]) + others) - scores[i, own]
        assert float(got.loss[i]) == pytest.approx(loss, abs=1e-3)
    np.testing.assert_array_equal(got.weight, np.where(labels.positive, labels.weight, 0.0))


@pytest.mark.parametrize("negatives", [3, 1_000])
def test_over_few_items_the_softmax_is_the_full_one(negatives: int) -> None:
    vectors, labels, table = world()
    head = next_item(popular_share=0.5, temperature=0.7)
    got = head(vectors, labels, table, negatives=negatives, seed=tf.constant([1, 2]))
    np.testing.assert_allclose(got.loss, full_softmax(head, vectors, labels, table), atol=1e-5)
    fewer = head(vectors, labels, table, negatives=2, seed=tf.constant([1, 2]))
    assert np.abs(fewer.loss - got.loss).max() > 0.01


def test_only_items_that_may_be_predicted_are_in_the_full_softmax() -> None:
    vectors, labels, table = world()
    own = np.full(len(labels.rows), 5, np.int32)
    candidates = np.array([2, 3, 5])
    head = NextItem(Recipe(), fields=1, popularity=POPULARITY, candidates=candidates)
    got = head(vectors, labels._replace(rows=tf.constant(own)), table, negatives=4, seed=None)
    scores = vectors.numpy()[:, 0] @ table.numpy().T + head.log_popularity
    expected = np.log(np.exp(scores[:, candidates]).sum(axis=1)) - scores[:, 5]
    np.testing.assert_allclose(got.loss, expected, atol=1e-5)


def test_draws_are_those_of_the_mixture() -> None:
    head = next_item(popular_share=0.25)
    rows, expected = head.draw(100_000, tf.constant([3, 4]))
    got = np.bincount(rows.numpy(), minlength=ITEMS + 1)
    wanted = 25_000 * POPULARITY / POPULARITY.sum() + 75_000 / ITEMS
    assert got[0] == 0
    np.testing.assert_allclose(got[1:], wanted[1:], rtol=0.03)
    np.testing.assert_allclose(expected, wanted[rows.numpy()], rtol=1e-5)


def test_draws_follow_the_seed() -> None:
    head = next_item()
    draws = [head.draw(50, tf.constant(seed))[0].numpy() for seed in ((1, 2), (1, 2), (1, 3))]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_where_nobody_did_anything_all_items_are_alike() -> None:
    head = NextItem(Recipe(popular_share=1.0), fields=1, popularity=np.zeros(5, np.float32))
    rows, expected = head.draw(1_000, tf.constant([0, 0]))
    assert set(rows.numpy()) == {1, 2, 3, 4}
    np.testing.assert_allclose(expected, 250.0)


def test_the_rank_decides_what_is_recalled() -> None:
    """Nine better items leave the positive among the first ten, however often they are drawn."""
    table = tf.range(30.0)[:, None]
    labels = Labels(
        tf.constant([1]), tf.constant([True]), tf.constant([False]), tf.ones(1), tf.zeros(1)
    )
    head = NextItem(Recipe(), fields=1, popularity=np.zeros(30, np.float32))
    for better, recalled in ((AT - 1, 1.0), (AT, 0.0)):
        head.compared = lambda *_, n=better: (tf.tile(tf.range(2, 2 + n), [3]), tf.ones(3 * n))
        got = head(tf.ones((1, 1, 1)), labels, table, negatives=1, seed=None)
        assert float(got.score[0]) == recalled


def test_accidental_hits_of_keras_rs_are_not_removed() -> None:
    """When this fails, keras_rs's own layer can take the place of ours."""
    logits = np.array([[1.0, 2.0]], np.float32)
    got = keras_rs.layers.RemoveAccidentalHits()(logits, np.array([[1.0, 0.0]]), np.array([5, 5]))
    assert got[0, 1] == 2.0 > NO_SCORE


def test_dismissed_items_count_against_every_positive() -> None:
    scores = np.array([0.5, 2.0, -1.0, 3.0], np.float32)
    labels = Labels(
        rows=tf.constant([1, 2, 3, 4]),
        positive=tf.constant([True, False, False, False]),
        random=tf.constant([False, False, False, True]),
        weight=tf.constant([1.0, 1.0, 0.5, 1.0]),
        days=tf.zeros(4),
    )
    apart = np.log1p(np.exp(scores[1:3] - scores[0]))
    expected = (apart[0] + 0.5 * apart[1]) / 1.5
    assert float(above_dismissed(tf.constant(scores), labels)[0]) == pytest.approx(
        expected, abs=1e-6
    )
    nobody = labels._replace(random=tf.constant([False, True, True, True]))
    assert float(above_dismissed(tf.constant(scores), nobody)[0]) == 0.0


def test_the_weight_of_dismissed_items_is_the_recipes() -> None:
    vectors, labels, table = world(rows=12)
    losses = [
        next_item(dismissed_weight=weight)(
            vectors, labels, table, negatives=5, seed=tf.constant([0, 0])
        ).loss.numpy()
        for weight in (0.0, 1.0, 3.0)
    ]
    np.testing.assert_allclose(losses[2] - losses[0], 3 * (losses[1] - losses[0]), atol=1e-5)
    assert (losses[1] > losses[0]).all()


def test_next_action_is_the_posts_formula() -> None:
    vectors, labels, table = world(rows=5, fields=2)
    head = NextAction(Recipe(objective="next_action"), fields=2, popularity=POPULARITY)
    got = head(vectors, labels, table, negatives=1, seed=None)
    kernel, bias = (weight.numpy() for weight in head.dense.weights)
    item = table.numpy()[labels.rows.numpy()]
    products = np.concatenate([vectors.numpy()[:, f] * item for f in range(2)], axis=1)
    scores = np.exp(products @ kernel + bias)
    chance = scores / scores.sum(axis=1, keepdims=True)
    truth = labels.positive.numpy().astype(int)
    np.testing.assert_allclose(got.loss, -np.log(chance[range(5), truth]), atol=1e-5)
    np.testing.assert_allclose(got.weight, labels.weight)
    np.testing.assert_allclose(got.score, chance[:, 1], atol=1e-6)


def batch(config: Any, rows: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    shape = (rows, config.length)
    positive = np.arange(rows) % 2 == 0
    return {
        "rows": rng.integers(0, ITEMS + 1, shape).astype(np.int32),
        "actions": rng.integers(0, 4, shape).astype(np.int32),
        "ages": rng.uniform(0, 28, shape).astype(np.float32),
        "label_rows": rng.integers(1, ITEMS + 1, rows).astype(np.int32),
        "label_actions": np.ones(rows, np.int32),
        "positive": positive,
        "random": np.zeros(rows, bool),
        "weight": np.ones(rows, np.float32),
        "happened_at": np.arange(rows) * DAY_US,
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_aggregator_with_a_vector_per_action_can_be_trained(name: str, tmp_path: Any) -> None:
    """Only the head has weights here; each must get a gradient."""
    config = tiny_config(tmp_path, dim=DIM)
    recipe = Recipe(objective=name, dismissed_weight=0.5, learning_rate=0.1)
    keras.utils.set_random_seed(0)
    model = build(Average(version=1), config)
    table = world()[2].numpy()
    fitting = Fitting(model, OBJECTIVES[name], recipe, table, POPULARITY)
    batches = tf.data.Dataset.from_tensors(batch(config))
    fitting.prepare(batches)
    before = fitting.get_weights()
    history = fitting.fit(batches.repeat(30), epochs=2, shuffle=False, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    for old, new in zip(before, fitting.get_weights(), strict=True):
        assert (old != new).any()
    logs = fitting.evaluate(batches, return_dict=True, verbose=0)
    assert set(logs) == {"loss", OBJECTIVES[name].metric}
    assert all(np.isfinite(list(logs.values())))


@pytest.mark.parametrize("popular_share", [0.0, 1.0])
def test_validation_is_against_the_same_negatives_for_every_recipe(
    popular_share: float, tmp_path: Any
) -> None:
    """Else a study would take the recipe with the easiest negatives for the best one."""
    config = tiny_config(tmp_path, dim=DIM)
    table, batches = world()[2].numpy(), tf.data.Dataset.from_tensors(batch(config))

    def validated(recipe: Recipe) -> dict[str, float]:
        model = build(Average(version=1), config)
        fitting = Fitting(model, OBJECTIVES["next_item"], recipe, table, POPULARITY)
        fitting.prepare(batches)
        return dict(fitting.evaluate(batches, return_dict=True, verbose=0))

    other = Recipe(popular_share=popular_share, negatives=7)
    assert validated(other) == pytest.approx(validated(Recipe()))


def test_what_was_popular_in_the_week_before_is_in_the_score() -> None:
    """Item 3 is acted on in the week before day 110, and only then."""
    rows, days = np.array([1, 2, 3, 3, 3, 1]), np.array([90, 95, 104, 105, 106, 118])
    recent = RecentPopularity.count(rows, days * DAY_US + 5, items=ITEMS)
    head = NextItem(Recipe(popular_share=0.0), 1, POPULARITY, recent)
    vectors = tf.zeros((2, 1, DIM))
    table = tf.zeros((ITEMS + 1, DIM))
    truth = tf.constant([True, True])
    labels = Labels(tf.constant([3, 3]), truth, ~truth, tf.ones(2), tf.constant([110, 125]))
    loss = head(vectors, labels, table, negatives=2_000, seed=tf.constant([1, 2])).loss.numpy()
    # The shares sum to one, so what is left of the loss is the log of the item's own.
    own = [-recent.logs[int(recent.rows_of(tf.constant(day))), 3] for day in (110, 125)]
    assert own[0] < own[1] - 0.01
    np.testing.assert_allclose(loss, own, atol=0.02)


def test_popularity_of_a_day_does_not_see_that_day() -> None:
    rng = np.random.default_rng(0)
    rows, days = rng.integers(1, 5, 200), rng.integers(50, 75, 200)
    got = RecentPopularity.count(rows, days * DAY_US + rng.integers(0, DAY_US, 200), items=4)
    for day in range(50, 75):
        index = int(got.rows_of(tf.constant(day)))
        before, week = days < day, (days < day) & (days >= day - 7)
        ever = np.array([(rows[before] == item).sum() + 1.0 for item in range(1, 5)])
        ever /= ever.sum()
        lately = np.array([(rows[week] == item).sum() for item in range(1, 5)])
        expected = np.log((lately + STRENGTH * ever) / (week.sum() + STRENGTH))
        np.testing.assert_allclose(got.logs[index, 1:], expected, atol=1e-5)
    assert int(got.rows_of(tf.constant(10))) == 0
    assert int(got.rows_of(tf.constant(999))) == len(got.logs) - 1


def test_a_large_table_takes_several_days_at_a_time() -> None:
    days = np.arange(100, 200)
    small = RecentPopularity.count(np.ones(100, int), days * DAY_US, items=50, cells=1_000)
    assert small.step == 5
    assert small.logs.shape == (20, 51)
    assert np.isfinite(small.logs).all()
