"""The table of state stores: in the online store's Redis or PostgreSQL, or in a local file."""

from collections.abc import Callable
from typing import Any

from feast import FeatureStore

from serving.stream.states.postgres import PostgresStates
from serving.stream.states.protocol import StateStore
from serving.stream.states.redis import RedisStates
from serving.stream.states.sqlite import SqliteStates
from stores.kinds import kind_of
from transformations.config import Config
from transformations.errors import InputError


def open_states(config: Config, store: FeatureStore) -> StateStore:
    """Open the states that belong to an online store.

    Raises:
        InputError: the kind of the online store is not in the table.
    """
    online: Any = store._get_provider().online_store
    kind = kind_of(online)
    if kind is None or kind.name not in STATES:
        raise InputError(
            "the stream keeps its states beside the online store: expected one of the kinds "
            f"{', '.join(STATES)}, got {type(online).__name__}"
        )
    return STATES[kind.name](config, store, online)


def _open_sqlite(config: Config, _: FeatureStore, __: Any) -> StateStore:
    return SqliteStates(config, config.layout.state / "stream.db")


def _open_redis(config: Config, store: FeatureStore, online: Any) -> StateStore:
    # A separate client, made as the store makes its own.
    client = type(online)()._get_client(store.config.online_store)
    return RedisStates(config, client, store.project)


def _open_postgres(config: Config, store: FeatureStore, _: Any) -> StateStore:
    return PostgresStates(config, store.config.online_store, store.project)


# Name of a kind in stores/kinds.py → opener.
STATES: dict[str, Callable[[Config, FeatureStore, Any], StateStore]] = {
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "postgres": _open_postgres,
}
