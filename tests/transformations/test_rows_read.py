"""Only the rows that labels read: a label finds in them what all snapshots would give it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worlds.events import (
    ACTIONS,
    AS_OF,
    DAY,
    INTEGERS,
    MICROSECOND,
    STRINGS,
    UTC_US,
    Event,
    Id,
    configure,
    expected_sequences,
    write_activity,
)
from transformations import tables
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import RunFailedError
from transformations.last_actions import LastActions, Series, Snapshot
from transformations.layout import rows_read
from transformations.timestamps import microseconds, timestamp_of

Label = tuple[Id, datetime]
Row = dict[str, Any]
# Times are a few microseconds, so that a plain loop can try every one of them.
END = 24
LENGTH = 2


def tick(number: int) -> datetime:
    return AS_OF + number * MICROSECOND


def newest(series: Series, labels: Iterable[Label]) -> list[Label]:
    """Return each label's member, and the newest as_of that was readable at its time."""
    members, times = zip(*labels, strict=True)
    readable = np.array([microseconds(time - series.publish_delay) for time in times])
    return [
        (member, timestamp_of(int(as_of)))
        for member, as_of in zip(members, series.newest(readable), strict=True)
    ]


def build(config: Config, wanted: list[Label], series: Series) -> list[Row]:
    kind = pa.int64() if config.member_id_type == "int64" else pa.string()
    table = pa.table(
        {
            "member_id": pa.array([member for member, _ in wanted], kind),
            "as_of": pa.array([as_of for _, as_of in wanted], UTC_US),
        }
    )
    with connect(config) as con:
        report = tables.build_rows_read(config, con, table, series)
    rows: list[Row] = pq.ParquetFile(rows_read(config.layout.sequences)).read().to_pylist()
    assert (report.rows_in, report.rows_out) == (len(set(wanted)), len(rows))
    return rows


def all_rows(log: list[Event], series: Series, window: timedelta) -> list[Row]:
    """Return the rows of every snapshot up to the last tick, by the plain rule."""
    return [
        {
            "member_id": member,
            "event_timestamp": at.as_of,
            "created_timestamp": at.created_timestamp,
            **row,
        }
        for at in series.snapshots(tick(END + 1))
        for member, row in expected_sequences(
            log, at.as_of, at.previous_as_of, window, LENGTH
        ).items()
    ]


def joined(rows: list[Row], label: Label) -> Row | None:
    """Return what a training join finds: the newest row that was readable at the label's time."""
    member, time = label
    seen = [
        row
        for row in rows
        if row["member_id"] == member
        and row["event_timestamp"] <= time
        and row["created_timestamp"] <= time
    ]
    return max(seen, key=lambda row: row["event_timestamp"], default=None)


