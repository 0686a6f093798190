"""The tables: each is a file in sql/ and one in checks/, written whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.files import as_of_name, partition, replacing

FOLDER = Path(__file__).parent

ID_TYPES = {"int64": "BIGINT", "string": "VARCHAR"}

# Lists under way cannot be spilled to disk: about 110 bytes of memory an event. Members are
# therefore taken in ranges of about so many events; larger ones are no faster.
EVENTS_AT_ONCE = 3_000_000
EVENTS_PER_SAMPLE = 1_024


@dataclass(frozen=True)
class TableReport:
    """What building one table read, wrote and refused, in rows."""

    table: str
    rows_in: int
    rows_out: int
    refused: dict[str, int] = field(default_factory=dict)
    """Reason to rows."""
    written: tuple[str, ...] = ()
    """Names of the partitions that were rewritten."""


def connect(config: Config) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB within the configured memory and threads; times are UTC."""
    spill = config.state_dir / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": config.duckdb.memory_limit,
        "temp_directory": str(spill),
    }
    if config.duckdb.threads is not None:
        settings["threads"] = config.duckdb.threads
    con = duckdb.connect(config=settings)
    con.execute("set TimeZone = 'UTC'")
    con.execute("set enable_progress_bar = false")
    return con


def sql(table: str) -> str:
    """Return the query of `sql/<table>.sql`."""
    return (FOLDER / "sql" / f"{table}.sql").read_text()


