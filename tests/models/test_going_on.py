"""Fits that go on from others: old rows stay, new ids come after them, equal seeds are equal."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.items.co_actions import Basis
from models.items.learning import through
from models.items.learning.pairs import Weighing
from models.items.spec import CoActions, Trained
from models.items.trained import Trained as Fitted
from models.layers.build import build
from models.rankers.deep.network import TABLES, Beginning
from models.rankers.inputs import Labelled
from models.rankers.lines import WideAndDeep
from models.rankers.wide_and_deep import WideAndDeepRanker
from models.training.before import Before
from models.training.train import gather, train_on
from tests.models.items.worlds import START, behaviour_from, market
from tests.models.rankers import worlds
from tests.models.rankers.test_wide_and_deep import network_of
from tests.worlds.taste import RECIPE, UNTIL, Taste, taste_world
from transformations.duck import connect
from transformations.errors import InputError, TooFewError
from transformations.timestamps import DAY_US

RANKER = WideAndDeep(version=1, epochs=1, embedding_dim=3, deep=(4,), batch_size=128)
SPACE = Trained(version=1, epochs=1, labels=600, text_dim=8, own_part=2.0)
DIM = 6


def in_cities(*cities: str, seed: int = 0, groups: int = 40) -> Labelled:
    """The rankers' market, whose members live in these cities, in turns."""
    data = worlds.market(seed, groups)
    members = data.inputs.members
    lived = np.array([cities[n % len(cities)] for n in range(groups)], object)
    categories = {**members.categories, "member.city": lived}
    return replace(
        data, inputs=replace(data.inputs, members=replace(members, categories=categories))
    )


@pytest.fixture(scope="module")
def ranker() -> WideAndDeepRanker:
    data = in_cities("Rome", "Bern")
    return WideAndDeepRanker.fit(RANKER, worlds.HEADS, data, data.take(np.arange(0)), 0)


@pytest.mark.parametrize("as_unknown", [True, False])
def test_a_grown_table_keeps_each_row_and_appends_new_ids(
    ranker: WideAndDeepRanker, as_unknown: bool
) -> None:
    before = ranker.preprocessing
    grown = before.grown(in_cities("Oslo", "Rome", "Basel").inputs, min_count=5)
    (city,) = grown.members.categories
    assert city.known == ("Bern", "Rome", "Basel", "Oslo")
    assert (grown.members.numbers, grown.pairs) == (before.members.numbers, before.pairs)
    drawn, network = network_of(RANKER, grown), network_of(RANKER, grown)
    for name, first in drawn.arrays().items():  # as a full training would begin
        next(v for v in network.trainable_variables if v.name == name).assign(first)
    network.begin(Beginning(ranker.weights, before.offsets.tolist(), as_unknown))
    for name, made in network.arrays().items():
        old = ranker.weights[name]
        if name not in TABLES:
            assert made.tobytes() == old.tobytes()
            continue
        # Codes: unknown, Bern, Rome, Basel, Oslo; then those of the item's category.
        assert made[:3].tobytes() == old[:3].tobytes()
        new = np.stack([old[0]] * 2) if as_unknown else drawn.arrays()[name][3:5]
        assert made[3:5].tobytes() == new.tobytes()
        assert made[5:].tobytes() == old[3:].tobytes()


def test_going_on_is_the_same_with_the_same_seed_and_scores_new_ids(
    ranker: WideAndDeepRanker,
) -> None:
    data = in_cities("Oslo", "Rome", seed=1)
    one, other = (ranker.go_on(data, data.take(np.arange(0)), seed=3) for _ in range(2))
    assert all(one.weights[name].tobytes() == other.weights[name].tobytes() for name in one.weights)
    assert one.preprocessing.members.categories[0].known == ("Bern", "Rome", "Oslo")
    moved = one.weights["embeddings"]
    assert not np.array_equal(moved[2], ranker.weights["embeddings"][2])  # Rome learned
    assert np.isfinite(one.scores(data.inputs)).all()


def test_what_no_epoch_makes_better_stays_as_it_was(ranker: WideAndDeepRanker) -> None:
    wild = replace(ranker, line=replace(RANKER, learning_rate=30.0))
    data = in_cities("Rome", "Bern")
    kept = wild.go_on(data, data, seed=0)
    assert kept.figures["best_epoch"] == 0
    assert all(np.array_equal(kept.weights[name], ranker.weights[name]) for name in kept.weights)


def test_a_ranker_whose_input_is_gone_says_so(ranker: WideAndDeepRanker) -> None:
    data = in_cities("Rome")
    without = replace(data.inputs, members=replace(data.inputs.members, categories={}))
    with pytest.raises(InputError, match=r"expected the categories member\.city"):
        ranker.check(without)


# Item spaces.


