"""The tables: each has a file in sql/ and one in checks/, and is written whole or not at all."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transformations.attributes import SQL_TYPES, struct_of
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, TableReport, check, parquet, sql
from transformations.errors import InputError
from transformations.last_actions import LastActions, Series, Snapshot, sequences_writer
from transformations.layout import (
    as_of_name,
    expect_buckets,
    files_between,
    partitions,
    rows_read,
)
from transformations.member_columns import member_columns
from transformations.quoting import identifier, quoted
from transformations.rules import Rules
from transformations.seals import sealing
from transformations.signs import sign_expression
from transformations.snapshots import Written, attempts, finished, replacing_snapshot
from transformations.tasks import Engine, InTurn
from transformations.timestamps import microseconds, timestamp_of

# Members are read in ranges of about this many events, which memory holds; larger ranges are not
# faster.
EVENTS_AT_ONCE = 3_000_000
EVENTS_PER_SAMPLE = 1_024
# Snapshots of one pass: each has a file open, until all of them are written and checked.
SNAPSHOTS_AT_ONCE = 128
WRITERS = 2
# Single rows that are built at once.
ROWS_AT_ONCE = 16_384


def build_sequences(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    previous_as_of: datetime,
    created_timestamp: datetime,
    engine: Engine | None = None,
) -> TableReport:
    """Write the member_sequences partition of `as_of` from `activity`, as `build_sequences_of`.

    Args:
        as_of: The snapshot's timestamp; events at or after it, or ingested then, are not visible.
        previous_as_of: The snapshot whose members get a row in this one even if they have lapsed.
        created_timestamp: When the rows can be read online.

    Raises:
        ValueError: `previous_as_of` is not before `as_of`.
    """
    snapshot = Snapshot(as_of, previous_as_of, created_timestamp)
    return build_sequences_of(config, con, [snapshot], engine=engine)


def build_sequences_of(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    snapshots: Sequence[Snapshot],
    progress: Callable[[int], object] | None = None,
    engine: Engine | None = None,
) -> TableReport:
    """Write the member_sequences partitions of snapshots from `activity`.

    The rule is that of transformations/last_actions.py. Rows are ordered by member_id, of each
    bucket. Only the periods from the first `previous_as_of - window` to the last `as_of` are read:
    those of SNAPSHOTS_AT_ONCE snapshots are read and put in order once. Memory holds, beside
    DuckDB's, about 70 bytes per action for EVENTS_AT_ONCE actions, and the rows of three snapshots.
    A partition appears when those of its pass are written and checked, in all buckets.

    Args:
        snapshots: In any order, each as_of once.
        progress: Called with the number of snapshots that were computed since its last call.
        engine: Who builds the buckets; default: this connection, one after the other.

    Returns:
        rows_in counts the actions that the snapshots see, rows_out their members, all added up.

    Raises:
        ValueError: two snapshots are of the same as_of.
        InputError: the actions lie in another number of buckets than is configured.
        RunFailedError: a result breaks a rule of checks/member_sequences.sql.
    """
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.as_of)
    if len({snapshot.as_of for snapshot in ordered}) < len(ordered):
        raise ValueError("expected each as_of once, got one twice")
    expect_buckets(config.layout)
    rows_in = rows_out = 0
    for first in range(0, len(ordered), SNAPSHOTS_AT_ONCE):
        several = ordered[first : first + SNAPSHOTS_AT_ONCE]
        visible, members = _build_several(config, con, several, progress, engine or InTurn(con))
        rows_in, rows_out = rows_in + visible, rows_out + members
    written = tuple(as_of_name(snapshot.as_of) for snapshot in ordered)
    return TableReport("member_sequences", rows_in, rows_out, written=written)


@dataclass(frozen=True)
class SequencesTask:
    """The sequences of one bucket, of a few snapshots.

    Attributes:
        bucket: None: of all members.
        snapshots: Oldest first.
        files: Where each snapshot's rows go [snapshots].
    """

    bucket: int | None
    snapshots: tuple[Snapshot, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class SequencesBuilt:
    """What a task wrote: the actions that its snapshots see, their rows, the files [snapshots]."""

    visible: int
    rows: int
    written: tuple[Written, ...]


def _build_several(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    snapshots: Sequence[Snapshot],
    progress: Callable[[int], object] | None,
    engine: Engine,
) -> tuple[int, int]:
    """Write the partitions of a few snapshots, oldest first; return actions seen and members."""
    layout, visible, rows = config.layout, 0, 0
    buckets = layout.all_buckets
    with ExitStack() as stack:
        unfinished = [
            stack.enter_context(
                replacing_snapshot(
                    layout, layout.sequences, snapshot.as_of, "member_sequences", buckets
                )
            )
            for snapshot in snapshots
        ]
        tasks = [
            SequencesTask(bucket, tuple(snapshots), tuple(one.files[index] for one in unfinished))
            for index, bucket in enumerate(buckets)
        ]
        if layout.buckets == 1:
            built = sequences_of_bucket(config, con, tasks[0], progress)
            results: Iterator[tuple[SequencesTask, SequencesBuilt]] = iter([(tasks[0], built)])
        else:
            results = engine.run(config, sequences_of_bucket, tasks)
        for done, (task, built) in enumerate(results, 1):
            for one, written in zip(unfinished, built.written, strict=True):
                one.take(task.bucket or 0, written)
            visible, rows = visible + built.visible, rows + built.rows
            if progress is not None and layout.buckets > 1:
                whole = len(snapshots) * done // len(tasks)
                progress(whole - len(snapshots) * (done - 1) // len(tasks))
    return visible, rows


def sequences_of_bucket(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    task: SequencesTask,
    progress: Callable[[int], object] | None = None,
) -> SequencesBuilt:
    """Write and check the files of one bucket; the function of an engine's tasks."""
    snapshots, as_ofs = task.snapshots, [snapshot.as_of for snapshot in task.snapshots]
    start = min(snapshot.previous_as_of for snapshot in snapshots) - config.window
    activity = files_between(config.layout.activity, start, as_ofs[-1], task.bucket)
    events = activity_query(config, con, activity)
    rows_in = rows_out = 0
    with attempts(task.files) as files:
        with ExitStack() as under_way:
            under_way.callback(lambda: con.execute("drop view if exists activity"))
            writers = [under_way.enter_context(sequences_writer(f, config.rules)) for f in files]
            # To write takes longer than to compute. A file's next rows come when those of every
            # other one have been handed over, so that no two threads write to the same.
            threads = min(WRITERS, len(snapshots))
            pool = under_way.enter_context(ThreadPoolExecutor(threads))
            writing: deque[Future[None]] = deque()
            ranges = _member_ranges(con, activity)
            for condition in ranges:
                con.execute(
                    "create or replace temp view activity as "
                    f"select * from ({events}) where {condition}"
                )
                actions = _ordered(config, con, start, as_ofs[-1])
                for writer, snapshot in zip(writers, snapshots, strict=True):
                    rows, visible = actions.rows(snapshot)
                    if len(writing) == threads:
                        writing.popleft().result()
                    writing.append(pool.submit(writer.write_batch, rows))
                    rows_in, rows_out = rows_in + visible, rows_out + rows.num_rows
                    if progress is not None and condition == ranges[-1]:
                        progress(1)
            for written in writing:
                written.result()
        view_of_partitions(con, "member_sequences", files, as_ofs, _wrong_column(config.rules))
        _check_sequences(config, con)
        return SequencesBuilt(rows_in, rows_out, tuple(map(finished, files)))


