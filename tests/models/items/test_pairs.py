"""Pairs of items against a brute-force count."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.items.learning import pairs
from models.items.learning.pairs import Pairs, Weighing
from tests.models.items.worlds import Event, behaviour_from

IDS = pa.array(["a", "b", "c", "d", "e"])
EVENTS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 6),
        st.integers(0, 4),
        st.sampled_from(["APPLY", "SAVE", "DISMISS"]),
    ),
    max_size=30,
    unique=True,
)


def brute_counts(events: list[Event], weighing: Weighing) -> np.ndarray:
    """Count every pair of every member, with the mean position of actions of one timestamp."""
    counts = np.zeros((len(IDS), len(IDS)))
    for member in {event[0] for event in events}:
        row = sorted((t, i, a) for m, t, i, a in events if m == member and a != "DISMISS")
        times = [t for t, _, _ in row]
        positions = [np.mean([n for n, t in enumerate(times) if t == time]) for time in times]
        for (p, (t, i, _)), (q, (u, j, _)) in itertools.permutations(
            zip(positions, row, strict=True), 2
        ):
            if t != u and i != j and abs(p - q) <= weighing.reach:
                counts[i, j] += weighing.decay ** abs(p - q)
    return counts


def brute_ppmi(counts: np.ndarray, contexts: list[int], weighing: Weighing) -> np.ndarray:
    share = counts.sum(axis=0)[contexts] ** weighing.context_power
    rows = np.zeros((len(IDS), len(contexts)))
    for item in range(len(IDS)):
        total = counts[item, contexts].sum()
        for column, context in enumerate(contexts):
            n = counts[item, context]
            if n:
                pmi = math.log(n / total / (share[column] / share.sum()))
                rows[item, column] = max(0.0, pmi) * n / (n + weighing.shrink)
    return rows


def rows_of(found: Pairs, wanted: np.ndarray) -> np.ndarray:
    rows = np.full((len(wanted), found.n_contexts), np.nan)
    for chosen, block in found.rows(wanted):
        rows[chosen] = block.toarray()
    return rows


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS,
    reach=st.integers(1, 4),
    contexts=st.sets(st.integers(0, 4), min_size=1),
    wanted=st.sets(st.integers(0, 4)),
    at_once=st.integers(1, 9),
)
def test_rows_are_those_of_a_brute_force_count(
    events: list[Event], reach: int, contexts: set[int], wanted: set[int], at_once: int
) -> None:
    weighing = Weighing(reach=reach, decay=0.9, context_power=0.75, shrink=3.0)
    columns, chosen = sorted(contexts), np.array(sorted(wanted), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "EVENTS_AT_ONCE", at_once)
        found = Pairs(behaviour_from(events, IDS), IDS.take(pa.array(columns)), weighing)
        got = rows_of(found, chosen)
    counts = brute_counts(events, weighing)
    np.testing.assert_allclose(found.of_items, counts[:, columns].sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.of_contexts, counts.sum(axis=0)[columns], atol=1e-9)
    expected = brute_ppmi(counts, columns, weighing)
    np.testing.assert_allclose(got, expected[chosen], rtol=1e-5, atol=1e-6)
    positive = [i for _, _, i, a in events if a != "DISMISS"]
    assert found.counts.tolist() == [positive.count(i) for i in range(5)]


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, turned=st.permutations(range(5)))
def test_the_order_inside_a_timestamp_decides_nothing(
    events: list[Event], turned: list[int]
) -> None:
    """Actions of one timestamp stand in the order of their items: other numbers, another order."""
    weighing = Weighing(reach=3, decay=0.9, context_power=0.75, shrink=3.0)
    everything = np.arange(5)
    rows = rows_of(Pairs(behaviour_from(events, IDS), IDS, weighing), everything)
    other = [(m, t, turned[i], a) for m, t, i, a in events]
    again = rows_of(Pairs(behaviour_from(other, IDS), IDS, weighing), everything)
    np.testing.assert_allclose(again[np.ix_(turned, turned)], rows, rtol=1e-5, atol=1e-6)


def test_actions_of_one_timestamp_are_no_pair() -> None:
    events: list[Event] = [(1, 5, 0, "APPLY"), (1, 5, 1, "SAVE"), (2, 5, 0, "SAVE")]
    found = Pairs(behaviour_from(events, IDS), IDS, Weighing(5, 0.9, 0.75, 3.0))
    assert not found.of_items.any()


def test_a_large_group_is_far_from_its_neighbours() -> None:
    """An import of many items at once says little about the action before it."""
    events: list[Event] = [(1, 0, 0, "APPLY"), (1, 1, 1, "APPLY"), (1, 1, 2, "APPLY")]
    near = Pairs(behaviour_from(events, IDS), IDS, Weighing(2, 0.5, 0.75, 3.0))
    np.testing.assert_allclose(near.of_items[:3], [2 * 0.5**1.5, 0.5**1.5, 0.5**1.5])
    more: list[Event] = [*events, (1, 1, 3, "APPLY"), (1, 1, 4, "APPLY")]
    assert not Pairs(behaviour_from(more, IDS), IDS, Weighing(2, 0.5, 0.75, 3.0)).of_items.any()
