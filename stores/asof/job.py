"""The retrieval job: runs the join once per read, in memory or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage
from feast.types import from_feast_to_pyarrow_type

from stores.asof.coverage import Coverage, measure, report
from stores.asof.fetch import Fetch, TooLargeError
from stores.asof.find import find, first_positions
from stores.asof.labels import AsofLabels
from stores.asof.query import (
    AsofView,
    LabelRange,
    asof_sql,
    files_sql,
    label_range_sql,
    narrow_sql,
    read_sql,
)
from stores.asof.session import Limits, fingerprint, memory_limit, session
from stores.parquet import find_files, rows_per_file

ROWS_PER_BATCH = 65_536
# The size of a chunk, as a share of DuckDB's own limit (session.DUCKDB_SHARE). Two chunks may be
# alive at a time: the join reads one while the caller still holds the one before.
CHUNK_SHARE = 1 / 3
# Arrow counts the numbers of a vector column in 32 bits.
MOST_CHUNK_BYTES = 2**30
OVERHEAD_PER_ROW = 64


@dataclass(frozen=True)
class Joined:
    """The rows of a running join."""

    span: LabelRange
    schema: pa.Schema
    tables: Iterator[pa.Table]
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True)
class Join:
    """The labels and views of a join and its limits; nothing is read before `run`."""

    labels: AsofLabels
    views: Sequence[AsofView]
    known_at: bool
    limits: Limits

    def span(self) -> LabelRange:
        """Count the labels and find their first and last timestamp. Runs a SQL text once."""
        with session(self.limits) as con:
            self.labels.load(con)
            return _span(con, self.labels)

    @contextmanager
    def run(self, rows_per_batch: int | None = None) -> Iterator[Joined]:
        """Join; yield the rows in the labels' order, to be read inside the block.

        If `rows_per_batch` is None the caller holds all rows, so the tables need not be small.

        Raises:
            RuntimeError: a source file was replaced while it was read.
            duckdb.Error: out of memory or disk, or a file that cannot be read.
        """
        with session(self.limits) as con:
            self.labels.load(con)
            span = _span(con, self.labels)
            fetches, coverage = [], []
            before: dict[str, tuple[int, int, int] | None] = {}
            for number, view in enumerate(self.views):
                files = rows_per_file(con, find_files(view.path))
                before |= {file: fingerprint(file) for file in files}
                find(con, view, number, files, self.labels, span, self.known_at)
                coverage.append(measure(con, view, number, span.count))
                fetches.append(Fetch(con, view, number, first_positions(files)))
            schema = self.labels.part(con, 0, 0).schema
            for fetch in fetches:
                for name, kind in fetch.types.items():
                    schema = schema.append(pa.field(name, kind))
            most_bytes: float = MOST_CHUNK_BYTES
            if rows_per_batch is not None:
                most_bytes = min(most_bytes, memory_limit(con) * CHUNK_SHARE)
            tables = self._chunks(con, span.count, fetches, schema, before, most_bytes)
            if rows_per_batch is not None:
                tables = _cut(tables, rows_per_batch)
            report(coverage)
            yield Joined(span, schema, tables, tuple(coverage))

    def _chunks(
        self,
        con: duckdb.DuckDBPyConnection,
        count: int,
        fetches: Sequence[Fetch],
        schema: pa.Schema,
        before: Mapping[str, tuple[int, int, int] | None],
        most_bytes: float,
    ) -> Iterator[pa.Table]:
        """Yield the labels with their features, in chunks that fit into memory.

        Each chunk reads the files that its labels need: few files if the labels are in the order of
        time.
        """
        first, size = 0, max(1, int(most_bytes / self._bytes_per_row(con, fetches)))
        while first < count:
            end = min(first + size, count)
            columns = list(self.labels.part(con, first, end).columns)
            try:
                for fetch in fetches:
                    columns += fetch.columns(first, end, 2 * most_bytes)
            except TooLargeError:
                # The sample was not typical.
                size = (end - first + 3) // 4
                continue
            _check_unchanged(before)
            yield pa.table(columns, schema=schema)
            first = end

    def _bytes_per_row(self, con: duckdb.DuckDBPyConnection, fetches: Sequence[Fetch]) -> float:
        samples = [self.labels.part(con, 0, 1000)]
        samples += [fetch.sample() for fetch in fetches]
        return OVERHEAD_PER_ROW + sum(sample.nbytes / max(len(sample), 1) for sample in samples)


class AsofRetrievalJob(RetrievalJob):
    """A checked training join; every read runs it again.

    Attributes:
        coverage: Per view, which labels got no row and how old the others' rows were, in the last
            read; empty before the first.
    """

    def __init__(
        self,
        join: Join,
        feature_refs: list[str],
        on_demand_feature_views: list[OnDemandFeatureView],
        full_feature_names: bool,
        staging_location: str | None = None,
        staging_location_endpoint_override: str | None = None,
    ) -> None:
        self._join = join
        self._feature_refs = feature_refs
        self._on_demand_feature_views = on_demand_feature_views
        self._full_feature_names = full_feature_names
        self._staging_location = staging_location
        self._staging_location_endpoint_override = staging_location_endpoint_override
        self._span: LabelRange | None = None
        self.coverage: tuple[Coverage, ...] = ()

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `<view>__<feature>`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The views that Feast's own code computes from the joined rows."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        """The request. The first access reads the labels' timestamps (and runs a SQL text)."""
        if self._span is None:
            self._span = self._join.span()
        labels = self._join.labels
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=[name for name in labels.columns if name != labels.timestamp],
            min_event_timestamp=self._span.first,
            max_event_timestamp=self._span.last,
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        with self._join.run() as joined:
            self._span, self.coverage = joined.span, joined.coverage
            return pa.concat_tables([joined.schema.empty_table(), *joined.tables])

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def to_arrow_batches(self, rows_per_batch: int = ROWS_PER_BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `to_arrow()` in order, without holding all of them.

        DuckDB keeps to `memory_limit` and spills the rest. On-demand views run per batch, so a view
        that computes across rows (a mean of the column, say) gives other numbers here; their
        columns have the types that the view declares.
        """
        with self._stream(rows_per_batch) as (_, tables):
            for table in tables:
                yield from table.to_batches()

    def to_parquet(self, path: str | Path, rows_per_batch: int = ROWS_PER_BATCH) -> int:
        """Stream the rows of `to_arrow_batches` into one Parquet file; return their number.

        The file appears under its name when it is complete, and replaces an existing one.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.tmp")
        rows = 0
        try:
            with (
                self._stream(rows_per_batch) as (schema, tables),
                pq.ParquetWriter(unfinished, schema) as writer,
            ):
                for table in tables:
                    writer.write_table(table)
                    rows += len(table)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return rows

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Save the dataset: stream it into a local .parquet file, else use Feast's writer."""
        repo_path = self._join.limits.repo_path
        if isinstance(storage, SavedDatasetFileStorage):
            uri = storage.file_options.uri
            path = FileSource.get_uri_for_file_path(repo_path, uri)
            if "://" not in path and path.endswith(".parquet"):
                if Path(path).exists() and not allow_overwrite:
                    raise SavedDatasetLocationAlreadyExists(location=uri)
                self.to_parquet(path)
                return
        self._as_feasts().persist(storage, allow_overwrite, timeout)

    def supports_remote_storage_export(self) -> bool:
        """Whether `staging_location` is set, as in Feast's store."""
        return self._staging_location is not None

    def to_remote_storage(self) -> list[str]:
        """Export to `staging_location` through Feast's own writer (Delta; all in memory)."""
        return self._as_feasts().to_remote_storage()

    def to_sql(self) -> str:
        """Return the SQL of a read, for inspection; `labels` is the entity frame.

        Per view, the statements find the row that each label sees, then read the features.
        """
        labels, views, limits = self._join.labels, self._join.views, self._join.limits
        span = self._join.span()
        with session(limits) as con:
            listed = [rows_per_file(con, find_files(view.path)) for view in views]
            tables = [
                view.scan.files_sql(con, first_positions(files))
                for view, files in zip(views, listed, strict=True)
            ]
        return "".join(
            files_sql(number, tables[number])
            + narrow_sql(view, number, list(files), span, cutoff)
            + asof_sql(view, number, labels, cutoff, "labels")
            + read_sql(view, number, first_positions(files))
            + ";\n"
            for number, (view, files) in enumerate(zip(views, listed, strict=True))
            for cutoff in [self._join.known_at and view.created_time is not None]
        )

    @contextmanager
    def _stream(self, rows_per_batch: int) -> Iterator[tuple[pa.Schema, Iterator[pa.Table]]]:
        with self._join.run(rows_per_batch) as joined:
            self._span, self.coverage = joined.span, joined.coverage
            if not self._on_demand_feature_views:
                yield joined.schema, joined.tables
                return
            tables = map(self._with_on_demand, joined.tables)
            # The first table is empty only if there are no rows: user code may not expect that.
            first = next(tables, None) or self._with_on_demand(joined.schema.empty_table())
            yield first.schema, chain([first], tables)

    def _with_on_demand(self, table: pa.Table) -> pa.Table:
        joined = len(table.schema)
        result = _Batch(table, self).to_arrow()
        declared = _declared_types(self._on_demand_feature_views)
        for index in range(joined, len(result.schema)):
            name = result.schema.names[index]
            kind = declared.get(name)
            if kind is not None and result.schema.field(index).type != kind:
                result = result.set_column(index, name, result.column(index).cast(kind))
        return result

    def _as_feasts(self) -> IbisRetrievalJob:
        return IbisRetrievalJob(
            ibis.memtable(self._to_arrow_internal()),
            self._on_demand_feature_views,
            self._full_feature_names,
            metadata=self.metadata,
            data_source_writer=_write_data_source,
            staging_location=self._staging_location,
            staging_location_endpoint_override=self._staging_location_endpoint_override,
            repo_path=str(self._join.limits.repo_path),
        )


class _Batch(RetrievalJob):
    """Joined rows, to which Feast's own code adds the on-demand features."""

    def __init__(self, table: pa.Table, job: AsofRetrievalJob) -> None:
        self._table = table
        self._job = job

    @property
    def full_feature_names(self) -> bool:
        return self._job.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._job.on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._job.metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._table


def _span(con: duckdb.DuckDBPyConnection, labels: AsofLabels) -> LabelRange:
    [row] = con.execute(label_range_sql(labels)).fetchall()
    return LabelRange(*row)


def _cut(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield slices of `rows` rows."""
    for table in tables:
        for first in range(0, len(table), rows):
            yield table.slice(first, rows)


def _check_unchanged(before: Mapping[str, tuple[int, int, int] | None]) -> None:
    """Raise if a file has changed since the positions in it were found."""
    changed = [file for file, then in before.items() if fingerprint(file) != then]
    if changed:
        raise RuntimeError(
            f"expected the source files to stay unchanged during the join, got {changed[0]} and "
            f"{len(changed) - 1} more replaced or rewritten. Run the join again"
        )


def _declared_types(views: Sequence[OnDemandFeatureView]) -> dict[str, pa.DataType]:
    declared = {}
    for view in views:
        for field in view.features:
            kind = from_feast_to_pyarrow_type(field.dtype)
            declared[field.name] = kind
            declared[f"{view.projection.name_to_use()}__{field.name}"] = kind
    return declared
