"""How inputs become numbers: tiny tables, and properties over any input."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rankers.additive import added
from models.rankers.inputs import Columns, Inputs
from models.rankers.preprocessing import Encoded, Preprocessing
from models.rankers.sides import MOST
from transformations.errors import InputError

NAN = np.nan


def pairs_of(**kinds: Any) -> Inputs:
    """Inputs of pairs alone."""
    columns = Columns(**kinds)
    rows = len(next(iter(next(iter(kinds.values())).values())))
    return Inputs(Columns(), Columns(), columns, *[np.zeros(rows, np.int64)] * 2)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def texts(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


def dense(inputs: Inputs, given: Inputs | None = None, **settings_of: Any) -> list[list[float]]:
    made = Preprocessing.fit(inputs, **settings_of)
    return made.encode(given or inputs).pairs.dense.round(4).tolist()


def test_numbers_are_centred_and_divided_by_their_deviation() -> None:
    inputs = pairs_of(numbers={"pair.a": floats(1, 3, 1, 3)})
    assert dense(inputs) == [[-1], [1], [-1], [1]]
    assert dense(inputs, pairs_of(numbers={"pair.a": floats(2, NAN, 1e9)})) == [[0], [0], [MOST]]


def test_a_missing_number_is_the_mean_and_told() -> None:
    inputs = pairs_of(numbers={"pair.a": floats(1, 3, NAN, NAN)})
    assert dense(inputs) == [[-1, 0], [1, 0], [0, 1], [0, 1]]


def test_a_missing_number_may_be_the_mode() -> None:
    inputs = pairs_of(numbers={"pair.a": floats(1, 1, 1, 5, 5, 5, 5, NAN)})
    filled = dense(inputs, impute="mode")
    assert filled[-1] == [filled[3][0], 1]


def test_a_token_is_there_though_training_never_missed_one() -> None:
    inputs = pairs_of(numbers={"pair.a": floats(1, 3)})
    missing = pairs_of(numbers={"pair.a": floats(NAN)})
    assert dense(inputs, missing) == [[0]]
    assert dense(inputs, missing, impute="token") == [[0, 1]]


def test_a_long_tail_is_taken_as_its_logarithm() -> None:
    values = np.exp(np.random.default_rng(0).normal(size=1_000) * 2).astype(np.float32)
    made = Preprocessing.fit(pairs_of(numbers={"pair.n": values, "pair.m": np.arange(1_000.0)}))
    assert [number.log for number in made.pairs.numbers] == [True, False]
    scaled = made.encode(pairs_of(numbers={"pair.n": values, "pair.m": values})).pairs.dense[:, 0]
    expected = np.log1p(values)
    np.testing.assert_allclose(scaled, (expected - expected.mean()) / expected.std(), atol=1e-3)


def test_a_rank_is_taken_as_its_logarithm_though_its_tail_is_short() -> None:
    ranks = np.arange(300, dtype=np.float32)
    names = ("pair.rank_popular_v1", "pair.category_rank", "pair.ranking")
    made = Preprocessing.fit(pairs_of(numbers=dict.fromkeys(names, ranks)))
    assert [number.log for number in made.pairs.numbers] == [True, True, False]


def test_columns_that_say_nothing_are_left_out() -> None:
    made = Preprocessing.fit(
        pairs_of(
            numbers={"pair.a": floats(1, 2), "pair.b": floats(NAN, NAN), "pair.c": floats(4, 4)},
            categories={"pair.d": texts("x", "y")},
            vectors={"pair.v": np.zeros((2, 3), np.float32)},
        )
    )
    assert made.names == {"numbers": ["pair.a"], "categories": [], "vectors": []}
    with pytest.raises(InputError, match=r"a column that differs between pairs, got pair\.c"):
        Preprocessing.fit(pairs_of(numbers={"pair.c": floats(4, 4)}))


def test_categories_are_known_from_min_count_on() -> None:
    inputs = pairs_of(categories={"pair.c": texts("b", "a", "b", "a", "rare", None, 7, 7.0)})
    made = Preprocessing.fit(inputs, min_count=2)
    assert made.encode(inputs).pairs.codes.ravel().tolist() == [2, 1, 2, 1, 0, 0, 0, 0]
    assert made.offsets.tolist() == [0, 3]


def test_ids_may_share_codes_by_their_hash() -> None:
    ids = texts(*(f"i{number}" for number in range(40)), None)
    inputs = Inputs(
        Columns(),
        Columns(categories={"item.id": ids, "item.c": texts(*("x" for _ in ids))}),
        Columns(),
        np.zeros(41, np.int64),
        np.arange(41),
    )
    made = Preprocessing.fit(inputs, hashed_ids=8)
    codes = made.encode(inputs).items.codes
    assert codes[-1, 0] == 0
    assert set(codes[:-1, 0].tolist()) == set(range(1, 9))
    assert set(codes[:, 1].tolist()) == {10}  # looked up, after the 9 codes of ids
    again = made.encode(inputs).items.codes
    np.testing.assert_array_equal(codes, again)


def world(members: int, items: int, n: int, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)

    def side(name: str, rows: int) -> Columns:
        numbers = rng.normal(size=(2, rows)).astype(np.float32) * 50
        numbers[rng.random((2, rows)) < 0.3] = NAN
        kinds = rng.choice(np.array(["a", "b", "c", None], dtype=object), rows)
        vectors = rng.normal(size=(rows, 3)).astype(np.float32)
        vectors[rng.random(rows) < 0.2] = 0
        return Columns(
            {f"{name}.x": numbers[0], f"{name}.y": numbers[1]},
            {f"{name}.kind": kinds},
            {f"{name}.v": vectors} if name != "pair" else {},
        )

    return Inputs(
        side("member", members),
        side("item", items),
        side("pair", n),
        rng.integers(0, members, n),
        rng.integers(0, items, n),
        {"member.v": "item.v"},
    )


def laid_out(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """All dense columns and all codes of each pair."""
    dense_parts = [side.dense[rows] for side, rows in encoded.sides]
    codes = [side.codes[rows] for side, rows in encoded.sides]
    return (
        np.concatenate([*dense_parts, encoded.products()], axis=1),
        np.concatenate(codes, axis=1),
    )


def test_vectors_are_divided_by_their_mean_length_over_the_pairs() -> None:
    """Of the pairs: a member with three of them counts three times; zeros do not count."""
    inputs = Inputs(
        Columns(vectors={"member.v": np.array([[3, 4], [0, 2], [0, 0]], np.float32)}),
        Columns(vectors={"item.v": np.array([[10, 0]], np.float32)}),
        Columns(),
        np.array([0, 1, 1, 1, 2]),
        np.zeros(5, np.int64),
        {"member.v": "item.v"},
    )
    made = Preprocessing.fit(inputs)
    assert (made.members.vectors[0].length, made.items.vectors[0].length) == (2.75, 10.0)
    encoded = made.encode(inputs)
    np.testing.assert_allclose(encoded.members.dense[0], [3 / 2.75, 4 / 2.75])
    np.testing.assert_allclose(encoded.products()[:2], [[3 / 2.75, 0], [0, 0]])
    assert made.columns == [*["member.v"] * 2, *["item.v"] * 2, *["member.v * item.v"] * 2]


def test_vectors_of_one_space_have_one_dimension() -> None:
    inputs = world(3, 3, 9, seed=0)
    wide = {"item.v": np.ones((3, 5), np.float32)}
    items = Columns(inputs.items.numbers, inputs.items.categories, wide)
    other = Inputs(**{**vars(inputs), "items": items})
    with pytest.raises(InputError, match=r"member\.v and item\.v of one dimension.*got 3 and 5"):
        Preprocessing.fit(other)
    with pytest.raises(InputError, match=r"item\.v of 3 dimensions.*got 5"):
        Preprocessing.fit(inputs).encode(other)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.integers(1, 20))
def test_sums_by_side_are_those_of_the_pairs_laid_out(
    seed: int, members: int, items: int, n: int
) -> None:
    inputs = world(members, items, n, seed)
    try:
        made = Preprocessing.fit(inputs, min_count=1)
    except InputError:
        return
    encoded = made.encode(inputs)
    x, codes = laid_out(encoded)
    assert x.shape[1] == len(made.columns)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(x.shape[1], 2))
    table = rng.normal(size=(made.offsets[-1], 2))
    np.testing.assert_allclose(
        added(encoded, weights, table), x @ weights + table[codes].sum(axis=1), atol=1e-4
    )
    np.testing.assert_allclose(
        added(encoded, weights, table, squared=True),
        x**2 @ weights + table[codes].sum(axis=1),
        atol=1e-3,
    )


ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ANY, ANY, ANY, ANY), min_size=1, max_size=12),
    st.lists(st.tuples(ANY, ANY, ANY, ANY), min_size=1, max_size=12),
    st.sampled_from(["mean", "mode", "token"]),
)
def test_no_input_gives_a_number_that_is_none(
    trained: list[tuple[float, ...]], served: list[tuple[float, ...]], impute: Any
) -> None:
    def inputs(rows: list[tuple[float, ...]]) -> Inputs:
        table = np.array(rows, np.float32)
        vectors = {"pair.v": table[:, 2:]}
        return pairs_of(numbers={"pair.a": table[:, 0], "pair.b": table[:, 1]}, vectors=vectors)

    try:
        made = Preprocessing.fit(inputs(trained), impute)
    except InputError:
        return
    found = made.encode(inputs(served)).pairs.dense
    assert np.isfinite(found).all()
    assert (np.abs(found) <= MOST).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["mean", "mode", "token"]))
def test_the_order_of_pairs_and_their_number_change_nothing(seed: int, impute: Any) -> None:
    inputs = world(4, 5, 16, seed)
    made = Preprocessing.fit(inputs, impute, min_count=2)
    order = np.random.default_rng(seed).permutation(16)
    assert Preprocessing.fit(inputs.take(order), impute, min_count=2).names == made.names
    whole = laid_out(made.encode(inputs))
    some = laid_out(made.encode(inputs.take(order[:7])))
    for all_rows, taken in zip(whole, some, strict=True):
        np.testing.assert_array_equal(all_rows[order[:7]], taken)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_as_json_it_reads_back_whole(seed: int) -> None:
    inputs = world(4, 5, 16, seed)
    made = Preprocessing.fit(inputs, hashed_ids=4, min_count=2)
    again = Preprocessing.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    for first, second in zip(
        laid_out(made.encode(inputs)), laid_out(again.encode(inputs)), strict=True
    ):
        np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None, 3, 3.5]), min_size=3, max_size=20))
def test_an_unknown_category_is_a_missing_one(values: list[Any]) -> None:
    inputs = pairs_of(
        numbers={"pair.x": np.arange(len(values), dtype=np.float32)},
        categories={"pair.c": texts(*values)},
    )
    made = Preprocessing.fit(inputs, min_count=2)
    served = pairs_of(
        numbers={"pair.x": floats(0, 0, 0)},
        categories={"pair.c": texts("never", None, float("nan"))},
    )
    if made.pairs.categories:
        assert made.encode(served).pairs.codes.ravel().tolist() == [0, 0, 0]
