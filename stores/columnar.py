"""A compute engine that materializes in columns: DuckDB selects, numpy encodes, the store writes.

Named by class path in feature_store.yaml:

    batch_engine:
      type: stores.columnar.ColumnarComputeEngine

DuckDB reads a view over local Parquet directly; the offline store reads any other source through
its own `pull_latest_from_table_or_query`. Feast's local engine materializes views that compute
(transformations, aggregations, a filter) and views that also write offline.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _convert_arrow_to_proto, _get_column_names, _validate_vector_field_lengths
from pydantic import Field

from stores.bytes.encode import EncodedBatch, entity_keys
from stores.bytes.values import encode_column
from stores.bytes.wire import readable
from stores.declared import declared_types
from stores.protocols import BulkOnlineStore
from stores.writing.key_order import in_key_order
from stores.writing.newest import Columns, newest_batches, parquet_path

logger = logging.getLogger(__name__)


class ColumnarComputeEngineConfig(FeastConfigBaseModel):
    """Bounds for the engine."""

    type: Literal["stores.columnar.ColumnarComputeEngine"] = "stores.columnar.ColumnarComputeEngine"

    batch_rows: int = Field(default=20_000, ge=1)
    """Rows per encoded and written batch; a batch is one transaction in the SQL stores."""

    memory_limit: str = "256MB"
    """How much DuckDB may hold before it spills to disk."""

    threads: int | None = Field(default=None, ge=1)
    """DuckDB's threads. Default: as many as the machine has cores."""

    rows_per_second: int | None = Field(default=None, ge=1)
    """So many rows are written in a second at most, so that reads do not wait. Default: any."""

    @property
    def rows_at_once(self) -> int:
        """Rows per batch; under a bound, at most those of a quarter of a second."""
        return min(self.batch_rows, -(-(self.rows_per_second or 4 * self.batch_rows) // 4))


class OnlineWriteError(RuntimeError):
    """The online store failed midway; the cause is attached."""


class ColumnarComputeEngine(LocalComputeEngine):
    """Feast's local engine with materialization in columns.

    Attributes:
        settings: Its bounds.
        written_by: Who finds and writes a view's rows in place of this process; None for nobody.
    """

    def __init__(
        self,
        *,
        batch_rows: int = 20_000,
        memory_limit: str = "256MB",
        threads: int | None = None,
        rows_per_second: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = ColumnarComputeEngineConfig(
            batch_rows=batch_rows,
            memory_limit=memory_limit,
            threads=threads,
            rows_per_second=rows_per_second,
        )
        self.written_by: Callable[[FeatureView, Columns], None] | None = None
        self._logged: set[str] = set()

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        reason = _left_to_feast(view)
        if reason is not None:
            if view.name not in self._logged:
                self._logged.add(view.name)
                logger.info("%s: left to Feast's local engine, because %s", view.name, reason)
            return super()._materialize_one(registry, task, **kwargs)
        status, error = MaterializationJobStatus.SUCCEEDED, None
        try:
            if view.online and self.written_by is not None:
                self.written_by(view, self._columns(registry, task))
            elif view.online:
                self._write(view, self._batches(registry, task), task)
        except Exception as raised:
            status, error = MaterializationJobStatus.ERROR, raised
        return LocalMaterializationJob(
            job_id=f"{view.name}-{task.start_time}-{task.end_time}", status=status, error=error
        )

    def _columns(self, registry: BaseRegistry, task: MaterializationTask) -> Columns:
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        return Columns(*_get_column_names(view, entities))

    def _batches(
        self, registry: BaseRegistry, task: MaterializationTask
    ) -> Generator[pa.RecordBatch]:
        """Yield the newest row of every key in the task's range, under the view's own names."""
        view, columns = task.feature_view, self._columns(registry, task)
        start, end = task.start_time, task.end_time
        if task.disable_event_timestamp:
            start, end = datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC)
        path = parquet_path(view.batch_source, self.repo_config.repo_path)
        if path is not None:
            yield from newest_rows(view, columns, path, (start, end), self.settings)
            return
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=view.batch_source,
            join_key_columns=columns.join_keys,
            feature_name_columns=columns.features,
            timestamp_field=columns.event,
            created_timestamp_column=columns.created,
            start_date=start,
            end_date=end,
        )
        newest = job.to_arrow().to_batches(max_chunksize=self.settings.rows_at_once)
        yield from _named(view, iter(newest))

    def _write(
        self, view: FeatureView, batches: Generator[pa.RecordBatch], task: MaterializationTask
    ) -> None:
        bar = task.tqdm_builder(None) if task.tqdm_builder else None
        advance = bar.update if bar is not None else None
        try:
            write_rows(self.online_store, self.repo_config, view, batches, self.settings, advance)
        finally:
            if bar is not None:
                bar.close()


def newest_rows(
    view: FeatureView,
    columns: Columns,
    path: str,
    between: tuple[datetime, datetime],
    settings: ColumnarComputeEngineConfig,
) -> Generator[pa.RecordBatch]:
    """Yield the newest row of every key in Parquet files, under the view's own names.

    Args:
        between: The first and the last event time.
    """
    mapping, types = view.batch_source.field_mapping or {}, declared_types(view)
    names = [*columns.join_keys, *columns.features]
    newest = newest_batches(
        path,
        columns,
        *between,
        declared={name: types.get(mapping.get(name, name)) for name in names},
        batch_rows=settings.rows_at_once,
        memory_limit=settings.memory_limit,
        threads=settings.threads,
    )
    yield from _named(view, newest)


def _named(view: FeatureView, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    mapping = view.batch_source.field_mapping or {}
    for batch in batches:
        yield batch.rename_columns([mapping.get(name, name) for name in batch.schema.names])


def write_rows(
    store: OnlineStore,
    config: RepoConfig,
    view: FeatureView,
    batches: Generator[pa.RecordBatch],
    settings: ColumnarComputeEngineConfig,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write rows to an online store, within the bounds; return their number.

    Args:
        progress: Called with the number of rows of each batch once it is written.

    Raises:
        OnlineWriteError: the store failed.
        ValueError: as `encode_rows`.
    """
    takes_batches = isinstance(store, BulkOnlineStore) and store.takes_encoded(config)
    sorting_in = store.sorts_in(config) if takes_batches else None
    if sorting_in is not None:
        batches = in_key_order(batches, partial(_keys, view), sorting_in, settings.rows_at_once)
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    acknowledged, next_at = 0, time.monotonic()

    def acknowledge(write: Callable[[], None], rows: int) -> None:
        nonlocal acknowledged, next_at
        if settings.rows_per_second is not None:
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at = max(next_at, time.monotonic()) + rows / settings.rows_per_second
        try:
            write()
        except Exception as error:
            raise OnlineWriteError(
                f"{view.name}: {type(store).__name__} failed after it had acknowledged "
                f"{acknowledged:,} rows, which stay. Once it is back, materialize the same "
                f"range again: every key holds its old or its new row until then. Error: "
                f"{error}"
            ) from error
        acknowledged += rows
        if progress is not None:
            progress(rows)

    # While the server (the disk, with SQLite) writes one batch, this thread reads, encodes and
    # lays out the next.
    writing: Future[None] | None = None
    with closing(batches), ThreadPoolExecutor(1) as writer:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            if takes_batches:
                write = store.prepare_write(config, view, encode_rows(view, batch))
            else:
                rows = _convert_arrow_to_proto(batch, view, types)
                write = partial(store.online_write_batch, config, view, rows, progress=None)
            if writing is not None:
                writing.result()
            writing = writer.submit(acknowledge, write, batch.num_rows)
        if writing is not None:
            writing.result()
    return acknowledged


def _keys(view: FeatureView, batch: pa.RecordBatch) -> list[bytes]:
    fields = view.entity_columns
    return entity_keys(
        [field.name for field in fields],
        [batch.column(field.name) for field in fields],
        [field.dtype.to_value_type() for field in fields],
    )


def encode_rows(view: FeatureView, batch: pa.RecordBatch) -> EncodedBatch:
    """Encode a batch that holds the view's join keys, features and timestamps.

    Raises:
        ValueError: a column is missing, a key is null, or a vector does not have its declared
            length.
    """
    _validate_vector_field_lengths(batch, view)
    wanted = [field.name for field in [*view.entity_columns, *view.features]]
    missing = [name for name in wanted if name not in batch.schema.names]
    if missing:
        raise ValueError(
            f"{view.name}: expected the columns {', '.join(wanted)} in its source; missing: "
            f"{', '.join(missing)}"
        )
    source = view.batch_source
    created = source.created_timestamp_column
    return EncodedBatch(
        keys=_keys(view, batch),
        features={
            field.name: encode_column(batch.column(field.name), field.dtype.to_value_type())
            for field in view.features
        },
        event_us=readable(batch.column(source.timestamp_field)),
        created_us=readable(batch.column(created)) if created else None,
        created_known=(
            batch.column(created).is_valid().to_numpy(zero_copy_only=False) if created else None
        ),
    )


def _left_to_feast(view: Any) -> str | None:
    """Return the reason to leave a view to Feast's local engine; None if there is none."""
    if isinstance(view, StreamFeatureView | OnDemandFeatureView):
        return f"it is a {type(view).__name__}"
    if view.batch_source is None or getattr(view, "source_views", None):
        return "it is computed from other views"
    for attribute in ("aggregations", "feature_transformation", "filter", "offline"):
        if getattr(view, attribute, None):
            return f"it has `{attribute}`"
    if not view.entities:
        return "it has no entities"
    return None
