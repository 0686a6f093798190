"""The rules of a list, each and in their order: by hand, by properties, by enumeration."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.recommend.rules import Placed, Pool, drawing, listed
from transformations.recommend_settings import RecommendRules


def pool_of(
    scores: Sequence[float],
    kinds: Sequence[Sequence[str]] | None = None,
    vectors: Sequence[Sequence[float]] | None = None,
) -> Pool:
    """Items 0, 1, …, each with its values of the column `kind`."""
    kinds = [()] * len(scores) if kinds is None else kinds
    return Pool(
        np.arange(len(scores)),
        np.array(scores, np.float32),
        {"kind": [tuple(values) for values in kinds]},
        None if vectors is None else np.array(vectors, np.float32),
    )


def rules(**given: Any) -> RecommendRules:
    return RecommendRules.model_validate(given)


def never_explores(_: int) -> None:
    return None


def items(pool: Pool, made: RecommendRules, n: int, **more: Any) -> list[Any]:
    draw = more.pop("draw", never_explores)
    return [place.item for place in listed(pool, made, n, draw, **more)]


SCORES = (0.1, 0.5, 0.3, 0.9)


@pytest.mark.parametrize(
    ("given", "more", "expected"),
    [
        ({}, {}, [3, 1, 2, 0]),
        ({}, {"acted": frozenset({3})}, [1, 2, 0]),
        ({}, {"never": lambda item: item == 1}, [3, 2, 0]),
        ({"only": {"kind": "a"}}, {}, [1, 0]),
        ({"leave_out": {"kind": ["a", "b"]}}, {}, [3]),
        ({"only": {"kind": "a"}, "leave_out": {"kind": "b"}}, {}, [0]),
        ({"boosts": [{"column": "kind", "is": "a", "by": 2}]}, {}, [1, 3, 2, 0]),
        ({"boosts": [{"column": "kind", "is": "b", "by": 0.1}]}, {}, [3, 0, 1, 2]),
        ({"caps": {"kind": 1}}, {}, [3, 1]),
        ({"pinned": [{"item": 0, "position": 1}]}, {}, [0, 3, 1, 2]),
        ({"pinned": [{"item": 7, "position": 2}]}, {}, [3, 7, 1, 2]),
        # A pin stands in spite of filters and of what was acted on, and counts for no cap.
        ({"pinned": [{"item": 3, "position": 2}]}, {"acted": frozenset({3})}, [1, 3, 2, 0]),
        ({"pinned": [{"item": 3, "position": 1}], "only": {"kind": "a"}}, {}, [3, 1, 0]),
        ({"pinned": [{"item": 2, "position": 2}], "caps": {"kind": 1}}, {}, [3, 2, 1]),
        # It does not stand where it never may, nor beyond the list's end.
        ({"pinned": [{"item": 3, "position": 2}]}, {"never": lambda x: x == 3}, [1, 2, 0]),
        ({"pinned": [{"item": 0, "position": 9}]}, {}, [3, 1, 2, 0]),
        # Of more positions than there are items, pins close up.
        ({"pinned": [{"item": 7, "position": 4}], "only": {"kind": "c"}}, {}, [7]),
    ],
)
def test_a_rule_by_hand(given: Any, more: Any, expected: list[int]) -> None:
    pool = pool_of(SCORES, kinds=[["a"], ["a", "b"], ["b"], []])
    assert items(pool, rules(**given), 4, **more) == expected


def test_the_rules_go_in_their_order() -> None:
    """A boost lifts an item into the one place that a cap gives, and a pin takes the first one."""
    pool = pool_of((0.9, 0.8, 0.7, 0.6), kinds=[["a"], ["a", "new"], ["b"], ["b"]])
    made = rules(
        boosts=[{"column": "kind", "is": "new", "by": 1.5}],
        caps={"kind": 1},
        pinned=[{"item": 3, "position": 1}],
        leave_out={"kind": "c"},
    )
    assert items(pool, made, 3) == [3, 1, 2]


def test_a_boost_lifts_a_score_below_zero_too() -> None:
    pool = pool_of((-1.0, -0.8), kinds=[["a"], []])
    assert items(pool, rules(boosts=[{"column": "kind", "is": "a", "by": 2}]), 2) == [0, 1]


def test_diversity_is_maximal_marginal_relevance() -> None:
    # 0 and 1 are the same, 2 is unlike both: 0.5·(0.9 rel) - 0.5·1 against 0.5·0 - 0.5·0.
    pool = pool_of((1.0, 0.9, 0.0), vectors=[(1, 0), (2, 0), (0, 1)])
    assert items(pool, rules(diversity=0.5), 3) == [0, 2, 1]
    assert items(pool, rules(diversity=0.0), 3) == [0, 1, 2]


LISTS = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]),
        st.sets(st.sampled_from("abc"), max_size=2),
        st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    ),
    max_size=12,
)
NUMBERS = st.frozensets(st.integers(0, 11), max_size=4)


def made_pool(rows: Any) -> Pool:
    return pool_of(
        [score for score, _, _ in rows],
        [sorted(kinds) for _, kinds, _ in rows],
        [vector for _, _, vector in rows] if rows else np.zeros((0, 2)),
    )


@given(rows=LISTS, n=st.integers(1, 15))
def test_without_rules_the_scores_order(rows: Any, n: int) -> None:
    pool = made_pool(rows)
    order = sorted(range(len(rows)), key=lambda row: -rows[row][0])
    assert items(pool, rules(), n, draw=drawing(np.random.default_rng(), 0.0)) == order[:n]


@given(
    rows=LISTS,
    n=st.integers(1, 15),
    acted=NUMBERS,
    never=NUMBERS,
    cap=st.integers(1, 3),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
    explore=st.sampled_from([0.0, 0.5]),
    pins=st.lists(st.tuples(st.integers(0, 14), st.integers(1, 15)), max_size=3,
                  unique_by=(lambda pin: pin[0], lambda pin: pin[1])),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_every_rule_holds_whatever_the_others(
    rows: Any, n: int, acted: frozenset[int], never: frozenset[int], cap: int, diversity: float,
    explore: float, pins: list[tuple[int, int]], seed: int,
) -> None:  # fmt: skip
    pool = made_pool(rows)
    made = rules(
        leave_out={"kind": "c"},
        caps={"kind": cap},
        diversity=diversity,
        explore=explore,
        pinned=[{"item": item, "position": position} for item, position in pins],
    )
    draw = drawing(np.random.default_rng(seed), explore)
    places = listed(pool, made, n, draw, acted, never.__contains__)
    shown = [place.item for place in places]
    pinned = {item for item, position in pins if position <= n and item not in never}
    kinds = {row: kinds for row, (_, kinds, _) in enumerate(rows)}
    assert len(shown) == len({*shown}) <= n
    assert not never & {*shown}
    assert pinned <= {*shown}
    others = [item for item in shown if item not in pinned]
    assert not acted & {*others}
    assert all("c" not in kinds[item] for item in others)
    for kind in "ab":
        assert sum(kind in kinds[item] for item in others) <= cap
    assert all(0 < place.propensity <= 1 for place in places)
    assert {place.item for place in places if place.by == "pin"} == pinned
    for item, position in pins:
        before = sum(other in pinned and at < position for other, at in pins) + len(others)
        if item in pinned and before >= position - 1:  # else there is nothing to stand before it
            assert shown[position - 1] == item
    if len(shown) < n:  # nothing more was allowed
        for item in range(len(rows)):
            counts = {kind: sum(kind in kinds[other] for other in others) for kind in "ab"}
            full = any(counts[kind] == cap for kind in kinds[item] - {"c"})
            out = item in acted or item in never or "c" in kinds[item]
            assert item in shown or out or full


@given(rows=LISTS, n=st.integers(1, 15), diversity=st.sampled_from([0.2, 0.7, 1.0]))
def test_diversity_against_the_formula(rows: Any, n: int, diversity: float) -> None:
    pool = made_pool(rows)
    vectors = np.array([vector for _, _, vector in rows], np.float64).reshape(-1, 2)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    near = (vectors / np.where(norms, norms, 1)) @ (vectors / np.where(norms, norms, 1)).T
    scores = np.array([score for score, _, _ in rows])
    span = np.ptp(scores) if len(rows) else 0.0
    shown: list[int] = []
    for place in listed(pool, rules(diversity=diversity), n, never_explores):
        left = [row for row in range(len(rows)) if row not in shown]
        worth = {
            row: (1 - diversity) * (scores[row] - scores.min()) / (span or 1)
            - (diversity * max(near[row][other] for other in shown) if shown else 0)
            for row in left
        }
        assert worth[place.row] == pytest.approx(max(worth.values()), abs=1e-6)
        shown.append(place.row)
    assert len(shown) == min(n, len(rows))


def every_way(allowed_first: int, places: int) -> Iterator[tuple[int | None, ...]]:
    """Every sequence of draws: no exploration, or any of the items that may be left."""
    return itertools.product([None, *range(allowed_first)], repeat=places)


@pytest.mark.parametrize("caps", [{}, {"kind": 1}])
@pytest.mark.parametrize("explore", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_propensities_are_the_probabilities_of_all_ways(
    caps: Any, explore: float, diversity: float
) -> None:
    """Of all ways of drawing: a list is as probable as the product of its propensities says."""
    pool = pool_of(
        (0.9, 0.5, 0.4, 0.1),
        kinds=[["a"], ["a"], ["b"], []],
        vectors=[(1, 0), (1, 0.1), (0, 1), (1, 1)],
    )
    made = rules(caps=caps, explore=explore, diversity=diversity,
                 pinned=[{"item": 9, "position": 2}])  # fmt: skip
    chance: dict[tuple[Any, ...], float] = {}
    said: dict[tuple[Any, ...], float] = {}
    for way in every_way(4, 3):
        left, probability = iter(way), [1.0]

        def draw(allowed: int, left: Any = left, probability: list[float] = probability) -> Any:
            drawn = next(left)
            if drawn is None:
                probability[0] *= 1 - explore
            else:
                probability[0] *= explore / allowed if drawn < allowed else 0.0
                drawn = min(drawn, allowed - 1)
            return drawn

        places: list[Placed] = listed(pool, made, 4, draw)
        # What a way leaves over, because the list ended before, is one way of five.
        over = len([*left])
        key = tuple(place.item for place in places)
        chance[key] = chance.get(key, 0.0) + probability[0] / 5**over
        said[key] = float(np.prod([place.propensity for place in places]))
    assert sum(chance.values()) == pytest.approx(1.0)
    for key, probability_of in chance.items():
        if probability_of:
            assert said[key] == pytest.approx(probability_of)


def test_drawing_explores_in_its_share_of_places() -> None:
    draw = drawing(np.random.default_rng(1), 0.3)
    drawn = [draw(4) for _ in range(4_000)]
    explored = [one for one in drawn if one is not None]
    assert len(explored) / len(drawn) == pytest.approx(0.3, abs=0.03)
    assert {*explored} == {0, 1, 2, 3}
    assert drawing(np.random.default_rng(1), 0.0)(4) is None
