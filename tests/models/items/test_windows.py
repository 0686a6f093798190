"""Labels and their histories, popularity by day, and what is drawn: against plain loops."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.items.learning import windows
from models.items.learning.popularity import PopularityByDay
from models.items.learning.windows import edges_of, histories_of, labels_of
from tests.models.items.worlds import ACTIONS, START, Event, behaviour_from
from transformations.timestamps import DAY_US

IDS = pa.array([f"i{n}" for n in range(9)])
EVENTS = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 12), st.integers(0, 8), st.sampled_from(ACTIONS)),
    max_size=40,
    unique=True,
)
LENGTH = 6


def brute_labels(events: list[Event], stride: int) -> Counter[tuple[tuple[int, ...], ...]]:
    """Every window of length + 1 actions, and in it every positive action on a new item."""
    found: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for member in {event[0] for event in events}:
        row = sorted((t, i, ACTIONS.index(a) + 1) for m, t, i, a in events if m == member)
        for start in range(0, len(row), stride):
            window = row[start : start + LENGTH + 1]
            for n, (t, i, code) in enumerate(window):
                history = tuple(other for other in window if other[0] < t)
                earlier = [other for other in row if other[1] == i and other[0] < t]
                same = [c for u, j, c in row if (u, j) == (t, i) and c != 3]
                is_new = not earlier and code == (same or [0])[0]
                if n and code != 3 and is_new and history:
                    found[((member, t, i, code), *history)] += 1
    return found


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, stride=st.sampled_from([2, 3, 6]))
def test_labels_are_those_of_every_window(events: list[Event], stride: int) -> None:
    behaviour = behaviour_from(events, IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "STRIDE", stride)
        labels = labels_of(behaviour, LENGTH)
    histories = histories_of(behaviour, labels, LENGTH)
    got: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for n, event in enumerate(labels.events):
        at = int(behaviour.timestamps[event])
        own = (int(behaviour.members[event]), at - START, int(behaviour.items[event]))
        history = tuple(
            (round(at - age * DAY_US) - START, int(row) - 1, int(code))
            for age, row, code in zip(
                histories.ages[n].astype(float),
                histories.rows[n],
                histories.actions[n],
                strict=True,
            )
            if code
        )
        got[((*own, int(behaviour.codes[event])), *history)] += 1
    assert got == brute_labels(events, stride)


def test_histories_are_padded_on_the_left_and_strictly_earlier() -> None:
    day = DAY_US
    events: list[Event] = [
        (1, 0, 0, "APPLY"),
        (1, day, 1, "DISMISS"),
        (1, 3 * day, 2, "SAVE"),
        (1, 3 * day, 3, "APPLY"),  # a basket: neither is the other's history
    ]
    behaviour = behaviour_from(events, IDS)
    labels = labels_of(behaviour, LENGTH)
    assert labels.events.tolist() == [2, 3]
    histories = histories_of(behaviour, labels, 4)
    assert histories.rows.tolist() == [[0, 0, 1, 2]] * 2
    assert histories.actions.tolist() == [[0, 0, 1, 3]] * 2
    assert histories.ages.tolist() == [[0, 0, 3, 2]] * 2
    assert histories.signs[0].tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]


@settings(max_examples=100, deadline=None)
@given(events=EVENTS.filter(bool), cells=st.sampled_from([20, 60, 10_000]), at=st.integers(0, 14))
def test_popularity_counts_what_was_before(events: list[Event], cells: int, at: int) -> None:
    in_days = [(m, t * DAY_US, i, a) for m, t, i, a in events]
    behaviour = behaviour_from(in_days, IDS)
    known = np.full(len(IDS), START - DAY_US * 3 // 2)
    popularity = PopularityByDay.count(behaviour, known, cells)
    at += min(t for _, t, _, _ in events)
    rows = popularity.rows_of(np.array([START + at * DAY_US + 5]))
    items = np.arange(len(IDS))
    start = popularity.first + popularity.step * int(rows[0])
    assert start <= (START + at * DAY_US) // DAY_US
    features = popularity.features(rows[:, None], items[None, :])[0]
    for item in items:
        days = [START // DAY_US + t for m, t, i, a in events if i == item and a != "DISMISS"]
        for column, span in enumerate((7, 28, 90)):
            whole = -(-span // popularity.step) * popularity.step
            expected = sum(start - whole <= day < start for day in days)
            assert features[item, column] == pytest.approx(np.log1p(expected))
        assert features[item, 3] == pytest.approx(np.log1p(sum(day < start for day in days)))
        age = start - (START / DAY_US - 1.5)
        assert features[item, 4] == pytest.approx(np.log1p(max(age, 0)), abs=1e-5)
        assert features[item, 5] == (age < 7)
    assert popularity.is_known(rows[:, None], items).all() == (start > START / DAY_US - 1.5)


@settings(max_examples=100, deadline=None)
@given(times=st.lists(st.integers(0, 20), min_size=1, max_size=40), blocks=st.integers(1, 7))
def test_blocks_cover_all_times_and_none_begins_within_a_timestamp(
    times: list[int], blocks: int
) -> None:
    edges = edges_of(np.array(times), blocks)
    assert edges[0] == min(times)
    assert set(edges.tolist()) <= set(times)
    assert len(edges) <= blocks
    assert (np.diff(edges) > 0).all()