def build_rows_read(
    config: Config, con: duckdb.DuckDBPyConnection, wanted: pa.Table, series: Series
) -> TableReport:
    """Write the rows of member_sequences that somebody reads who looks up members as of timestamps.

    What is read is the member's newest row in the snapshots of `series` up to that time: the very
    row that `build_sequences` would write, in a snapshot or as of any timestamp (a series with a
    step of a microsecond). All rows lie in one file, `transformations.layout.rows_read`, which is
    replaced. Those of snapshots that are there as partitions are left out.

    Args:
        wanted: member_id, and as_of as a timestamp in microseconds, each one of the series.

    Returns:
        rows_in counts the distinct rows of `wanted`, rows_out the rows.

    Raises:
        ValueError: an as_of is not one of the series.
        RunFailedError: the result breaks a rule of checks/member_sequences.sql.
    """
    wanted = wanted.group_by(["member_id", "as_of"]).aggregate([])
    as_ofs = wanted["as_of"].cast(pa.int64()).to_numpy()
    if (series.newest(as_ofs) != as_ofs).any():
        raise ValueError(f"expected each as_of among those of {series}, got others")
    last = int(as_ofs.max(initial=microseconds(series.first)))
    start, until = series.first - series.step - config.window, timestamp_of(last)
    built = np.array([microseconds(at) for at in partitions(config.layout.sequences)], np.int64)
    activity = files_between(config.layout.activity, start, until)
    events = activity_query(config, con, activity)
    con.register("wanted", wanted)
    con.execute(
        "create or replace temp table wanted_members as select distinct member_id from wanted"
    )
    con.unregister("wanted")
    rows_out = 0
    with sealing(rows_read(config.layout.sequences), "member_sequences") as file:
        with sequences_writer(file, config.rules) as writer:
            for condition in _member_ranges(con, activity):
                con.execute(
                    f"create or replace temp view activity as select * from ({events}) "
                    f"where {condition} and member_id in (from wanted_members)"
                )
                actions = _ordered(config, con, start, until)
                members = pc.index_in(wanted["member_id"], value_set=actions.member_ids)
                there = members.is_valid().to_numpy()
                ids = members.drop_null().to_numpy().astype(np.int64)
                newest = actions.newest_rows(ids, as_ofs[there], series)
                asked = (newest >= microseconds(series.first)) & ~np.isin(newest, built)
                # In the order of as_of and member, as in partitions.
                pairs = np.unique(np.stack([newest[asked], ids[asked]]), axis=1)
                for at in range(0, pairs.shape[1], ROWS_AT_ONCE):
                    newest, ids = pairs[:, at : at + ROWS_AT_ONCE]
                    writer.write_batch(actions.rows_at(ids, newest, series))
                rows_out += pairs.shape[1]
        view_of_partitions(con, "member_sequences", [file], [None], _wrong_column(config.rules))
        _check_sequences(config, con)
    con.execute("drop view if exists activity")
    con.execute("drop table wanted_members")
    return TableReport("member_sequences", len(as_ofs), rows_out)


