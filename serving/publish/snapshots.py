"""Materialize snapshots, and record since when their rows can be read online."""

from collections.abc import Callable, Sequence
from datetime import datetime

import pyarrow.parquet as pq
from feast import FeatureStore

from models.lines import chosen
from models.spec import Aggregator
from serving.publish.feast_store import quiet
from serving.publish.items import ItemsOnline
from transformations.config import Config
from transformations.duck import connect, copy
from transformations.errors import RunFailedError
from transformations.files import replacing
from transformations.layout import partition
from transformations.names import SEQUENCE_VIEW


def publish(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the snapshot of `as_of`, and the item vectors available by then, to the online store.

    Only the snapshot's rows are written: all of them carry event_timestamp = as_of.

    Args:
        progress: Called with a number of rows once they are written.

    Returns the number of written rows.

    Raises:
        RunFailedError: a partition of this snapshot is missing.
    """
    aggregators = chosen(config, aggregators)
    files = {view: partition(config.layout.table(view), as_of) for view in views(aggregators)}
    for view, file in files.items():
        if not file.exists():
            raise RunFailedError(
                f"{view} has no snapshot of {as_of:%Y-%m-%d %H:%M}: expected {file}; build it "
                "first (activity run does)"
            )
    written = 0
    for view, file in files.items():
        materialize(store, view, as_of, as_of)
        rows = pq.read_metadata(file).num_rows
        written += rows
        if progress is not None:
            progress(rows)
    items = ItemsOnline(config, store)
    first, rows = items.missing(as_of)
    if first is not None:
        materialize(store, config.item_view, first, as_of)
        written += rows
        if progress is not None:
            progress(rows)
    items.published(as_of)
    return written


def restamp(
    config: Config,
    as_of: datetime,
    created_timestamp: datetime,
    aggregators: Sequence[Aggregator] | None = None,
) -> int:
    """Set the created_timestamp of a snapshot's rows: since when they can be read online.

    Each partition is replaced in one step. Returns the number of rows.
    """
    aggregators = chosen(config, aggregators)
    rows = 0
    with connect(config) as con:
        for view in views(aggregators):
            file = partition(config.layout.table(view), as_of)
            with replacing(file) as temporary:
                copy(
                    con,
                    "select * replace ($created::timestamptz as created_timestamp) from "
                    "read_parquet($file, hive_partitioning = false)",
                    temporary,
                    {"created": created_timestamp, "file": str(file)},
                )
            rows += pq.read_metadata(file).num_rows
    return rows


def views(aggregators: Sequence[Aggregator]) -> list[str]:
    """Return the names of the member views, each of which has one snapshot per day."""
    return [SEQUENCE_VIEW, *(aggregator.view for aggregator in aggregators)]


def materialize(store: FeatureStore, view: str, first: datetime, last: datetime) -> None:
    """Write a view's newest rows of a range to the online store."""
    with quiet():
        store.materialize(start_date=first, end_date=last, feature_views=[view])
