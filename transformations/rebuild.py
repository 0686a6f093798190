"""The staged activity in other periods or buckets: `activity rebuild`."""

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import connect, copy, named_in, parquet
from transformations.errors import InputError
from transformations.files import replacing_folder
from transformations.layout import (
    PERIOD_NOTE,
    Period,
    best_period,
    note_period,
    partition_files,
    period_file,
)
from transformations.seals import seal


def rebuild(
    config: Config, period: Period | None = None, buckets: int | None = None
) -> tuple[Period, int, int]:
    """Write `activity` in periods of another length, or other buckets; return it, files and rows.

    The new folder is written whole beside the old one. Killed at any point, it can be run again.
    Snapshots stay in the buckets that they were written in: readers take what is there.

    Args:
        period: day, week or month. Default: the shortest that fills a file.
        buckets: Default: as `layout.buckets` says.

    Raises:
        InputError: there is no activity.
    """
    folder = config.layout.activity
    new = _beside(folder)
    if folder.exists():
        shutil.rmtree(new, ignore_errors=True)  # an earlier one was killed before it was in place
    elif new.exists():
        new.rename(folder)
    files = partition_files(folder)
    if not files:
        raise InputError(f"expected activity in {folder}, found none; first: activity run")
    with connect(config) as con:
        query = f"from {parquet(files)}"
        ((rows, days),) = con.execute(
            "select count(*), date_diff('day', min(event_timestamp), max(event_timestamp)) + 1 "
            + query
        ).fetchall()
        n_buckets = buckets or config.layout.buckets
        chosen = period or best_period(rows // n_buckets, days)
        starts = con.execute(
            f"select distinct date_trunc($period, event_timestamp::date)::date {query} order by 1",
            {"period": chosen},
        ).fetchall()
        with replacing_folder(new) as temporary:
            note_period(temporary, chosen, n_buckets)
            written = [
                file
                for (start,) in starts
                for file in _write_period(con, query, temporary, chosen, start, n_buckets)
            ]
    shutil.rmtree(folder)
    new.rename(folder)
    _move_quarantine(config)
    # What was read is noted by partition: the next run reads the sources again, which adds nothing.
    (config.layout.state / "stg_activity.json").unlink(missing_ok=True)
    return chosen, len(written), int(rows)


def _write_period(
    con: Connection, query: str, folder: Path, period: Period, start: date, buckets: int
) -> Iterator[Path]:
    """Write the files of a period, one per bucket that has rows; yield each."""
    bucket = "bucket_of(member_id, $buckets)" if buckets > 1 else "null"
    con.execute(
        f"create or replace temp table of_period as select *, {bucket} as bucket {query} "
        "where date_trunc($period, event_timestamp::date) = $start",
        named_in(bucket + "$period $start", {"period": period, "start": start, "buckets": buckets}),
    )
    numbers = con.execute("select distinct bucket from of_period order by bucket").fetchall()
    for (number,) in numbers:
        file = period_file(folder, start, number)
        file.parent.mkdir(parents=True)
        copy(
            con,
            "select * exclude (bucket) from of_period "
            f"where bucket is not distinct from {'null' if number is None else number} "
            "order by member_id, event_timestamp, item_id, action",
            file,
        )
        seal(file, "activity")
        yield file
    con.execute("drop table of_period")


def _beside(folder: Path) -> Path:
    return folder.with_name(f"_{folder.name}.rebuilt")


def _move_quarantine(config: Config) -> None:
    """Take refused rows of the older version over: their folders' names alone change."""
    folder = config.layout.quarantine
    if not (folder / PERIOD_NOTE).exists() and folder.exists():
        for old in folder.glob("date=*"):
            old.rename(old.with_name(old.name.replace("date=", "period=")))
        note_period(folder, "day")
