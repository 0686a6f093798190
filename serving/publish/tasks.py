"""A view's rows written online by the tasks of an engine: each reads some of a snapshot's files.

The task opens the online store as this process does, by the settings file and its own environment,
so no password travels. Feast's registry is asked and told by this process alone.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore, FeatureView
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto

from serving.publish.feast_store import store_settings
from stores.columnar import (
    ColumnarComputeEngine,
    ColumnarComputeEngineConfig,
    newest_rows,
    write_rows,
)
from stores.kinds import kind_of
from stores.writing.newest import Columns
from transformations.config import Config
from transformations.errors import InputError
from transformations.layout import bucket_in
from transformations.tasks import Engine


@dataclass(frozen=True)
class WriteTask:
    """Some files of a view's snapshot.

    Attributes:
        view: Feast's message of the view.
        columns: The view's, in the files.
        bounds: What the task may take; of the rate, its share.
    """

    view: bytes
    columns: Columns
    files: tuple[Path, ...]
    as_of: datetime
    bounds: ColumnarComputeEngineConfig


def write_files(config: Config, con: Connection, task: WriteTask) -> int:  # noqa: ARG001
    """Write the rows of files, never over newer ones; the function of an engine's tasks.

    Returns their number.

    Raises:
        InputError: the settings file needs a variable that the task's environment lacks.
        OnlineWriteError: the store failed.
    """
    try:
        settings = store_settings(config)
    except InputError as error:
        raise InputError(
            f"{error}. That was in a task, whose environment is that of the process that runs it: "
            "docs/spark.md#publishing says how it gets passwords"
        ) from None
    view = FeatureView.from_proto(FeatureViewProto.FromString(task.view))
    store = get_online_store_from_config(settings.online_store)
    written = 0
    try:
        for file in task.files:
            rows = newest_rows(view, task.columns, str(file), (task.as_of, task.as_of), task.bounds)
            written += write_rows(store, settings, view, rows, task.bounds)
    finally:
        asyncio.run(store.close())
    return written


@contextmanager
def by_tasks(
    config: Config,
    store: FeatureStore,
    files: Sequence[Path],
    as_of: datetime,
    engine: Engine | None,
    progress: Callable[[int], object] | None,
) -> Iterator[bool]:
    """Let an engine's tasks write what is materialized in the block, where they can.

    They can where the files lie in buckets, and the store is a server that this project's plug-ins
    write to. Files are dealt out to as many tasks as run at once, and the rate is divided among
    them: whatever Spark starts, at the same time or again, the sum stays within the bound.

    Args:
        files: Those of the snapshot that is materialized.
        progress: Called with a number of rows once they are written.

    Yields whether tasks do, and call `progress`.
    """
    provider: Any = store._get_provider()
    materializing, kind = provider.batch_engine, kind_of(provider.online_store)
    is_shared = (
        engine is not None
        and all(bucket_in(file) is not None for file in files)
        and kind is not None
        and kind.is_server
        and isinstance(materializing, ColumnarComputeEngine)
    )
    if engine is None or not is_shared:
        yield False
        return

    def write(view: FeatureView, columns: Columns) -> None:
        rate = materializing.settings.rows_per_second
        count = min(len(files), engine.slots, rate or len(files))
        bounds = materializing.settings.model_copy(
            update={
                "rows_per_second": rate and rate // count,
                "memory_limit": config.engine.memory,
                "threads": config.engine.threads,
            }
        )
        message = view.to_proto().SerializeToString()
        tasks = [
            WriteTask(message, columns, tuple(files[first::count]), as_of, bounds)
            for first in range(count)
        ]
        for _, rows in engine.run(config, write_files, tasks):
            if progress is not None:
                progress(rows)

    materializing.written_by = write
    try:
        yield True
    finally:
        materializing.written_by = None
