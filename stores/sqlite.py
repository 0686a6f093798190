"""SQLite online store that keeps the newest row and takes whole encoded batches.

The table and its bytes are Feast's. Two integer columns, which Feast neither reads nor writes, hold
the timestamps in microseconds (stores/sqlite_times.py), so that two pushes within one second are
ordered, and no zone or summer time matters.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_f32
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _alter_table_add_column_if_missing,
    _initialize_conn,
    _quote_id,
    _table_id,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import FEAST_VECTOR_TYPES
from feast.utils import _get_feature_view_vector_field_metadata

from stores.bytes.encode import EncodedBatch
from stores.bytes.wire import in_turn
from stores.reading.expiry import ExpiringReads
from stores.sqlite_times import ADDED, LEAST, columns_of, event_seconds, exact, stored_seconds
from stores.writing.rows import Row, created_us, entity_key, event_us
from stores.writing.write_ahead import write_ahead

# Another writer's transaction is one batch long, so after a minute something hangs.
BUSY_SECONDS = 60.0

# SQLite takes 32,766 parameters: five per key, at most two per feature.
FEATURES_PER_STATEMENT = 1000

# Far below the parameters that any SQLite allows in a statement (32,766 since 3.32).
KEYS_PER_STATEMENT = 10_000

# While a statement runs, other threads can run Python; between statements, this thread waits up to
# 5 ms for the interpreter. A statement of about 5 ms lets another thread encode the next batch.
ROWS_PER_STATEMENT = 1500

# The log size at which SQLite copies the write-ahead log into the database. With its default, 4 MB,
# every batch would copy every page of the index again.
BYTES_PER_CHECKPOINT = 64 << 20

# For new databases. A vector and its keys fill a tenth of SQLite's default, 4 KB, so that pages
# would split, be logged and be copied more often.
PAGE_BYTES = 8192

_NOT_OLDER = f"""
where
    (excluded.event_us, ifnull(excluded.created_us, {LEAST}))
    >= ({exact("event")}, {exact("created")})
"""


class ColumnarSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """As Feast's own SQLite store; only the class path differs."""

    type: Literal["stores.sqlite.ColumnarSqliteOnlineStore"] = (
        "stores.sqlite.ColumnarSqliteOnlineStore"
    )


