"""`items`: the vectors of an item space; each row is encoded once per space."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from models.items.protocol import Document, ItemEncoder
from models.items.saved import fitted
from transformations.config import Config
from transformations.duck import TableReport, check, copy, parquet, sql
from transformations.layout import as_of_name, part_files
from transformations.seals import sealing

ROWS_AT_ONCE = 20_000
NO_TOKEN = "no known token"


def build_items(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    fit_before: datetime,
    progress: Callable[[int, int], object] | None = None,
) -> TableReport:
    """Encode the rows of `stg_items` that have no vector in the space; append them as a part file.

    Columns: item_id, embedding (a list of dim float32), available_at, encoder, encoder_version,
    encoder_fit; where the configuration knows kinds, also kind. A vector is available when its item
    is, but not before the end of its encoder's data. An item whose text changed has a row per
    available_at; a changed text with the same available_at keeps its vector.

    Args:
        as_of: The snapshot that is built now: it names the part.
        fit_before: A space without an encoder gets one, fitted on items known before this time.
        progress: Called with how many rows are done, of how many.

    Returns:
        rows_in counts the rows without a vector, rows_out those that got one.

    Raises:
        InputError: the space's encoder was fitted with other settings, or there are too few items
            to fit it on.
        RunFailedError: the saved encoder is damaged, or a row breaks a rule of checks/items.sql.
    """
    staged = config.layout.staged_items
    # Staged by a version that knew no kinds, it has no such column.
    con.execute(
        "create or replace temp view stg_items as "
        f"select null::varchar as kind where false union all by name from {parquet([staged])}"
    )
    encoder = available_from = None
    if config.items.embedding is None:
        encoder, available_from = fitted(config, con, fit_before)
    parts = part_files(config.items_dir)
    if config.knows_kinds:
        _add_kinds(config, con, parts)
    items = f"from {parquet(parts)}" if parts else "from stg_items limit 0"
    con.execute(f"create or replace temp view items as {items}")
    con.execute(
        f"create or replace temp table items_to_encode as {sql('items_to_encode', __file__)}",
        {"fit_before": available_from},
    )
    ((rows_in,),) = con.execute("select count(*) from items_to_encode").fetchall()
    rows_out = 0
    encoded = _batches(config, con, encoder, rows_in, progress)
    batches = (batch for batch in encoded if batch.num_rows)
    written: tuple[str, ...] = ()
    for first in itertools.islice(batches, 1):
        path = _new_part(config.items_dir, as_of)
        with sealing(path, str(config.space)) as file:
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                for batch in itertools.chain([first], batches):
                    writer.write_batch(batch)
                    rows_out += batch.num_rows
            # Parts of before there were fits have no encoder_fit.
            everything = parquet([*parts, file], "union_by_name = true")
            con.execute(f"create or replace temp view items as from {everything}")
            check(con, "items", {"dim": config.dim, **identity(config)})
        written = (path.name,)
    for view in ("items", "stg_items"):
        con.execute(f"drop view {view}")
    con.execute("drop table items_to_encode")
    refused = {NO_TOKEN: rows_in - rows_out} if rows_out < rows_in else {}
    return TableReport("items", rows_in, rows_out, refused, written)


def identity(config: Config) -> dict[str, str | int]:
    """Return the columns that say what made the vectors of the configuration's space."""
    space = config.space
    return {
        "encoder": space.encoder,
        "encoder_version": space.version,
        "encoder_fit": space.fit,
    }


def _add_kinds(config: Config, con: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> None:
    """Give parts of before items had kinds the column, from `stg_items`.

    A changed part is published again, so that the kinds are online too.
    """
    for part in parts:
        if "kind" not in pq.read_schema(part).names:
            query = (
                "select part.*, kinds.kind "
                f"from {parquet([part])} as part left join (select item_id, arg_max(kind, "
                "available_at) as kind from stg_items group by item_id) as kinds using (item_id) "
                "order by part.item_id, part.available_at"
            )
            with sealing(part, str(config.space)) as file:
                copy(con, query, file)


def _new_part(folder: Path, as_of: datetime) -> Path:
    """Return an unused name; rows found later for the same as_of go to another part."""
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(1)))
    paths = (folder / f"part-{as_of_name(as_of)}{name}.parquet" for name in names)
    return next(path for path in paths if not path.exists())


def _batches(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    encoder: ItemEncoder | None,
    rows_in: int,
    progress: Callable[[int, int], object] | None,
) -> Iterator[pa.RecordBatch]:
    """Yield the new rows of `items`; rows without a vector are left out."""
    vectors, done = pa.list_(pa.float32()), 0
    for batch in con.sql("from items_to_encode").to_arrow_reader(ROWS_AT_ONCE):
        done += batch.num_rows
        if encoder is None:
            embeddings = batch["embedding"].cast(vectors)
        else:
            encoded = encoder.encode(
                [
                    Document(*row.values())
                    for row in batch.select(["text", "categories"]).to_pylist()
                ]
            )
            has_vector = encoded.any(axis=1)
            batch = batch.filter(pa.array(has_vector))
            ends = pa.array(range(0, (batch.num_rows + 1) * config.dim, config.dim), pa.int32())
            embeddings = pa.ListArray.from_arrays(ends, pa.array(encoded[has_vector].ravel()))
        columns = {
            "item_id": batch["item_id"],
            "embedding": embeddings,
            "available_at": batch["available_at"],
        }
        if config.knows_kinds:
            columns["kind"] = batch["kind"]
        columns |= {
            name: pa.repeat(pa.scalar(value), batch.num_rows)
            for name, value in identity(config).items()
        }
        if progress is not None:
            progress(done, rows_in)
        yield pa.RecordBatch.from_pydict(columns)
