"""The learned layers against plain float64, and what only they promise."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backend import keras, tf
from models.layers import slots
from models.layers.build import layer_class
from models.spec import (
    AttentionPool,
    Cnn,
    Gru,
    LearnedDecay,
    LearnedVector,
    Sessions,
    Transformer,
)
from transformations.errors import InputError

LENGTH, DIM, KINDS = 6, 3, 3
FIELD = "activity_embedding"
LINES: list[LearnedVector] = [
    LearnedDecay(version=1),
    AttentionPool(version=1),
    Cnn(version=1),
    Gru(version=1),
    Sessions(version=1),
    Transformer(version=1),
]
POSITIVE = LearnedDecay(version=1, ranks="positive", projected=False, share="all", decays=2)
Arrays = dict[str, np.ndarray]

each_line = pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)


def made(line: LearnedVector, seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    more = {"further": 2} if line.reads_signs else {}
    layer = layer_class(line)({FIELD: DIM}, n_actions=KINDS, **line.parameters(), **more)
    layer.build((None, LENGTH, DIM), (None, LENGTH), (None, LENGTH))
    return layer


def rolled(layer: Any, seed: int = 1, spread: float = 0.5) -> Any:
    """Give every weight a random value, those that begin at zero too."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(scale=spread, size=weight.shape))
    return layer


def padded(members: list[list[int]], seed: int = 0) -> Arrays:
    """Members' actions, PAD in between too, with random items and ages that fall by up to 2 h."""
    rng = np.random.default_rng(seed)
    actions = np.zeros((len(members), LENGTH), np.int32)
    for row, codes in zip(actions, members, strict=True):
        row[LENGTH - len(codes) :] = codes
    steps = rng.choice([0.001, 0.01, 0.05, 3.0], size=actions.shape)
    return {
        "item_embeddings": rng.normal(size=(*actions.shape, DIM)).astype(np.float32),
        "actions": actions,
        "ages": np.cumsum(steps[:, ::-1], axis=1)[:, ::-1].astype(np.float32),
    }


def embedded(layer: Any, arrays: Arrays, **options: Any) -> np.ndarray:
    return np.asarray(layer(**arrays, **options)[FIELD])


MEMBERS = st.lists(
    st.lists(st.integers(0, KINDS), min_size=1, max_size=LENGTH), min_size=1, max_size=4
)


# Ranks and sessions, counted by hand.


def test_ranks_count_the_actions_that_follow_and_no_pad() -> None:
    used = np.array([[True, False, True, True], [False, False, False, True], [True, True, True, 0]])
    expected = [[2, 2, 1, 0], [1, 1, 1, 0], [2, 1, 0, 0]]
    assert np.asarray(slots.ranks(used)).tolist() == expected


