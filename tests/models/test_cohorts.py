from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.cohorts import cohorts, count_between
from transformations.errors import InputError
from transformations.timestamps import DAY_US, microseconds

NOW = pd.Timestamp("2026-03-10", tz="UTC")
TRAIN_UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
FIT_UNTIL = datetime(2026, 2, 1, tzinfo=UTC)


def labels(**columns):
    """Labels at NOW, equal except for the given columns."""
    n = len(next(iter(columns.values())))
    defaults = {
        "event_timestamp": [NOW] * n,
        "n_actions": [1] * n,
        "last_action_at": [NOW] * n,
        "item_popularity": [1] * n,
        "item_first_at": [0] * n,
        "first_seen_at": [NOW] * n,
    }
    return pd.DataFrame(defaults | columns)


def levels(masks):
    """The level of each label; fails if a label is in none, or in several."""
    together = np.array(list(masks.values()))
    assert (together.sum(axis=0) == 1).all()
    names = list(masks)
    return [names[index] for index in together.argmax(axis=0)]


def days_ago(days):
    return pd.Series([NOW - pd.Timedelta(days=day) for day in days])


def test_history_length():
    frame = labels(n_actions=[None, 0, 1, 3, 4, 9, 10, 31, 32, 99])
    assert levels(cohorts(frame, TRAIN_UNTIL, FIT_UNTIL)["History length"]) == [
        *["0 actions"] * 2,
        *["1 to 3 actions"] * 2,
        *["4 to 9 actions"] * 2,
        *["10 to 31 actions"] * 2,
        *["32 actions or more"] * 2,
    ]


def test_time_since_the_last_action():
    frame = labels(last_action_at=[*days_ago([0, 0.99, 1, 6.99, 7, 27.99, 28]), pd.NaT])
    assert levels(cohorts(frame, TRAIN_UNTIL, FIT_UNTIL)["Time since the last action"]) == [
        *["under 1 day"] * 2,
        *["1 to 7 days"] * 2,
        *["7 to 28 days"] * 2,
        "28 days or more",
        "no action",
    ]


def test_popularity_by_thirds_of_the_labels():
    frame = labels(item_popularity=[0, 1, 1, 5, 6, 7, 8])
    assert levels(cohorts(frame, TRAIN_UNTIL, FIT_UNTIL)["Item's popularity in 7 days"]) == [
        "not seen",
        *["low third"] * 2,
        *["middle third"] * 2,
        *["high third"] * 2,
    ]


def test_new_members():
    first = [pd.Timestamp("2026-02-28", tz="UTC"), pd.Timestamp(TRAIN_UNTIL), pd.NaT]
    assert levels(cohorts(labels(first_seen_at=first), TRAIN_UNTIL, FIT_UNTIL)["Members"]) == [
        "known in training",
        "new since",
        "new since",
    ]


def test_items_that_are_new_to_the_fit():
    at_the_fit = microseconds(FIT_UNTIL)
    frame = labels(item_first_at=[at_the_fit - 1, at_the_fit])
    assert levels(cohorts(frame, TRAIN_UNTIL, FIT_UNTIL)["Items"]) == [
        "first acted on before the fit",
        "first acted on after it",
    ]


ROW = st.tuples(
    st.one_of(st.none(), st.integers(0, 40)),
    st.one_of(st.none(), st.floats(0, 60)),
    st.integers(0, 5),
    st.one_of(st.none(), st.floats(0, 60)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=20))
def test_each_label_is_in_one_level_of_each_cohort(rows):
    def times(column):
        ago = pd.to_timedelta(pd.Series([row[column] for row in rows], dtype=float), unit="D")
        return NOW - ago

    frame = labels(
        n_actions=[row[0] for row in rows],
        last_action_at=times(1),
        item_popularity=[row[2] for row in rows],
        first_seen_at=times(3),
    )
    for masks in cohorts(frame, TRAIN_UNTIL, FIT_UNTIL).values():
        assert len(levels(masks)) == len(rows)


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="none called n_actions, first_seen_at"):
        cohorts(
            labels(n_actions=[1]).drop(columns=["n_actions", "first_seen_at"]),
            TRAIN_UNTIL,
            FIT_UNTIL,
        )


HALF_DAYS = st.integers(0, 12).map(lambda n: n * DAY_US // 2)
PAIRS = st.lists(st.tuples(st.integers(0, 3), HALF_DAYS), max_size=20)


@settings(max_examples=60, deadline=None)
@given(PAIRS, PAIRS, st.sampled_from([None, 0.5, 2]))
def test_counts_are_those_of_counting(events, labels, days):
    keys, times = np.array(events, np.int64).reshape(-1, 2).T
    of, until = np.array(labels, np.int64).reshape(-1, 2).T
    assert count_between(keys, times, of, until, days).tolist() == [
        sum(
            key == event_key and time < at and (days is None or time >= at - days * DAY_US)
            for event_key, time in events
        )
        for key, at in labels
    ]
