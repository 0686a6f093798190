"""`item_stats`: what members did with each item, as of a timestamp."""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from transformations.config import Config
from transformations.duck import TableReport, check, parquet, sql
from transformations.errors import InputError
from transformations.layout import files_between, partition, partitions
from transformations.member_columns import UTC_US
from transformations.quoting import quoted
from transformations.seals import sealing
from transformations.stats.columns import (
    DAYS,
    days_column,
    duration,
    item_actions,
    item_stats_columns,
)
from transformations.stats.streamed import streamed_actions
from transformations.tables import activity_query
from transformations.timestamps import EPOCH

PRIOR, PRIOR_SHARE = 2.0, 0.8
"""Of an item's share of positive actions: that many actions, that share of them positive."""
RECENT = timedelta(days=2)
"""After a longer pause, the counts of items that nothing happened to are too high."""
ITEMS_AT_ONCE = 65_536


def build_item_stats(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    created_timestamp: datetime,
    only_new: bool = False,
    clusters: pa.Table | None = None,
    streamed: str | None = None,
) -> TableReport:
    """Write the item_stats partition of a timestamp; replace that of a run before.

    Nothing after as_of is in it: no action, no item. One without a row is not written.

    Args:
        created_timestamp: When the rows can be read online.
        only_new: Leave out the items that nothing happened to since the partition before: no
            action on them reached the source, and they were known. Their rows stay as they were,
            so their counts of days fall at the next run. After RECENT none is left out.
        clusters: item_id, cluster of the items that have one, as of as_of. None: no item has.
        streamed: Query of what the stream wrote to member_sequences: its actions count that are not
            staged yet.

    Returns:
        rows_out counts the items.

    Raises:
        InputError: no item is staged.
        RunFailedError: a row breaks a rule of checks/item_stats.sql.
    """
    staged, folder = config.layout.staged_items, config.layout.item_stats
    if not staged.exists():
        raise InputError(f"expected staged items in {staged}, found none; first: activity run")
    dwell = duration(config)
    activity = activity_query(config, con, files_between(config.layout.activity, EPOCH, as_of))
    if streamed is not None:
        told = streamed_actions(config, con, streamed, as_of)
        activity = f"{activity} union all by name {told}"
    value = f"attributes[{quoted(dwell)}]" if dwell else "null::double"
    con.execute(
        f"create or replace temp view activity_so_far as select *, {value} as dwell "
        f"from ({activity})"
    )
    # Staged by a version that knew no kinds, it lacks a column.
    con.execute(
        "create or replace temp view stg_items as select null::varchar as kind where false "
        f"union all by name from {parquet([staged])}"
    )
    if clusters is None:
        columns = [pa.field("item_id", _item(config)), pa.field("cluster", pa.int64())]
        clusters = pa.schema(columns).empty_table()
    con.register("item_clusters", clusters)
    before = [at for at in partitions(folder) if as_of - RECENT <= at < as_of]
    categories = config.items.categories
    parameters = {
        "as_of": as_of,
        "actions": item_actions(config),
        "category": f"{categories[0]}=" if categories else None,
        "knows_age": config.items.available_at is not None,
        "prior_actions": PRIOR,
        "prior_share": PRIOR_SHARE,
        "since": before[-1] if before and only_new else None,
    }
    made = con.sql(sql("item_stats", __file__), params=parameters).to_arrow_reader(ITEMS_AT_ONCE)
    file, schema, rows = partition(folder, as_of), _schema(config), 0
    with sealing(file, "item_stats") as path:
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in made:
                writer.write_batch(_in_columns(config, batch, schema, as_of, created_timestamp))
                rows += batch.num_rows
        _check(config, con, path, as_of)
    if not rows:  # no item is known, or nothing happened
        file.unlink()
    for view in ("activity_so_far", "stg_items"):
        con.execute(f"drop view {view}")
    con.unregister("item_clusters")
    con.execute("drop table if exists streamed_actions")
    return TableReport("item_stats", rows, rows)


def _in_columns(
    config: Config,
    made: pa.RecordBatch,
    schema: pa.Schema,
    as_of: datetime,
    created_timestamp: datetime,
) -> pa.RecordBatch:
    """Return the rows of the query with a column for each count, as they lie in the table."""
    columns = {name: made[name] for name in made.schema.names}
    columns["event_timestamp"] = pa.repeat(pa.scalar(as_of, UTC_US), made.num_rows)
    columns["created_timestamp"] = pa.repeat(pa.scalar(created_timestamp, UTC_US), made.num_rows)
    actions = item_actions(config)
    for days in DAYS:
        counts = columns[f"n_{days}d"].flatten().to_numpy().reshape(-1, len(actions))
        for action, of_action in zip(actions, counts.T, strict=True):
            columns[days_column(action, days)] = pa.array(of_action.astype(float))
    return pa.record_batch([columns[field.name].cast(field.type) for field in schema], schema)


def _check(config: Config, con: duckdb.DuckDBPyConnection, file: Path, as_of: datetime) -> None:
    con.execute(f"create or replace temp view item_stats as from {parquet([file])}")
    counts = {
        f"counts_{days}d": [days_column(action, days) for action in item_actions(config)]
        for days in DAYS
    }
    check(con, "item_stats", {"as_of": as_of, **counts})
    con.execute("drop view item_stats")


def _schema(config: Config) -> pa.Schema:
    return pa.schema(
        [
            pa.field("item_id", _item(config)),
            pa.field("event_timestamp", UTC_US),
            pa.field("created_timestamp", UTC_US),
            *(pa.field(name, pa.float64()) for name in item_stats_columns(config)),
        ]
    )


def _item(config: Config) -> pa.DataType:
    return pa.int64() if config.item_id_type == "int64" else pa.string()
