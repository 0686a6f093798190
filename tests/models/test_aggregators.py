"""The contract: every catalogue entry, and a learned one, through what it is packaged as."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backend import keras
from models.catalog import AGGREGATORS
from models.layers.average import Average as AverageLayer
from models.layers.build import build
from models.layers.geometric_decay import GeometricDecay as DecayLayer
from models.packaging import Loaded, load, package
from models.spec import (
    Aggregator,
    AttentionPool,
    Average,
    Cnn,
    GeometricDecay,
    Gru,
    LearnedDecay,
    Sessions,
    Transformer,
)
from tests.worlds.tiny_models import Learned, tiny_config
from transformations.config import Config
from transformations.errors import InputError

# Each with its defaults, and with everything switched on.
ASKED: dict[str, Any] = {"version": 2, "use_sessions": True, "normalize": True}
LEARNED: list[Aggregator] = [
    LearnedDecay(version=1),
    LearnedDecay(**ASKED, decays=2, share="action", hidden=4),
    LearnedDecay(version=3, ranks="positive", projected=False, share="all", decays=2),
    LearnedDecay(**ASKED | {"version": 4}, ranks="positive", decays=3, hidden=4, signs=True),
    AttentionPool(version=1),
    AttentionPool(**ASKED, use_ages=False),
    Cnn(version=1),
    Cnn(**ASKED, use_ages=True, layers=2, pooling="avg"),
    Gru(version=1),
    Gru(**ASKED, use_ages=True, learned_default=False),
    Sessions(version=1),
    Sessions(**ASKED, use_ages=True, signs=True),
    Transformer(version=1),
    Transformer(**ASKED, use_ages=True, layers=1, positions=4),
]
# The published formula is a line of the catalogue.
DECAYED: list[Aggregator] = [
    GeometricDecay(version=11, decay=0.8, ranks="positive"),
    GeometricDecay(version=12, decay=(0.9, 0.8, 0.3), ranks="positive", pooled=True),
    GeometricDecay(version=13, decay=0.8, pooled=True),
]
ENROLLED = [
    *(line for line in AGGREGATORS if line.layer and replace(line, stream=False) not in LEARNED),
    Learned(version=1),
    *DECAYED,
    *LEARNED,
]
DIM, LENGTH = 3, 6
Arrays = dict[str, np.ndarray]


class Entry(NamedTuple):
    aggregator: Aggregator
    config: Config
    model: Any
    loaded: Loaded

    def embed(self, arrays: Arrays) -> Arrays:
        asked = self.asked(arrays)
        return {field: v.numpy() for field, v in self.loaded.embed(**asked).items()}

    def asked(self, arrays: Arrays) -> Arrays:
        """What it reads of these."""
        left_out = set() if self.loaded.further.signs else {"signs"}
        return {name: array for name, array in arrays.items() if name not in left_out}


@pytest.fixture(scope="module", params=ENROLLED, ids=lambda line: line.view)
def entry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    config = tiny_config(tmp_path_factory.mktemp("contract"), dim=DIM, length=LENGTH)
    keras.utils.set_random_seed(0)
    model = build(request.param, config)
    package(request.param, config, trained=model)
    return Entry(request.param, config, model, load(request.param, config))


def sequences(members: int, seed: int = 0, length: int = LENGTH, dim: int = DIM) -> Arrays:
    """Random members, left-padded, with 0 to `length` actions each."""
    rng = np.random.default_rng(seed)
    filled = np.arange(length) >= length - rng.integers(0, length + 1, (members, 1))
    items = rng.normal(size=(members, length, dim)).astype(np.float32)
    ages = -np.sort(-rng.uniform(0, 28, (members, length))).astype(np.float32)
    return {
        "item_embeddings": items * filled[:, :, None],
        "actions": (rng.integers(1, 4, (members, length)) * filled).astype(np.int32),
        "ages": ages * filled,
        "signs": (rng.integers(-1, 2, (members, length)) * filled).astype(np.int32),
    }


def assert_equal(got: Arrays, expected: Arrays) -> None:
    assert got.keys() == expected.keys()
    for field, values in expected.items():
        # A few units in the last place of float32: another batch is summed in another order.
        np.testing.assert_allclose(got[field], values, rtol=2e-6, atol=1e-6, err_msg=field)


def test_the_fields_and_dimensions_are_those_of_the_view(entry: Entry) -> None:
    got = entry.embed(sequences(5))
    expected = entry.aggregator.vectors(entry.config)
    assert {field: v.shape for field, v in got.items()} == {f: (5, d) for f, d in expected.items()}
    assert {v.dtype for v in got.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("rubbish", [7.0, 3e38, math.inf, math.nan])
def test_what_stands_in_a_pad_slot_does_not_matter(entry: Entry, rubbish: float) -> None:
    clean = sequences(50)
    pad = clean["actions"] == 0
    dirty = clean | {
        "item_embeddings": np.where(pad[:, :, None], np.float32(rubbish), clean["item_embeddings"]),
        "ages": np.where(pad, np.float32(rubbish), clean["ages"]),
    }
    assert pad.any()
    assert_equal(entry.embed(dirty), entry.embed(clean))


def test_an_all_pad_row_gives_the_default_vector(entry: Entry) -> None:
    empty = {name: np.zeros_like(array) for name, array in sequences(3).items()}
    got = entry.embed(empty)
    alone = entry.embed({name: array[:1] for name, array in empty.items()})
    for field, values in got.items():
        np.testing.assert_array_equal(values, np.repeat(alone[field], 3, axis=0))
        if entry.aggregator.per_action:
            assert not values.any()


def test_finite_for_any_finite_input(entry: Entry) -> None:
    arrays = sequences(200, seed=1)
    for scale in (0.0, 1e-38, 1e30):
        for ages in (0.0, 1e-6, 1e6):
            got = entry.embed(
                {
                    "item_embeddings": arrays["item_embeddings"] * np.float32(scale),
                    "actions": arrays["actions"],
                    "ages": np.full_like(arrays["ages"], ages),
                    "signs": arrays["signs"],
                }
            )
            assert all(np.isfinite(values).all() for values in got.values())


def test_batch_size_changes_nothing(entry: Entry) -> None:
    arrays = sequences(33, seed=2)
    together = entry.embed(arrays)
    for size in (1, 7):
        parts = [
            entry.embed({name: array[start : start + size] for name, array in arrays.items()})
            for start in range(0, 33, size)
        ]
        assert_equal({f: np.concatenate([p[f] for p in parts]) for f in together}, together)


def test_an_empty_batch_gives_no_vectors(entry: Entry) -> None:
    got = entry.embed(sequences(0))
    expected = entry.aggregator.vectors(entry.config)
    assert {field: v.shape for field, v in got.items()} == {f: (0, d) for f, d in expected.items()}


def test_what_is_loaded_equals_what_was_saved(entry: Entry) -> None:
    arrays = sequences(20, seed=3)
    assert_equal(entry.embed(arrays), entry.model.predict(entry.asked(arrays), verbose=0))


def test_order_matters_or_is_declared_not_to(entry: Entry) -> None:
    arrays = sequences(50, seed=4)
    full = (arrays["actions"] != 0).all(axis=1)
    arrays = {name: array[full] for name, array in arrays.items()}
    # The ages stay where they are: another order is the same actions at each other's times.
    turned = {
        "item_embeddings": arrays["item_embeddings"][:, ::-1],
        "actions": arrays["actions"][:, ::-1],
        "ages": arrays["ages"],
        "signs": arrays["signs"][:, ::-1],
    }
    one, other = entry.embed(arrays), entry.embed(turned)
    differ = max(float(np.abs(one[field] - other[field]).max()) for field in one)
    assert (differ > 1e-3) == entry.aggregator.order_matters


# The two formulas, against a plain loop in float64.


def oracle(arrays: Arrays, code: int, decay: float) -> np.ndarray:
    """Per member the mean of the items of one action, weighted by decay^(how many follow)."""
    means = []
    for items, actions in zip(arrays["item_embeddings"], arrays["actions"], strict=True):
        of_kind = [
            item.astype(np.float64) for item, a in zip(items, actions, strict=True) if a == code
        ]
        weights = [decay ** (len(of_kind) - i) for i in range(1, len(of_kind) + 1)]
        total = sum(
            (w * item for w, item in zip(weights, of_kind, strict=True)), np.zeros(items.shape[1])
        )
        means.append(total / sum(weights) if of_kind else total)
    return np.array(means)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(
        st.lists(st.integers(0, 3), min_size=LENGTH, max_size=LENGTH), min_size=1, max_size=5
    ),
    decay=st.floats(0.001, 0.999),
    seed=st.integers(0, 1000),
)
def test_average_and_decay_are_their_formulas(
    actions: list[list[int]], decay: float, seed: int
) -> None:
    """PAD may also stand between actions: an item without a vector is one."""
    rng = np.random.default_rng(seed)
    arrays = {
        "item_embeddings": rng.normal(size=(len(actions), LENGTH, DIM)).astype(np.float32),
        "actions": np.array(actions, np.int32),
        "ages": np.zeros((len(actions), LENGTH), np.float32),
    }
    vectors = {"a": DIM, "b": DIM, "c": DIM}
    for layer, r in (
        (AverageLayer(vectors, 3), 1.0),
        (DecayLayer(vectors, 3, decay), decay),
    ):
        got = layer(**arrays)
        for code, field in enumerate(vectors, start=1):
            np.testing.assert_allclose(got[field], oracle(arrays, code, r), atol=2e-6)


def oracle_positive(
    items: np.ndarray, actions: np.ndarray, signs: np.ndarray, line: GeometricDecay
) -> dict[str, np.ndarray]:
    """Weights by how many positive actions, or actions of the kind, follow; float64, by loops."""
    used = [j for j in range(LENGTH) if actions[j]]
    weights = {}
    for j in used:
        if line.ranks == "positive":
            later = sum(k > j and signs[k] > 0 for k in used)
        else:
            later = sum(k > j and actions[k] == actions[j] for k in used)
        r = line.decay[actions[j] - 1] if isinstance(line.decay, tuple) else line.decay
        weights[j] = r**later
    groups = [[j for j in used if (signs[j] > 0) == positive] for positive in (True, False)]
    vectors = {f"{name}_embedding": np.zeros(DIM) for name in ("apply", "save", "dismiss")}
    fields = list(vectors)
    for group in groups:
        for j in group:
            share = weights[j] / sum(weights[k] for k in group)
            vectors[fields[actions[j] - 1]] += share * items[j].astype(np.float64)
    if line.pooled:
        of = groups[0]
        total = sum((weights[j] * items[j].astype(np.float64) for j in of), np.zeros(DIM))
        return {"activity_embedding": total / sum(weights[j] for j in of) if of else total}
    return vectors


@pytest.mark.parametrize("line", DECAYED, ids=lambda line: line.view)
def test_decay_by_positive_ranks_is_its_formula(line: GeometricDecay, tmp_path: Path) -> None:
    model = build(line, tiny_config(tmp_path, dim=DIM, length=LENGTH))
    for seed in range(5):
        arrays = sequences(20, seed=seed)
        # PAD may also stand between actions.
        arrays["actions"][:, 3] *= np.arange(20, dtype=np.int32) % 2
        got = model.predict(arrays, verbose=0)
        for i in range(20):
            own = (arrays[n][i] for n in ("item_embeddings", "actions", "signs"))
            for field, vector in oracle_positive(*own, line).items():
                np.testing.assert_allclose(got[field][i], vector, atol=2e-6)


@pytest.mark.parametrize("decay", [1e-6, 0.5, 0.999999])
def test_decay_holds_its_precision_over_1024_actions(decay: float) -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "item_embeddings": rng.normal(size=(2, 1024, DIM)).astype(np.float32),
        "actions": np.ones((2, 1024), np.int32),
        "ages": np.zeros((2, 1024), np.float32),
    }
    got = DecayLayer({"a": DIM}, 1, decay)(**arrays)["a"]
    np.testing.assert_allclose(got, oracle(arrays, 1, decay), atol=1e-5)


@pytest.mark.parametrize(
    "aggregator",
    [Average(version=1), GeometricDecay(version=1, decay=0.8), *DECAYED, *LEARNED],
    ids=lambda line: line.view,
)
def test_more_padding_on_the_left_changes_nothing(aggregator: Aggregator, tmp_path: Path) -> None:
    arrays = sequences(20, seed=6)
    longer = {
        name: np.concatenate([np.zeros_like(array), array], axis=1)
        for name, array in arrays.items()
    }
    short = build(aggregator, tiny_config(tmp_path, dim=DIM, length=LENGTH))
    long = build(aggregator, tiny_config(tmp_path, dim=DIM, length=2 * LENGTH))
    long.set_weights(short.get_weights())
    if not short.further.signs:
        del arrays["signs"], longer["signs"]
    assert_equal(long.predict(longer, verbose=0), short.predict(arrays, verbose=0))


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Lost(Average):
        layer = "models.layers.build:Lost"

    with pytest.raises(InputError, match=r"expected a Keras layer at 'models.layers.build:Lost'"):
        build(Lost(version=1), tiny_config(tmp_path))


def test_a_layer_whose_outputs_are_not_those_of_the_view_is_refused(tmp_path: Path) -> None:
    class Wide(Average):
        def vectors(self, config: Config) -> dict[str, int]:  # noqa: ARG002
            return {"apply_embedding": 7}

    with pytest.raises(InputError, match=r"return \{'apply_embedding': 7\}.*got.*: 2\}"):
        build(Wide(version=1), tiny_config(tmp_path))
