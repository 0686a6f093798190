"""The staged activity in other periods: `activity rebuild`."""

import shutil
from pathlib import Path

from transformations.config import Config
from transformations.duck import connect, copy, parquet
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


def rebuild(config: Config, period: Period | None = None) -> tuple[Period, int, int]:
    """Write `activity` and `quarantine` in periods of another length; return it, files and rows.

    The new folder is written whole beside the old one. Killed at any point, it can be run again.

    Args:
        period: day, week or month. Default: the shortest that fills a file.

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
        chosen = period or best_period(rows, days)
        starts = con.execute(
            f"select distinct date_trunc($period, event_timestamp::date)::date {query} order by 1",
            {"period": chosen},
        ).fetchall()
        with replacing_folder(new) as temporary:
            note_period(temporary, chosen)
            for (start,) in starts:
                file = period_file(temporary, start)
                file.parent.mkdir(parents=True)
                copy(
                    con,
                    f"select * {query} where date_trunc($period, event_timestamp::date) = $start "
                    "order by member_id, event_timestamp, item_id, action",
                    file,
                    {"period": chosen, "start": start},
                )
                seal(file, "activity")
    shutil.rmtree(folder)
    new.rename(folder)
    _move_quarantine(config)
    # What was read is noted by partition: the next run reads the sources again, which adds nothing.
    (config.layout.state / "stg_activity.json").unlink(missing_ok=True)
    return chosen, len(starts), int(rows)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"_{folder.name}.rebuilt")


def _move_quarantine(config: Config) -> None:
    """Take refused rows of the older version over: their folders' names alone change."""
    folder = config.layout.quarantine
    if not (folder / PERIOD_NOTE).exists() and folder.exists():
        for old in folder.glob("date=*"):
            old.rename(old.with_name(old.name.replace("date=", "period=")))
        note_period(folder, "day")
