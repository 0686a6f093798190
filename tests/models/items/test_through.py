"""Training through a layer: what is drawn, how it is corrected, and that it learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.backend import tf
from models.items.joint import Parts
from models.items.learning.popularity import PopularityByDay
from models.items.learning.through import Through, draw
from models.items.protocol import Corpus, Document
from models.items.similarity import unit
from models.items.spec import Trained as Line
from models.items.trained import Trained, _material
from models.layers.build import build
from models.layers.one_vector import NO_SCORE
from models.spec import Gru, LearnedDecay, LearnedVector, Transformer
from tests.models.items.test_co_actions import nearest_of_own_topic
from tests.models.items.worlds import START, behaviour_from, market
from tests.worlds.tiny_models import tiny_config
from transformations.errors import InputError, TooFewError
from transformations.timestamps import DAY_US

LINE = Line(version=1, epochs=3)
DIM = 6


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return market(members=200)


@pytest.fixture(scope="module")
def encoder(corpus: Corpus) -> Trained:
    return Trained.fit(LINE, corpus, DIM)


def test_the_probability_of_being_drawn_at_all_is_the_share_of_draws() -> None:
    corpus = market(members=20)
    assert corpus.behaviour is not None
    assert corpus.available_at is not None
    known_since = corpus.available_at.copy()
    known_since[:5] = START + 1000 * DAY_US
    popularity = PopularityByDay.count(corpus.behaviour, known_since)
    rng, row = np.random.default_rng(0), len(popularity.before) - 1
    drawn, chance = np.zeros(len(corpus)), np.zeros(len(corpus))
    for _ in range(2_000):
        items, logs = draw(popularity, row, 12, rng)
        assert len(np.unique(items)) == len(items)
        drawn[items] += 1
        chance[items] = np.exp(logs)
    assert not drawn[:5].any()  # not there yet
    np.testing.assert_allclose(drawn[5:] / 2_000, chance[5:], atol=0.04)


def test_few_items_are_compared_with_all_of_them() -> None:
    corpus = market(members=20)
    assert corpus.behaviour is not None
    assert corpus.available_at is not None
    known_since = corpus.available_at.copy()
    known_since[:5] = START + 1000 * DAY_US
    popularity = PopularityByDay.count(corpus.behaviour, known_since)
    row, rng = len(popularity.before) - 1, np.random.default_rng(0)
    items, logs = draw(popularity, row, len(corpus) // 2, rng)
    assert items.tolist() == list(range(5, len(corpus)))
    assert not logs.any()
    assert len(draw(popularity, row, len(corpus) // 2 - 1, rng)[0]) < len(corpus) - 5


def test_the_loss_is_a_softmax_over_what_is_drawn(corpus: Corpus) -> None:
    """Against numpy: the label's own item, corrected others, what was not there, itself drawn."""

    class First:
        further = 0

        def __call__(self, items: Any, *_: Any, training: bool) -> dict[str, Any]:
            assert training
            return {"v": items[:, -1]}

    rng = np.random.default_rng(1)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    model = Through(First(), start, dropout=0.0, seed=0)
    features = rng.normal(size=(6, 4)).astype(np.float32)
    model.popular.assign(rng.normal(size=6).astype(np.float32) / 8)
    model.temperature.assign(0.01)
    own_popularity = rng.normal(size=(2, 6)).astype(np.float32)
    popularity = rng.normal(size=(1, 3, 6)).astype(np.float32)
    logs = np.log([0.5, 0.2, 0.9]).astype(np.float32)
    batch = {
        "features": features,
        "rows": np.array([[0, 1], [2, 3]], np.int32),
        "actions": np.ones((2, 2), np.int32),
        "ages": np.zeros((2, 2), np.float32),
        "signs": np.zeros((2, 2, 2), np.float32),
        "own": np.array([4, 5], np.int32),
        "own_popularity": own_popularity,
        "negatives": np.array([2, 3, 4], np.int32),
        "popularity": popularity,
        "known": np.array([[True, False, True]]),
        "log_drawn": logs,
        "days": np.zeros(2, np.int32),
    }
    loss = float(model.loss_of({n: tf.constant(v) for n, v in batch.items()}, tf.constant(0)))
    items = features @ start
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    weights = 8 * np.asarray(model.popular)
    expected = []
    for vector, own, beside in zip(items[[1, 3]], (4, 5), own_popularity, strict=True):
        scale = 10 * np.exp(8 * 0.01)
        scores = [scale * vector @ items[own] + beside @ weights]
        for n, item in enumerate((2, 3, 4)):
            if n != 1 and item != own:
                score = scale * vector @ items[item] + popularity[0, n] @ weights - logs[n]
                scores.append(score)
        expected.append(np.log(np.exp(scores).sum()) - scores[0])
    assert loss == pytest.approx(np.mean(expected), rel=1e-4)
    assert NO_SCORE < -1e6


def test_it_learns(encoder: Trained, corpus: Corpus) -> None:
    losses = encoder.describe()["losses"]
    assert losses[-1] < losses[0]
    assert nearest_of_own_topic(encoder.encode(corpus), np.ones(len(corpus), bool)) > 0.9
    assert encoder.describe()["labels"] > 1_000


