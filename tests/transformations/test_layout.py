"""Where rows lie: periods of days, weeks or months, chosen once; footers say what a file holds."""

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, DAY, Event, write_source
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import (
    PERIOD_DAYS,
    Period,
    files_between,
    note_period,
    partition_files,
    period_file,
    period_of,
    period_start,
    span,
)
from transformations.sources import stage_activity

PERIODS: tuple[Period, ...] = tuple(PERIOD_DAYS)


@given(st.dates(date(1970, 1, 1), date(2100, 1, 1)), st.sampled_from(PERIODS))
def test_a_period_is_the_one_of_duckdb(day: date, period: Period) -> None:
    """Python names the folder of a row, SQL chooses the rows of a folder: both by one rule."""
    start = period_start(day, period)
    assert start <= day < start + timedelta(days={"day": 1, "week": 7, "month": 31}[period])
    assert period_start(start, period) == start
    iso = day.isocalendar()
    if period == "week":
        assert start.isocalendar()[:2] == iso[:2]
        assert start.isoweekday() == 1
    if period == "month":
        assert (start.year, start.month, start.day) == (day.year, day.month, 1)


def configured(folder: Path, events: list[Event]) -> Config:
    write_source(folder / "events.parquet", events)
    return Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "events": {"source": str(folder / "events.parquet")},
            "items": {"text": ["title"]},
        }
    )


@pytest.mark.parametrize(
    ("per_day", "every", "period"), [(1_100, 1, "day"), (200, 1, "week"), (4, 7, "month")]
)
def test_it_is_chosen_by_what_the_first_run_reads(
    tmp_path: Path, per_day: int, every: int, period: Period
) -> None:
    events = [
        Event(member, 1, "APPLY", AS_OF - (1 + every * day) * DAY)
        for day in range(10)
        for member in range(per_day)
    ]
    config = configured(tmp_path, events)
    with connect(config) as con:
        report = stage_activity(config, con, AS_OF)
    assert report.rows_out == len(events)
    assert period_of(config.layout.activity) == period
    starts = {period_start(event.event_timestamp.date(), period) for event in events}
    folder = config.layout.activity
    assert partition_files(folder) == [period_file(folder, start) for start in sorted(starts)]
    assert span(partition_files(folder)) == (
        min(event.event_timestamp for event in events),
        max(event.event_timestamp for event in events),
    )


def test_a_later_run_keeps_to_it_and_merges(tmp_path: Path) -> None:
    config = configured(tmp_path, [Event(1, 1, "APPLY", AS_OF - 40 * DAY)])
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
        assert period_of(config.layout.activity) == "month"
        many = [Event(n, 1, "SAVE", AS_OF - DAY) for n in range(3_000)]
        write_source(tmp_path / "events.parquet", many)
        assert stage_activity(config, con, AS_OF).rows_out == 3_000
        assert period_of(config.layout.activity) == "month"
        assert stage_activity(config, con, AS_OF).rows_out == 0


def test_a_first_run_without_a_row_decides_nothing(tmp_path: Path) -> None:
    config = configured(tmp_path, [])
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
        many = [Event(n, 1, "SAVE", AS_OF - DAY) for n in range(3_000)]
        write_source(tmp_path / "events.parquet", many)
        stage_activity(config, con, AS_OF)
    assert period_of(config.layout.activity) == "day"


@pytest.mark.parametrize("period", PERIODS)
@given(data=st.data())
def test_files_are_chosen_by_what_they_hold(
    tmp_path_factory: pytest.TempPathFactory, period: Period, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("activity")
    note_period(folder, period)
    days = data.draw(st.lists(st.integers(0, 80), max_size=8, unique=True))
    times = [AS_OF - day * DAY + timedelta(hours=data.draw(st.integers(0, 23))) for day in days]
    by_start: dict[date, list[datetime]] = {}
    for time in times:
        by_start.setdefault(period_start(time.date(), period), []).append(time)
    for start, inside in by_start.items():
        write_source(period_file(folder, start), [Event(1, 1, "APPLY", time) for time in inside])
    first = AS_OF - data.draw(st.integers(-1, 81)) * DAY
    end = first + data.draw(st.integers(1, 30)) * DAY
    expected = {
        start for start, inside in by_start.items() if min(inside) < end and max(inside) >= first
    }
    assert {
        date.fromisoformat(file.parent.name.removeprefix("period="))
        for file in files_between(folder, first, end)
    } == expected


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "1"])
def test_a_damaged_note_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "_layout.json").write_text(text)
    with pytest.raises(RunFailedError, match=r"_layout.json is damaged.*activity status --files"):
        period_of(tmp_path)


def test_folders_of_an_older_version_are_refused_with_the_way_on(tmp_path: Path) -> None:
    config = configured(tmp_path, [Event(1, 1, "APPLY", AS_OF - DAY)])
    old = config.layout.activity / "date=2026-03-09" / "part-0.parquet"
    write_source(old, [Event(1, 1, "APPLY", AS_OF - DAY)])
    with connect(config) as con, pytest.raises(InputError, match="activity rebuild"):
        stage_activity(config, con, AS_OF)