@pytest.mark.parametrize(
    ("minutes", "used", "expected"),
    [
        ([90, 60, 31, 1], [1, 1, 1, 1], [2, 1, 1, 0]),  # gaps of 30, 29 and 30
        ([90, 60, 31, 1], [1, 1, 0, 1], [2, 1, 0, 0]),  # a gap of 59 once PAD is skipped
        ([50, 30, 25, 1], [1, 0, 1, 1], [0, 0, 0, 0]),  # gaps of 25 and 24
        ([50, 30, 25, 1], [1, 0, 0, 1], [1, 0, 0, 0]),
        ([90, 60, 31, 1], [1, 1, 1, 0], [1, 0, 0, 0]),  # the newest is not in the last slot
        ([5, 5, 5, 5], [1, 1, 1, 1], [0, 0, 0, 0]),
        ([90, 60, 31, 1], [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("days", [0, 28])
def test_a_session_ends_before_a_gap(
    minutes: list[float], used: list[int], expected: list[int], days: int
) -> None:
    is_used = np.array([used], bool)
    ages = np.where(is_used, days + np.array([minutes]) / 1440, np.nan).astype(np.float32)
    assert np.asarray(slots.sessions(ages, is_used, gap=30)).tolist() == [expected]


@pytest.mark.parametrize(("seconds", "expected"), [(1799, 0), (1800, 1)])
@pytest.mark.parametrize("days", [0, 28, 60])
def test_a_gap_is_right_to_the_second_at_any_age(seconds: int, expected: int, days: int) -> None:
    ages = np.array([[days + (7 + seconds) / 86400, days + 7 / 86400]], np.float32)
    got = np.asarray(slots.sessions(ages, np.ones((1, 2), bool), gap=30))
    assert got.tolist() == [[expected, 0]]


def test_old_sessions_share_the_last_index() -> None:
    ages = np.arange(40, 0, -1, dtype=np.float32)[None]
    got = np.asarray(slots.sessions(ages, np.ones((1, 40), bool), gap=30))[0]
    assert got.tolist() == [min(i, slots.MAX_SESSION) for i in range(39, -1, -1)]


@pytest.mark.parametrize("age", [0.0, 1e-6, 28.0, 1e6, 3e38])
def test_features_are_bounded(age: float) -> None:
    ages, used = np.full((1, 2), age, np.float32), np.array([[True, False]])
    times = np.asarray(slots.time_features(ages, used))
    shared = np.asarray(slots.session_features(ages, used, gap=30))
    assert times.shape == (1, 2, slots.N_TIME_FEATURES)
    assert shared.shape == (1, 2, slots.N_SESSION_FEATURES)
    assert np.abs(times).max() < 4.2
    assert np.abs(shared).max() <= 1
    assert not times[:, 1].any()
    assert not shared[:, 1].any()


# LearnedDecay and AttentionPool, in plain loops in float64.


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def oracle_sessions(ages: np.ndarray, actions: np.ndarray, gap: float) -> list[int]:
    """Session of each used slot, 0 the newest; -1 where unused."""
    sessions, session, following = [-1] * len(ages), 0, None
    for j in range(len(ages) - 1, -1, -1):
        if actions[j] == 0:
            continue
        if following is not None and (ages[j] - following) * 1440 >= gap:
            session += 1
        sessions[j], following = session, ages[j]
    return sessions


def oracle_decay(line: LearnedDecay, layer: Any, member: Arrays) -> np.ndarray:
    weight = {w.name: np.asarray(w, np.float64) for w in layer.weights}
    start = [0.223] if line.decays == 1 else np.geomspace(0.9, 0.06, line.decays)
    by_kind = softplus(weight["by_kind"] + np.log(np.expm1(start)))
    by_rank = softplus(weight["by_rank"] + math.log(math.expm1(0.02)))
    by_day = softplus(weight["by_day"] + math.log(math.expm1(0.03)))
    actions, ages = member["actions"], member["ages"].astype(np.float64)
    session = oracle_sessions(ages, actions, line.session_gap)
    used = [j for j in range(LENGTH) if actions[j]]
    if not used:
        return weight["default"]
    vector = np.zeros(DIM)
    for h in range(line.decays):
        raw = {}
        for j in used:
            a, later = actions[j] - 1, [k for k in used if k > j]
            same = [k for k in later if actions[k] == actions[j]]
            kind_rank, rank = len(same), len(later)
            if line.use_sessions:
                rank = session[j]
                kind_rank = len({session[k] for k in same} - {session[j]})
            decay = by_kind[a, h] * kind_rank + by_rank[a, h] * rank + by_day[a, h] * ages[j]
            raw[j] = (1 + weight["scale"][a, h]) * math.exp(-decay)
        for j in used:
            a = actions[j] - 1
            if line.share == "all":
                w = raw[j] / sum(abs(r) for r in raw.values())
            else:
                scale = 1 + weight["scale"][a, h]
                w = scale * raw[j] / sum(raw[k] for k in used if actions[k] == actions[j])
            kernel = weight["change"][a * line.decays + h] + np.eye(DIM) / line.decays
            vector += w * member["item_embeddings"][j].astype(np.float64) @ kernel
    return vector / max(np.linalg.norm(vector), 1e-6) if line.normalize else vector


@pytest.mark.parametrize(
    "line",
    [
        LearnedDecay(version=1),
        LearnedDecay(version=1, share="action", decays=2),
        LearnedDecay(version=1, use_sessions=True, session_gap=45, decays=3),
        LearnedDecay(version=1, use_sessions=True, share="action", normalize=True),
    ],
)
def test_learned_decay_is_its_formula(line: LearnedDecay) -> None:
    layer = made(line)

    @settings(max_examples=20, deadline=None)
    @given(MEMBERS, st.integers(0, 1000))
    def holds(members: list[list[int]], seed: int) -> None:
        arrays = padded(members, seed)
        got = embedded(rolled(layer, seed), arrays)
        for i, vector in enumerate(got):
            expected = oracle_decay(line, layer, {name: a[i] for name, a in arrays.items()})
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=2e-5)

    holds()


def with_signs(arrays: Arrays, seed: int) -> Arrays:
    """Give each action a sign of its own, and the features that say so."""
    rng = np.random.default_rng(seed)
    signs = rng.integers(-1, 2, arrays["actions"].shape) * (arrays["actions"] != 0)
    return arrays | {"further": np.stack([signs > 0, signs < 0], axis=2).astype(np.float32)}


def oracle_positive(line: LearnedDecay, layer: Any, member: Arrays) -> np.ndarray:
    """Ranks among positive actions; a scalar counts 24 times its weight."""
    named = ("scale", "by_kind", "by_rank", "by_day", "by_hours")
    weight = {
        w.name: np.asarray(w, np.float64) * (24 if w.name in named else 1) for w in layer.weights
    }
    starts = {
        "by_kind": 0.03,
        "by_rank": np.geomspace(1.2, 0.15, line.decays),
        "by_day": 0.002,
        "by_hours": 0.02,
    }
    rates = {n: softplus(weight[n] + np.log(np.expm1(start))) for n, start in starts.items()}
    actions, ages = member["actions"], member["ages"].astype(np.float64)
    positive = member["further"][:, 0] > 0
    used = [j for j in range(LENGTH) if actions[j]]
    if not used:
        return weight["default"]
    vector = np.zeros(DIM)
    for h in range(line.decays):
        raw = {}
        for j in used:
            a = actions[j] - 1
            grown = {
                "by_kind": sum(k > j and actions[k] == actions[j] for k in used),
                "by_rank": sum(k > j and positive[k] for k in used),
                "by_day": ages[j],
                "by_hours": math.log1p(24 * ages[j]),
            }
            raw[j] = math.exp(-sum(rates[n][a, h] * of for n, of in grown.items()))
            raw[j] *= (1.0 if positive[j] else 0.2) + weight["scale"][a, h] * (line.share == "all")
        for j in used:
            a = actions[j] - 1
            together = [k for k in used if line.share == "all" or actions[k] == actions[j]]
            w = raw[j] / sum(abs(raw[k]) for k in together)
            w *= 1 + weight["scale"][a, h] * (line.share == "action")
            item = member["item_embeddings"][j].astype(np.float64)
            if line.projected:
                item = item @ (weight["change"][a * line.decays + h] + np.eye(DIM) / line.decays)
            vector += w * item
    return vector


@pytest.mark.parametrize(
    "line",
    [
        POSITIVE,
        replace(POSITIVE, decays=1),
        replace(POSITIVE, decays=3, share="action", projected=True),
    ],
)
def test_learned_decay_by_positive_ranks_is_its_formula(line: LearnedDecay) -> None:
    layer = made(line)

    @settings(max_examples=20, deadline=None)
    @given(MEMBERS, st.integers(0, 1000))
    def holds(members: list[list[int]], seed: int) -> None:
        arrays = with_signs(padded(members, seed), seed)
        got = embedded(rolled(layer, seed, spread=0.1), arrays)
        for i, vector in enumerate(got):
            expected = oracle_positive(line, layer, {name: a[i] for name, a in arrays.items()})
            np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4)

    holds()


def test_learned_decay_by_positive_ranks_has_only_scalars_to_learn() -> None:
    layer = rolled(made(POSITIVE), spread=0.1)
    assert {w.name for w in layer.trainable_weights} == {
        *("scale", "by_kind", "by_rank", "by_day", "by_hours"),
        "default",
    }
    arrays = with_signs(padded([[1, 2, 0, 3, 2, 1], [3, 1, 2, 2, 1, 3]]), seed=4)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(**arrays)[FIELD] * np.arange(1.0, DIM + 1))
    gradients = gradients_of(tape, loss, layer)
    assert all(np.isfinite(g).all() for g in gradients.values())


def test_a_new_learned_decay_sums_decayed_means_per_action() -> None:
    line = LearnedDecay(version=1, share="action")
    layer = made(line)
    layer.by_rank.assign(np.full((KINDS, 1), -50.0))
    layer.by_day.assign(np.full((KINDS, 1), -50.0))
    items = np.array([[[8, 0, 0], [1, 1, 1], [4, 0, 0], [0, 0, 5]]], np.float32)
    actions, ages = np.array([[1, 0, 1, 2]], np.int32), np.zeros((1, 4), np.float32)
    r = math.exp(-0.223)
    expected = [(8 * r + 4) / (r + 1), 0, 5]
    got = layer(item_embeddings=items, actions=actions, ages=ages)[FIELD]
    np.testing.assert_allclose(got[0], expected, rtol=1e-6)


@pytest.mark.parametrize("share", ["all", "action"])
def test_actions_that_are_all_old_count_as_much_as_new_ones(share: Any) -> None:
    layer = made(LearnedDecay(version=1, share=share))
    arrays = padded([[1, 2, 0, 1, 3]])
    old = arrays | {"ages": arrays["ages"] + np.float32(5000)}
    np.testing.assert_allclose(embedded(layer, old), embedded(layer, arrays), atol=1e-3)


def test_the_hidden_layer_of_a_new_learned_decay_adds_nothing_until_it_is_trained() -> None:
    arrays = padded([[1, 2, 0, 3], [1]])
    plain = embedded(made(LearnedDecay(version=1)), arrays)
    layer = made(LearnedDecay(version=1, hidden=8))
    np.testing.assert_array_equal(embedded(layer, arrays), plain)
    assert np.abs(embedded(rolled(layer), arrays) - plain).max() > 0.1


def oracle_attention(line: AttentionPool, layer: Any, member: Arrays) -> np.ndarray:
    key, bias, query, change, default = (
        np.asarray(w, np.float64)
        for w in (
            layer.keys.kernel,
            layer.keys.bias,
            layer.scores.kernel,
            layer.projection.change,
            layer.default,
        )
    )
    actions, ages = member["actions"], member["ages"].astype(np.float64)
    used = [j for j in range(LENGTH) if actions[j]]
    if not used:
        return default
    scores = {}
    for j in used:
        age, rank = ages[j], sum(k > j for k in used)
        turns = [2 * math.pi * age / days for days in (1, 7)]
        features = [
            *member["item_embeddings"][j],
            *np.eye(KINDS + 1)[actions[j]],
            math.log1p(age) / math.log1p(28),
            *(math.exp(-age / days) for days in (1, 7, 28)),
            *(math.sin(turn) for turn in turns),
            *(math.cos(turn) for turn in turns),
            math.log1p(rank) / math.log(32),
            1 / (1 + rank),
        ]
        scores[j] = np.tanh(np.array(features) @ key + bias) @ query
    vector = np.zeros(DIM)
    for q in range(line.queries):
        total = sum(math.exp(scores[k][q]) for k in used)
        for j in used:
            kernel = change[q * KINDS + actions[j] - 1] + np.eye(DIM) / line.queries
            item = member["item_embeddings"][j].astype(np.float64)
            vector += math.exp(scores[j][q]) / total * item @ kernel
    return vector


def test_attention_is_its_formula() -> None:
    line = AttentionPool(version=1, queries=2, units=4)
    layer = made(line)

    @settings(max_examples=20, deadline=None)
    @given(MEMBERS, st.integers(0, 1000))
    def holds(members: list[list[int]], seed: int) -> None:
        arrays = padded(members, seed)
        got = embedded(rolled(layer, seed), arrays)
        for i, vector in enumerate(got):
            expected = oracle_attention(line, layer, {name: a[i] for name, a in arrays.items()})
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=2e-5)

    holds()


