"""Labels with the features that a store with a delay would have had."""

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.ranker import RankerLabels
from models.evaluation.scoring import Task, random_items
from models.sequences import ItemTable
from pipelines.evaluation.delayed import (
    BATCH,
    Log,
    as_written,
    late,
    sequences_as_of,
    without_repeats,
)
from pipelines.evaluation.features import EvaluationData, EventArrays, Period
from tests.worlds.events import (
    AS_OF,
    DAY,
    INTEGERS,
    STRINGS,
    Event,
    at,
    configure,
    distinct,
    event_logs,
    expected_sequences,
    write_activity,
)
from transformations.config import Config
from transformations.duck import connect
from transformations.stream import Actions
from transformations.timestamps import DAY_US, NO_TIME, microseconds, timestamp_of

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
WINDOW = timedelta(days=3)

# One member acts four times in a session, twice in the same second; another member acts once.
SITTING = [
    Event(1, 10, "APPLY", at("2026-03-01 20:00")),
    Event(1, 11, "SAVE", at("2026-03-02 20:00")),
    Event(1, 12, "APPLY", at("2026-03-02 20:00:30")),
    Event(1, 13, "DISMISS", at("2026-03-02 20:00:30")),
    Event(1, 14, "APPLY", at("2026-03-02 20:05")),
    Event(2, 14, "SAVE", at("2026-03-02 20:00:10")),
]


def log_of(config: Config, events: list[Event], members: list[Any]) -> Log:
    """The events as `Log.read` returns them."""
    rows = sorted(events, key=lambda e: (members.index(e.member_id), e.event_timestamp))
    actions = Actions.of(
        config.rules,
        [members.index(event.member_id) for event in rows],
        [event.item_id for event in rows],
        [config.rules.action_code(event.action) for event in rows],
        [microseconds(event.event_timestamp) for event in rows],
    )
    known = [NO_TIME if e.ingested_at is None else microseconds(e.ingested_at) for e in rows]
    return Log(actions, np.array(known, np.int64))


def period_of(labels: list[tuple[int, datetime]]) -> Any:
    """A period of labels (member code, timestamp)."""
    arrays = SimpleNamespace(
        members=np.array([code for code, _ in labels], np.int64),
        times=np.array([microseconds(time) for _, time in labels], np.int64),
    )
    return SimpleNamespace(task=SimpleNamespace(labels=arrays))


def rows_of(config: Config, log: Log, members: Any, as_of: Any) -> list[dict[str, Any]]:
    """The labels' rows, their timestamps counted from 1970 again."""
    rows = sequences_as_of(config, log, np.asarray(members), np.asarray(as_of)).to_pylist()
    for row, time in zip(rows, as_of, strict=True):
        shift = timestamp_of(int(time)) - timestamp_of(0)
        row["event_timestamps"] = [when + shift for when in row["event_timestamps"]]
        row["last_action_at"] = row["last_action_at"] and row["last_action_at"] + shift
    return rows


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure(tmp_path, window=WINDOW, length=3)


@pytest.mark.parametrize(
    ("label", "delay", "expected"),
    [
        # Actions in the label's own second are not seen, the label included.
        ("2026-03-02 20:00:30", timedelta(0), [10, 11]),
        ("2026-03-02 20:05", timedelta(0), [11, 12, 13]),
        ("2026-03-02 20:05", 4.5 * MINUTE, [10, 11]),
        ("2026-03-02 20:05", 4.5 * MINUTE - timedelta(microseconds=1), [11, 12, 13]),
        ("2026-03-02 20:05", HOUR, [10]),
        ("2026-03-02 20:05", DAY, [10]),
        ("2026-03-02 20:05", DAY + 5 * MINUTE, []),
        # The window is that of the row, not of the label.
        ("2026-03-04 20:00:00", timedelta(0), [12, 13, 14]),
        ("2026-03-05 20:00:01", timedelta(0), [12, 13, 14]),
        ("2026-03-05 20:00:31", timedelta(0), [14]),
        ("2026-03-05 20:00:31", HOUR, [12, 13, 14]),
    ],
)
def test_the_rows_of_a_store_with_a_delay(
    config: Config, label: str, delay: timedelta, expected: list[int]
) -> None:
    log = log_of(config, SITTING, [1, 2])
    period = period_of([(0, at(label))])
    (row,) = rows_of(config, log, [0], late(period, delay))
    assert row["item_ids"] == expected
    assert row["n_actions"] == len(expected)


