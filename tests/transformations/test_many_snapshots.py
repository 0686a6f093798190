"""Snapshots of many as_ofs in one pass: the very rows that one after the other gives."""

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worlds.events import (
    AS_OF,
    DAY,
    MICROSECOND,
    Event,
    configure,
    event_logs,
    write_activity,
    write_source,
)
from transformations import tables
from transformations.config import Config
from transformations.duck import TableReport, connect
from transformations.errors import RunFailedError
from transformations.last_actions import LastActions, Snapshot
from transformations.layout import partition, period_file

WINDOW = timedelta(days=3)
LENGTH = 3
AS_OFS = [AS_OF + offset for offset in (-4 * DAY, -DAY, timedelta(0), MICROSECOND, DAY / 3)]
STEPS = [MICROSECOND, timedelta(hours=7), DAY, 5 * DAY]


def read(config: Config, as_of: datetime) -> pa.Table:
    return pq.ParquetFile(partition(config.layout.sequences, as_of)).read()


def one_by_one(config: Config, snapshots: list[Snapshot]) -> tuple[list[pa.Table], int, int]:
    """Build each snapshot alone; return their rows, and the reports' sums."""
    with connect(config) as con:
        reports = [
            tables.build_sequences(config, con, s.as_of, s.previous_as_of, s.created_timestamp)
            for s in snapshots
        ]
    rows = [read(config, snapshot.as_of) for snapshot in snapshots]
    return rows, sum(r.rows_in for r in reports), sum(r.rows_out for r in reports)


def in_one_pass(config: Config, snapshots: list[Snapshot], **kwargs: Any) -> TableReport:
    with connect(config) as con:
        return tables.build_sequences_of(config, con, snapshots, **kwargs)


@pytest.mark.parametrize("at_once", [(10_000, 128), (3, 2)], ids=["at once", "in parts"])
@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_pass_equals_one_by_one(
    id_type: str, at_once: tuple[int, int], data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "EVENTS_AT_ONCE", at_once[0])
    monkeypatch.setattr(tables, "EVENTS_PER_SAMPLE", 1)
    monkeypatch.setattr(tables, "SNAPSHOTS_AT_ONCE", at_once[1])
    as_ofs = data.draw(st.lists(st.sampled_from(AS_OFS), unique=True, min_size=1), label="as_ofs")
    snapshots = [
        Snapshot(
            as_of,
            as_of - data.draw(st.sampled_from(STEPS), label="step"),
            as_of + data.draw(st.sampled_from([0, 6])) * timedelta(hours=1),
        )
        for as_of in as_ofs
    ]
    edges = [time for s in snapshots for time in (s.as_of, s.previous_as_of)]
    log = data.draw(event_logs(id_type, edges, WINDOW), label="events")
    with TemporaryDirectory() as folder:
        config = configure(Path(folder), id_type=id_type, window=WINDOW, length=LENGTH)
        write_activity(config, log)
        expected, rows_in, rows_out = one_by_one(config, snapshots)
        report = in_one_pass(config, snapshots)
        for rows, snapshot in zip(expected, snapshots, strict=True):
            got = read(config, snapshot.as_of)
            assert got.schema.remove_metadata().equals(rows.schema.remove_metadata())
            assert got.equals(rows)
        assert (report.rows_in, report.rows_out) == (rows_in, rows_out)


def test_actions_that_are_not_configured_are_left_out(tmp_path: Path) -> None:
    config = configure(tmp_path, actions={"SAVE": "positive", "LIKE": "positive"})
    for action, item in (("LIKE", 1), ("APPLY", 2), ("SAVE", 3)):
        moment = AS_OF - item * DAY
        write_source(
            period_file(config.layout.activity, moment.date()), [Event(7, item, action, moment)]
        )
    snapshots = [Snapshot(AS_OF, AS_OF - DAY, AS_OF)]
    (expected,), _, _ = one_by_one(config, snapshots)
    in_one_pass(config, snapshots)
    assert read(config, AS_OF).equals(expected)
    assert expected["actions"].to_pylist() == [["SAVE", "LIKE"]]


def test_without_any_activity_each_partition_is_empty(tmp_path: Path) -> None:
    config = configure(tmp_path)
    steps: list[int] = []
    days = [Snapshot(AS_OF - day * DAY, AS_OF - (day + 1) * DAY, AS_OF) for day in (0, 1, 2)]
    report = in_one_pass(config, days, progress=steps.append)
    assert (report.rows_out, sum(steps)) == (0, 3)
    assert report.written == ("2026-03-08", "2026-03-09", "2026-03-10")
    assert [read(config, day.as_of).num_rows for day in days] == [0, 0, 0]


def test_no_snapshots_are_no_work(tmp_path: Path) -> None:
    assert in_one_pass(configure(tmp_path), []).written == ()


def test_what_breaks_a_rule_leaves_the_partitions_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path)
    write_activity(config, [Event(1, 10, "APPLY", AS_OF - 2 * DAY), Event(1, 11, "SAVE", AS_OF)])
    days = [Snapshot(AS_OF + day * DAY, AS_OF + (day - 1) * DAY, AS_OF + 9 * DAY) for day in (0, 1)]
    in_one_pass(config, days)
    before = [read(config, day.as_of) for day in days]
    rows_of = LastActions.rows

    def spoiled(self: LastActions, snapshot: Snapshot) -> Any:
        rows, visible = rows_of(self, snapshot)
        if snapshot.as_of == AS_OF + DAY:
            place = rows.schema.get_field_index("n_save")
            rows = rows.set_column(place, rows.schema.field(place), pa.array([9]))
        return rows, visible

    monkeypatch.setattr(LastActions, "rows", spoiled)
    with pytest.raises(RunFailedError, match=r"counts add up to n_actions.*2026, 3, 11"):
        in_one_pass(config, days)
    assert [read(config, day.as_of) for day in days] == before
    assert not list(config.data.rglob("*.tmp"))


def test_an_as_of_twice_or_before_its_previous_one_is_refused(tmp_path: Path) -> None:
    day = Snapshot(AS_OF, AS_OF - DAY, AS_OF)
    with pytest.raises(ValueError, match="each as_of once"):
        in_one_pass(configure(tmp_path), [day, day])
    with pytest.raises(ValueError, match="expected a previous_as_of before"):
        Snapshot(AS_OF, AS_OF, AS_OF)
