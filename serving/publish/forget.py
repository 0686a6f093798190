"""Takes members out of the online store: their rows in every view whose key is the member.

Feast deletes whole views and no single key, so each kind of store has its own way here.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from serving.publish.marks import online_kind, postgres_connection, postgres_schema
from serving.publish.online_rows import client_of, table_of
from serving.publish.reset import views_of
from stores.sqlite import BUSY_SECONDS
from stores.writing.write_ahead import scrub
from transformations.config import Config
from transformations.forget import Forgotten
from transformations.tombstones import Id

KEY = "member_id"
AT_ONCE = 2_000
Keys = Sequence[bytes]


def forget_online(
    config: Config, store: FeatureStore, members: Sequence[Id], into: Forgotten
) -> None:
    """Remove the members' online rows, of every view that is registered or declared.

    Args:
        members: Ids of the configured type.
        into: Gets the number of rows per view, and what cannot be removed.
    """
    views = views_of(config, store)
    ours = [view for view in views if [*view.join_keys] == [KEY]]
    others = [view.name for view in views if KEY in view.join_keys and view not in ours]
    if others:
        into.left.append(
            f"online rows of {', '.join(others)}, whose keys have more columns than {KEY}: delete "
            "them in the store"
        )
    kind = online_kind(store)
    if kind not in WAYS:
        into.left.append(
            f"online rows in {type(store._get_provider().online_store).__name__}, a kind of store "
            f"that this command does not know ({', '.join(WAYS)}): delete them there"
        )
        return
    for view, rows in WAYS[kind](store, ours, keys_of(config, store, members), into):
        into.add(f"{view}, online", rows)


def keys_of(config: Config, store: FeatureStore, members: Sequence[Id]) -> list[bytes]:
    """Return the members' keys as the online store has them."""
    field = "int64_val" if config.member_id_type == "int64" else "string_val"
    values: list[dict[str, Any]] = [{field: member} for member in members]
    version = store.config.entity_key_serialization_version
    return [
        serialize_entity_key(EntityKey(join_keys=[KEY], entity_values=[Value(**value)]), version)
        for value in values
    ]


def forget_in_sqlite(
    file: Path, keys: Keys, into: Forgotten, tables: Collection[str] | None = None
) -> Iterator[tuple[str, int]]:
    """Delete keys of Feast's tables in a SQLite file; yield each table and its rows.

    Args:
        tables: Only of these; default: of all that there are.
    """
    if not file.exists():
        return
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        names = "select name from sqlite_master where type = 'table' and sql like '%entity_key%'"
        there = [name for (name,) in connection.execute(names)]
        found = dict.fromkeys((name for name in there if tables is None or name in tables), 0)
        connection.execute("begin immediate")
        for table in found:
            for key in keys:
                query = f'delete from "{table}" where entity_key = ?'
                found[table] += connection.execute(query, (key,)).rowcount > 0
        connection.execute("commit")
        # Also where nothing was found: a forget that was killed here is run again.
        if not scrub(connection):
            into.left.append(
                f"{file}-wal, which another process is reading, may hold bytes of deleted rows "
                "until it is written over: forget again when services are restarted"
            )
    yield from found.items()


def _in_sqlite(
    store: FeatureStore, views: Sequence[FeatureView], keys: Keys, into: Forgotten
) -> Iterator[tuple[str, int]]:
    online = store._get_provider().online_store
    named = {table_of(store, view): view.name for view in views}
    file = Path(online._get_db_path(store.config))
    for table, rows in forget_in_sqlite(file, keys, into, named):
        yield named[table], rows


def _in_postgres(
    store: FeatureStore,
    views: Sequence[FeatureView],
    keys: Keys,
    into: Forgotten,  # noqa: ARG001
) -> Iterator[tuple[str, int]]:
    from psycopg import sql

    schema = postgres_schema(store)
    names = "select tablename from pg_tables where schemaname = %s"
    with closing(postgres_connection(store)) as connection:
        there = {name for (name,) in connection.execute(names, (schema,))}
        for view in views:
            if table_of(store, view) not in there:
                continue
            table = sql.Identifier(schema, table_of(store, view))
            query = sql.SQL("delete from {} where entity_key = any(%s) returning entity_key")
            deleted = connection.execute(query.format(table), (list(keys),)).fetchall()
            connection.commit()
            yield view.name, len({bytes(key) for (key,) in deleted})


def _in_redis(
    store: FeatureStore,
    views: Sequence[FeatureView],
    keys: Keys,
    into: Forgotten,  # noqa: ARG001
) -> Iterator[tuple[str, int]]:
    from feast.infra.online_stores.redis import _versioned_fv_name

    # All views of a project share the hash of a key; of each a field with its time is there.
    fields = [f"_ts:{_versioned_fv_name(view, store.config)}" for view in views]
    rows = dict.fromkeys((view.name for view in views), 0)
    client, project = client_of(store), store.project.encode()
    keys = keys if fields else []
    for start in range(0, len(keys), AT_ONCE):
        with client.pipeline(transaction=False) as pipe:
            for key in keys[start : start + AT_ONCE]:
                pipe.hmget(key + project, fields)
                pipe.unlink(key + project)
            for found in pipe.execute()[::2]:
                for view, stamp in zip(views, found, strict=True):
                    rows[view.name] += stamp is not None
    yield from rows.items()


# Name of a kind in stores/kinds.py → how it deletes keys.
WAYS: dict[str, Callable[[Any, Sequence[FeatureView], Keys, Forgotten], Any]] = {
    "sqlite": _in_sqlite,
    "redis": _in_redis,
    "postgres": _in_postgres,
}
