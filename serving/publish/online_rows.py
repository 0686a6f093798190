"""How many rows a project has online, per view, and their removal, for each kind of store."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from feast import FeatureStore, FeatureView

from serving.publish.marks import online_kind, postgres_connection, postgres_schema

AT_ONCE = 2_000
Views = Sequence[FeatureView]


def count_online(store: FeatureStore, views: Views) -> dict[str, int]:
    """Return the number of rows that each view has online; views without a table are left out.

    Empty for a kind of store that stores/kinds.py lacks.
    """
    count = COUNTS.get(online_kind(store) or "")
    return {} if count is None else count(store, views)


def delete_online(store: FeatureStore, views: Views) -> dict[str, int]:
    """Remove the views' rows and tables; return what `count_online` would have."""
    rows = count_online(store, views)
    if online_kind(store) == "redis":
        _delete_keys(store, views)
        return rows
    known = online_kind(store) is not None
    # PostgreSQL would look for a table that is not in the store's schema in `public` too.
    there = [view for view in views if view.name in rows or not known]
    store.provider.update_infra(store.project, there, [], [], [], partial=False)
    return rows


def _count_sqlite(store: FeatureStore, views: Views) -> dict[str, int]:
    online = store._get_provider().online_store
    if not Path(online._get_db_path(store.config)).exists():
        return {}
    names = "select name from sqlite_master where type = 'table'"
    connection = online._get_conn(store.config)
    there = {name for (name,) in connection.execute(names)}
    return {
        view.name: connection.execute(
            f'select count(distinct entity_key) from "{table_of(store, view)}"'
        ).fetchone()[0]
        for view in views
        if table_of(store, view) in there
    }


def _count_postgres(store: FeatureStore, views: Views) -> dict[str, int]:
    from psycopg import sql

    schema = postgres_schema(store)
    names = "select tablename from pg_tables where schemaname = %s"
    count = sql.SQL("select count(distinct entity_key) from {}")
    with closing(postgres_connection(store)) as connection:
        there = {name for (name,) in connection.execute(names, (schema,))}
        return {
            view.name: connection.execute(
                count.format(sql.Identifier(schema, table_of(store, view)))
            ).fetchone()[0]
            for view in views
            if table_of(store, view) in there
        }


def _count_redis(store: FeatureStore, views: Views) -> dict[str, int]:
    from feast.infra.online_stores.redis import _versioned_fv_name

    client = client_of(store)
    rows = {view.name: 0 for view in views}
    for join_keys, keyed in _by_join_keys(views).items():
        # Feast keeps one such field per view in the hash of an entity key.
        fields = [f"_ts:{_versioned_fv_name(view, store.config)}" for view in keyed]
        for some in _keys(store, join_keys):
            with client.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.hmget(key, fields)
                for found in pipe.execute():
                    for view, stamp in zip(keyed, found, strict=True):
                        rows[view.name] += stamp is not None
    return rows


def _delete_keys(store: FeatureStore, views: Views) -> None:
    """Delete whole keys: all views of a project share the hash of an entity key."""
    for join_keys in _by_join_keys(views):
        for some in _keys(store, join_keys):
            # One by one: in a cluster, the keys of one command must lie in one slot.
            with client_of(store).pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.unlink(key)
                pipe.execute()


COUNTS: dict[str, Callable[[FeatureStore, Views], dict[str, int]]] = {
    "sqlite": _count_sqlite,
    "redis": _count_redis,
    "postgres": _count_postgres,
}


def _keys(store: FeatureStore, join_keys: tuple[str, ...]) -> Iterator[list[bytes]]:
    """Yield the project's keys in lists.

    Feast scans for keys that end with the project's name, which those of a project `x_<name>` do
    too. So each key is read up to its last value, after which the project's name must follow.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key_prefix

    version = store.config.entity_key_serialization_version
    prefix = serialize_entity_key_prefix(list(join_keys), version)
    project = store.project.encode()
    found = client_of(store).scan_iter(_literal(prefix) + b"*" + _literal(project), count=AT_ONCE)
    ours = (key for key in found if key[_end(key, len(prefix), len(join_keys)) :] == project)
    while some := list(islice(ours, AT_ONCE)):
        yield some


def _end(key: bytes, at: int, values: int) -> int:
    """Return where the last of `values` values ends: each is a type, a size and its bytes."""
    for _ in range(values):
        if len(key) < at + 8:
            return len(key)
        at += 8 + struct.unpack_from("<I", key, at + 4)[0]
    return at


def _literal(text: bytes) -> bytes:
    """Escape what a Redis pattern gives a meaning to."""
    return b"".join(b"\\" + bytes([c]) if bytes([c]) in b"*?[]\\^" else bytes([c]) for c in text)


def _by_join_keys(views: Views) -> dict[tuple[str, ...], list[FeatureView]]:
    keyed: dict[tuple[str, ...], list[FeatureView]] = {}
    for view in views:
        keyed.setdefault(tuple(view.join_keys), []).append(view)
    return keyed


def client_of(store: FeatureStore) -> Any:
    """Return the client of a Redis online store."""
    return store._get_provider().online_store._get_client(store.config.online_store)


def table_of(store: FeatureStore, view: FeatureView) -> str:
    """Return the name of a view's table in an online store of tables."""
    from feast.infra.online_stores.helpers import compute_table_id

    versioned = store.config.registry.enable_online_feature_view_versioning
    return compute_table_id(store.project, view, versioned)
