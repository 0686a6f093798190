"""member_sequences, case by case: given events, the expected rows."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.worlds.events import (
    AS_OF,
    DAY,
    MICROSECOND,
    Event,
    at,
    configure,
    write_activity,
    write_source,
)
from transformations.config import Config
from transformations.duck import check, connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition, period_file
from transformations.seals import MANIFEST, damage
from transformations.sources import stage_activity
from transformations.tables import build_sequences

START = AS_OF - timedelta(days=28)
CREATED = AS_OF + timedelta(hours=6)


def sequences(
    config: Config, events: Sequence[Event] | None, previous: datetime = AS_OF - DAY
) -> dict[Any, dict[str, Any]]:
    """Build the snapshot of AS_OF; None leaves `activity` as it is."""
    if events is not None:
        write_activity(config, events)
    with connect(config) as con:
        report = build_sequences(config, con, AS_OF, previous, CREATED)
    rows = pq.ParquetFile(partition(config.layout.sequences, AS_OF)).read().to_pylist()
    assert report.rows_out == len(rows)
    return {row["member_id"]: row for row in rows}


def many(count: int, member: int = 1) -> list[Event]:
    """Actions a minute apart, the last of them a minute before AS_OF."""
    return [
        Event(member, number, "APPLY", AS_OF - timedelta(minutes=count - number))
        for number in range(count)
    ]


def test_a_row_in_full(tmp_path: Path) -> None:
    events = [
        Event(7, 30, "SAVE", at("2026-03-02 10:00")),
        Event(7, 10, "APPLY", at("2026-03-01 09:00")),
        Event(7, 20, "APPLY", at("2026-03-09 08:00")),
    ]

    rows = sequences(configure(tmp_path), events)

    assert rows == {
        7: {
            "member_id": 7,
            "event_timestamp": AS_OF,
            "created_timestamp": CREATED,
            "item_ids": [10, 30, 20],
            "actions": ["APPLY", "SAVE", "APPLY"],
            "event_timestamps": [
                at("2026-03-01 09:00"),
                at("2026-03-02 10:00"),
                at("2026-03-09 08:00"),
            ],
            "n_actions": 3,
            "n_apply": 2,
            "n_save": 1,
            "n_dismiss": 0,
            "last_action_at": at("2026-03-09 08:00"),
        }
    }


def test_columns_and_their_types(tmp_path: Path) -> None:
    config = configure(tmp_path, actions={"Like": "positive", "SKIP": "negative"})

    sequences(config, [])

    schema = pq.ParquetFile(partition(config.layout.sequences, AS_OF)).schema_arrow
    assert {field.name: str(field.type) for field in schema} == {
        "member_id": "int64",
        "event_timestamp": "timestamp[us, tz=UTC]",
        "created_timestamp": "timestamp[us, tz=UTC]",
        "item_ids": "list<element: int64>",
        "actions": "list<element: string>",
        "event_timestamps": "list<element: timestamp[us, tz=UTC]>",
        "n_actions": "int64",
        "n_like": "int64",
        "n_skip": "int64",
        "last_action_at": "timestamp[us, tz=UTC]",
    }


@pytest.mark.parametrize(
    ("timestamp", "is_seen"),
    [
        (START - MICROSECOND, False),
        (START, True),
        (AS_OF - MICROSECOND, True),
        (AS_OF, False),
        (AS_OF + MICROSECOND, False),
    ],
)
def test_the_window_is_half_open(tmp_path: Path, timestamp: datetime, is_seen: bool) -> None:
    events = [
        Event(1, 10, "APPLY", AS_OF - DAY),
        Event(1, 20, "APPLY", timestamp),
        Event(2, 20, "APPLY", AS_OF - DAY),
    ]

    rows = sequences(configure(tmp_path), events)

    assert (20 in rows[1]["item_ids"]) is is_seen


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
def test_the_last_32_actions_are_kept(tmp_path: Path, count: int) -> None:
    row = sequences(configure(tmp_path), many(count))[1]

    assert row["item_ids"] == list(range(max(0, count - 32), count))
    assert row["n_actions"] == row["n_apply"] == min(count, 32)
    assert row["last_action_at"] == AS_OF - timedelta(minutes=1)


def test_ties_in_time_are_ordered_by_item_then_action(tmp_path: Path) -> None:
    timestamp = AS_OF - DAY
    events = [
        Event(1, 9, "APPLY", timestamp),
        Event(1, 10, "SAVE", timestamp),
        Event(1, 10, "DISMISS", timestamp),
        Event(1, 10, "APPLY", timestamp),
        Event(1, -3, "SAVE", timestamp),
    ]

    row = sequences(configure(tmp_path), events)[1]

    # As numbers: 9 comes before 10; and by the names of the actions, not their numbers.
    assert row["item_ids"] == [-3, 9, 10, 10, 10]
    assert row["actions"] == ["SAVE", "APPLY", "APPLY", "DISMISS", "SAVE"]


def test_ties_decide_which_action_is_cut_off(tmp_path: Path) -> None:
    timestamp = AS_OF - DAY
    events = [Event(1, item, "APPLY", timestamp) for item in range(33)]

    row = sequences(configure(tmp_path), events)[1]

    assert row["item_ids"] == list(range(1, 33))


def test_string_ids_are_ordered_as_text(tmp_path: Path) -> None:
    timestamp = AS_OF - DAY
    events = [Event("m", item, "APPLY", timestamp) for item in ("b", "10", "é", "9", "B")]

    row = sequences(configure(tmp_path, id_type="string"), events)["m"]

    assert row["item_ids"] == ["10", "9", "B", "b", "é"]


def test_integers_use_all_their_bits(tmp_path: Path) -> None:
    timestamp, extremes = AS_OF - DAY, [-(2**63), -1, 0, 2**53, 2**53 + 1, 2**63 - 1]
    events = [Event(m, i, "APPLY", timestamp) for m in extremes for i in reversed(extremes)]

    rows = sequences(configure(tmp_path), events)

    assert {member: row["item_ids"] for member, row in rows.items()} == dict.fromkeys(
        extremes, extremes
    )


def test_duplicates_and_out_of_order_files(tmp_path: Path) -> None:
    events = many(40)
    random.Random(7).shuffle(events)
    for number in range(4):
        write_source(tmp_path / "source" / f"{9 - number}.parquet", events[number * 9 :])
    config = configure(tmp_path, events={"source": str(tmp_path / "source")})
    with connect(config) as con:
        stage_activity(config, con, AS_OF)

    row = sequences(config, None)[1]

    assert row["item_ids"] == list(range(8, 40))


@pytest.mark.parametrize(
    ("ingested_at", "is_seen"),
    [
        (None, True),
        (AS_OF - MICROSECOND, True),
        (AS_OF, False),
        (AS_OF + DAY, False),
        (START - DAY, True),
    ],
)
def test_only_what_had_been_ingested_is_seen(
    tmp_path: Path, ingested_at: datetime | None, is_seen: bool
) -> None:
    rows = sequences(configure(tmp_path), [Event(1, 10, "APPLY", AS_OF - DAY, ingested_at)])

    assert (1 in rows) is is_seen


class TestLapsed:
    """Members of the previous snapshot without an action in this window."""

    def test_get_one_row_of_nothing(self, tmp_path: Path) -> None:
        last = START - timedelta(hours=1)
        events = [Event(1, 10, "APPLY", last - DAY / 2), Event(1, 20, "SAVE", last)]

        row = sequences(configure(tmp_path), events)[1]

        assert row["item_ids"] == row["actions"] == row["event_timestamps"] == []
        assert row["n_actions"] == row["n_apply"] == row["n_save"] == row["n_dismiss"] == 0
        assert row["last_action_at"] == last

    @pytest.mark.parametrize(
        ("timestamp", "is_there"),
        [
            (START - DAY - MICROSECOND, False),
            (START - DAY, True),
            (START - MICROSECOND, True),
        ],
    )
    def test_had_to_be_in_the_previous_window(
        self, tmp_path: Path, timestamp: datetime, is_there: bool
    ) -> None:
        rows = sequences(configure(tmp_path), [Event(1, 10, "APPLY", timestamp)])

        assert (1 in rows) is is_there

    def test_are_not_those_whose_actions_were_not_known_then(self, tmp_path: Path) -> None:
        late = Event(1, 10, "APPLY", START - timedelta(hours=1), AS_OF - DAY)

        assert sequences(configure(tmp_path), [late]) == {}

    def test_keep_a_last_action_between_the_two_windows(self, tmp_path: Path) -> None:
        """The previous snapshot is older than a window: its members acted since, but long ago."""
        previous = START - 3 * DAY
        events = [
            Event(1, 10, "APPLY", previous - DAY),
            Event(1, 20, "SAVE", previous + DAY),
            Event(2, 10, "APPLY", previous + DAY),
        ]

        rows = sequences(configure(tmp_path), events, previous)

        assert {m: (r["n_actions"], r["last_action_at"]) for m, r in rows.items()} == {
            1: (0, previous + DAY)
        }


def test_an_action_that_is_no_longer_configured_is_not_seen(tmp_path: Path) -> None:
    config = configure(tmp_path, actions={"APPLY": "positive"})
    events = [
        Event(1, 10, "APPLY", AS_OF - DAY),
        Event(1, 20, "SAVE", AS_OF - DAY / 2),
        Event(2, 10, "SAVE", AS_OF - DAY),
    ]

    rows = sequences(config, events)

    assert {member: row["item_ids"] for member, row in rows.items()} == {1: [10]}


def test_only_days_that_can_matter_are_read(tmp_path: Path) -> None:
    config = configure(tmp_path)
    for day in (START - 2 * DAY, AS_OF + DAY):
        file = period_file(config.layout.activity, day.date())
        # Ids of another type: reading it would fail.
        write_source(file, [Event("a", "b", "APPLY", day)], "string")

    rows = sequences(config, many(3))

    assert rows[1]["n_actions"] == 3


def test_no_events_at_all_make_an_empty_snapshot(tmp_path: Path) -> None:
    assert sequences(configure(tmp_path), []) == {}


def test_the_same_again_is_the_same_file(tmp_path: Path) -> None:
    config = configure(tmp_path, duckdb={"threads": 4})
    events = [Event(m, i, "SAVE", AS_OF - DAY) for m in range(300) for i in range(9)]
    file = partition(config.layout.sequences, AS_OF)

    sequences(config, events)
    first = file.read_bytes()
    sequences(config, None)

    assert file.read_bytes() == first


def test_a_snapshot_not_after_the_previous_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a previous_as_of before"):
        sequences(configure(tmp_path), many(3), previous=AS_OF)


def test_ids_of_another_type_are_refused(tmp_path: Path) -> None:
    sequences(configure(tmp_path), many(3))

    with pytest.raises(InputError, match=r"types .*VARCHAR.*BIGINT.*activity reset"):
        sequences(configure(tmp_path, id_type="string"), None)


def test_a_failed_check_leaves_the_last_good_partition(tmp_path: Path) -> None:
    config = configure(tmp_path)
    file = partition(config.layout.sequences, AS_OF)
    sequences(config, many(3))
    good = file.read_bytes()

    with connect(config) as con, pytest.raises(RunFailedError, match="created_timestamp is not"):
        build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF - DAY)

    assert file.read_bytes() == good
    assert {path.name for path in file.parent.iterdir()} == {file.name, MANIFEST}
    assert list(damage([file])) == []


BREAKS = {
    "member_id is unique": "select * from good union all select * from good",
    "member_id is not null": "select * replace (null::bigint as member_id) from good",
    "event_timestamp is as_of": "select * replace (event_timestamp - interval 1 day as "
    "event_timestamp) from good",
    "length is 1 to the maximum, or 0": "select * replace (list_resize(item_ids, 33, 1) as "
    "item_ids) from good",
    "lists are of equal length": "select * replace (actions[:1] as actions) from good",
    "n_actions is the length": "select * replace (4 as n_actions) from good",
    "counts add up to n_actions": "select * replace (1 as n_save) from good",
    "event_timestamps ascend": "select * replace (list_reverse(event_timestamps) as "
    "event_timestamps) from good",
    "event_timestamps lie in the window": "select * replace (list_transform(event_timestamps, "
    "lambda t: t - interval 28 day) as event_timestamps) from good",
    "last_action_at is the last time": "select * replace (null as last_action_at) from good",
    "item_ids hold no null": "select * replace ([null, 1, 2] as item_ids) from good",
    "actions are configured": "select * replace (['APPLY', 'APPLY', 'VIEW'] as actions) from good",
    "lies before the window": "select * replace ([] as item_ids, [] as actions, [] as "
    "event_timestamps, 0 as n_actions, 0 as n_apply) from good",
}


@pytest.mark.parametrize("rule", BREAKS)
def test_the_check_finds(tmp_path: Path, rule: str) -> None:
    config = configure(tmp_path)
    sequences(config, many(3))
    parameters: dict[str, object] = {
        "window_length": config.window,
        "length": 32,
        "actions": list(config.actions),
        "counts": config.rules.count_columns[1:],
    }
    with connect(config) as con:
        good = partition(config.layout.sequences, AS_OF)
        con.execute(
            f"create view good as select *, timestamptz '{AS_OF}' as as_of, "
            f"null as wrong_column from read_parquet('{good}', hive_partitioning = false)"
        )
        con.execute("create view member_sequences as from good")
        check(con, "member_sequences", parameters)
        con.execute(f"create or replace view member_sequences as {BREAKS[rule]}")

        with pytest.raises(RunFailedError, match=f"check of member_sequences.*\n.*{rule}"):
            check(con, "member_sequences", parameters)


def test_a_connection_keeps_to_its_limits(tmp_path: Path) -> None:
    config = configure(tmp_path, duckdb={"memory_limit": "300MiB", "threads": 1})

    with connect(config) as con:
        settings = dict(
            con.execute(
                "select name, value from duckdb_settings() where name in "
                "('memory_limit', 'threads', 'TimeZone', 'temp_directory', 'enable_progress_bar')"
            ).fetchall()
        )

    assert settings == {
        "memory_limit": "300.0 MiB",
        "threads": "1",
        "TimeZone": "UTC",
        "temp_directory": str(config.layout.state / "spill"),
        "enable_progress_bar": "false",
    }
