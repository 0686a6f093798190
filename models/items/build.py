"""`items`: the vectors of an item space; each row is encoded once per space."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.items.folded import folded
from models.items.protocol import Corpus, Document, FittedEncoder, Progress
from models.items.saved import Beginning, fitted, fitted_until, reads_activity, saved
from models.items.spec import Given
from models.lines import encoder_of
from transformations.config import Config
from transformations.duck import TableReport, check, copy, parquet, sql
from transformations.layout import as_of_name, part_files
from transformations.seals import sealing

ROWS_AT_ONCE = 20_000
NO_TOKEN = "no known token"
NO_VECTOR = "no usable vector in the source"
NOTHING_KNOWN = "neither a known token nor activity"


def build_items(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    fit_before: datetime,
    progress: Progress | None = None,
    beginning: Beginning | None = None,
) -> TableReport:
    """Encode the rows of `stg_items` that have no vector in the space; append them as a part file.

    Columns: item_id, embedding (a list of dim float32), available_at, encoder, encoder_version,
    encoder_fit; where the configuration knows kinds, also kind. A vector is available when its item
    is, but not before the end of its encoder's data. An item whose text changed has a row per
    available_at; a changed text with the same available_at keeps its vector. What the space's
    encoder does with activity, `models.items.folded` says.

    Args:
        as_of: The snapshot that is built now: it names the part.
        fit_before: A space without an encoder gets one, fitted on what was known before this time.
        progress: Called with how many rows are done, of how many.
        beginning: What the fit of a space goes on from that has no encoder yet.

    Returns:
        rows_in counts the rows without a vector, rows_out those that got one.

    Raises:
        InputError: the space's encoder was fitted with other settings.
        TooFewError: there is too little to fit it on.
        RunFailedError: the saved encoder is damaged, or a row breaks a rule of checks/items.sql.
    """
    staged = config.layout.staged_items
    # Staged by a version that knew no kinds, or no vectors beside text, it lacks a column.
    con.execute(
        "create or replace temp view stg_items as select null::varchar as kind, "
        "null::float[][] as vectors, null::varchar as text, null::varchar[] as categories "
        f"where false union all by name from {parquet([staged])}"
    )
    parts = part_files(config.items_dir)
    if config.knows_kinds:
        _add_kinds(config, con, parts)
    items = f"from {parquet(parts, 'union_by_name = true')}" if parts else _no_items(config)
    con.execute(f"create or replace temp view items as {items}")
    rows = _Rows(config, con, progress, beginning)
    batches = (batch for batch in rows.new(as_of, fit_before) if batch.num_rows)
    written: tuple[str, ...] = ()
    rows_out = 0
    for first in itertools.islice(batches, 1):
        path = _new_part(config.items_dir, as_of)
        with sealing(path, str(config.space)) as file:
            with pq.ParquetWriter(
                file, first.schema, compression="zstd", write_page_checksum=True
            ) as writer:
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
    refused = {rows.reason: rows.refused} if rows.refused else {}
    return TableReport("items", rows_out + rows.refused, rows_out, refused, written)


def identity(config: Config) -> dict[str, str | int]:
    """Return the columns that say what made the vectors of the configuration's space."""
    space = config.space
    return {
        "encoder": space.encoder,
        "encoder_version": space.version,
        "encoder_fit": space.fit,
    }