def test_the_log_is_the_staged_activity(config: Config) -> None:
    late = Event(2, 10, "APPLY", at("2026-03-01"), ingested_at=at("2026-03-02 12:00"))
    unknown, too_late = (
        Event(1, 10, "LOOK", at("2026-03-01")),
        Event(1, 10, "SAVE", at("2026-03-09")),
    )
    write_activity(config, [*SITTING, late, unknown, too_late])
    split = SimpleNamespace(test_until=at("2026-03-09"))
    with connect(config) as con:
        world = SimpleNamespace(config=config, split=split)
        log = Log.read(world, con, pd.Index([2, 1]))
    wanted = log_of(config, [*SITTING, late], [2, 1])
    for mine, theirs in zip(_columns(log), _columns(wanted), strict=True):
        assert mine.tolist() == theirs.tolist()
    rows = rows_of(config, log, [0, 0], [microseconds(at(f"2026-03-02 {h}:00")) for h in (12, 13)])
    assert [row["item_ids"] for row in rows] == [[], [10]]


def _columns(log: Log) -> list[Any]:
    actions = log.actions
    return [actions.member, actions.item, actions.code, actions.timestamp, log.ingested]


def test_the_rows_that_a_stream_without_delay_wrote(config: Config) -> None:
    log = log_of(config, SITTING, [1, 2])
    labels = [(0, at("2026-03-02 20:05")), (1, at("2026-03-02 20:00:10")), (1, at("2026-03-04"))]
    written = as_written(log, period_of(labels))
    after = timedelta(microseconds=1)
    assert [timestamp_of(int(time)) for time in written] == [
        at("2026-03-02 20:00:30") + after,
        at("2026-03-02 20:00:10"),
        at("2026-03-02 20:00:10") + after,
    ]
    assert [row["item_ids"] for row in rows_of(config, log, [0, 1, 1], written)] == [
        [11, 12, 13],
        [],
        [14],
    ]


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_label_has_the_batchs_row_of_its_own_timestamp(id_type: str, data: Any) -> None:
    config = configure(Path("/nowhere"), id_type=id_type, window=WINDOW, length=4)
    events = data.draw(event_logs(id_type, [AS_OF, AS_OF - DAY], WINDOW))
    members = (INTEGERS if id_type == "int64" else STRINGS)[-4:]
    events = [event for event in events if event.member_id in members]
    log = log_of(config, distinct(events), members)
    # At times of events too, like labels.
    times = st.sampled_from([AS_OF, *(event.event_timestamp for event in events)])
    labels = data.draw(st.lists(st.tuples(st.integers(0, 3), times), min_size=1, max_size=8))
    delay = data.draw(st.sampled_from([timedelta(0), timedelta(microseconds=1), HOUR, DAY]))
    found = rows_of(config, log, [code for code, _ in labels], late(period_of(labels), delay))
    for (code, time), row in zip(labels, found, strict=True):
        as_of = time - delay
        wanted = expected_sequences(events, as_of, as_of - DAY, WINDOW, 4).get(members[code])
        assert all(when < as_of for when in row["event_timestamps"])
        names = ("item_ids", "actions", "event_timestamps", "n_actions", "n_apply")
        if wanted is None:  # unknown member, or its last action left the window long ago
            assert row["n_actions"] == 0
            continue
        assert {name: row[name] for name in names} == {name: wanted[name] for name in names}
        if wanted["n_actions"]:
            assert row["last_action_at"] == wanted["last_action_at"]


def test_more_labels_than_a_batch(config: Config) -> None:
    log = log_of(config, SITTING, [1, 2])
    count = BATCH + 5
    as_of = np.full(count, microseconds(at("2026-03-02 20:05")))
    rows = sequences_as_of(config, log, np.arange(count) % 2, as_of).to_pylist()
    assert [row["member_id"] for row in rows] == list(range(count))
    assert [row["item_ids"] for row in rows[-2:]] == [[14], [11, 12, 13]]


def test_items_acted_on_right_before_are_not_candidates(config: Config) -> None:
    """Neither among all items nor as random items; later ones are."""
    log = log_of(config, SITTING, [1, 2])
    ids = [10, 11, 12, 13, 14]
    columns = np.array([ids.index(item) for item in log.actions.item])
    order = np.argsort(log.actions.timestamp, kind="stable")
    times = log.actions.timestamp
    events = EventArrays(log.actions.member[order], columns[order], times[order], order > -1)
    items = ItemTable(pa.array(ids), np.zeros((6, 2), np.float32))
    data = EvaluationData(items, None, events, pd.Index([1, 2]))
    times = np.array([microseconds(at(f"2026-03-02 20:00:{second}")) for second in (30, 10)])
    # The first member acts on item 12, the second on item 14.
    labels = RankerLabels(np.array([0, 1]), np.array([2, 4]), times // DAY_US, times, times > 0)
    drawn = random_items(labels, events.items, events.times)
    assert (drawn[0] == 1).any()
    period = Period("test", None, Task(labels, None, np.array([[0], [-1]]), drawn), None)
    task = without_repeats(period, data, log).task
    assert task.seen.tolist() == [[0, 1], [-1, -1]]
    assert set(task.random_items[0].tolist()) == {3, 4}  # 13 shares the label's second
    assert task.random_items[1].tolist() == drawn[1].tolist()
