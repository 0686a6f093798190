"""`popular_items`, `item_neighbours`: the lists of the candidate sources, as of a timestamp.

What makes a source's lists is a function (line, config, con, as_of) that yields record batches: the
key of the list (`item_id` or `segment`), `item_ids` and `scores`, both as long and the best first.
It finds two tables on the connection: `items_there`, what may be recommended at as_of, and
`listed`, the items whose list is not wanted again.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from importlib import import_module

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from models.candidates.spec import CandidateSource
from transformations.config import Config
from transformations.duck import SQL_ID_TYPES, check, parquet, sql
from transformations.errors import InputError
from transformations.layout import partition, partitions
from transformations.member_columns import UTC_US
from transformations.seals import sealing

RECENT = timedelta(days=2)
"""A run makes all lists, so an item without one of these days is new, or gets another."""


def build_lists(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    created_timestamp: datetime,
    sources: Iterable[tuple[CandidateSource, Config]],
    progress: Callable[[int], object] | None = None,
    only_new: bool = False,
) -> dict[str, int]:
    """Write the lists of these sources as of a timestamp; replace those of a run before.

    Nothing after as_of is in them: no action, item or vector.

    Args:
        sources: Each with the configuration in the space that it reads.
        progress: Called with 1 once a source is done.
        only_new: Leave out the items that have a list of the last days.

    Returns the rows of each table by view. One without a row is not written: nothing is popular,
    or no item has a vector yet.

    Raises:
        InputError: no item is staged.
        RunFailedError: a row breaks a rule of checks/candidate_lists.sql.
    """
    items_there(config, con, as_of)
    rows = {}
    for source, own in sources:
        view = source.view(own.space)
        batches = (batch for batch in _rows(source, own, con, as_of) if batch.num_rows)
        rows[view] = 0
        _listed(own, con, source, as_of, only_new)
        for first in itertools.islice(batches, 1):
            rows[view] = _write(
                own, con, source, as_of, created_timestamp, itertools.chain([first], batches)
            )
        if not rows[view]:  # what a run before wrote
            partition(own.layout.lists(view), as_of).unlink(missing_ok=True)
        if progress is not None:
            progress(1)
    for table in ("items_there", "listed"):
        con.execute(f"drop table if exists {table}")
    return rows


def _rows(
    source: CandidateSource, own: Config, con: duckdb.DuckDBPyConnection, as_of: datetime
) -> Iterator[pa.RecordBatch]:
    assert source.lists is not None
    module, _, name = source.lists.partition(":")
    return getattr(import_module(module), name)(source, own, con, as_of)


def _listed(
    own: Config,
    con: duckdb.DuckDBPyConnection,
    source: CandidateSource,
    as_of: datetime,
    only_new: bool,
) -> None:
    folder = own.layout.lists(source.view(own.space))
    files = [
        partition(folder, at)
        for at in partitions(folder)
        if only_new and source.key == "item_id" and as_of - RECENT <= at < as_of
    ]
    none = f"select null::{SQL_ID_TYPES[own.item_id_type]} as item_id where false"
    query = f"select distinct item_id from {parquet(files)}" if files else none
    con.execute(f"create or replace temp table listed as {query}")


def items_there(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Make the temp table `items_there`: what may be recommended at a timestamp.

    Raises:
        InputError: no item is staged.
    """
    staged = config.layout.staged_items
    if not staged.exists():
        raise InputError(f"expected staged items in {staged}, found none; first: activity run")
    # Staged by a version that knew no kinds or ends, it lacks a column.
    con.execute(
        "create or replace temp view stg_items as select null::varchar as kind, "
        "null::timestamptz as available_until where false "
        f"union all by name from {parquet([staged])}"
    )
    query = f"create or replace temp table items_there as {sql('items_there', __file__)}"
    con.execute(query, {"as_of": as_of})
    con.execute("drop view stg_items")


def ids_there(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    kinds: Sequence[str] | None = None,
) -> pa.Array:
    """Return the ids of what may be recommended at a timestamp, ascending; makes `items_there`.

    Args:
        kinds: Only items of these kinds. None: of any.

    Raises:
        InputError: no item is staged.
    """
    items_there(config, con, as_of)
    ids: pa.Array = (
        con.sql(sql("ids_there", __file__), params={"kinds": kinds and list(kinds)})
        .to_arrow_table()["item_id"]
        .combine_chunks()
    )
    return ids


def _write(
    own: Config,
    con: duckdb.DuckDBPyConnection,
    source: CandidateSource,
    as_of: datetime,
    created_timestamp: datetime,
    batches: Iterable[pa.RecordBatch],
) -> int:
    """Write a partition, and check it before it is in place; return its rows."""
    rows, view = 0, source.view(own.space)
    with sealing(partition(own.layout.lists(view), as_of), view) as file:
        schema = _schema(own, source)
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in batches:
                columns = {name: batch[name] for name in batch.schema.names}
                columns["event_timestamp"] = pa.repeat(as_of, batch.num_rows)
                columns["created_timestamp"] = pa.repeat(created_timestamp, batch.num_rows)
                writer.write_table(pa.table(columns).cast(schema))
                rows += batch.num_rows
        con.execute(
            f"create or replace temp view candidate_lists as select *, {source.key} as list_of, "
            f"{source.key == 'item_id'} as of_items from {parquet([file])}"
        )
        check(con, "candidate_lists", {"as_of": as_of})
        con.execute("drop view candidate_lists")
    return rows


def _schema(own: Config, source: CandidateSource) -> pa.Schema:
    item = pa.int64() if own.item_id_type == "int64" else pa.string()
    return pa.schema(
        [
            pa.field(source.key, item if source.key == "item_id" else pa.string()),
            pa.field("item_ids", pa.list_(item)),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("event_timestamp", UTC_US),
            pa.field("created_timestamp", UTC_US),
        ]
    )
