"""The stream's rule, by hand: where an event goes, what it pushes out, what counts once."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worlds.events import AS_OF, DAY, MICROSECOND, Event, at, configure, write_activity
from tests.worlds.stream import folded, rows, sequence
from transformations import tables
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import RunFailedError
from transformations.layout import partition
from transformations.stream import States, differ, from_sequences, to_sequences
from transformations.timestamps import NO_TIME, microseconds, timestamp_of

WINDOW = timedelta(days=3)
APPLY, SAVE, DISMISS = 1, 2, 3


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure(tmp_path, window=WINDOW, length=3)


def event(item: int, timestamp: str, action: str = "APPLY", member: int = 1) -> Event:
    return Event(member, item, action, at(timestamp))


def test_a_late_event_goes_in_its_place(config: Config) -> None:
    states = States.empty(config.rules, 1)
    states = folded(
        config, states, [event(1, "2026-03-08"), event(3, "2026-03-09")], [1], AS_OF
    ).states
    result = folded(config, states, [event(2, "2026-03-08 12:00", "SAVE")], [1], AS_OF)
    assert sequence(result.states) == [
        (1, APPLY, at("2026-03-08")),
        (2, SAVE, at("2026-03-08 12:00")),
        (3, APPLY, at("2026-03-09")),
    ]
    assert (result.applied, result.duplicates) == (1, 0)


def test_ties_are_ordered_by_item_then_by_the_actions_name(config: Config) -> None:
    log = [event(2, "2026-03-08"), event(1, "2026-03-08", "SAVE"), event(1, "2026-03-08")]
    log.append(event(1, "2026-03-08", "DISMISS"))
    config = config.model_copy(update={"length": 4})
    states = folded(config, States.empty(config.rules, 1), log, [1], AS_OF).states
    assert [row[:2] for row in sequence(states)] == [
        (1, APPLY),
        (1, DISMISS),
        (1, SAVE),
        (2, APPLY),
    ]


def test_a_duplicate_counts_once(config: Config) -> None:
    one = event(1, "2026-03-08")
    first = folded(config, States.empty(config.rules, 1), [one, one], [1], AS_OF)
    again = folded(config, first.states, [one], [1], AS_OF)
    assert (first.applied, first.duplicates) == (1, 1)
    assert (again.applied, again.duplicates) == (0, 1)
    assert sequence(again.states) == sequence(first.states) == [(1, APPLY, at("2026-03-08"))]
    assert not differ(first.states, again.states).any()


def test_the_oldest_are_clipped(config: Config) -> None:
    log = [event(item, f"2026-03-08 0{item}:00") for item in (1, 2, 3, 4)]
    result = folded(config, States.empty(config.rules, 1), log, [1], AS_OF)
    assert [item for item, *_ in sequence(result.states)] == [2, 3, 4]
    assert (result.applied, result.clipped) == (3, 1)
    # What comes too late to be among the last three changes nothing.
    late = folded(config, result.states, [event(9, "2026-03-08 00:30")], [1], AS_OF)
    assert (late.applied, late.clipped) == (0, 1)
    assert not differ(result.states, late.states).any()


@pytest.mark.parametrize(
    ("timestamp", "is_in", "is_held"),
    [
        (AS_OF - WINDOW - MICROSECOND, False, False),
        (AS_OF - WINDOW, True, False),
        (AS_OF - MICROSECOND, True, False),
        (AS_OF, False, True),
    ],
)
def test_the_window_is_half_open(config: Config, timestamp, is_in: bool, is_held: bool) -> None:
    log = [Event(1, 1, "APPLY", timestamp)]
    result = folded(config, States.empty(config.rules, 1), log, [1], AS_OF)
    assert (len(result.states.actions), len(result.states.held)) == (int(is_in), int(is_held))
    assert (result.applied, result.held) == (int(is_in), int(is_held))
    assert result.states.known.tolist() == [is_in or is_held]


def test_a_held_event_pushes_nothing_out_before_it_is_due(config: Config) -> None:
    log = [event(item, f"2026-03-09 0{item}:00") for item in (1, 2, 3)]
    ahead = Event(1, 9, "APPLY", AS_OF + timedelta(hours=1))
    early = folded(config, States.empty(config.rules, 1), [*log, ahead, ahead], [1], AS_OF)
    assert [item for item, *_ in sequence(early.states)] == [1, 2, 3]
    assert (early.held, early.duplicates) == (1, 1)
    assert early.states.last.tolist() == [microseconds(at("2026-03-09 03:00"))]
    again = folded(config, early.states, [ahead], [1], AS_OF)
    assert (again.held, again.duplicates) == (0, 1)
    due = folded(config, again.states, [], [1], ahead.event_timestamp + MICROSECOND)
    assert [item for item, *_ in sequence(due.states)] == [2, 3, 9]
    assert (due.applied, len(due.states.held)) == (1, 0)


def test_a_lapsed_member_keeps_the_moment_of_its_last_action(config: Config) -> None:
    states = folded(
        config, States.empty(config.rules, 2), [event(1, "2026-03-08")], [1, 2], AS_OF
    ).states
    later = AS_OF + 5 * DAY
    lapsed = folded(config, states, [], [1, 2], later).states
    assert rows(config, lapsed, [1, 2], later) == {
        1: {
            "item_ids": [],
            "actions": [],
            "event_timestamps": [],
            "n_actions": 0,
            "n_apply": 0,
            "n_save": 0,
            "n_dismiss": 0,
            "last_action_at": at("2026-03-08"),
        }
    }
    # An older one from before the window, that arrived late, moves it; it adds no unknown member.
    late = [event(2, "2026-03-09"), event(2, "2026-03-09", member=2)]
    moved = folded(config, lapsed, late, [1, 2], later)
    assert moved.states.last.tolist() == [microseconds(at("2026-03-09")), NO_TIME]
    assert moved.expired == 2


def test_the_columns_are_those_of_a_snapshot(config: Config) -> None:
    log = [event(1, "2026-03-08"), event(2, "2026-03-09", "SAVE")]
    write_activity(config, log)
    with connect(config) as con:
        tables.build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF)
    table = pq.ParquetFile(partition(config.layout.sequences, AS_OF)).read()
    states = folded(config, States.empty(config.rules, 1), log, [1], AS_OF).states
    batch = to_sequences(config.rules, pa.array([1]), states, microseconds(AS_OF), AS_OF)
    assert batch.to_pylist() == table.to_pylist()
    assert batch.schema.names == table.schema.names
    assert [str(kind) for kind in batch.schema.types if not pa.types.is_list(kind)] == [
        str(kind) for kind in table.schema.types if not pa.types.is_list(kind)
    ]


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_a_snapshot_is_read_back(tmp_path: Path, id_type: str) -> None:
    config = configure(tmp_path, window=WINDOW, length=3, id_type=id_type)
    ids = [1, 2, 3] if id_type == "int64" else ["a", "é", "日本"]
    log = [
        Event(ids[0], ids[2], "DISMISS", AS_OF - DAY),
        Event(ids[2], ids[0], "SAVE", AS_OF - MICROSECOND),
    ]
    states = folded(config, States.empty(config.rules, 3), log, ids, AS_OF).states
    members = pa.array(ids)
    back = from_sequences(
        config.rules, to_sequences(config.rules, members, states, microseconds(AS_OF), AS_OF)
    )
    assert not differ(states, back).any()
    np.testing.assert_array_equal(back.last, states.last)


def test_a_snapshot_with_another_action_is_refused(config: Config) -> None:
    states = folded(
        config, States.empty(config.rules, 1), [event(1, "2026-03-08")], [1], AS_OF
    ).states
    batch = to_sequences(config.rules, pa.array([1]), states, microseconds(AS_OF), AS_OF)
    fewer = config.model_copy(update={"actions": {"SAVE": "positive"}})
    with pytest.raises(RunFailedError, match="expected actions among SAVE, got 'APPLY'"):
        from_sequences(fewer, batch)


def test_differ_sees_every_part_of_an_action(config: Config) -> None:
    base = event(1, "2026-03-08")
    others = [
        base._replace(item_id=2),
        base._replace(action="SAVE"),
        base._replace(event_timestamp=base.event_timestamp + MICROSECOND),
    ]
    members = [1, 2, 3, 4, 5]
    left = [base._replace(member_id=member) for member in members]
    right = [other._replace(member_id=index + 1) for index, other in enumerate(others)]
    right.append(base._replace(member_id=4))
    states = [
        folded(config, States.empty(config.rules, 5), log, members, AS_OF).states
        for log in (left, right)
    ]
    assert differ(*states).tolist() == [True, True, True, False, True]


def test_moments_keep_their_microseconds() -> None:
    timestamp = at("2026-03-08 01:02:03.000004")
    assert timestamp_of(microseconds(timestamp)) == timestamp
    assert timestamp_of(-1) == at("1969-12-31 23:59:59.999999")
