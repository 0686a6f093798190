"""The rows that Feast passes to `online_write_batch`, read the same way by every store here."""

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import pandas as pd
from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

Row: TypeAlias = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Entity key, features, event timestamp, created timestamp; naive timestamps are UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def entity_key(config: RepoConfig, row: Row) -> bytes:
    """Serialize a row's entity key."""
    return serialize_entity_key(
        row[0], entity_key_serialization_version=config.entity_key_serialization_version
    )


def event_us(row: Row) -> int:
    """Return a row's event timestamp in microseconds since 1970."""
    return _microseconds(row[2])


def created_us(row: Row) -> int | None:
    """Return a row's created timestamp in microseconds since 1970, or None where it has none."""
    return None if row[3] is None or row[3] is pd.NaT else _microseconds(row[3])


def _microseconds(time: datetime) -> int:
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (aware - _EPOCH) // timedelta(microseconds=1)
