"""PostgreSQL online store that keeps the newest row and takes whole encoded batches.

The table, its bytes and all reads are Feast's. A batch is copied into a temporary table and merged
from there by one statement in one transaction.
"""

import contextlib
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import get_list_val_str
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.infra.online_stores.postgres_online_store.postgres import (
    PostgreSQLOnlineStore,
    PostgreSQLOnlineStoreConfig,
    _table_id,
)
from feast.infra.utils.postgres.connection_utils import (
    _get_conn,
    _get_conn_async,
    _get_connection_pool,
    _get_connection_pool_async,
)
from feast.infra.utils.postgres.postgres_config import ConnectionType
from psycopg import AsyncConnection, Connection, sql
from psycopg.errors import UniqueViolation
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from stores.bytes.encode import EncodedBatch
from stores.postgres_zone import in_utc, in_utc_async
from stores.reading.expiry import ExpiringReads
from stores.writing.postgres_copy import (
    COLUMNS,
    ENCODED_COLUMNS,
    NULL,
    POSTGRES_EPOCH_US,
    copy_rows,
    encoded_rows,
    field,
    timestamp_field,
)
from stores.writing.rows import Row, created_us, entity_key, event_us

# The columns are `timestamp`, as Feast sends its times; the session is in UTC.
_CREATE = """
create temporary table if not exists feast_incoming (
    entity_key bytea,
    feature_name text,
    value bytea,
    value_text text,
    value_num double precision,
    vector_value text,
    event_ts timestamp,
    created_ts timestamp
) on commit delete rows
"""

# Rows are in key order (see _merge), and a temporary table is scanned in the order of insertion. So
# two writers lock rows in one order and cannot deadlock.
_MERGE = """
insert into {table} as stored ({columns})
select {incoming}
from feast_incoming
on conflict (entity_key, feature_name) do update set {assignments}
where
    (excluded.event_ts, coalesce(excluded.created_ts, '-infinity'))
    >= (stored.event_ts, coalesce(stored.created_ts, '-infinity'))
"""


class ColumnarPostgreSQLOnlineStoreConfig(PostgreSQLOnlineStoreConfig):
    """As Feast's own PostgreSQL store; only the class path differs."""

    type: Literal["stores.postgres.ColumnarPostgreSQLOnlineStore"] = (
        "stores.postgres.ColumnarPostgreSQLOnlineStore"
    )


