"""Stored bytes from Feast's SQLite and PostgreSQL online stores.

Both keep a table per view (`project_view`) with a row per entity key and feature: the serialized
key, the feature's name, the value's bytes, the event timestamp.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
from feast.repo_config import RepoConfig
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from stores.bytes.decode import NAT
from stores.bytes.wire import MICROSECONDS
from stores.postgres_zone import in_utc, in_utc_async
from stores.reading.plan import Fetched, Plan, ReadError
from stores.sqlite_times import columns_of, event_seconds

# Far below the parameters that any SQLite allows in a statement (32,766 since 3.32).
_KEYS_PER_STATEMENT = 10_000

StoredRow = tuple[int, bytes, str, bytes, int]  # view, key, feature, value, event timestamp
Query = tuple[str, list[str], int]  # statement, its features, the index of its keys


class SqliteReads:
    """Reads by one plan over its own connections; threads may share it."""

    def __init__(self, store: SqliteOnlineStore, config: RepoConfig, plan: Plan) -> None:
        self._path = store._get_db_path(config)
        self._plan = plan
        self._idle: deque[sqlite3.Connection] = deque()  # appends and pops are atomic
        self._tables = list(_tables(config, plan))
        self._queries: list[Query] = []

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """Return the stored bytes of each group's keys per view, in one transaction."""
        with self._connection() as connection:
            queries = self._queries or self._written(connection)
            if len(queries) == 1 and len(keys[0]) <= _KEYS_PER_STATEMENT:
                rows = self._rows(connection, queries, keys)  # one statement is one transaction
            else:
                connection.execute("begin")  # so that all views are read as of one time
                try:
                    rows = self._rows(connection, queries, keys)
                finally:
                    connection.execute("rollback")  # nothing was written
        return _sorted_in(self._plan, keys, rows, MICROSECONDS.__mul__)

    async def fetch_async(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """As `fetch`, in a thread: SQLite cannot wait in another way."""
        return await asyncio.to_thread(self.fetch, keys)

    def close(self) -> None:
        """Close the connections that no thread is using."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    async def aclose(self) -> None:
        """Do nothing: no connection is bound to the event loop."""

    def _written(self, connection: sqlite3.Connection) -> list[Query]:
        queries, all_exact = [], True
        for nth, (table, names, group) in enumerate(self._tables):
            columns = columns_of(connection, table)
            queries.append((_select(nth, table, names, event_seconds(columns)), names, group))
            all_exact = all_exact and "event_us" in columns
        if all_exact:  # else a later `apply` or write adds the column
            self._queries = queries
        return queries

    def _rows(
        self,
        connection: sqlite3.Connection,
        queries: Sequence[Query],
        keys: Sequence[Sequence[bytes]],
    ) -> list[StoredRow]:
        rows: list[StoredRow] = []
        for query, names, group in queries:
            wanted = keys[group]
            for at in range(0, len(wanted), _KEYS_PER_STATEMENT):
                some = wanted[at : at + _KEYS_PER_STATEMENT]
                statement = f"{query}{_marks(len(some))})"
                rows += connection.execute(statement, [*names, *some]).fetchall()
        return rows

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            try:
                connection = sqlite3.connect(
                    f"file:{self._path}?mode=ro", uri=True,
                    isolation_level=None, check_same_thread=False,
                )  # fmt: skip
            except sqlite3.OperationalError as error:
                raise ReadError(
                    f"expected the online store's database at {self._path}, got: {error}. Run "
                    "feast apply and materialize first"
                ) from error
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise _not_applied(error) from error
            raise
        finally:
            self._idle.append(connection)


class PostgresReads:
    """Reads by one plan; threads may share it, and one event loop its asynchronous half."""

    def __init__(self, store: PostgreSQLOnlineStore, config: RepoConfig, plan: Plan) -> None:
        del store  # its connection or pool leaks on errors, so this reader opens its own
        settings = config.online_store
        self._plan = plan
        self._pool_settings: dict[str, Any] = {
            "conninfo": _get_conninfo(settings),
            "kwargs": {**_get_conn_kwargs(settings), "autocommit": True},
            "min_size": 1,
            "max_size": max(1, settings.max_conn),
        }
        self._pool = ConnectionPool(**self._pool_settings, configure=in_utc, open=True)
        self._async_pool: AsyncConnectionPool | None = None
        self._opening = asyncio.Lock()
        self._query = sql.SQL(" union all ").join(
            sql.SQL(
                "select {nth}, entity_key, feature_name, value, "
                "(extract(epoch from event_ts::timestamp) * 1000000)::bigint from {table} "
                "where entity_key = any(%s) and feature_name = any(%s)"
            ).format(nth=sql.Literal(nth), table=sql.Identifier(table))
            for nth, (table, _, _) in enumerate(_tables(config, plan))
        )

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """Return the stored bytes of each group's keys per view, by one statement."""
        try:
            rows = self._rows(keys)
        except psycopg.OperationalError:
            self._pool.check()  # a restarted server broke the idle connections: replace them
            rows = self._rows(keys)
        return _sorted_in(self._plan, keys, rows, int)

    def _rows(self, keys: Sequence[Sequence[bytes]]) -> list[StoredRow]:
        with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            try:
                return cursor.execute(self._query, self._parameters(keys)).fetchall()
            except psycopg.errors.UndefinedTable as error:
                raise _not_applied(error) from error

    async def fetch_async(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """As `fetch`, without blocking the event loop."""
        async with self._opening:
            if self._async_pool is None:
                self._async_pool = AsyncConnectionPool(
                    **self._pool_settings, configure=in_utc_async, open=False
                )
                await self._async_pool.open()
        try:
            rows = await self._rows_async(self._async_pool, keys)
        except psycopg.OperationalError:
            await self._async_pool.check()
            rows = await self._rows_async(self._async_pool, keys)
        return _sorted_in(self._plan, keys, rows, int)

    async def _rows_async(
        self, pool: AsyncConnectionPool, keys: Sequence[Sequence[bytes]]
    ) -> list[StoredRow]:
        async with pool.connection() as connection, connection.cursor(binary=True) as cursor:
            try:
                await cursor.execute(self._query, self._parameters(keys))
            except psycopg.errors.UndefinedTable as error:
                raise _not_applied(error) from error
            return await cursor.fetchall()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    async def aclose(self) -> None:
        """Close the connections of the event loop."""
        if self._async_pool is not None:
            await self._async_pool.close()

    def _parameters(self, keys: Sequence[Sequence[bytes]]) -> list[Any]:
        return [
            part
            for group, wanted in zip(self._plan.groups, keys, strict=True)
            for view in group.views
            for part in (list(wanted), [feature.name for feature in view.features])
        ]


def _tables(config: RepoConfig, plan: Plan) -> Iterator[tuple[str, list[str], int]]:
    """Yield each view's table, the features read from it, and the index of its key group."""
    versioned = config.registry.enable_online_feature_view_versioning
    for index, group in enumerate(plan.groups):
        for view in group.views:
            name = compute_table_id(config.project, view.table, versioned)
            yield name, [feature.name for feature in view.features], index


def _sorted_in(
    plan: Plan,
    keys: Sequence[Sequence[bytes]],
    rows: Iterable[StoredRow],
    microseconds: Callable[[int], int],
) -> list[list[Fetched]]:
    """Put the rows of all views, in any order, into columns in the order of the keys."""
    indexes, columns, stamps = [], [], []
    for group, wanted in zip(plan.groups, keys, strict=True):
        index_of = {key: index for index, key in enumerate(wanted)}
        for view in group.views:
            names = [feature.name for feature in view.features]
            indexes.append(index_of)
            columns.append({name: _empty(len(wanted)) for name in names})
            stamps.append(_empty(len(wanted)))
    for nth, key, feature, value, stamp in rows:
        index = indexes[nth][key]
        columns[nth][feature][index] = value
        stamps[nth][index] = stamp

    known = {stamp: microseconds(stamp) for cells in stamps for stamp in {*cells} - {None}}
    known[None] = NAT
    fetched = (
        Fetched(list(cells.values()), np.array([known[s] for s in times], np.int64).view("M8[us]"))
        for cells, times in zip(columns, stamps, strict=True)
    )
    return [[next(fetched) for _ in group.views] for group in plan.groups]


def _empty(length: int) -> list[Any]:
    return [None] * length


def _select(nth: int, table: str, names: list[str], seconds: str) -> str:
    """Return the statement up to the marks of the keys."""
    return (
        f"select {nth}, entity_key, feature_name, value, {seconds} from {_quoted(table)} "
        f"where feature_name in ({_marks(len(names))}) and entity_key in ("
    )


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _not_applied(error: Exception) -> ReadError:
    return ReadError(
        f"expected a table for each view in the online store, got: {error}. Run feast apply"
    )
