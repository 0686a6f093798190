"""`member_stats`: sessions, shares and durations of a sequence, against plain Python."""

import statistics
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, DAY, Event, configure, write_activity
from transformations.config import Config
from transformations.duck import check, connect
from transformations.errors import RunFailedError
from transformations.layout import partition
from transformations.stats.columns import (
    MEMBER_COUNTS,
    PARTS_OF_DAY,
    duration,
    member_stats_columns,
)
from transformations.stats.member_stats import build_member_stats, member_stats
from transformations.stream import Actions, States, to_sequences
from transformations.tables import build_sequences
from transformations.timestamps import microseconds

MINUTE = timedelta(minutes=1)
Done = tuple[int, str, datetime, float | None]
"""Item, action, when, dwell."""


def config_of(folder: Path, **more: Any) -> Config:
    attributes = {
        "seen_on": {"type": "category"},
        "dwell": {"type": "number", "unit": "s"},
    }
    return configure(
        folder,
        **{"actions": {"APPLY": "positive", "VIEW": "neutral"}, "length": 50}
        | {"events": {"attributes": attributes}}
        | more,
    )


def sequences(config: Config, members: dict[int, list[Done]]) -> pa.RecordBatch:
    """Rows of member_sequences, as the stream makes them."""
    flat = [(place, *one) for place, done in enumerate(members.values()) for one in done]
    actions = Actions.of(
        config.rules,
        [one[0] for one in flat],
        [one[1] for one in flat],
        [config.rules.action_code(one[2]) for one in flat],
        [microseconds(one[3]) for one in flat],
        {"dwell": [one[4] for one in flat]},
    )
    nothing = Actions.of(config.rules, [], [], [], [])
    last = States.empty(config.rules, len(members)).last
    for place, done in enumerate(members.values()):
        last[place] = microseconds(done[-1][2]) if done else microseconds(AS_OF - 40 * DAY)
    states = States(actions, nothing, last)
    ids = pa.array(members, pa.int64())
    return to_sequences(config.rules, ids, states, microseconds(AS_OF), AS_OF)


def stats(config: Config, members: dict[int, list[Done]]) -> dict[int, dict[str, Any]]:
    rows = member_stats(config.rules, sequences(config, members), duration(config))
    assert rows.schema.names[3:] == list(member_stats_columns(config))
    return {row["member_id"]: row for row in rows.to_pylist()}


