"""The tables: each has a file in sql/ and one in checks/, and is written whole or not at all."""

import math
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from transformations import names
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, TableReport, check, copy, count, parquet, quoted, sql
from transformations.errors import InputError
from transformations.files import replacing
from transformations.layout import as_of_name, files_between, partition

# DuckDB cannot spill unfinished lists to disk: about 110 bytes of memory per event. So members are
# read in ranges of about this many events; larger ranges are not faster.
EVENTS_AT_ONCE = 3_000_000
EVENTS_PER_SAMPLE = 1_024


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
        as_of: The snapshot's timestamp; events at or after it, or ingested then, are not visible.
        previous_as_of: The snapshot whose members get a row in this one even if they have lapsed.
        created_timestamp: When the rows can be read online.

    Returns:
        rows_in counts the events that are visible in the window, rows_out the members.

    Raises:
        ValueError: `previous_as_of` is not before `as_of`.
        RunFailedError: the result breaks a rule of checks/member_sequences.sql.
    """
    if previous_as_of >= as_of:
        raise ValueError(f"expected a previous_as_of before {as_of}, got {previous_as_of}")
    span = {"as_of": as_of, "window_length": config.window}
    actions = list(config.actions)
    rule = {
        **span,
        "previous_as_of": previous_as_of,
        "length": config.length,
        "actions": actions,
    }
    files = files_between(config.layout.activity, previous_as_of - config.window, as_of)
    events = activity_query(config, con, files)
    con.execute(f"create or replace temp view activity as {events}")
    con.execute(f"create or replace temp table item_indexes as {sql('item_indexes')}", span)
    query = sql("packed_sequences")
    con.execute(
        f"create or replace temp table packed_sequences as select * from ({query}) limit 0", rule
    )
    for condition in _member_ranges(con, files):
        con.execute(
            f"create or replace temp view activity as select * from ({events}) where {condition}"
        )
        con.execute(f"insert into packed_sequences {query}", rule)
    with replacing(partition(config.layout.sequences, as_of)) as file:
        copy(
            con,
            f"select {_columns(config)} from ({sql('member_sequences')})",
            file,
            {"as_of": as_of, "readable_from": created_timestamp, "actions": actions},
        )
        con.execute(f"create or replace temp view member_sequences as from {parquet([file])}")
        check(con, "member_sequences", {**span, "length": config.length, "actions": actions})
    rows_in = count(con, "select sum(n_visible) from packed_sequences")
    rows_out = count(con, "select count(*) from packed_sequences")
    for kind, name in (
        ("view", "activity"),
        ("view", "member_sequences"),
        ("table", "packed_sequences"),
        ("table", "item_indexes"),
    ):
        con.execute(f"drop {kind} {name}")
    return TableReport("member_sequences", rows_in, rows_out, written=(as_of_name(as_of),))


def activity_query(config: Config, con: duckdb.DuckDBPyConnection, files: list[Path]) -> str:
    """Return the query of `activity` over these files, after checking the type of their ids."""
    wanted = {name: SQL_ID_TYPES[kind] for name, kind in config.rules.id_types.items()}
    if not files:
        ids = ", ".join(f"null::{kind} as {name}" for name, kind in wanted.items())
        return (
            f"select * from (select {ids}, "
            "null::varchar as action, null::timestamptz as event_timestamp, "
            "null::timestamptz as ingested_at) where false"
        )
    query = f"select * from {parquet(files)}"
    described = con.execute(f"describe {query}").fetchall()
    got = {name: kind for name, kind, *_ in described if name in wanted}
    if got != wanted:
        raise InputError(
            f"{config.file.name} expects ids of the types {wanted}, but {config.layout.activity} "
            f"was written with {got}; `activity reset` starts again with other types"
        )
    return query


def _columns(config: Config) -> str:
    """Return the output columns, with the list of counts spread into n_<action> columns."""
    counts = [
        f"n_each_action[{config.rules.action_code(action)}] as {names.count_column(action)}"
        for action in config.actions
    ]
    return f"* exclude (n_each_action, last_action_at), {', '.join(counts)}, last_action_at"


def _member_ranges(con: duckdb.DuckDBPyConnection, files: list[Path]) -> list[str]:
    """Return conditions on member_id that split `files` into ranges of about EVENTS_AT_ONCE events.

    The files are ordered by member_id. One row in EVENTS_PER_SAMPLE shows the distribution of
    members, and a range reads only its own row groups.
    """
    events = sum(pq.read_metadata(file).num_rows for file in files)
    n_ranges = math.ceil(events / EVENTS_AT_ONCE)
    if n_ranges <= 1:
        return ["true"]
    sample = con.execute(
        f"select member_id from {parquet(files, 'file_row_number = true')} "
        "where file_row_number % $every = 0 order by member_id",
        {"every": EVENTS_PER_SAMPLE},
    ).fetchall()
    cuts = sorted({sample[len(sample) * n // n_ranges][0] for n in range(1, n_ranges)})
    bounds = [quoted(cut) if isinstance(cut, str) else str(cut) for cut in cuts]
    lower = ["true", *(f"member_id >= {bound}" for bound in bounds)]
    upper = [*(f"member_id < {bound}" for bound in bounds), "true"]
    return [f"{low} and {high}" for low, high in zip(lower, upper, strict=True)]