def test_its_layer_is_that_of_a_line_with_the_same_settings(
    encoder: Trained, corpus: Corpus, tmp_path: Any
) -> None:
    line = replace(LINE.layer, version=7)
    model = build(line, tiny_config(tmp_path, dim=DIM, length=8))
    assert [w.shape for w in model.get_weights()] == [w.shape for w in encoder.layer_weights]
    model.set_weights(list(encoder.layer_weights))
    again = Trained.from_bytes(encoder.to_bytes())
    for one, other in zip(encoder.layer_weights, again.layer_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(weight.any() for weight in encoder.layer_weights)


def test_another_layer_and_its_own_actions(corpus: Corpus) -> None:
    layer = Gru(version=1, units=4, reads=("SAVE", "APPLY"), predicts=("APPLY",))
    encoder = Trained.fit(Line(version=1, epochs=1, layer=layer), corpus, DIM)
    everything = Trained.fit(
        Line(version=1, epochs=1, layer=replace(layer, predicts=())), corpus, DIM
    )
    assert encoder.describe()["labels"] < everything.describe()["labels"]
    assert encoder.encode(corpus).any(axis=1).all()


def test_only_items_of_the_predicted_kinds_are_labels_and_negatives(corpus: Corpus) -> None:
    parts = Parts.fit(LINE, corpus, DIM, LINE.text_dim)
    everything = _material(LINE, parts, corpus)
    candidates = np.arange(len(corpus)) % 3 > 0
    chosen = _material(LINE, parts, replace(corpus, candidates=candidates))
    of_label = everything.behaviour.items[everything.labels.events]
    kept = chosen.behaviour.items[chosen.labels.events]
    np.testing.assert_array_equal(np.sort(kept), np.sort(of_label[candidates[of_label]]))
    assert chosen.popularity.n_candidates == candidates.sum() == 40
    rng, row = np.random.default_rng(0), len(chosen.popularity.before) - 1
    for negatives in (10, 1_024):  # a sample of them, and all
        drawn = np.unique(
            np.concatenate([draw(chosen.popularity, row, negatives, rng)[0] for _ in range(50)])
        )
        np.testing.assert_array_equal(drawn, np.flatnonzero(candidates))
    # They stay in the histories.
    assert len(chosen.behaviour) == len(everything.behaviour)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LearnedDecay(version=1, attributes=("dwell",)), "got one that reads dwell too"),
        (LearnedDecay(version=1, reads=("VIEW",)), "among APPLY, SAVE, DISMISS, got VIEW"),
    ],
)
def test_what_a_layer_cannot_read_here_is_refused(
    layer: LearnedDecay, message: str, corpus: Corpus
) -> None:
    with pytest.raises(InputError, match=message):
        Trained.fit(Line(version=1, layer=layer), corpus, DIM)


RING, STEPS = 14, 6


def ring(members: int = 250) -> Corpus:
    """Each member goes round a ring of items, one by one, from anywhere."""
    starts = np.random.default_rng(3).integers(0, RING, members)
    events = [
        (member, int(n * DAY_US + (member % 50) * 2 * DAY_US), int(start + n) % RING, "SAVE")
        for member, start in enumerate(starts)
        for n in range(STEPS)
    ]
    ids = pa.array([f"item-{n:03d}" for n in range(RING)])
    documents = [Document(f"word{n} word{(n + 1) % RING}", []) for n in range(RING)]
    return Corpus(documents, ids, np.full(RING, START - DAY_US), behaviour_from(events, ids))


@pytest.mark.parametrize(
    ("layer", "knows"),
    [
        (Transformer(version=1, units=16, layers=1, dropout=0.0, normalize=True), True),
        (LearnedDecay(version=1, projected=False, share="all"), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_transformer_in_an_item_space_learns_what_follows(
    layer: LearnedVector, knows: bool, tmp_path: Any
) -> None:
    """After one action, as a line serves it. A sum of items cannot: their products are symmetric,
    and grow nowhere along the whole ring."""
    corpus = ring()
    encoder = Trained.fit(Line(version=1, epochs=25, layer=layer), corpus, RING - 2)
    model = build(replace(layer, version=4), tiny_config(tmp_path, dim=RING - 2, length=4))
    model.set_weights(list(encoder.layer_weights))
    items = encoder.encode(corpus)
    one = np.eye(4, dtype=np.float32)[[3] * RING]
    given = {
        "item_embeddings": items[:, None] * one[:, :, None],
        "actions": 2 * one.astype(np.int32),
        "ages": one,
    }
    scores = model.predict(given, verbose=0)["activity_embedding"] @ items.T
    np.fill_diagonal(scores, -np.inf)
    right = scores.argmax(axis=1) == (np.arange(RING) + 1) % RING
    assert right.all() == knows


def test_an_item_may_have_a_part_of_its_own(encoder: Trained, corpus: Corpus) -> None:
    own = Trained.fit(replace(LINE, own_part=10.0), corpus, DIM)
    again = Trained.from_bytes(own.to_bytes())
    assert encoder.own is None
    assert own.own is not None
    assert again.own is not None
    behaviour = corpus.behaviour
    assert behaviour is not None
    counts = np.bincount(behaviour.items[behaviour.signs > 0], minlength=len(corpus))
    # What nobody acted on was only drawn against, with none of its own part.
    assert not own.own.vectors[counts == 0].any()
    assert own.own.vectors[counts > 0].any(axis=1).all()
    np.testing.assert_array_equal(again.encode(corpus), own.encode(corpus))
    features, n = own.parts.with_counts(corpus)
    np.testing.assert_array_equal(n, counts)
    expected = features @ own.map + own.own.vectors * (counts / (counts + 10))[:, None]
    np.testing.assert_allclose(own.encode(corpus), unit(expected), atol=1e-5)
    unknown = Corpus(corpus.documents)
    np.testing.assert_allclose(
        own.encode(unknown), unit(own.parts.features(unknown) @ own.map), atol=1e-6
    )


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(TooFewError, match="expected at least 100, got"):
        Trained.fit(LINE, market(members=4), 3)
