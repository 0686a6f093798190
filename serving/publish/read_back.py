"""What the online store returns is what was published: members drawn at random, compared."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
from feast import FeatureStore

from models.catalog import AGGREGATORS
from models.spec import Aggregator
from serving.publish.snapshots import folders
from transformations.config import Config
from transformations.duck import connect, sql
from transformations.errors import RunFailedError
from transformations.layout import partition

TOLERANCE = 1e-6


def read_back(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
    members: int = 200,
    seed: int | None = None,
) -> int:
    """Compare what the online store returns with the tables, for members drawn at random.

    Every feature of every view is compared, and as many item vectors: numbers to 1e-6, moments in
    whole seconds (Feast keeps no more online), everything else exactly.

    Args:
        seed: None draws others each time.

    Returns the number of rows compared.

    Raises:
        RunFailedError: a value differs; names the key, the view, the feature and both values.
    """
    drawn = {"count": members, "seed": secrets.randbits(32) if seed is None else seed}
    compared = 0
    with connect(config) as con:
        query = sql("read_back_members", __file__)
        for view, folder in folders(config, aggregators):
            cursor = con.execute(query, drawn | {"file": str(partition(folder, as_of))})
            compared += _compare(store, view, cursor, as_of)
        files = [str(file) for file in config.items_dir.glob("*.parquet")]
        if files:
            query = sql("read_back_items", __file__)
            cursor = con.execute(query, drawn | {"files": files, "as_of": as_of})
            compared += _compare(store, config.item_view, cursor)
    return compared


def _compare(
    store: FeatureStore,
    name: str,
    cursor: duckdb.DuckDBPyConnection,
    as_of: datetime | None = None,
) -> int:
    """Raise RunFailedError unless the online store holds these rows of a view's table.

    Args:
        as_of: The event_timestamp of the rows. A row online that is newer came from the stream,
            which the snapshot does not undo; it is not compared, nor counted.
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
    moments = answer.proto.results[-1].event_timestamps
    newer = [as_of is not None and moment.ToDatetime(UTC) > as_of for moment in moments]
    values = answer.to_dict()
    for field in view.features:
        for row, online, is_newer in zip(rows, values[field.name], newer, strict=True):
            if is_newer:
                continue
            expected = row[stored.get(field.name, field.name)]
            if not _same(expected, online):
                raise RunFailedError(
                    f"read back of {view.name}: for {key} {row[key]} the online store returns "
                    f"{field.name} = {online!r}, the table holds {expected!r}; another process may "
                    "have written to this store: find out which, then run this again"
                )
    return newer.count(False)


def _same(expected: Any, online: Any) -> bool:
    if isinstance(expected, list):
        # Feast returns null for a list without elements, which is what a lapsed member has.
        online = [] if online is None else online
        return len(expected) == len(online) and all(map(_same, expected, online))
    if isinstance(expected, datetime):
        return online is not None and expected.timestamp() // 1 == online.timestamp()
    if isinstance(expected, float):
        return online is not None and abs(expected - online) <= TOLERANCE
    return bool(expected == online)
