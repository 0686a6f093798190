from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.references import (
    DecayedCooccurrence,
    Popular,
    PositiveEvents,
)
from transformations.errors import InputError
from transformations.timestamps import DAY_US

ITEMS = 5
NOBODY = np.zeros((0, 3), int)


def events(rows):
    """Events from rows of (member, item, day)."""
    members, items, days = (np.array(column) for column in zip(*rows, strict=True))
    return PositiveEvents(members, items, (days * DAY_US).astype(np.int64))


EVENT = st.tuples(
    st.integers(0, 2), st.integers(0, ITEMS - 1), st.sampled_from(np.arange(0, 9, 1 / 2))
)
LOGS = st.lists(EVENT, min_size=1, max_size=25).map(lambda rows: sorted(rows, key=lambda e: e[2]))
HISTORY = st.lists(st.integers(-1, ITEMS - 1), min_size=4, max_size=4)
LABELS = st.lists(
    st.tuples(st.sampled_from(np.arange(0, 10, 1 / 2)), HISTORY), min_size=1, max_size=5
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def times(labels):
    return np.array([int(day * DAY_US) for day, _ in labels], np.int64)


def histories(labels):
    return np.array([history for _, history in labels])


def brute_popular(log, as_of, days):
    counts = Counter(item for _, item, day in log if as_of - days <= day < as_of)
    return [counts[item] for item in range(ITEMS)]


def brute_cooccurrence(log, as_of, history, last, decay, damping, half_life):
    """The formula of the docstring, event by event."""
    fade = lambda day: 0.5 ** ((as_of - day) / half_life) if half_life else 1.0  # noqa: E731
    together, counts, past = defaultdict(float), Counter(), defaultdict(list)
    for member, item, day in log:
        if day >= as_of:
            continue
        counts[item] += fade(day)
        for other, then in past[member][-last:]:
            if other != item and then != day:
                together[item, other] += fade(day)
                together[other, item] += fade(day)
        past[member].append((item, day))
    damp = {item: max(counts[item], 1.0) ** -damping for item in range(ITEMS)}
    newest = [item for item in reversed(history) if item >= 0][:last]
    found = []
    popular = brute_popular(log, as_of, 7)
    for item in range(ITEMS):
        score = sum(
            decay**nth * together[other, item] * damp[other] * damp[item]
            for nth, other in enumerate(newest)
        )
        found.append(score if score > 0 else popular[item] - max(popular) - 1)
    return found


@settings(max_examples=60, deadline=None)
@given(LOGS, LABELS, st.sampled_from([0.5, 1, 7]))
def test_popular_counts_the_last_days(log, labels, days):
    got = Popular(events(log), ITEMS, days).scores(times(labels), histories(labels))
    assert got.dtype == np.float32
    assert got.tolist() == [brute_popular(log, day, days) for day, _ in labels]


@settings(max_examples=60, deadline=None)
@given(
    LOGS,
    LABELS,
    st.sampled_from([1, 2, 10]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([None, 2.0]),
)
def test_cooccurrence_is_the_formula_at_each_timestamp(
    log, labels, last, decay, damping, half_life
):
    """One recommender used for ascending timestamps equals a new one for each of them."""
    settings = {"last": last, "decay": decay, "damping": damping, "half_life": half_life}
    recommender = DecayedCooccurrence(events(log), ITEMS, **settings)
    expected = [brute_cooccurrence(log, day, history, **settings) for day, history in labels]
    got = recommender.scores(times(labels), histories(labels))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    again = DecayedCooccurrence(events(log), ITEMS, **settings)
    for row, (day, history) in enumerate(labels):
        related = again.related(int(day * DAY_US), np.array([history])).toarray()[0]
        np.testing.assert_allclose(related, np.maximum(expected[row], 0.0), rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(LOGS, LABELS, st.lists(EVENT, max_size=10))
def test_events_from_as_of_on_change_nothing(log, labels, more):
    latest = max(day for day, _ in labels)
    future = [(member, item, latest + day) for member, item, day in more]
    log = [event for event in log if event[2] < latest] or [(0, 0, -1.0)]
    longer = sorted(log + future, key=lambda event: event[2])
    for kind in (Popular, DecayedCooccurrence):
        without = kind(events(log), ITEMS).scores(times(labels), histories(labels))
        with_future = kind(events(longer), ITEMS).scores(times(labels), histories(labels))
        np.testing.assert_array_equal(without, with_future)


@settings(max_examples=60, deadline=None)
@given(LOGS, LABELS, st.integers(1, 4))
def test_batches_change_nothing(log, labels, batch):
    whole = DecayedCooccurrence(events(log), ITEMS).scores(times(labels), histories(labels))
    batched = DecayedCooccurrence(events(log), ITEMS)
    got = [
        batched.scores(
            times(labels)[start : start + batch], histories(labels)[start : start + batch]
        )
        for start in range(0, len(labels), batch)
    ]
    np.testing.assert_array_equal(np.concatenate(got), whole)


def test_a_members_newest_action_counts_most():
    log = events([(0, 0, 0), (0, 1, 0.1), (1, 2, 0.2), (1, 3, 0.3)])
    recommender = DecayedCooccurrence(log, ITEMS, decay=0.5, half_life=None)
    at = np.array([DAY_US, DAY_US, DAY_US])
    got = recommender.scores(at, np.array([[-1, 0, 2], [-1, 2, 0], [-1, -1, -1]]))
    assert got[0].tolist() == [-1, 0.5, -1, 1.0, -2]
    assert got[1].tolist() == [-1, 1.0, -1, 0.5, -2]
    # Without a history, popular items; an item without actions comes last.
    assert got[2].tolist() == [-1, -1, -1, -1, -2]


def test_a_basket_says_nothing_of_itself():
    """Two items at one timestamp do not co-occur; a later one co-occurs with both."""
    log = events([(0, 0, 1), (0, 1, 1), (0, 2, 2)])
    recommender = DecayedCooccurrence(log, ITEMS, decay=0.5, half_life=None)
    got = recommender.related(int(3 * DAY_US), np.array([[0], [2]])).toarray()
    assert got.tolist() == [[0, 0, 1, 0, 0], [1, 1, 0, 0, 0]]


def test_no_labels_give_no_scores():
    log = events([(0, 0, 0)])
    for kind in (Popular, DecayedCooccurrence):
        assert kind(log, ITEMS).scores(np.array([], np.int64), NOBODY).shape == (0, ITEMS)


def test_time_does_not_go_back():
    recommender = DecayedCooccurrence(events([(0, 0, 0)]), ITEMS)
    history = np.array([[0], [0]])
    with pytest.raises(InputError, match="ascending order"):
        recommender.scores(np.array([DAY_US, 0]), history)
    recommender.scores(np.array([DAY_US]), history[:1])
    with pytest.raises(InputError, match="not to go back in time"):
        recommender.scores(np.array([0]), history[:1])
    with pytest.raises(InputError, match="order of time"):
        events([(0, 0, 1), (0, 0, 0)])
    with pytest.raises(InputError, match="of equal length"):
        PositiveEvents(np.array([0]), np.array([0, 1]), np.array([0]))
    with pytest.raises(InputError, match="decay <= 1"):
        DecayedCooccurrence(events([(0, 0, 0)]), ITEMS, decay=2.0)
