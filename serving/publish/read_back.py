"""Check that the online store returns what was published, for members drawn at random."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
from feast import FeatureStore

from models.spec import Aggregator
from operations.fits import Fits, chosen
from serving.publish.items import ItemsOnline
from serving.publish.snapshots import Table, views
from stores.eviction import eviction
from transformations.config import Config
from transformations.duck import connect, sql
from transformations.errors import RunFailedError
from transformations.layout import part_files, partition, snapshot_files
from transformations.names import PROFILE_VIEW
from transformations.quoting import identifier, one_file

TOLERANCE = 1e-6


def read_back(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] | None = None,
    members: int = 200,
    seed: int | None = None,
    with_sequences: bool = True,
) -> int:
    """Compare what the online store returns with the tables, for members drawn at random.

    Every feature of every view is compared, and the same number of item vectors. Floats must agree
    to 1e-6, timestamps to the whole second (Feast keeps no more online), everything else exactly.

    Args:
        seed: None draws a new sample each time.

    Returns the number of compared rows.

    Raises:
        RunFailedError: a value differs; names the key, the view, the feature and both values.
    """
    aggregators = chosen(config, aggregators)
    drawn = {"count": members, "seed": secrets.randbits(32) if seed is None else seed}
    compared = 0
    with connect(config) as con:
        query = sql("read_back_members", __file__)
        for view in views(aggregators, with_sequences):
            of_view = snapshot_files(config.layout.table(view), as_of)
            cursor = con.execute(query, drawn | {"file": [one_file(file) for file in of_view]})
            compared += _compare(store, view, cursor, as_of)
        query = sql("read_back_items", __file__)
        for own, _ in Fits(config).all_spaces(aggregators):
            files = [one_file(file) for file in part_files(own.items_dir)]
            if files:
                # A refresh of items may have published later ones than this snapshot's.
                until = max(as_of, ItemsOnline(own, store).until)
                cursor = con.execute(query, drawn | {"files": files, "as_of": until})
                compared += _compare(store, own.item_view, cursor)
    return compared


def read_back_tables(
    config: Config, store: FeatureStore, as_of: datetime, tables: Iterable[Table], count: int = 200
) -> int:
    """As `read_back`, of tables that stand beside those of the members."""
    compared = 0
    with connect(config) as con:
        for view, key, folder in tables:
            cursor = con.execute(
                "select * from read_parquet($file, hive_partitioning = false) "
                f"order by hash({identifier(key)}, $seed::bigint) limit $count",
                {
                    "file": one_file(partition(folder, as_of)),
                    "seed": secrets.randbits(32),
                    "count": count,
                },
            )
            compared += _compare(store, view, cursor, as_of)
    return compared


def read_back_profiles(
    config: Config, store: FeatureStore, as_of: datetime, count: int = 200
) -> int:
    """As `read_back`, of members' profiles."""
    with connect(config) as con:
        cursor = con.execute(
            sql("read_back_profiles", __file__),
            {
                "file": one_file(config.layout.members),
                "as_of": as_of,
                "seed": secrets.randbits(32),
                "count": count,
            },
        )
        return _compare(store, PROFILE_VIEW, cursor)


def _compare(
    store: FeatureStore,
    name: str,
    cursor: duckdb.DuckDBPyConnection,
    as_of: datetime | None = None,
) -> int:
    """Raise RunFailedError unless the online store holds these rows of a view's table.

    Args:
        as_of: The event_timestamp of the rows. A newer online row was written by the stream and
            stays; it is neither compared nor counted.
    """
    columns = [column[0] for column in cursor.description or []]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    if not rows:
        return 0
    view = store.get_feature_view(name)
    (key,) = view.join_keys
    stored = {new: old for old, new in view.batch_source.field_mapping.items()}
    answer = store.get_online_features(
        features=[f"{name}:{field.name}" for field in view.features],
        entity_rows=[{key: row[key]} for row in rows],
    )
    timestamps = answer.proto.results[-1].event_timestamps
    newer = [as_of is not None and stamp.ToDatetime(UTC) > as_of for stamp in timestamps]
    values = answer.to_dict()
    for field in view.features:
        for row, online, is_newer in zip(rows, values[field.name], newer, strict=True):
            if is_newer:
                continue
            expected = row[stored.get(field.name, field.name)]
            if not _same(expected, online):
                lost = eviction(store)
                why = (
                    f"The store evicts keys when its memory is full ({lost}): give it more memory, "
                    "or set maxmemory-policy noeviction, then run this again"
                    if lost and online is None
                    else "Another process may have written to this store; find it, then run this "
                    "again"
                )
                raise RunFailedError(
                    f"read back of {view.name}: for {key} {row[key]} the online store returns "
                    f"{field.name} = {online!r}, the table holds {expected!r}. {why}"
                )
    return newer.count(False)


def _same(expected: Any, online: Any) -> bool:
    if isinstance(expected, list):
        # Feast returns null for an empty list; a lapsed member has empty lists.
        online = [] if online is None else online
        return len(expected) == len(online) and all(map(_same, expected, online))
    if isinstance(expected, datetime):
        return online is not None and expected.timestamp() // 1 == online.timestamp()
    if isinstance(expected, float):
        if expected != expected:  # of an attribute that is missing
            return online is not None and online != online
        return online is not None and abs(expected - online) <= TOLERANCE
    return bool(expected == online)
