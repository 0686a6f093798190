"""Refused rows: what is in quarantine, and what is added to it."""

from datetime import UTC, datetime

from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import check, copy, count, parquet, sql
from transformations.layout import (
    Period,
    note_period,
    partition_files,
    period_file,
    period_of,
    period_start,
)
from transformations.seals import sealing


def quarantine_query(config: Config) -> str:
    """Return a query of all rows in quarantine."""
    files = partition_files(config.layout.quarantine)
    names = (
        *("member_id", "item_id", "action", "event_timestamp", "ingested_at", "attributes"),
        "text",
    )
    if files:
        # Those of before there were attributes, and texts, have no such column.
        found = (
            "select null::varchar as attributes, null::varchar as text where false "
            f"union all by name from {parquet(files, 'union_by_name = true')}"
        )
        return f"select {', '.join(names)}, line, reason, source from ({found})"
    columns = ", ".join(f"null::varchar as {name}" for name in (*names, "line", "reason", "source"))
    return f"select * from (select {columns}) where false"


def keep_refused(config: Config, con: Connection, period: Period, as_of: datetime) -> None:
    """Add refused rows that quarantine does not hold yet, under the day of `as_of`."""
    con.execute(
        f"create or replace temp view quarantine as select * from ({quarantine_query(config)}) "
        "where source in (select source from refused)"
    )
    con.execute(f"create or replace temp table added as {sql('quarantine')}")
    if count(con, "select count(*) from added") == 0:
        return
    folder = config.layout.quarantine
    kept = period_of(folder)
    if kept is None:
        kept = period
        note_period(folder, period)
    file = period_file(folder, period_start(as_of.astimezone(UTC).date(), kept))
    existing = f"union all by name from {parquet([file])}" if file.exists() else ""
    with sealing(file, "quarantine") as path:
        copy(con, f"select * from (from added {existing}) order by all", path)
        con.execute(f"create or replace temp view quarantine as from {parquet([path])}")
        check(con, "quarantine", {})
