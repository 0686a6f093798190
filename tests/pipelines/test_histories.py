"""Labels with the features that they would have had: live, after a gap, of a snapshot."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.histories import BATCH, Histories, Log, sequences_as_of
from pipelines.evaluation.protocol import DAILY, LIVE, Freshness
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
from transformations.errors import InputError
from transformations.stream import Actions
from transformations.timestamps import NO_TIME, microseconds, timestamp_of

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
    rows = sorted(
        events,
        key=lambda e: (members.index(e.member_id), e.event_timestamp, e.item_id, e.action),
    )
    actions = Actions.of(
        config.rules,
        [members.index(event.member_id) for event in rows],
        [event.item_id for event in rows],
        [config.rules.action_code(event.action) for event in rows],
        [microseconds(event.event_timestamp) for event in rows],
    )
    known = [NO_TIME if e.ingested_at is None else microseconds(e.ingested_at) for e in rows]
    return Log(actions, np.array(known, np.int64))


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
    ("label", "freshness", "expected"),
    [
        # Actions in the label's own second are not seen, the label included.
        ("2026-03-02 20:00:30", "live", [10, 11]),
        ("2026-03-02 20:05", "live", [11, 12, 13]),
        ("2026-03-02 20:05", "270s", [10, 11]),
        ("2026-03-02 20:05", "269s", [11, 12, 13]),
        ("2026-03-02 20:05", "1h", [10]),
        # The snapshot of 2 March can be read from 06:00 on, that of 3 March not yet.
        ("2026-03-02 20:05", "1d", [10]),
        ("2026-03-03 05:59", "1d", [10]),
        ("2026-03-03 06:00", "1d", [12, 13, 14]),
        ("2026-03-03 06:00", "7d", []),
        # The window is that of the row, not of the label.
        ("2026-03-04 20:00:00", "live", [12, 13, 14]),
        ("2026-03-05 20:00:01", "live", [12, 13, 14]),
        ("2026-03-05 20:00:31", "live", [14]),
        ("2026-03-05 20:00:31", "1h", [12, 13, 14]),
    ],
)
def test_the_rows_of_each_freshness(
    config: Config, label: str, freshness: str, expected: list[int]
) -> None:
    log, times = log_of(config, SITTING, [1, 2]), np.array([microseconds(at(label))])
    as_of = Freshness.read(freshness).as_of(times, at("2026-03-01"), 6 * HOUR)
    (row,) = rows_of(config, log, [0], as_of)
    assert row["item_ids"] == expected
    assert row["n_actions"] == len(expected)


def test_a_freshness_is_live_a_gap_or_a_snapshot() -> None:
    assert (LIVE.kind, DAILY.kind, DAILY.time) == ("live", "snapshot", DAY)
    gap = Freshness.read("30m")
    assert (gap.kind, gap.time, str(gap)) == ("gap", 30 * MINUTE, "30m")
    for wrong in ("", "30", "0m", "1w", "1.5h", "-1d", "LIVE"):
        with pytest.raises(InputError, match=f"--freshness: expected live.*got '{wrong}'"):
            Freshness.read(wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(-100, 400), st.integers(0, 30), st.integers(1, 3))
def test_a_snapshot_is_the_newest_that_could_be_read(hours: int, delay: int, days: int) -> None:
    """Against trying all of them."""
    first, label = AS_OF, AS_OF + hours * HOUR
    snapshots = [first + n * days * DAY for n in range(-40, 40)]
    expected = max(one for one in snapshots if one + delay * HOUR <= label)
    times = np.array([microseconds(label)])
    (got,) = Freshness.read(f"{days}d").as_of(times, first, delay * HOUR)
    assert timestamp_of(int(got)) == expected


def test_the_log_is_the_staged_activity(config: Config) -> None:
    late = Event(2, 10, "APPLY", at("2026-03-01"), ingested_at=at("2026-03-02 12:00"))
    unknown, too_late = (
        Event(1, 10, "LOOK", at("2026-03-01")),
        Event(1, 10, "SAVE", at("2026-03-09")),
    )
    write_activity(config, [*SITTING, late, unknown, too_late])
    with connect(config) as con:
        log = Log.read(config, con, at("2026-03-09"), pd.Index([2, 1]))
        alone = Log.read(config, con, at("2026-03-09"), pd.Index([2]))
    assert alone.actions.member.tolist() == [0, 0]
    wanted = log_of(config, [*SITTING, late], [2, 1])
    for mine, theirs in zip(_columns(log), _columns(wanted), strict=True):
        assert mine.tolist() == theirs.tolist()
    rows = rows_of(config, log, [0, 0], [microseconds(at(f"2026-03-02 {h}:00")) for h in (12, 13)])
    assert [row["item_ids"] for row in rows] == [[], [10]]


def _columns(log: Log) -> list[Any]:
    actions = log.actions
    return [actions.member, actions.item, actions.code, actions.timestamp, log.ingested]


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
    as_ofs = np.array([microseconds(time - delay) for _, time in labels])
    found = rows_of(config, log, [code for code, _ in labels], as_ofs)
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


def test_what_is_known_of_a_member_is_relative_to_its_label(config: Config) -> None:
    """Half an hour after its last action, and with a gap that hides the last two."""
    log, label = log_of(config, SITTING, [1, 2]), at("2026-03-02 20:35")
    labels = SimpleNamespace(members=np.array([0, 0]))
    frame = pd.DataFrame({"event_timestamp": pd.to_datetime([label, label], utc=True)})
    period: Any = SimpleNamespace(task=SimpleNamespace(labels=labels), frame=frame)
    as_of = np.array([microseconds(label), microseconds(at("2026-03-02 20:00:30"))])
    found = Histories.of(config, log, period, as_of)
    assert found.history["n_actions"].tolist() == [3, 2]
    assert [str(time)[11:19] for time in found.history["last_action_at"]] == [
        "20:05:00",
        "20:00:00",
    ]
    hours = np.array([30, 35]) / 60
    np.testing.assert_allclose(found.member_features[:, -1], np.log1p(hours / 24) / 3, rtol=1e-5)