def test_one_member_by_hand(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    first = datetime(2026, 3, 7, 5, 50, tzinfo=UTC)
    second = first + timedelta(hours=14)
    done: list[Done] = [
        (1, "VIEW", first, 4.0),
        (2, "VIEW", first + 12 * MINUTE, None),
        (1, "APPLY", first + 41 * MINUTE, 10.0),
        (1, "VIEW", first + 71 * MINUTE, 1.0),  # 30 minutes later: another session
        (3, "VIEW", second, 8.0),
    ]
    rows = stats(config, {7: done, 8: [], 9: done[:1]})
    assert {name: value for name, value in rows[7].items() if not name.endswith("_id")} == {
        "event_timestamp": AS_OF,
        "created_timestamp": AS_OF,
        "n_sessions": 3,
        "actions_per_session": pytest.approx(5 / 3),
        "session_minutes": pytest.approx(41 / 3),
        "active_days": 1,
        "distinct_items": 3,
        "share_apply": 0.2,
        "share_view": 0.8,
        "night_share": 0.2,
        "morning_share": 0.6,
        "afternoon_share": 0,
        "evening_share": 0.2,
        "dwell_mean": 5.75,
        "dwell_median": 6.0,
        "dwell_sum": 23.0,
        "last_acted_at": second,
        "last_session_at": second,
    }
    lapsed = {name: rows[8][name] for name in member_stats_columns(config)}
    counts = dict.fromkeys(("n_sessions", "active_days", "distinct_items"), 0)
    nulls = dict.fromkeys(set(lapsed) - {*counts, "last_acted_at"})
    assert lapsed == counts | nulls | {"last_acted_at": AS_OF - 40 * DAY}
    assert rows[9]["dwell_median"] == 4.0
    assert rows[9]["session_minutes"] == 0


def test_without_a_duration_there_is_no_column(tmp_path: Path) -> None:
    config = config_of(tmp_path, events={}, length=3)
    assert not any(name.startswith("dwell") for name in member_stats_columns(config))
    assert stats(config, {1: [(1, "APPLY", AS_OF - DAY, None)]})[1]["share_apply"] == 1


def test_who_did_nothing_has_the_counts_of_who_has_no_row(tmp_path: Path) -> None:
    """A ranker takes MEMBER_COUNTS of a missing row as 0; whoever lapsed may have a row or none."""
    found = stats(config_of(tmp_path), {7: []})[7]
    assert {name for name, value in found.items() if value == 0} == MEMBER_COUNTS
    ours = {*member_stats_columns(config_of(tmp_path))} - {"last_acted_at"}
    assert {name for name in ours if found[name] is None} == ours - MEMBER_COUNTS


def test_no_member_at_all(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert stats(config, {}) == {}


moments = st.integers(0, 3 * 24 * 6).map(lambda number: AS_OF - DAY * 4 + number * 10 * MINUTE)
actions = st.tuples(
    st.integers(1, 4),
    st.sampled_from(["APPLY", "VIEW"]),
    moments,
    st.none() | st.integers(0, 50).map(float),
)
sequence = st.lists(actions, max_size=12, unique_by=lambda one: one[:3]).map(
    lambda done: sorted(done, key=lambda one: (one[2], one[0], one[1]))
)


@settings(max_examples=150, deadline=None)
@given(members=st.lists(sequence, max_size=5))
def test_the_arrays_are_the_rule(members: list[list[Done]]) -> None:
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        rows = stats(config, dict(enumerate(members)))
    for member, done in enumerate(members):
        for name, value in expected(done).items():
            got = rows[member][name]
            if isinstance(value, float):
                assert got == pytest.approx(value), name
            else:
                assert got == value, name


def expected(done: list[Done]) -> dict[str, Any]:
    """The rule in plain Python, of one member."""
    times = [one[2] for one in done]
    sessions: list[list[datetime]] = [[time] for time in times[:1]]
    for earlier, later in pairwise(times):
        if later - earlier < 30 * MINUTE:
            sessions[-1].append(later)
        else:
            sessions.append([later])
    parts = [time.hour // 6 for time in times]
    known = [one[3] for one in done if one[3] is not None]
    minutes = [(session[-1] - session[0]) / MINUTE for session in sessions]
    return {
        "n_sessions": len(sessions),
        "actions_per_session": len(done) / len(sessions) if done else None,
        "session_minutes": statistics.mean(minutes) if done else None,
        "active_days": len({time.date() for time in times}),
        "distinct_items": len({one[0] for one in done}),
        "share_apply": sum(one[1] == "APPLY" for one in done) / len(done) if done else None,
        "share_view": sum(one[1] == "VIEW" for one in done) / len(done) if done else None,
        **{
            name: parts.count(place) / len(done) if done else None
            for place, name in enumerate(PARTS_OF_DAY)
        },
        "dwell_mean": statistics.mean(known) if known else None,
        "dwell_median": float(statistics.median(known)) if known else None,
        "dwell_sum": float(sum(known)) if known else None,
        "last_session_at": sessions[-1][0] if sessions else None,
    }


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_the_table_is_the_function_of_the_sequences(tmp_path: Path, id_type: str) -> None:
    config = configure(tmp_path, id_type=id_type)
    kind = int if id_type == "int64" else str
    events = [
        Event(kind(member), kind(number % 3), "SAVE", AS_OF - number * DAY / 5)
        for member in (1, 2)
        for number in range(1, 9)
    ]
    lapsed = Event(kind(3), kind(1), "APPLY", AS_OF - config.window - DAY / 2)
    write_activity(config, [*events, lapsed])
    with connect(config) as con:
        build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF + DAY)
    report = build_member_stats(config, AS_OF)
    made = pq.read_table(partition(config.layout.member_stats, AS_OF))
    source = pq.read_table(partition(config.layout.sequences, AS_OF)).combine_chunks()
    (batch,) = source.to_batches()
    assert made.to_pylist() == member_stats(config.rules, batch, None).to_pylist()
    assert report.rows_out == 3
    assert made["created_timestamp"][0].as_py() == AS_OF + DAY


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("null as member_id", "member_id is not null"),
        ("timestamptz '2026-03-01' as event_timestamp", "event_timestamp is as_of"),
        ("timestamptz '2026-03-01' as created_timestamp", "not before as_of"),
        ("-1.0 as n_sessions", "n_sessions is a count"),
        ("null as last_session_at", "has a last one"),
        ("$as_of as last_session_at", "began before as_of"),
        ("0.5 as share_view", "shares of actions"),
        ("0.5 as night_share, 0.1 as evening_share", "shares of the parts"),
        ("9.0 as active_days", "at most as many as actions"),
        ("-1.0 as session_minutes", "before it begins"),
    ],
)
def test_the_check_finds_a_broken_row(tmp_path: Path, broken: str, rule: str) -> None:
    config = config_of(tmp_path)
    rows = sequences(config, {1: [(1, "APPLY", AS_OF - DAY, None)]})
    table = pa.Table.from_batches([member_stats(config.rules, rows, "dwell")])
    broken = broken.replace("$as_of", f"timestamptz '{AS_OF.isoformat()}'")
    shares = {"of_actions": ["share_apply", "share_view"], "of_day": list(PARTS_OF_DAY)}
    with connect(config) as con:
        con.register("made", table)
        con.execute(f"create temp table member_stats as select * replace ({broken}) from made")
        with pytest.raises(RunFailedError, match=rule):
            check(con, "member_stats", {"as_of": AS_OF, **shares})
        con.execute("create or replace temp table member_stats as from made union all from made")
        with pytest.raises(RunFailedError, match="one row of each member"):
            check(con, "member_stats", {"as_of": AS_OF, **shares})