@pytest.mark.parametrize("at_once", [(10_000, 1_000), (3, 2)], ids=["at once", "in parts"])
@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_label_finds_what_all_snapshots_would_give_it(
    id_type: str, at_once: tuple[int, int], data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EVENTS_AT_ONCE", at_once[0])
    monkeypatch.setattr(tables, "EVENTS_PER_SAMPLE", 1)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", at_once[1])
    ids = (INTEGERS if id_type == "int64" else STRINGS)[-3:]
    ticks = st.sampled_from(range(END + 1)).map(tick)
    event = st.builds(
        Event,
        member_id=st.sampled_from(ids[:2]),
        item_id=st.sampled_from(ids),
        action=st.sampled_from(ACTIONS),
        event_timestamp=ticks,
        ingested_at=st.none() | ticks,
    )
    log = data.draw(st.lists(event, max_size=12), label="events")
    members = data.draw(st.sets(st.sampled_from(ids), min_size=1), label="labels' members")
    # Every tick is the strictest about what is found, few are about what is left out.
    numbers = data.draw(
        st.just(range(END + 1)) | st.lists(st.integers(0, END), min_size=1), label="labels' ticks"
    )
    labels = [(member, tick(number)) for member in members for number in numbers]
    # A step of one tick is a store that is always up to date: rows as of the label's own time.
    first, step, delay, window = (
        data.draw(st.sampled_from(numbers), label=name)
        for name, numbers in (
            ("first", [0, 5]),
            ("step", [1, 2, 5, 9]),
            ("delay", [0, 1, 4]),
            ("window", [1, 3, 8]),
        )
    )
    series = Series(tick(first), step * MICROSECOND, delay * MICROSECOND)
    expected = all_rows(log, series, window * MICROSECOND)
    with TemporaryDirectory() as folder:
        config = configure(
            Path(folder), id_type=id_type, window=window * MICROSECOND, length=LENGTH
        )
        write_activity(config, log)
        rows = build(config, newest(series, labels), series)
    found = [joined(expected, label) for label in labels]
    assert [joined(rows, label) for label in labels] == found
    assert all(row in found for row in rows), "no row that no label reads"


def test_a_lapsed_member_keeps_the_row_of_the_snapshot_after(tmp_path: Path) -> None:
    config = configure(tmp_path, window=3 * DAY, length=LENGTH)
    acted = AS_OF + DAY / 2
    write_activity(config, [Event(1, 10, "SAVE", acted)])
    series = Series(AS_OF, DAY, timedelta(hours=6))
    rows = build(config, [(1, AS_OF + day * DAY) for day in (0, 1, 9)], series)
    assert [(row["event_timestamp"], row["n_actions"]) for row in rows] == [
        (AS_OF + DAY, 1),
        (AS_OF + 4 * DAY, 0),
    ]
    assert [row["last_action_at"] for row in rows] == [acted, acted]
    assert rows[1]["created_timestamp"] == AS_OF + 4 * DAY + timedelta(hours=6)


def test_rows_of_a_snapshot_that_is_there_are_left_out(tmp_path: Path) -> None:
    config = configure(tmp_path, window=3 * DAY)
    write_activity(config, [Event(1, 10, "SAVE", AS_OF - DAY)])
    with connect(config) as con:
        tables.build_sequences_of(config, con, [Snapshot(AS_OF, AS_OF - DAY, AS_OF)])
    rows = build(config, [(1, AS_OF), (1, AS_OF + DAY)], Series(AS_OF, DAY, 0 * DAY))
    assert [row["event_timestamp"] for row in rows] == [AS_OF + DAY]


def test_without_activity_the_file_is_empty(tmp_path: Path) -> None:
    assert build(configure(tmp_path), [(1, AS_OF)], Series(AS_OF, DAY, 0 * DAY)) == []


def test_an_as_of_between_two_snapshots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each as_of among those of"):
        build(configure(tmp_path), [(1, AS_OF + DAY / 2)], Series(AS_OF, DAY, 0 * DAY))


def test_what_breaks_a_rule_leaves_the_rows_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, series = configure(tmp_path), Series(AS_OF, DAY, 0 * DAY)
    write_activity(config, [Event(1, 10, "SAVE", AS_OF - DAY)])
    before = build(config, [(1, AS_OF)], series)
    rows_at = LastActions.rows_at

    def spoiled(self: LastActions, *asked: Any) -> pa.RecordBatch:
        rows = rows_at(self, *asked)
        place = rows.schema.get_field_index("n_save")
        return rows.set_column(place, rows.schema.field(place), pa.array([9]))

    monkeypatch.setattr(LastActions, "rows_at", spoiled)
    with pytest.raises(RunFailedError, match="counts add up to n_actions"):
        build(config, [(1, AS_OF + DAY)], series)
    assert pq.ParquetFile(rows_read(config.layout.sequences)).read().to_pylist() == before


def test_snapshots_of_a_series() -> None:
    series = Series(AS_OF, 7 * DAY, timedelta(hours=6))
    assert [at.as_of for at in series.snapshots(AS_OF + 14 * DAY)] == [AS_OF, AS_OF + 7 * DAY]
    assert len(series.snapshots(AS_OF + 14 * DAY + MICROSECOND)) == 3
    assert series.snapshots(AS_OF) == []
    (first,) = series.snapshots(AS_OF + DAY)
    assert first == Snapshot(AS_OF, AS_OF - 7 * DAY, AS_OF + timedelta(hours=6))