def quoted(text: object) -> str:
    """Return a SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def parquet(files: list[Path], *options: str) -> str:
    """Return a read_parquet call over exactly these files."""
    names = ", ".join(quoted(file) for file in files)
    return f"read_parquet([{names}], {', '.join(['hive_partitioning = false', *options])})"


def check(con: duckdb.DuckDBPyConnection, table: str, parameters: Mapping[str, object]) -> None:
    """Run `checks/<table>.sql` on the relation `table` of this connection.

    Raises:
        RunFailedError: a row came back; the message names the table, each rule that is broken
            and the first rows that break one.
    """
    query = (FOLDER / "checks" / f"{table}.sql").read_text()
    result = con.execute(query, parameters)
    names = [column[0] for column in result.description]
    first = result.fetchmany(5)
    if first:
        lines = [
            ", ".join(f"{name}={value!r}" for name, value in zip(names, row, strict=True))
            for row in first
        ]
        raise RunFailedError(
            f"the check of {table} found rows that break a rule, so nothing was written in its "
            f"place; the first {len(first)} (transformations/checks/{table}.sql gives the rest):"
            "\n  " + "\n  ".join(lines)
        )


def build_sequences(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    previous_as_of: datetime,
    created_timestamp: datetime,
) -> TableReport:
    """Write the member_sequences partition of `as_of` from `activity`.

    The rule is that of sql/packed_sequences.sql. Rows are ordered by member_id. Only the days from
    `previous_as_of - window` to `as_of` are read.

    Args:
        as_of: The moment of the snapshot; events at or after it, or ingested so, are not seen.
        previous_as_of: The snapshot whose members get a row in this one even if they lapsed.
        created_timestamp: When the rows can be read online.

    Returns:
        rows_in counts the events that are visible in the window, rows_out the members.

    Raises:
        ValueError: `previous_as_of` is not before `as_of`.
        RunFailedError: the result breaks a rule of checks/member_sequences.sql.
    """
    if previous_as_of >= as_of:
        raise ValueError(f"expected a previous_as_of before {as_of}, came {previous_as_of}")
    moments = {"as_of": as_of, "window_length": config.window}
    actions = list(config.actions)
    rule = {
        **moments,
        "previous_as_of": previous_as_of,
        "length": config.length,
        "actions": actions,
    }
    files = activity_files(config, previous_as_of - config.window, as_of)
    events = activity_query(config, con, files)
    con.execute(f"create or replace temp view activity as {events}")
    con.execute(f"create or replace temp table item_places as {sql('item_places')}", moments)
    query = sql("packed_sequences")
    con.execute(
        f"create or replace temp table packed_sequences as select * from ({query}) limit 0", rule
    )
    for condition in _member_ranges(con, files):
        con.execute(
            f"create or replace temp view activity as select * from ({events}) where {condition}"
        )
        con.execute(f"insert into packed_sequences {query}", rule)
    with replacing(partition(config.sequences_dir, as_of)) as file:
        copy(
            con,
            f"select {_columns(config)} from ({sql('member_sequences')})",
            file,
            {"as_of": as_of, "readable_from": created_timestamp, "actions": actions},
        )
        con.execute(f"create or replace temp view member_sequences as from {parquet([file])}")
        check(con, "member_sequences", {**moments, "length": config.length, "actions": actions})
    rows_in = count(con, "select sum(n_visible) from packed_sequences")
    rows_out = count(con, "select count(*) from packed_sequences")
    for kind, name in (
        ("view", "activity"),
        ("view", "member_sequences"),
        ("table", "packed_sequences"),
        ("table", "item_places"),
    ):
        con.execute(f"drop {kind} {name}")
    return TableReport("member_sequences", rows_in, rows_out, written=(as_of_name(as_of),))


def activity_files(config: Config, start: datetime, end: datetime) -> list[Path]:
    """Return the day files of `activity` that may hold an event in [start, end), oldest first."""
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    days = sorted(config.activity_dir.glob("date=*/part-0.parquet"))
    return [file for file in days if first <= day_of(file) <= last]


def day_of(file: Path) -> date:
    """Return the day of a file in a folder `date=2026-01-31`."""
    return date.fromisoformat(file.parent.name.removeprefix("date="))


def day_file(folder: Path, day: date) -> Path:
    """Return the one Parquet file of a day; the opposite of `day_of`."""
    return folder / f"date={day.isoformat()}" / "part-0.parquet"


def count(
    con: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object] | None = None
) -> int:
    """Return the single number that a query gives."""
    row = con.execute(query, parameters or {}).fetchone()
    return int(row[0] or 0) if row else 0


def copy(
    con: duckdb.DuckDBPyConnection,
    query: str,
    file: Path,
    parameters: Mapping[str, object] | None = None,
    compression: str = "zstd",
) -> None:
    """Write the rows of a query to one Parquet file."""
    # Version 2 packs times and ids by their differences: smaller, and faster to write.
    options = f"format parquet, parquet_version v2, compression {compression}"
    con.execute(f"copy ({query}) to {quoted(file)} ({options})", parameters or {})


def activity_query(config: Config, con: duckdb.DuckDBPyConnection, files: list[Path]) -> str:
    """Return the query of `activity` over these files; checks that their ids are as configured."""
    wanted = ID_TYPES[config.id_type]
    if not files:
        return (
            f"select * from (select null::{wanted} as member_id, null::{wanted} as item_id, "
            "null::varchar as action, null::timestamptz as event_timestamp, "
            "null::timestamptz as ingested_at) where false"
        )
    query = f"select * from {parquet(files)}"
    described = con.execute(f"describe {query}").fetchall()
    came = {name: kind for name, kind, *_ in described if name in ("member_id", "item_id")}
    if set(came.values()) != {wanted}:
        raise InputError(
            f"id_type: {config.id_type} expects ids of type {wanted}, but {config.activity_dir} "
            f"was written with {came}; choose another data_dir, or remove that one and run again"
        )
    return query


def _columns(config: Config) -> str:
    """Name the counts: n_<action> for each, where sql/member_sequences.sql has them as a list."""
    counts = [
        f"n_each_action[{config.action_code(action)}] as {config.count_column(action)}"
        for action in config.actions
    ]
    return f"* exclude (n_each_action, last_action_at), {', '.join(counts)}, last_action_at"


def _member_ranges(con: duckdb.DuckDBPyConnection, files: list[Path]) -> list[str]:
    """Return conditions on member_id that part the events of `files` into ranges of members.

    Each holds about EVENTS_AT_ONCE of them. The files are ordered by member_id: one row in
    EVENTS_PER_SAMPLE says how the members lie, and a range reads only its own row groups.
    """
    events = sum(pq.read_metadata(file).num_rows for file in files)
    parts = -(-events // EVENTS_AT_ONCE)
    if parts <= 1:
        return ["true"]
    sample = con.execute(
        f"select member_id from {parquet(files, 'file_row_number = true')} "
        "where file_row_number % $every = 0 order by member_id",
        {"every": EVENTS_PER_SAMPLE},
    ).fetchall()
    cuts = sorted({sample[len(sample) * part // parts][0] for part in range(1, parts)})
    bounds = [quoted(cut) if isinstance(cut, str) else str(cut) for cut in cuts]
    lower = ["true", *(f"member_id >= {bound}" for bound in bounds)]
    upper = [*(f"member_id < {bound}" for bound in bounds), "true"]
    return [f"{low} and {high}" for low, high in zip(lower, upper, strict=True)]
