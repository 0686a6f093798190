"""Materialize snapshots: write the rows of one timestamp to the online store."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore

from models.lines import candidate_lines
from models.spec import Aggregator
from operations.composition import published_lists
from operations.fits import Fits, chosen
from serving.publish.feast_store import quiet
from serving.publish.items import ItemsOnline
from serving.publish.tasks import by_tasks
from transformations.config import Config
from transformations.errors import RunFailedError
from transformations.layout import part_files, partition, partitions, rows_of, snapshot_files
from transformations.names import (
    ITEM_STATS_VIEW,
    MEMBER_STATS_VIEW,
    PROFILE_VIEW,
    RECOMMENDATIONS_VIEW,
    SEQUENCE_VIEW,
)
from transformations.seals import expect_whole
from transformations.stats.member_stats import build_member_stats
from transformations.table_files import ENCODED_AGAIN, TAKE_AWAY
from transformations.tasks import Engine
from transformations.timestamps import EPOCH


def publish(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] | None = None,
    progress: Callable[[int], object] | None = None,
    with_sequences: bool = True,
    engine: Engine | None = None,
) -> int:
    """Write the snapshot of `as_of`, and the item vectors available by then, to the online store.

    Only the snapshot's rows are written: all of them carry event_timestamp = as_of.

    Args:
        with_sequences: The view of sequences too, and that of the statistics which are made from
            them: where a version before these wrote the snapshot, here. A run writes both once.
        progress: Called with a number of rows once they are written.
        engine: Whose tasks write a snapshot that lies in buckets to a server; default: this
            process, which also writes to SQLite, the items, and what a store of another kind gets.

    Returns the number of written rows.

    Raises:
        RunFailedError: a partition of this snapshot is missing.
    """
    aggregators = chosen(config, aggregators)
    names = views(aggregators, with_sequences)
    files = {view: snapshot_files(config.layout.table(view), as_of) for view in names}
    if files.get(MEMBER_STATS_VIEW) == [] and files[SEQUENCE_VIEW]:
        build_member_stats(config, as_of)
        files[MEMBER_STATS_VIEW] = snapshot_files(config.layout.member_stats, as_of)
    for view, some in files.items():
        if not some:
            raise RunFailedError(
                f"{view} has no snapshot of {as_of:%Y-%m-%d %H:%M}: expected "
                f"{partition(config.layout.table(view), as_of)}; build it first (activity run does)"
            )
    expect_whole(
        [file for some in files.values() for file in some],
        f"{TAKE_AWAY}, then build the snapshot again",
    )
    written = 0
    for view, some in files.items():
        with by_tasks(config, store, some, as_of, engine, progress) as is_told:
            materialize(store, view, as_of, as_of)
        rows = rows_of(some)
        written += rows
        if progress is not None and not is_told:
            progress(rows)
    spaces = [own for own, _ in Fits(config).all_spaces(aggregators)]
    return written + publish_items(spaces, store, as_of, progress)


def publish_lapsed(
    config: Config,
    store: FeatureStore,
    first: datetime,
    newest: datetime,
    aggregators: Sequence[Aggregator],
) -> int:
    """Write the last row of members who have one in [first, newest), and none as of `newest`.

    Returns the number of those rows.

    Args:
        newest: The snapshot that is online. Its rows are the newest of their members, so a store
            that would put an older row in the place of a newer one is given none.
    """
    there = {view.name for view in store.list_feature_views()}
    written = 0
    for view in views(aggregators):
        folder = config.layout.table(view)
        last = snapshot_files(folder, newest)
        days = [at for at in partitions(folder) if first <= at < newest]
        before = [file for at in days for file in snapshot_files(folder, at)]
        if view not in there or not before or not last:
            continue
        stays = pc.is_in(pc.unique(_members(before)), value_set=pc.unique(_members(last)))
        lapsed = len(stays) - pc.sum(stays).as_py()
        if lapsed:
            materialize(store, view, first, newest)
            written += lapsed
    return written


class Table(NamedTuple):
    """Snapshots that stand beside those of the members: lists of candidates, statistics of items.

    Attributes:
        view: The view that reads them.
        key: Its key column.
        folder: Where their partitions lie.
    """

    view: str
    key: str
    folder: Path


def tables_beside(config: Config) -> list[Table]:
    """Return the tables that a run may write beside those of the members."""
    lists = [(source, source.view(own.space)) for source, own in published_lists(config)]
    has_lists = bool(config.recommend.precompute and candidate_lines(config))
    return [
        Table(ITEM_STATS_VIEW, "item_id", config.layout.item_stats),
        *(Table(view, source.key, config.layout.lists(view)) for source, view in lists),
        *[Table(RECOMMENDATIONS_VIEW, "member_id", config.layout.recommendations)][:has_lists],
    ]


def _members(files: Sequence[Path]) -> pa.ChunkedArray:
    # One by one: a version of before, or another writer, may have made a column that holds no null.
    read = [pq.read_table(file, columns=["member_id"])[0] for file in files]
    return pa.chunked_array([chunk for column in read for chunk in column.chunks], read[0].type)


def publish_tables(store: FeatureStore, as_of: datetime, tables: Iterable[Table]) -> int:
    """Write the rows of tables as of a timestamp; return their number."""
    written = 0
    for view, _, folder in tables:
        file = partition(folder, as_of)
        expect_whole([file], f"{TAKE_AWAY}, then activity run")
        materialize(store, view, as_of, as_of)
        written += pq.read_metadata(file).num_rows
    return written


def publish_profiles(config: Config, store: FeatureStore, as_of: datetime) -> int:
    """Write each member's newest profile by `as_of`; return how many rows were looked through.

    All of them, in each run: a source without times may hold other values under the same time.
    """
    file = config.layout.members
    expect_whole([file], f"{TAKE_AWAY}, then activity run")
    materialize(store, PROFILE_VIEW, EPOCH, as_of)
    return pq.read_metadata(file).num_rows


def publish_items(
    spaces: Sequence[Config],
    store: FeatureStore,
    as_of: datetime,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the item vectors that are available by `as_of` and not online yet.

    Args:
        spaces: The configuration in each item space.
        progress: Called with a number of rows once they are written.

    Returns the number of written rows.
    """
    written = 0
    for own in spaces:
        items = ItemsOnline(own, store)
        first, rows = items.missing(as_of)
        if first is not None:
            expect_whole(part_files(own.items_dir), ENCODED_AGAIN)
            materialize(store, own.item_view, first, as_of)
            written += rows
            if progress is not None:
                progress(rows)
        items.published(as_of)
    return written


def views(aggregators: Sequence[Aggregator], with_sequences: bool = True) -> list[str]:
    """Return the names of the member views, each of which has one snapshot per day.

    Args:
        with_sequences: That of the sequences too, and of the statistics that are made from them.
    """
    of_sequences = [SEQUENCE_VIEW, MEMBER_STATS_VIEW]
    return of_sequences * with_sequences + [aggregator.view for aggregator in aggregators]


def materialize(store: FeatureStore, view: str, first: datetime, last: datetime) -> None:
    """Write a view's newest rows of a range to the online store."""
    with quiet():
        store.materialize(start_date=first, end_date=last, feature_views=[view])
