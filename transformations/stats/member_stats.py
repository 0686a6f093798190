"""`member_stats`: when, how often and for how long a member acts, from its sequence alone.

One function for the batch and the stream: both hand over rows of member_sequences. Ages grow after
as_of, so times are kept and no ages; whoever reads computes them, as of `last_action_at`.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from transformations.config import Config
from transformations.duck import TableReport, check, connect, parquet
from transformations.layout import bucket_in, partition, snapshot_files
from transformations.member_columns import UTC_US
from transformations.rules import Rules
from transformations.seals import expect_whole
from transformations.snapshots import Written, attempts, finished, replacing_snapshot
from transformations.stats.columns import PARTS_OF_DAY, duration, member_columns_of, share_column
from transformations.stream import Actions, from_sequences
from transformations.table_files import TAKE_AWAY
from transformations.tasks import Engine, InTurn
from transformations.timestamps import DAY_US, NO_TIME

SESSION_GAP_US = 30 * 60 * 1_000_000
"""A session is a member's actions that lie less than this apart."""
MEMBERS_AT_ONCE = 32_768
OF_ROW = ("member_id", "event_timestamp", "created_timestamp")
KINDS = {"number": pa.float64(), "category": pa.string(), "timestamp": UTC_US}

Numbers = NDArray[np.float64]


def member_stats(rules: Rules, sequences: pa.RecordBatch, dwell: str | None) -> pa.RecordBatch:
    """Return a row of statistics for each row of member_sequences, in the same order.

    A row depends on the actions of its own sequence and on nothing else. Of a member without an
    action, counts are 0 and the rest is null.

    Args:
        dwell: The attribute that says how many seconds an action took; None for none.
    """
    actions, members = from_sequences(rules, sequences).actions, sequences.num_rows
    number = actions.counts(members)
    columns: dict[str, Numbers] = {
        **_sessions(actions, members),
        **_times(actions, members),
        "distinct_items": _distinct(actions.member, sequences["item_ids"], members),
    }
    for code, action in enumerate(rules.actions, start=1):
        done = _per_member(actions.member[actions.code == code], members)
        columns[share_column(action)] = _ratio(done, number)
    if dwell is not None:
        columns |= _durations(actions.member, actions.attributes[dwell], members)
    made = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    made["last_acted_at"] = sequences["last_action_at"]
    made["last_session_at"] = _last_session(actions, members)
    made |= {name: sequences[name] for name in OF_ROW}
    schema = stats_schema(rules, sequences.schema.field("member_id").type, dwell)
    return pa.record_batch([made[field.name].cast(field.type) for field in schema], schema)


def stats_schema(rules: Rules, member_id: pa.DataType, dwell: str | None) -> pa.Schema:
    """Return the columns of member_stats."""
    types = dict(zip(OF_ROW, (member_id, UTC_US, UTC_US), strict=True))
    own = member_columns_of(rules.actions, dwell is not None)
    return pa.schema(types | {name: KINDS[kind] for name, kind in own.items()})


def build_member_stats(
    config: Config, as_of: datetime, engine: Engine | None = None
) -> TableReport:
    """Write the member_stats partition of a timestamp from that of member_sequences.

    Args:
        engine: Who builds it where the sequences lie in buckets; default: this process.

    Raises:
        RunFailedError: the sequences are damaged, or a row breaks a rule of
            checks/member_stats.sql.
    """
    folder, layout = config.layout.member_stats, config.layout
    sources = snapshot_files(layout.sequences, as_of) or [partition(layout.sequences, as_of)]
    rows, buckets = 0, [bucket_in(file) for file in sources]
    with replacing_snapshot(layout, folder, as_of, "member_stats", buckets) as snapshot:
        tasks = [
            StatsTask(index, as_of, source, file)
            for index, (source, file) in enumerate(zip(sources, snapshot.files, strict=True))
        ]
        with connect(config) as con:
            runs = engine if engine is not None and buckets != [None] else InTurn(con)
            for task, (built, written) in runs.run(config, stats_of_file, tasks):
                snapshot.take(task.index, written)
                rows += built
    return TableReport("member_stats", rows, rows)


@dataclass(frozen=True)
class StatsTask:
    """One file of member_sequences as of a timestamp, and where its statistics go.

    Attributes:
        index: Of the file, among those of the snapshot.
    """

    index: int
    as_of: datetime
    source: Path
    file: Path


