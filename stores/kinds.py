"""The kinds of online store: one table for reads, for the stream's states and for outages."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import redis
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.repo_config import RepoConfig

from stores.protocols import OnlineReads
from stores.reading.plan import Plan
from stores.reading.redis import RedisReads
from stores.reading.sql import PostgresReads, SqliteReads


@dataclass(frozen=True)
class StoreKind:
    """One kind of online store, Feast's own or a subclass of it."""

    name: str
    feasts: type[OnlineStore]
    reads: Callable[[Any, RepoConfig, Plan], OnlineReads]
    gone: tuple[type[Exception], ...]
    """Raised while the store is away, besides OSError; a later try may succeed."""
    is_server: bool
    """Whether processes of other machines may write to it too."""


KINDS = (
    StoreKind("sqlite", SqliteOnlineStore, SqliteReads, (sqlite3.OperationalError,), False),
    StoreKind("redis", RedisOnlineStore, RedisReads, (redis.exceptions.RedisError,), True),
    StoreKind("postgres", PostgreSQLOnlineStore, PostgresReads, (psycopg.OperationalError,), True),
)


def kind_of(online_store: object) -> StoreKind | None:
    """Return the kind of an online store; None for a class that is not in the table."""
    return next((kind for kind in KINDS if isinstance(online_store, kind.feasts)), None)