class ColumnarPostgreSQLOnlineStore(ExpiringReads, PostgreSQLOnlineStore):
    """Feast's PostgreSQL store with ordered writes by COPY and connections that recover."""

    _conn: Connection | None
    _conn_pool: ConnectionPool | None
    _conn_async: AsyncConnection | None
    _conn_pool_async: AsyncConnectionPool | None

    def __init__(self) -> None:
        super().__init__()
        self._writer: Connection | None = None
        self._writing = threading.RLock()
        self._was_empty: dict[str, bool] = {}

    def takes_encoded(self, config: RepoConfig) -> bool:
        """Whether `prepare_write` fills every column that this configuration asks for."""
        options = config.online_store
        return not (options.vector_enabled or options.enable_openai_compatible_store)

    def sorts_in(self, config: RepoConfig) -> None:
        """Return None: the order of keys is all one to this store."""

    def prepare_write(
        self, config: RepoConfig, table: FeatureView, batch: EncodedBatch
    ) -> Callable[[], None]:
        """Lay out a batch; return a function that writes it in one transaction, newest rows only.

        The write raises:
            psycopg.Error: the server went away or refused; the whole batch is rolled back.
        """
        rows = encoded_rows(batch)
        return partial(self._merge, config, table, rows, ENCODED_COLUMNS, new=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast does, but never an older one over a newer one."""
        options = config.online_store
        newest: dict[tuple[bytes, str], tuple[tuple[int, float], bytes]] = {}
        for row in data:
            key = entity_key(config, row)
            when, made = event_us(row), created_us(row)
            order = (when, float("-inf") if made is None else made)
            times = timestamp_field(when - POSTGRES_EPOCH_US) + timestamp_field(
                None if made is None else made - POSTGRES_EPOCH_US
            )
            for name, value in row[1].items():
                # One statement must not write a row twice, and a push may contain a key twice.
                if (key, name) in newest and newest[key, name][0] > order:
                    continue
                text, number = extract_text_and_num(value, True)
                vector = get_list_val_str(value) if options.vector_enabled else None
                newest[key, name] = (
                    order,
                    b"\x00\x08"
                    + field(key)
                    + field(name.encode())
                    + field(value.SerializeToString())
                    + (NULL if text is None else field(text.encode()))
                    + (NULL if number is None else field(struct.pack(">d", number)))
                    + (NULL if vector is None else field(vector.encode()))
                    + times,
                )
        rows = b"".join(newest[cell][1] for cell in sorted(newest))
        self._merge(config, table, [rows], COLUMNS)
        if progress:
            progress(len(data))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create the tables as Feast does, but drop its second index, on the key alone.

        The primary key begins with the key, so this index makes writes slower and no read faster.
        """
        super().update(
            config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial
        )
        with self._get_conn(config) as connection, connection.cursor() as cursor:
            for table in tables_to_keep:
                index = f"{self._table_name(config, table)}_ek"
                cursor.execute(sql.SQL("drop index if exists {}").format(sql.Identifier(index)))
            connection.commit()

    async def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        with self._writing:
            for connection in (self._conn, self._writer, self._conn_pool):
                if connection is not None:
                    connection.close()
            self._conn = self._writer = self._conn_pool = None
        for waiting in (self._conn_async, self._conn_pool_async):
            if waiting is not None:
                await waiting.close()
        self._conn_async = self._conn_pool_async = None

    @staticmethod
    def _table_name(config: RepoConfig, table: FeatureView) -> str:
        return _table_id(
            config.project, table, config.registry.enable_online_feature_view_versioning
        )

    def _merge(
        self,
        config: RepoConfig,
        table: FeatureView,
        rows: Sequence[bytes],
        held: Sequence[str],
        new: bool = False,
    ) -> None:
        """Copy and merge rows of the binary format, in the order of their keys.

        `held` are the columns of the rows, in order; the table's other columns become null.

        With `new`, all keys may be new, and the rows are first copied without a merge, as long as
        that succeeds. Into a table that was empty this takes less than half the time.
        """
        name = self._table_name(config, table)
        with self._writer_connection(config) as connection, connection.cursor() as cursor:
            columns = ["entity_key", "feature_name", "value", "value_text"]
            if self._check_table_has_value_num(cursor, name, config):
                columns.append("value_num")
            columns += ["vector_value", "event_ts", "created_ts"]
            vector = "vector" if config.online_store.vector_enabled else "bytea"
            incoming = [
                sql.SQL("vector_value::" + vector)
                if column == "vector_value"
                # Feast's own insert leaves this cast to the server.
                else sql.SQL("{}::timestamptz").format(sql.Identifier(column))
                if column.endswith("_ts")
                else sql.Identifier(column)
                for column in columns
            ]
            if new and self._takes_copies(connection, name):
                try:
                    copy_rows(cursor, name, held, rows)
                    connection.commit()
                    return
                except UniqueViolation:
                    # The table has a key already, or another writer was faster.
                    connection.rollback()
                    self._was_empty[name] = False
            cursor.execute(_CREATE)
            copy_rows(cursor, "feast_incoming", held, rows)
            cursor.execute(
                sql.SQL(_MERGE).format(
                    table=sql.Identifier(name),
                    columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                    incoming=sql.SQL(", ").join(incoming),
                    assignments=sql.SQL(", ").join(
                        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column))
                        for column in columns[2:]
                    ),
                )
            )
            connection.commit()

    def _takes_copies(self, connection: Connection, name: str) -> bool:
        """Whether rows may be copied directly into a table: it was empty when first checked."""
        if name not in self._was_empty:
            query = sql.SQL("select not exists (select from {})").format(sql.Identifier(name))
            [(self._was_empty[name],)] = connection.execute(query).fetchall()
        return self._was_empty[name]

    @contextlib.contextmanager
    def _writer_connection(self, config: RepoConfig) -> Iterator[Connection]:
        """Yield a connection that no read shares, so that a commit ends only this write."""
        if config.online_store.conn_type == ConnectionType.pool:
            with self._get_conn(config) as connection:
                yield connection
            return
        with self._writing:
            if self._writer is None or self._writer.closed:
                self._writer = _get_conn(config.online_store)
                in_utc(self._writer)
                # Keeps the temporary table of a batch off the disk.
                self._writer.execute("set temp_buffers = '64MB'")
            try:
                yield self._writer
            except BaseException:
                _abandon(self._writer)
                raise

    @contextlib.contextmanager
    def _get_conn(
        self, config: RepoConfig, autocommit: bool = False
    ) -> Generator[Connection, Any, Any]:
        """Yield a usable connection, and return it after an error.

        Feast keeps connections that the server has closed or whose transaction has failed, and its
        pool loses a connection at every error.
        """
        if config.online_store.conn_type == ConnectionType.pool:
            if not self._conn_pool:
                self._conn_pool = _get_connection_pool(config.online_store)
                self._conn_pool.open()
            connection = self._conn_pool.getconn()
            try:
                in_utc(connection)
                connection.set_autocommit(autocommit)
                yield connection
            finally:
                self._conn_pool.putconn(connection)
            return
        if self._conn is None or self._conn.closed:
            self._conn = _get_conn(config.online_store)
            in_utc(self._conn)
        try:
            self._conn.set_autocommit(autocommit)
            yield self._conn
        except BaseException:
            _abandon(self._conn)
            raise

    @contextlib.asynccontextmanager
    async def _get_conn_async(
        self, config: RepoConfig, autocommit: bool = False
    ) -> AsyncGenerator[AsyncConnection, Any]:
        if config.online_store.conn_type == ConnectionType.pool:
            if not self._conn_pool_async:
                self._conn_pool_async = await _get_connection_pool_async(config.online_store)
                await self._conn_pool_async.open()
            connection = await self._conn_pool_async.getconn()
            try:
                await in_utc_async(connection)
                await connection.set_autocommit(autocommit)
                yield connection
            finally:
                await self._conn_pool_async.putconn(connection)
            return
        if self._conn_async is None or self._conn_async.closed:
            self._conn_async = await _get_conn_async(config.online_store)
            await in_utc_async(self._conn_async)
        try:
            await self._conn_async.set_autocommit(autocommit)
            yield self._conn_async
        except BaseException:
            if not self._conn_async.closed:
                await self._conn_async.rollback()
            raise


def _abandon(connection: Connection) -> None:
    """Roll back, or close if the server is gone; the next use then works or opens a new one."""
    if connection.closed:
        return
    try:
        connection.rollback()
    except Exception:
        connection.close()
