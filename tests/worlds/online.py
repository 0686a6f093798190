"""A feature store over each kind of online store, for the tests of reads."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import from_value_type
from feast.value_type import ValueType

from tests.worlds.kinds import KINDS

MEMBER = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
ITEM = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def settings(kind: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """The `online_store` of feature_store.yaml, its server running."""
    return {"type": KINDS[kind].feasts, **KINDS[kind].options(request, folder, None)}


def feature_store(folder: Path, online: dict[str, Any]) -> FeatureStore:
    """An empty feature store."""
    return FeatureStore(
        config=RepoConfig(
            project="reads",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=online,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


def view(
    name: str, entities: Sequence[Entity], fields: Sequence[Field], **more: Any
) -> FeatureView:
    """A view whose source is never read."""
    keys = [
        Field(name=entity.join_key, dtype=from_value_type(entity.value_type)) for entity in entities
    ]
    source = FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="at")
    return FeatureView(
        name=name, entities=list(entities), schema=[*keys, *fields], source=source, **more
    )


def write(
    store: FeatureStore,
    of: FeatureView,
    rows: Sequence[dict[str, Any]],
    at: datetime = datetime(2026, 3, 1, tzinfo=UTC),
) -> None:
    """Write rows of join keys and features through Feast's own path."""
    frame = pd.DataFrame(rows).assign(at=at)
    store.write_to_online_store(of.name, frame)


def write_values(
    store: FeatureStore,
    of: FeatureView,
    rows: Sequence[tuple[dict[str, Value], dict[str, Value]]],
    at: datetime = datetime(2026, 3, 1, tzinfo=UTC),
) -> None:
    """Write (join keys, features) unchanged: a client in another language may store any."""
    keys = [EntityKey(join_keys=key.keys(), entity_values=key.values()) for key, _ in rows]
    store._get_provider().online_store.online_write_batch(
        store.config,
        of,
        [(key, features, at, None) for key, (_, features) in zip(keys, rows, strict=True)],
        None,
    )


def close(store: FeatureStore) -> None:
    """Close what Feast leaves open."""
    online = store._get_provider().online_store
    for name in ("_conn", "_client", "_writer"):
        connection = getattr(online, name, None)
        if connection is not None:
            connection.close()


def opened(
    kind: str, request: pytest.FixtureRequest, folder: Path, **more: Any
) -> Iterator[FeatureStore]:
    """A feature store that is closed when the generator continues."""
    store = feature_store(folder, {**settings(kind, request, folder), **more})
    yield store
    close(store)