def _ordered(
    config: Config, con: duckdb.DuckDBPyConnection, start: datetime, until: datetime
) -> LastActions:
    """Read and order the actions of the view `activity` from `start` up to `until`."""
    parameters = {
        "first_timestamp": start,
        "last_timestamp": until,
        "actions": list(config.actions),
    }
    table = con.sql(sql("ordered_actions"), params=parameters).to_arrow_table()
    return LastActions(table, config.rules)


def _check_sequences(config: Config, con: duckdb.DuckDBPyConnection) -> None:
    """Check the view `member_sequences`, and drop it."""
    parameters = {
        "window_length": config.window,
        "length": config.length,
        "actions": list(config.actions),
        "counts": config.rules.count_columns[1:],
    }
    check(con, "member_sequences", parameters)
    con.execute("drop view member_sequences")


def of_member(rules: Rules) -> str:
    """Return the scalar columns of a member row as one column of SQL, `of_member`."""
    return f"row({', '.join(identifier(c.name) for c in member_columns(rules))}) as of_member"


def _wrong_column(rules: Rules) -> str:
    """Return a column of SQL, `wrong_column`: a member column that is not what it declares."""
    cases = [
        f"when {identifier(c.name)} is distinct from ({c.check}) then {quoted(c.name)}"
        for c in member_columns(rules)
        if c.check is not None
    ]
    cases += [
        f"when len({identifier(name)}) is distinct from len(item_ids) "
        f"or list_count({identifier(name)}) < len(item_ids) then {quoted(name)}"
        for name in rules.attributes
    ]
    return f"case {' '.join(cases)} end as wrong_column" if cases else "null as wrong_column"


def view_of_partitions(
    con: duckdb.DuckDBPyConnection,
    name: str,
    files: list[Path],
    as_ofs: Sequence[datetime | None],
    more: str = "null as more",
) -> None:
    """Make a view of files in this order, with the column as_of: what that of a file's rows is.

    Args:
        as_ofs: None stands for a file that is not a partition: each of its rows has its own as_of.
        more: More columns, in SQL.
    """
    timestamps = ", ".join(
        f"timestamptz {quoted(at.isoformat())}" if at else "null" for at in as_ofs
    )
    con.execute(
        f"create or replace temp view {name} as select *, coalesce("
        f"[{timestamps}][(file_index + 1)::bigint]::timestamptz, event_timestamp) as as_of, "
        f"{more} from {parquet(files)}"
    )


def activity_query(config: Config, con: duckdb.DuckDBPyConnection, files: list[Path]) -> str:
    """Return the query of `activity` over these files, after checking the type of their ids."""
    wanted = {name: SQL_ID_TYPES[kind] for name, kind in config.rules.id_types.items()}
    if not files:
        ids = ", ".join(f"null::{kind} as {name}" for name, kind in wanted.items())
        return (
            f"select * from (select {ids}, "
            "null::varchar as action, null::timestamptz as event_timestamp, "
            f"null::timestamptz as ingested_at, {_attributes(config.rules, {})}, "
            "null::tinyint as sign) where false"
        )
    # Periods of before an attribute was configured lack its column.
    options = ["union_by_name = true"] if config.rules.attributes else []
    query = f"select * from {parquet(files, *options)}"
    described = con.execute(f"describe {query}").fetchall()
    kinds = {name: kind for name, kind, *_ in described}
    got = {name: kinds[name] for name in wanted}
    if got != wanted:
        raise InputError(
            f"{config.file.name} expects ids of the types {wanted}, but {config.layout.activity} "
            f"was written with {got}; `activity reset` starts again with other types"
        )
    columns = "member_id, item_id, action, event_timestamp, ingested_at"
    absent = "".join(
        f", null::{SQL_TYPES[attribute.kind]} as {identifier(name)}"
        for name, attribute in config.rules.attributes.items()
        if name not in kinds
    )
    return (
        f"select {columns}, {_attributes(config.rules, kinds)}, {sign_expression(config.rules)} "
        f"as sign from (select *{absent} from ({query}))"
    )


def _attributes(rules: Rules, kinds: Mapping[str, str]) -> str:
    """Return the column `attributes` of activity whose files have columns of these types.

    Raises:
        InputError: an attribute was written with another type.
    """
    columns = {}
    for name, attribute in rules.attributes.items():
        kind = SQL_TYPES[attribute.kind]
        if kinds.get(name, kind.upper()) != kind.upper():
            raise InputError(
                f"the attribute {name} is configured as a {attribute.kind}, but activity was "
                f"written with {kinds[name]}; choose another name, or begin again: activity reset"
            )
        columns[name] = f"{identifier(name) if name in kinds else 'null'}::{kind}"
    return struct_of(rules.attributes, columns)


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