def stats_of_file(config: Config, con: Connection, task: StatsTask) -> tuple[int, Written]:
    """Write and check the statistics of one file; the function of an engine's tasks."""
    rules, dwell, rows = config.rules, duration(config), 0
    expect_whole([task.source], f"{TAKE_AWAY}, then build the snapshot again")
    with attempts([task.file]) as (file,):
        with pq.ParquetFile(task.source) as sequences:
            schema = stats_schema(rules, sequences.schema_arrow.field("member_id").type, dwell)
            with pq.ParquetWriter(
                file, schema, compression="zstd", write_page_checksum=True
            ) as writer:
                for batch in sequences.iter_batches(MEMBERS_AT_ONCE):
                    writer.write_batch(member_stats(rules, batch, dwell))
                    rows += batch.num_rows
        _check(config, con, file, task.as_of)
        return rows, finished(file)


def _check(config: Config, con: Connection, file: Path, as_of: datetime) -> None:
    con.execute(f"create or replace temp view member_stats as from {parquet([file])}")
    shares = {
        "of_actions": [share_column(action) for action in config.rules.actions],
        "of_day": list(PARTS_OF_DAY),
    }
    check(con, "member_stats", {"as_of": as_of, **shares})
    con.execute("drop view member_stats")


def _sessions(actions: Actions, members: int) -> dict[str, Numbers]:
    """Return what sessions are like: they follow one another, since actions are in order."""
    first = _session_starts(actions)
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(actions))[: len(starts)] - 1
    member = actions.member[starts]
    number = _per_member(member, members)
    minutes = (actions.timestamp[ends] - actions.timestamp[starts]) / 60e6
    return {
        "n_sessions": number,
        "actions_per_session": _ratio(_per_member(actions.member, members), number),
        "session_minutes": _ratio(_per_member(member, members, minutes), number),
    }


def _session_starts(actions: Actions) -> NDArray[np.bool_]:
    first = np.ones(len(actions), bool)
    pause = np.diff(actions.timestamp) >= SESSION_GAP_US
    first[1:] = pause | (np.diff(actions.member) > 0)
    return first


def _last_session(actions: Actions, members: int) -> pa.Array:
    """Return when each member's last session began; null where it has none."""
    starts = np.flatnonzero(_session_starts(actions))
    last = np.full(members, NO_TIME)
    np.maximum.at(last, actions.member[starts], actions.timestamp[starts])
    return pa.array(last, pa.int64(), mask=last == NO_TIME).view(UTC_US)


def _times(actions: Actions, members: int) -> dict[str, Numbers]:
    """Return on how many days, and at which time of the day (UTC)."""
    days = actions.timestamp // DAY_US
    is_new = np.ones(len(actions), bool)
    is_new[1:] = (np.diff(days) > 0) | (np.diff(actions.member) > 0)
    part = actions.timestamp % DAY_US // (DAY_US // len(PARTS_OF_DAY))
    number = _per_member(actions.member, members)
    return {
        "active_days": _per_member(actions.member[is_new], members),
        **{
            name: _ratio(_per_member(actions.member[part == place], members), number)
            for place, name in enumerate(PARTS_OF_DAY)
        },
    }


def _distinct(member: NDArray[np.int64], items: pa.ListArray, members: int) -> Numbers:
    codes = items.flatten().dictionary_encode()
    places = codes.indices.to_numpy().astype(np.int64)
    most = max(len(codes.dictionary), 1)
    pairs = np.sort(member * most + places)  # np.unique hashes them, which takes ten times as long
    is_new = np.ones(len(pairs), bool)
    is_new[1:] = pairs[1:] != pairs[:-1]
    return _per_member(pairs[is_new] // most, members)


def _durations(
    member: NDArray[np.int64], seconds: NDArray[np.float64], members: int
) -> dict[str, Numbers]:
    """Return mean, median and sum of the durations that are known; NaN where none is."""
    known = ~np.isnan(seconds)
    member, seconds = member[known], seconds[known]
    number = np.bincount(member, minlength=members)
    total = _per_member(member, members, seconds)
    ordered = np.append(seconds[np.lexsort((seconds, member))], np.nan)
    start = np.cumsum(number) - number
    # Without any, both are the position of another one's.
    low, high = start + np.maximum(number - 1, 0) // 2, start + number // 2
    median = (ordered[low] + ordered[high]) / 2
    return {
        "dwell_mean": _ratio(total, number),
        "dwell_median": np.where(number > 0, median, np.nan),
        "dwell_sum": np.where(number > 0, total, np.nan),
    }


def _per_member(member: NDArray[np.int64], members: int, weights: Numbers | None = None) -> Numbers:
    return np.bincount(member, weights, minlength=members).astype(np.float64)


def _ratio(part: Numbers, whole: NDArray[np.number]) -> Numbers:
    """Return part / whole; NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