def test_new_contexts_stand_where_the_fit_would_have_put_them() -> None:
    """An item that is taken out of a fit comes back near its own row; all others stay."""
    corpus = market()
    behaviour = corpus.behaviour
    assert behaviour is not None
    whole = Basis.fit(behaviour, Weighing.of(CoActions(version=1)), 4)  # as many as topics
    gone = np.zeros(len(whole.contexts), bool)
    gone[[3, 20]] = True
    names = whole.contexts.filter(gone).to_pylist()
    before = replace(
        whole, contexts=whole.contexts.filter(~gone), projection=whole.projection[~gone]
    )
    grown = before.grown(behaviour)
    n = len(before.contexts)
    assert grown.contexts.to_pylist() == [*before.contexts.to_pylist(), *names]
    assert grown.projection[:n].tobytes() == before.projection.tobytes()
    mine, theirs = grown.projection[n:], whole.projection[gone]
    cosine = (mine * theirs).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    assert (cosine > 0.9).all()
    assert before.grown(behaviour.before(START)) is before  # nothing was done then


class StoppedError(Exception):
    """Raised in place of a training, which is not what is tested."""


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    corpus = market(new_items=5)
    return Fitted.fit(SPACE, corpus, DIM)


def test_a_space_goes_on_with_each_items_own_part_and_new_ones_from_nothing(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def stopped(*arguments: Any) -> None:
        given.extend(arguments)
        raise StoppedError

    monkeypatch.setattr(through, "train", stopped)
    later = market(new_items=0)
    own = fitted.own
    assert own is not None
    # Two items that it saw before, in another order, and one that is new.
    before = replace(fitted, own=replace(own, ids=own.ids[:-1], vectors=own.vectors[:-1] + 1))
    since = START + 60 * DAY_US
    with pytest.raises(StoppedError):
        before.go_on(replace(SPACE, epochs=4), later, since)
    layer, start, material, course, _, first = given
    assert start.tobytes() == fitted.map.tobytes()
    assert [w.tobytes() for w in layer.get_weights()] == [w.tobytes() for w in before.layer_weights]
    assert first.own[:-1].tobytes() == before.own.vectors.tobytes()  # type: ignore[union-attr]
    assert not first.own[-1].any()
    assert np.array_equal(first.popularity, fitted.popularity)
    assert course.epochs == 2  # of 4
    times = material.behaviour.timestamps
    assert (times[material.labels.events] >= since).all()
    assert (times[material.labels.starts] < since).any()  # what was done before is history


def test_a_space_that_goes_on_is_the_same_twice_and_reads_back(fitted: Fitted) -> None:
    later = market(new_items=0)
    one, other = (
        Fitted.from_bytes(fitted.to_bytes()).go_on(SPACE, later, START + 60 * DAY_US)
        for _ in range(2)
    )
    assert one.to_bytes() == other.to_bytes()
    contexts = fitted.parts.basis.contexts.to_pylist()
    assert one.parts.basis.contexts.to_pylist()[: len(contexts)] == contexts
    assert len(one.parts.basis.contexts) > len(contexts)
    assert one.parts.text.to_bytes() == fitted.parts.text.to_bytes()


def test_a_space_does_not_go_on_with_other_actions_or_too_few_labels(fitted: Fitted) -> None:
    corpus = market()
    assert corpus.behaviour is not None
    renamed = replace(corpus.behaviour, actions=("APPLY", "LIKE", "DISMISS"))
    with pytest.raises(InputError, match="reads the actions APPLY, SAVE, DISMISS, now APPLY, LIKE"):
        fitted.go_on(SPACE, replace(corpus, behaviour=renamed), START)
    with pytest.raises(TooFewError, match="at least 100, got 0"):
        fitted.go_on(SPACE, corpus, START + 200 * DAY_US)
    few = replace(corpus, behaviour=behaviour_from([(0, 1, 0, "APPLY")], corpus.ids))
    with pytest.raises(TooFewError):
        fitted.go_on(SPACE, few, START)


# Aggregators.


def test_a_line_goes_on_from_its_weights_on_the_labels_of_its_buffer(tmp_path: Path) -> None:
    config = taste_world(tmp_path)
    line = Taste(version=1, recipe=replace(RECIPE, learning_rate=1e-9, epochs=1, refit=False))
    since = UNTIL - timedelta(days=12)
    with connect(config) as con:
        first = train_on(line, config, gather(line, config, con, since), resume=False)
        weights = [np.asarray(v) + 0.5 for v in first.model.variables]
        further = build(line, config).further
        before = Before(weights, {"popularity": 0.75}, further)
        data = gather(line, config, con, UNTIL, since, before)
        went = train_on(line, config, data, resume=False)
    # It hardly moves: what it begins with is what it ends with.
    for now, then in zip(went.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(now, then, atol=1e-5)
    assert went.head["popularity"] == pytest.approx(0.75, abs=1e-5)
    assert 0 < data.figures["positives"] < 12 * 25  # of twelve days
    assert went.trained_until == UNTIL
