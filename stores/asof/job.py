"""The retrieval job: runs the join once per read, in memory or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

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

from stores.asof.coverage import Coverage, report
from stores.asof.find import first_positions
from stores.asof.join import Join, Joined, listed_files
from stores.asof.on_demand import OnDemand
from stores.asof.query import LabelRange, asof_sql, files_sql, narrow_sql, read_sql
from stores.asof.session import session

ROWS_PER_BATCH = 65_536


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
            self._note(joined)
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
            listed = listed_files(con, views)
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

    def _on_demand(self) -> OnDemand:
        return OnDemand(
            tuple(self._on_demand_feature_views),
            tuple(self._feature_refs),
            self._full_feature_names,
        )

    def _note(self, joined: Joined) -> None:
        self._span, self.coverage = joined.span, joined.coverage
        report(joined.coverage)

    @contextmanager
    def _stream(self, rows_per_batch: int) -> Iterator[tuple[pa.Schema, Iterator[pa.Table]]]:
        with self._join.run(rows_per_batch) as joined:
            self._note(joined)
            if not self._on_demand_feature_views:
                yield joined.schema, joined.tables
                return
            computed = self._on_demand()
            tables = map(computed.added_to, joined.tables)
            # The first table is empty only if there are no rows: user code may not expect that.
            first = next(tables, None) or computed.added_to(joined.schema.empty_table())
            yield first.schema, chain([first], tables)

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