# The layers that read in order.


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_cnn_is_a_causal_convolution_pooled_over_the_actions(pooling: Any) -> None:
    layer = rolled(made(Cnn(version=1, filters=4, kernel=3, pooling=pooling)))
    arrays = padded([[1, 0, 2, 3], [3], [1, 2, 3, 1, 2, 3]])
    convolution, dense = layer.convolutions[0], layer.to_items
    kernel, bias = np.asarray(convolution.kernel, np.float64), np.asarray(convolution.bias)
    for i, got in enumerate(embedded(layer, arrays)):
        actions = np.concatenate([np.zeros(2, np.int32), arrays["actions"][i]])
        items = np.concatenate([np.zeros((2, DIM)), arrays["item_embeddings"][i]])
        features = np.concatenate(
            [items * (actions != 0)[:, None], np.eye(KINDS + 1)[actions]], axis=1
        )
        outs = np.array(
            [
                np.maximum(sum(features[j - 2 + t] @ kernel[t] for t in range(3)) + bias, 0)
                for j in range(2, LENGTH + 2)
                if actions[j]
            ]
        )
        pooled = outs.max(axis=0) if pooling == "max" else outs.mean(axis=0)
        expected = pooled @ np.asarray(dense.kernel) + np.asarray(dense.bias)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_session_is_the_means_of_its_kinds_their_counts_and_its_newest_age() -> None:
    layer = made(Sessions(version=1, use_ages=True, use_sessions=True, signs=True))
    minutes = np.array([[0, 95, 90, 0, 40, 10]])  # gaps of 5, 50 and 30
    actions = np.array([[0, 1, 1, 0, 3, 2]], np.int32)
    items = np.zeros((1, LENGTH, DIM), np.float32)
    items[0, :, 0] = [9, 2, 4, 9, 5, 7]
    ages = (minutes / 1440).astype(np.float32)
    signs = np.zeros((1, LENGTH, 2), np.float32)
    signs[0, 1, 0] = signs[0, 4, 1] = 1.0
    there, features = layer.sessions(items, actions, ages, actions != 0, signs)
    assert np.asarray(there).tolist() == [[False, False, False, True, True, True]]
    means = [[[3, 0, 0], [0, 0, 0], [0, 0, 0]], [[0] * 3, [0] * 3, [5, 0, 0]], [[0] * 3, [7, 0, 0]]]
    counts = [[2, 0, 0], [0, 0, 1], [0, 1, 0]]
    for i, (mean, count, newest, sign) in enumerate(
        zip(means, counts, [90, 40, 10], [[0.5, 0], [0, 1], [0, 0]], strict=True)
    ):
        age = np.array([[newest / 1440]], np.float32)
        times = np.asarray(slots.time_features(age, np.array([[True]])))[0, 0]
        number = [math.log1p(2 - i) / math.log1p(31), float(i == 2)]
        flat = np.zeros(KINDS * DIM)
        flat[: 3 * len(mean)] = np.ravel(mean)
        expected = np.concatenate([flat, np.log1p(count), times, number, sign])
        np.testing.assert_allclose(np.asarray(features)[0, 3 + i], expected, rtol=1e-5, atol=1e-6)
    assert not np.asarray(features)[0, :3].any()


