"""A compute engine that materializes in columns: DuckDB selects, numpy encodes, the store writes.

Named by class path in feature_store.yaml:

    batch_engine:
      type: stores.columnar.ColumnarComputeEngine

DuckDB reads a view over local Parquet directly; the offline store reads any other source through
its own `pull_latest_from_table_or_query`. Feast's local engine materializes views that compute
(transformations, aggregations, a filter) and views that also write offline.
"""

import logging
from collections.abc import Callable, Generator
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
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
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


class OnlineWriteError(RuntimeError):
    """The online store failed midway; the cause is attached."""


class ColumnarComputeEngine(LocalComputeEngine):
    """Feast's local engine with materialization in columns."""

    def __init__(
        self,
        *,
        batch_rows: int = 20_000,
        memory_limit: str = "256MB",
        threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._settings = ColumnarComputeEngineConfig(
            batch_rows=batch_rows, memory_limit=memory_limit, threads=threads
        )
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
            if view.online:
                self._write(view, self._batches(registry, task), task)
        except Exception as raised:
            status, error = MaterializationJobStatus.ERROR, raised
        return LocalMaterializationJob(
            job_id=f"{view.name}-{task.start_time}-{task.end_time}", status=status, error=error
        )

    def _batches(
        self, registry: BaseRegistry, task: MaterializationTask
    ) -> Generator[pa.RecordBatch]:
        """Yield the newest row of every key in the task's range, under the view's own names."""
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        columns = Columns(*_get_column_names(view, entities))
        start, end = task.start_time, task.end_time
        if task.disable_event_timestamp:
            start, end = datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC)
        path = parquet_path(view.batch_source, self.repo_config.repo_path)
        mapping = view.batch_source.field_mapping or {}
        if path is not None:
            types = declared_types(view)
            names = [*columns.join_keys, *columns.features]
            newest = newest_batches(
                path,
                columns,
                start,
                end,
                declared={name: types.get(mapping.get(name, name)) for name in names},
                batch_rows=self._settings.batch_rows,
                memory_limit=self._settings.memory_limit,
                threads=self._settings.threads,
            )
        else:
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
            newest = iter(job.to_arrow().to_batches(max_chunksize=self._settings.batch_rows))
        for batch in newest:
            yield batch.rename_columns([mapping.get(name, name) for name in batch.schema.names])

    def _write(
        self, view: FeatureView, batches: Generator[pa.RecordBatch], task: MaterializationTask
    ) -> None:
        store = self.online_store
        config = self.repo_config
        takes_batches = isinstance(store, BulkOnlineStore) and store.takes_encoded(config)
        sorting_in = store.sorts_in(config) if takes_batches else None
        if sorting_in is not None:
            batches = in_key_order(
                batches, partial(_keys, view), sorting_in, self._settings.batch_rows
            )
        types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
        bar = task.tqdm_builder(None) if task.tqdm_builder else None

        acknowledged = 0

        def acknowledge(write: Callable[[], None], rows: int) -> None:
            nonlocal acknowledged
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
            if bar is not None:
                bar.update(rows)

        # While the server (the disk, with SQLite) writes one batch, this thread reads, encodes and
        # lays out the next.
        writing: Future[None] | None = None
        try:
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
        finally:
            if bar is not None:
                bar.close()


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
