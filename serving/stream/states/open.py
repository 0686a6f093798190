"""Where the states lie: in the online store's Redis or PostgreSQL, or in a file of this machine."""

from typing import Any

from feast import FeatureStore
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore

from serving.stream.states.postgres import PostgresStates
from serving.stream.states.protocol import StateStore
from serving.stream.states.redis import RedisStates
from serving.stream.states.sqlite import SqliteStates
from transformations.config import Config
from transformations.errors import InputError


def open_states(config: Config, store: FeatureStore) -> StateStore:
    """Open the states that belong to an online store.

    Raises:
        InputError: an online store of another kind, which workers could not share the states of.
    """
    online: Any = store._get_provider().online_store
    if isinstance(online, RedisOnlineStore):
        # A client of its own, made as the store makes its client.
        client = type(online)()._get_client(store.config.online_store)
        return RedisStates(config, client, store.project)
    if isinstance(online, PostgreSQLOnlineStore):
        return PostgresStates(config, store.config.online_store, store.project)
    if isinstance(online, SqliteOnlineStore):
        return SqliteStates(config, config.layout.state / "stream.db")
    raise InputError(
        "expected a Redis, PostgreSQL or SQLite online store for the stream, which keeps its "
        f"states beside it, got {type(online).__name__}"
    )