class ColumnarSqliteOnlineStore(ExpiringReads, SqliteOnlineStore):
    """Feast's SQLite store with ordered writes, one transaction per batch, in WAL mode.

    Writes use a separate connection: on Feast's single one, a read from another thread would see
    the uncommitted half of a batch.
    """

    _conn: sqlite3.Connection | None

    def __init__(self) -> None:
        super().__init__()
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.RLock()
        self._ordered_tables: set[str] = set()

    def takes_encoded(self, config: RepoConfig) -> bool:
        """Whether `prepare_write` fills every column that this configuration asks for."""
        options = config.online_store
        return not (options.vector_enabled or options.enable_openai_compatible_store)

    def sorts_in(self, config: RepoConfig) -> Path:
        """Return the database's folder: its table is a tree by key."""
        folder = Path(self._get_db_path(config)).parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def prepare_write(
        self, config: RepoConfig, table: FeatureView, batch: EncodedBatch
    ) -> Callable[[], None]:
        """Lay out a batch; return a function that writes it in one transaction, newest rows only.

        The write raises:
            sqlite3.OperationalError: the table is missing (run `feast apply`) or the database stays
                locked; the whole batch is rolled back.
        """
        event = stored_seconds(batch.event_us)
        created: Sequence[int | None] = [None] * len(batch)
        created_us = created
        if batch.created_us is not None and batch.created_known is not None:
            seconds, exact_us = stored_seconds(batch.created_us), batch.created_us.tolist()
            known = batch.created_known.tolist()
            created = [value if ok else None for value, ok in zip(seconds, known, strict=True)]
            created_us = [value if ok else None for value, ok in zip(exact_us, known, strict=True)]
        # Sorted like the table's index, so that neighbours share its pages.
        in_order = sorted(range(len(batch)), key=batch.keys.__getitem__)
        keys, *timestamps = (
            [column[nth] for nth in in_order]
            for column in (batch.keys, event, created, batch.event_us.tolist(), created_us)
        )
        name = _table_name(config, table)
        features = list(batch.features.items())
        statements = []
        for start in range(0, len(features), FEATURES_PER_STATEMENT):
            some = features[start : start + FEATURES_PER_STATEMENT]
            has_text = tuple((feature, column.texts is not None) for feature, column in some)
            cells: list[Sequence[Any]] = [keys, *timestamps]
            for _, column in some:
                cells.append([column.values[nth] for nth in in_order])
                if column.texts is not None:
                    cells.append([column.texts[nth] for nth in in_order])
            flat, width = in_turn(cells), len(cells)
            step = max(1, ROWS_PER_STATEMENT // len(some))
            whole = len(batch) - len(batch) % step
            for first, end, at_once in ((0, whole, step), (whole, len(batch), len(batch) - whole)):
                if first < end:
                    parameters = _pieces(flat[first * width : end * width], at_once * width)
                    statements.append((_upsert_keys(name, has_text, at_once), parameters))
        return partial(self._execute, config, name, statements)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast does, but never an older one over a newer one."""
        options = config.online_store
        columns = ["value", "value_text"]
        with_number = options.enable_openai_compatible_store and self._has_number(config, table)
        if with_number:
            columns.append("value_num")
        if options.vector_enabled:
            columns.append("vector_value")
        types = {field.name: field.dtype for field in table.features}
        rows: list[tuple[Any, ...]] = []
        for row in data:
            key = entity_key(config, row)
            timestamps = _row_timestamps(row)
            for name, value in row[1].items():
                text, number = extract_text_and_num(value, with_number)
                cells: list[Any] = [value.SerializeToString(), text]
                if with_number:
                    cells.append(number)
                if options.vector_enabled:
                    cells.append(_vector_cell(table, types.get(name), value))
                rows.append((key, name, *cells, *timestamps))
        name = _table_name(config, table)
        marks = ", ".join("?" * (len(columns) + 6))
        self._execute(config, name, [(_upsert(name, columns, [f"({marks})"]), rows)])
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,  # noqa: ARG002
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Return each key's event timestamp and values, (None, None) where it has none.

        As Feast's, which returns every feature of a key too; but the timestamp is right whatever
        the writer's zone.
        """
        connection, name = self._get_conn(config), _table_name(config, table)
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(key, version) for key in entity_keys]
        seconds = event_seconds(columns_of(connection, name))
        found: dict[bytes, tuple[datetime, dict[str, Value]]] = {}
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            some = keys[start : start + KEYS_PER_STATEMENT]
            rows = connection.execute(
                f"select entity_key, feature_name, value, {seconds} from {_quote_id(name)} "
                f"where entity_key in ({','.join('?' * len(some))})",
                some,
            )
            for key, feature, value, stamp in rows:
                if key not in found:
                    found[key] = datetime.fromtimestamp(stamp, UTC), {}
                found[key][1][feature] = Value.FromString(value)
        return [found.get(key, (None, None)) for key in keys]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create the tables as Feast does, and add the columns that order rows within a second.

        Drop Feast's second index, on the key alone: the primary key begins with the key, and a
        second index makes every write slower.
        """
        with self._writing:
            super().update(
                config,
                tables_to_delete,
                tables_to_keep,
                entities_to_delete,
                entities_to_keep,
                partial,
            )
            self._get_conn(config).commit()
            self._ordered_tables.clear()
            connection = self._writer_connection(config)
            for table in tables_to_keep:
                name = _table_name(config, table)
                self._add_order(connection, name)
                connection.execute(f"drop index if exists {_quote_id(name + '_ek')}")
            # Opens the write-ahead log for the reader too: as with Feast's store, it goes on if the
            # database's folder is removed under it.
            self._get_conn(config).execute("select count(*) from sqlite_master").fetchone()

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:  # noqa: ARG002
        """Return nothing: `update` creates the tables.

        Feast's own store returns its tables, and Feast notes which of them exist only for its own
        kind, so that `feast plan` would announce them for ever.
        """
        return []

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Delete the database and the files of WAL mode."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._ordered_tables.clear()
            super().teardown(config, tables, entities)
            for suffix in ("-wal", "-shm"):
                Path(self._get_db_path(config) + suffix).unlink(missing_ok=True)

    async def close(self) -> None:
        """Close both connections; the next use opens new ones."""
        with self._writing:
            for connection in (self._conn, self._writer):
                if connection is not None:
                    connection.close()
            self._conn = self._writer = None

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if not self._conn:
            # Feast creates only the last folder of the path.
            Path(self._get_db_path(config)).parent.mkdir(parents=True, exist_ok=True)
            # This has no effect on an existing database.
            super()._get_conn(config).execute(f"pragma page_size = {PAGE_BYTES}")
        return super()._get_conn(config)

    def _writer_connection(self, config: RepoConfig) -> sqlite3.Connection:
        if self._writer is None:
            path = self._get_db_path(config)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            connection = _initialize_conn(path)
            connection.execute(f"pragma page_size = {PAGE_BYTES}")
            connection.isolation_level = None
            connection.execute(f"pragma busy_timeout = {int(BUSY_SECONDS * 1000)}")
            write_ahead(connection, BUSY_SECONDS)
            (page,) = connection.execute("pragma page_size").fetchone()
            connection.execute(f"pragma wal_autocheckpoint = {BYTES_PER_CHECKPOINT // page}")
            # Writes visit the key index in random order; with the default cache, 2 MB, most visits
            # would read from disk.
            connection.execute("pragma cache_size = -65536")
            self._writer = connection
        return self._writer

    def _execute(
        self,
        config: RepoConfig,
        name: str,
        statements: Sequence[tuple[str, Iterable[Sequence[Any]]]],
    ) -> None:
        """Run each statement over its rows, all in one transaction."""
        with self._writing:
            connection = self._writer_connection(config)
            self._add_order(connection, name)
            # Immediate, so that two writers queue here, where waiting is safe, rather than fail at
            # the first insert.
            connection.execute("begin immediate")
            try:
                for statement, rows in statements:
                    connection.executemany(statement, rows)
                connection.execute("commit")
            except BaseException:
                connection.execute("rollback")
                raise

    def _add_order(self, connection: sqlite3.Connection, name: str) -> None:
        if name in self._ordered_tables:
            return
        for column in ADDED:
            _alter_table_add_column_if_missing(connection, name, column, "INTEGER")
        self._ordered_tables.add(name)

    def _has_number(self, config: RepoConfig, table: FeatureView) -> bool:
        return self._check_table_has_value_num(self._get_conn(config), _table_name(config, table))


def _pieces(flat: list[Any], size: int) -> Iterator[list[Any]]:
    return (flat[at : at + size] for at in range(0, len(flat), size))


@cache
def _upsert_keys(name: str, features: Sequence[tuple[str, bool]], keys: int) -> str:
    """Write the statement that upserts `keys` keys at once; a feature says whether it has texts.

    Each key has 5 parameters that all its rows share, the key and its four timestamps. The values,
    and texts, of its features follow. For two keys and the features a (with texts) and b:

        (?1, 'a', ?6, ?7, ?2, ?3, ?4, ?5)
        (?1, 'b', ?8, null, ?2, ?3, ?4, ?5)
        (?9, 'a', ?14, ?15, ?10, ?11, ?12, ?13)
        (?9, 'b', ?16, null, ?10, ?11, ?12, ?13)
    """
    rows = []
    width = 5 + sum(1 + has_text for _, has_text in features)
    for base in range(1, keys * width, width):
        at = base + 5
        for feature, has_text in features:
            literal = "'" + feature.replace("'", "''") + "'"
            text = f"?{at + 1}" if has_text else "null"
            timestamps = ", ".join(f"?{base + nth}" for nth in range(1, 5))
            rows.append(f"(?{base}, {literal}, ?{at}, {text}, {timestamps})")
            at += 1 + has_text
    return _upsert(name, ["value", "value_text"], rows)


def _upsert(name: str, value_columns: Sequence[str], rows: Sequence[str]) -> str:
    """Write the statement that keeps the newer of each stored row and its `rows` of parameters."""
    timestamps = ["event_ts", "created_ts", "event_us", "created_us"]
    columns = ["entity_key", "feature_name", *value_columns, *timestamps]
    assignments = ", ".join(f"{column} = excluded.{column}" for column in columns[2:])
    return (
        f"insert into {_quote_id(name)} ({', '.join(columns)}) values {', '.join(rows)} "
        f"on conflict (entity_key, feature_name) do update set {assignments} {_NOT_OLDER}"
    )


def _row_timestamps(row: Row) -> tuple[int | None, ...]:
    event, created = event_us(row), created_us(row)
    (seconds,) = stored_seconds(np.array([event]))
    if created is None:
        return seconds, None, event, None
    return seconds, stored_seconds(np.array([created]))[0], event, created


def _vector_cell(table: FeatureView, dtype: Any, value: Any) -> Any:
    """Return the value that Feast's own store puts into `vector_value`."""
    if dtype not in FEAST_VECTOR_TYPES:
        return feast_value_type_to_python_type(value)
    field = _get_feature_view_vector_field_metadata(table)
    return serialize_f32(value.float_list_val.val, getattr(field, "vector_length", 512))


def _table_name(config: RepoConfig, table: FeatureView) -> str:
    return _table_id(config.project, table, config.registry.enable_online_feature_view_versioning)