class _Rows:
    """Makes the new rows of `items`, from the views `items` and `stg_items`.

    Attributes:
        refused: Rows that got no vector, once `new` is through.
        reason: Why they got none.
    """

    def __init__(
        self,
        config: Config,
        con: duckdb.DuckDBPyConnection,
        progress: Progress | None,
        beginning: Beginning | None,
    ) -> None:
        self.config, self.con, self.progress = config, con, progress
        self.beginning = beginning
        self.refused, self.reason = 0, NO_TOKEN

    def new(self, as_of: datetime, fit_before: datetime) -> Iterator[pa.RecordBatch]:
        """Yield the rows that the space lacks."""
        config, line = self.config, encoder_of(self.config, self.config.space)
        if isinstance(line, Given):
            self.reason = NO_VECTOR
            yield from self._given(config.items.embedding.index(line.column) + 1)
            return
        if line is not None:
            encoder, available_from = fitted(
                config, self.con, line, fit_before, self.progress, self.beginning
            )
        else:  # kept beside the catalogue's: it goes on as it was fitted
            kept, until = saved(config), fitted_until(config)
            if kept is None or until is None:
                return
            encoder, available_from = kept, until
        if reads_activity(config):
            self.reason = NOTHING_KNOWN
            yield from self._folded(encoder, as_of, available_from)
        else:
            yield from self._encoded(encoder, available_from)

    def _given(self, place: int) -> Iterator[pa.RecordBatch]:
        """Take the vectors of a column of the source, counted from 1."""
        for batch in self._without_vector(None, place):
            has_vector = batch["vector"].is_valid()
            self.refused += batch["vector"].null_count
            own = batch.filter(has_vector)
            yield self._batch(own, own["vector"].cast(pa.list_(pa.float32())))

    def _encoded(
        self, encoder: FittedEncoder, available_from: datetime
    ) -> Iterator[pa.RecordBatch]:
        """Encode texts: an item's vector is the same whatever else there is."""
        for batch in self._without_vector(available_from):
            texts, categories = batch["text"].to_pylist(), batch["categories"].to_pylist()
            documents = [Document(*each) for each in zip(texts, categories, strict=True)]
            encoded = encoder.encode(Corpus(documents))
            has_vector = encoded.any(axis=1)
            self.refused += int((~has_vector).sum())
            yield self._batch(batch.filter(pa.array(has_vector)), listed(encoded[has_vector]))

    def _folded(
        self, encoder: FittedEncoder, as_of: datetime, available_from: datetime
    ) -> Iterator[pa.RecordBatch]:
        """Encode all items again; keep the vectors that changed."""
        made = folded(self.config, self.con, encoder, as_of, available_from)
        self.refused = made.without_vector
        for start in range(0, len(made.vectors), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            batch = made.rows.slice(start, ROWS_AT_ONCE).combine_chunks().to_batches()
            yield from (self._batch(one, listed(made.vectors[some])) for one in batch)

    def _without_vector(
        self, available_from: datetime | None, place: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of items_to_encode.sql, and say how far it is."""
        table = "create or replace temp table items_to_encode as "
        parameters = {"fit_before": available_from, "place": place}
        self.con.execute(table + sql("items_to_encode", __file__), parameters)
        ((count,),) = self.con.execute("select count(*) from items_to_encode").fetchall()
        done = 0
        for batch in self.con.sql("from items_to_encode").to_arrow_reader(ROWS_AT_ONCE):
            done += batch.num_rows
            yield batch
            if self.progress is not None:
                self.progress(done, count)
        self.con.execute("drop table items_to_encode")

    def _batch(self, rows: pa.RecordBatch, vectors: pa.Array) -> pa.RecordBatch:
        columns = {
            "item_id": rows["item_id"],
            "embedding": vectors,
            "available_at": rows["available_at"],
        }
        if self.config.knows_kinds:
            columns["kind"] = rows["kind"]
        columns |= {
            name: pa.repeat(pa.scalar(value), rows.num_rows)
            for name, value in identity(self.config).items()
        }
        return pa.RecordBatch.from_pydict(columns)


def listed(vectors: NDArray[np.float32]) -> pa.Array:
    """Return float32 [items, dim] as lists."""
    items, dim = vectors.shape
    ends = pa.array(range(0, (items + 1) * dim, dim), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(vectors).ravel()))


def _no_items(config: Config) -> str:
    return (
        "select item_id, available_at, null::float[] as embedding from stg_items where false"
        if not config.knows_kinds
        else "select item_id, available_at, null::float[] as embedding, kind from stg_items "
        "where false"
    )


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
