"""`item_stats`: what members did with each item, as of a timestamp."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

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
    folder = config.layout.item_stats
    read_for_stats(config, con, as_of, "view", streamed)
    before = [at for at in partitions(folder) if as_of - RECENT <= at < as_of]
    since = before[-1] if before and only_new else None
    made = item_stats(config, con, as_of, since, clusters).to_arrow_reader(ITEMS_AT_ONCE)
    file, schema, rows = partition(folder, as_of), _schema(config), 0
    with sealing(file, "item_stats") as path:
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in made:
                own = in_columns(config, batch)
                for name, at in (("event", as_of), ("created", created_timestamp)):
                    own[f"{name}_timestamp"] = pa.repeat(pa.scalar(at, UTC_US), batch.num_rows)
                columns = [own[field.name].cast(field.type) for field in schema]
                writer.write_batch(pa.record_batch(columns, schema))
                rows += batch.num_rows
        _check(config, con, path, as_of)
    if not rows:  # no item is known, or nothing happened
        file.unlink()
    for view in ("activity_so_far", "stg_items"):
        con.execute(f"drop view {view}")
    con.unregister("item_clusters")
    con.execute("drop table if exists streamed_actions")
    return TableReport("item_stats", rows, rows)


def read_for_stats(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    until: datetime,
    kind: Literal["view", "table"],
    streamed: str | None = None,
) -> None:
    """Make the relations that `item_stats` reads: `activity_so_far`, `stg_items`.

    Args:
        until: No later as_of will be asked for.
        kind: A view reads the files again at each query; a table holds them for many.
        streamed: As `build_item_stats` takes it.

    Raises:
        InputError: no item is staged.
    """
    staged, dwell = config.layout.staged_items, duration(config)
    if not staged.exists():
        raise InputError(f"expected staged items in {staged}, found none; first: activity run")
    activity = activity_query(config, con, files_between(config.layout.activity, EPOCH, until))
    if streamed is not None:
        told = streamed_actions(config, con, streamed, until)
        activity = f"{activity} union all by name {told}"
    value = f"attributes[{quoted(dwell)}]" if dwell else "null::double"
    con.execute(
        f"create or replace temp {kind} activity_so_far as select * exclude (attributes), "
        f"{value} as dwell from ({activity})"
    )
    # Staged by a version that knew no kinds, it lacks a column.
    con.execute(
        f"create or replace temp {kind} stg_items as select null::varchar as kind where false "
        f"union all by name from {parquet([staged])}"
    )


def item_stats(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    since: datetime | None = None,
    clusters: pa.Table | None = None,
) -> duckdb.DuckDBPyRelation:
    """Return the statistics of the items as of a timestamp; `in_columns` lays out its rows.

    Args:
        since: Only of items that something happened to since then.
        clusters: As `build_item_stats` takes them; registered as `item_clusters` until the rows
            are read.
    """
    if clusters is None:
        columns = [pa.field("item_id", _item(config)), pa.field("cluster", pa.int64())]
        clusters = pa.schema(columns).empty_table()
    con.register("item_clusters", clusters)
    categories = config.items.categories
    parameters = {
        "as_of": as_of,
        "actions": item_actions(config),
        "category": f"{categories[0]}=" if categories else None,
        "knows_age": config.items.available_at is not None,
        "prior_actions": PRIOR,
        "prior_share": PRIOR_SHARE,
        "since": since,
    }
    return con.sql(sql("item_stats", __file__), params=parameters)


def in_columns(config: Config, made: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the columns of rows of `item_stats`, those of each count among them."""
    columns = {name: made[name] for name in made.schema.names}
    actions = item_actions(config)
    for days in DAYS:
        counts = columns[f"n_{days}d"].flatten().to_numpy().reshape(-1, len(actions))
        for action, of_action in zip(actions, counts.T, strict=True):
            columns[days_column(action, days)] = pa.array(of_action.astype(float))
    return columns


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