@pytest.mark.parametrize(
    "line",
    [
        Sessions(version=1),
        Sessions(version=1, use_ages=True, use_sessions=True, session_gap=45, signs=True),
    ],
)
def test_only_the_order_of_sessions_reaches_their_vector(line: Sessions) -> None:
    layer = rolled(made(line))

    @settings(max_examples=60, deadline=None)
    @given(MEMBERS, st.integers(0, 1000))
    def holds(members: list[list[int]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        arrays = padded(members, seed)
        if line.signs:
            arrays = with_signs(arrays, seed)
        before = embedded(layer, arrays)
        inside = np.tile(np.arange(LENGTH), (len(before), 1))
        turned = inside.copy()
        differ = np.zeros(len(before), bool)
        for i, (ages, actions) in enumerate(zip(arrays["ages"], arrays["actions"], strict=True)):
            session = np.array(oracle_sessions(ages, actions, line.session_gap))
            for number in range(session.max() + 1):
                own = np.flatnonzero(session == number)
                inside[i, own] = rng.permutation(own)
            oldest, newest = (np.flatnonzero(session == n) for n in (session.max(), 0))
            if session.max() > 0:
                turned[i, [oldest[0], newest[0]]] = newest[0], oldest[0]
                differ[i] = True

        def moved(order: np.ndarray) -> Arrays:
            return arrays | {  # ages stay: a sequence is in the order of time
                name: np.take_along_axis(
                    array, order.reshape(*order.shape, *[1] * (array.ndim - 2)), axis=1
                )
                for name, array in arrays.items()
                if name != "ages"
            }

        np.testing.assert_allclose(embedded(layer, moved(inside)), before, rtol=1e-5, atol=1e-5)
        changed = np.abs(embedded(layer, moved(turned)) - before).max(axis=1)
        assert (changed[differ] > 1e-4).all()
        assert (changed[~differ] == 0).all()

    holds()


def test_the_sequence_of_sessions_before_the_31_newest_is_not_read() -> None:
    """They are one session, so that no sequence of any length needs more of them."""
    layer = rolled(made(Sessions(version=1)))
    rng = np.random.default_rng(0)
    arrays = {
        "item_embeddings": rng.normal(size=(1, 40, DIM)).astype(np.float32),
        "actions": np.ones((1, 40), np.int32),
        "ages": np.arange(40, 0, -1, dtype=np.float32)[None],
    }
    before = embedded(layer, arrays)
    for other, same in ((8, True), (9, False)):  # the ninth from the oldest is the 32nd newest
        order = np.arange(40)
        order[[0, other]] = order[[other, 0]]
        items = arrays["item_embeddings"][:, order]
        got = embedded(layer, arrays | {"item_embeddings": items})
        assert np.allclose(got, before, atol=1e-5) == same


def test_no_state_of_the_transformer_sees_a_later_action() -> None:
    layer = rolled(made(Transformer(version=1, layers=3)))
    arrays = padded([[1, 2, 0, 3, 1, 2]])
    used = arrays["actions"] != 0

    def states(items: np.ndarray) -> np.ndarray:
        features = layer.features(items, arrays["actions"], arrays["ages"], used)
        return np.asarray(layer.states(features, slots.ranks(used).numpy().astype("int32"), used))

    before = states(arrays["item_embeddings"])
    for changed in (0, 3, 5):
        items = arrays["item_embeddings"].copy()
        items[:, changed] += 1.0
        moved = np.abs(states(items) - before).max(axis=2) > 1e-4
        assert moved[used].tolist() == [j >= changed for j in np.flatnonzero(used)]


@each_line
def test_every_action_and_its_kind_reaches_the_vector(line: LearnedVector) -> None:
    layer = rolled(made(line))
    # The average over the actions: a maximum may well hide one.
    layer.pooling = "avg"
    one = padded([[1, 2, 3, 1, 2, 3]])
    # Row j differs from `one` at slot j, in its item or in its action.
    same = {name: np.repeat(array, LENGTH, axis=0) for name, array in one.items()}
    slot = np.eye(LENGTH, dtype=np.int32)
    items = same["item_embeddings"] + slot[:, :, None]
    actions = np.where(slot, same["actions"] % KINDS + 1, same["actions"])
    before = embedded(layer, one)
    for changed in ({"item_embeddings": items}, {"actions": actions}):
        moved = np.abs(embedded(layer, same | changed) - before).max(axis=1)
        assert (moved > 1e-5).all()


@each_line
def test_pad_between_actions(line: LearnedVector) -> None:
    """What stands in it never matters; to all but the convolution it is as if it were not there."""
    layer = rolled(made(replace(line, use_sessions=True)))
    arrays = padded([[1, 0, 2, 0, 0, 3], [2, 2, 0, 1, 0]], seed=3)
    pad = arrays["actions"] == 0
    got = embedded(layer, arrays)
    for rubbish in (np.inf, np.nan, 3e38):
        dirty = arrays | {
            "item_embeddings": np.where(
                pad[:, :, None], np.float32(rubbish), arrays["item_embeddings"]
            ),
            "ages": np.where(pad, np.float32(rubbish), arrays["ages"]),
        }
        np.testing.assert_allclose(embedded(layer, dirty), got, atol=1e-6)
    order = np.argsort(~pad, axis=1, kind="stable")
    together = {
        name: np.take_along_axis(a, order.reshape(*order.shape, *[1] * (a.ndim - 2)), axis=1)
        for name, a in arrays.items()
    }
    same = np.allclose(embedded(layer, together), got, rtol=1e-5, atol=1e-5)
    assert same == (line.name != "cnn")


@each_line
def test_ages_and_sessions_matter_when_asked_and_only_then(line: LearnedVector) -> None:
    arrays = padded([[1, 2, 3, 1, 2, 3]])
    later = arrays | {"ages": arrays["ages"] * 0.5}
    one_session = arrays | {"ages": np.full_like(arrays["ages"], 5.0)}
    if line.name != "learned_decay":  # whose decay by days is always there
        line = replace(line, use_ages=False)
        plain = rolled(made(line))
        np.testing.assert_array_equal(embedded(plain, later), embedded(plain, arrays))
        aware = rolled(made(replace(line, use_ages=True)))
        assert np.abs(embedded(aware, later) - embedded(aware, arrays)).max() > 1e-3
    layer = rolled(made(replace(line, use_sessions=True)))
    if line.name == "learned_decay":
        layer.by_day.assign(np.full((KINDS, 1), -50.0))
    assert np.abs(embedded(layer, one_session) - embedded(layer, arrays)).max() > 1e-3


# Training.


def gradients_of(tape: Any, loss: Any, layer: Any) -> Arrays:
    weights = layer.trainable_weights
    gradients = tape.gradient(loss, [w.value for w in weights], unconnected_gradients="zero")
    # An embedding's gradient comes as slices of it.
    return {
        weight.path: np.asarray(tf.convert_to_tensor(gradient))
        for weight, gradient in zip(weights, gradients, strict=True)
    }


@each_line
def test_the_default_vector_is_learned_from_members_without_actions(line: LearnedVector) -> None:
    layer = made(line)
    arrays = padded([[], [1, 2]])
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(**arrays)[FIELD][0] * np.arange(1.0, DIM + 1))
    gradients = gradients_of(tape, loss, layer)
    np.testing.assert_array_equal(gradients.pop(layer.default.path), [1.0, 2.0, 3.0])
    assert not any(np.any(g) for g in gradients.values())
    layer.default.assign([3.0, 2.0, 1.0])
    assert embedded(layer, arrays)[0].tolist() == [3.0, 2.0, 1.0]
    without = rolled(made(replace(line, learned_default=False)))
    assert embedded(without, arrays)[0].tolist() == [0.0, 0.0, 0.0]


@each_line
@pytest.mark.parametrize("normalize", [False, True])
def test_every_weight_has_a_finite_gradient(line: LearnedVector, normalize: bool) -> None:
    layer = rolled(made(replace(line, normalize=normalize, use_sessions=True)), spread=0.2)
    arrays = padded([[], [1, 2, 0, 3, 2, 1], [3, 1, 2, 2, 1, 3], [3]])
    arrays["item_embeddings"][3] = 0.0
    target = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(layer(**arrays)[FIELD] * target)
    for path, gradient in gradients_of(tape, loss, layer).items():
        assert np.isfinite(gradient).all(), path
        # A bias that is added to every key alike changes no softmax.
        assert gradient.any() or "attention/key/bias" in path, path


@pytest.mark.parametrize("line", LINES[1:], ids=lambda line: line.name)
def test_dropout_is_for_training_only(line: LearnedVector) -> None:
    arrays = padded([[1, 2, 3, 1, 2, 3]])
    layer, without = made(replace(line, dropout=0.5)), made(replace(line, dropout=0.0))
    for weight, same in zip(layer.trainable_weights, without.trainable_weights, strict=True):
        same.assign(weight)
    np.testing.assert_allclose(embedded(layer, arrays), embedded(without, arrays), atol=1e-5)
    assert np.abs(embedded(layer, arrays, training=True) - embedded(layer, arrays)).max() > 1e-3


@each_line
def test_keras_s_seed_decides_the_first_weights(line: LearnedVector) -> None:
    one, same, other = (made(line, seed).get_weights() for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    differ = any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert differ == (line.name != "learned_decay")


@each_line
def test_normalized_vectors_have_length_one(line: LearnedVector) -> None:
    arrays = padded([[1, 2, 0, 3], [3]])
    plain = embedded(made(line), arrays)
    got = embedded(made(replace(line, normalize=True)), arrays)
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed(request: pytest.FixtureRequest) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy(before)


@each_line
def test_mixed_precision_stays_inside(line: LearnedVector, mixed: None) -> None:
    layer = made(line)
    arrays = padded([[1, 2, 0, 3], [], [3]])
    got = embedded(layer, arrays)
    assert got.dtype == np.float32
    keras.config.set_dtype_policy("float32")
    exact = made(line)
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(got, embedded(exact, arrays), atol=0.05)


# Settings.


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (LearnedDecay, {"decays": 0}, "learned_decay: decays: expected at least 1, got 0"),
        (LearnedDecay, {"share": "none"}, "share: expected 'all' or 'action', got 'none'"),
        (LearnedDecay, {"ranks": "all"}, "ranks: expected 'action' or 'positive', got 'all'"),
        (LearnedDecay, {"hidden": -1}, "hidden: expected 0 or more, got -1"),
        (LearnedDecay, {"session_gap": 0}, "session_gap: expected minutes above 0, got 0"),
        (AttentionPool, {"queries": 0}, "queries: expected at least 1, got 0"),
        (AttentionPool, {"units": 0}, "units: expected at least 1, got 0"),
        (AttentionPool, {"dropout": 1.0}, "dropout: expected 0 or more, below 1, got 1.0"),
        (Cnn, {"filters": 0}, "filters: expected at least 1, got 0"),
        (Cnn, {"kernel": 0}, "kernel: expected at least 1, got 0"),
        (Cnn, {"layers": 0}, "layers: expected at least 1, got 0"),
        (Cnn, {"pooling": "mean"}, "cnn: pooling: expected 'max' or 'avg', got 'mean'"),
        (Cnn, {"dropout": -0.1}, "dropout: expected 0 or more, below 1, got -0.1"),
        (Gru, {"units": 0}, "gru: units: expected at least 1, got 0"),
        (Gru, {"dropout": math.nan}, "dropout: expected 0 or more, below 1, got nan"),
        (Sessions, {"units": 0}, "sessions: units: expected at least 1, got 0"),
        (Transformer, {"heads": 0}, "heads: expected at least 1, got 0"),
        (Transformer, {"units": 6, "heads": 4}, "units: expected a multiple of heads=4, got 6"),
        (Transformer, {"positions": 0}, "positions: expected at least 1, got 0"),
        (Transformer, {"dropout": 2.0}, "dropout: expected 0 or more, below 1, got 2.0"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(version=1, **wrong)
