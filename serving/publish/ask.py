"""Asks the registry and the online store once, before anything is changed.

Feast would notice a missing password or TLS after minutes of work, with its registry changed and
its client's own tries behind it.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from feast import FeatureStore

from serving.answers import refusal
from serving.publish.marks import online_kind, postgres_connection
from transformations.config import Config
from transformations.errors import ActivityError

SECONDS = 5

REDIS = {
    "password": "the password in connection_string, `password=${NAME}`",
    "certificate": "the certificate: `ssl_ca_certs=FILE` in connection_string",
    "tls": "TLS: `ssl=true` in connection_string where the server asks for it, else not",
    "rights": "the user's rights: it reads, writes and runs scripts",
    "database": "the number of the database: `db=0` in connection_string",
    "master": "sentinel_master: what the sentinels call the server that they watch",
    "address": "host and port in connection_string, and whether the server runs",
}
POSTGRES = {
    "password": "user and password",
    "certificate": "sslmode and sslrootcert_path",
    "tls": "sslmode: `require` where the server asks for TLS",
    "rights": "the user's rights: it makes tables in db_schema",
    "database": "database, and user",
    "address": "host and port, and whether the server runs",
}
REGISTRY = {
    "password": "user and password of registry.path",
    "tls": "sslmode in registry.path",
    "database": "the database in registry.path",
    "address": "registry.path, and whether the server runs",
}


def ask(config: Config, store: FeatureStore) -> None:
    """Ask the servers of the registry and of the online store for anything at all.

    Raises:
        InputError: one does not answer as it must; the message says which setting to look at.
    """
    file = config.path(config.feature_store)
    kind = online_kind(store) or ""
    asked: list[tuple[str, Callable[[FeatureStore], object], dict[str, str]]] = []
    if kind in ONLINE:
        asked.append(("online_store", *ONLINE[kind]))
    if "://" in str(store.config.registry.path) and "sqlite" not in store.config.registry.path:
        # Last: Feast makes the tables of a registry that it opens.
        asked.append(("registry", lambda store: store.registry.list_projects(), REGISTRY))
    for section, question, settings in asked:
        try:
            question(store)
        except ActivityError:
            raise
        except Exception as error:
            raise refusal(f"{file}, {section}", error, settings) from None


def _redis(store: FeatureStore) -> None:
    """Ask with a client that gives up at once; the store's own tries for half a minute."""
    import redis

    online: Any = store._get_provider().online_store
    nodes, more = online._parse_connection_string(store.config.online_store.connection_string)
    settings = {
        **more,
        "retry": None,
        "socket_timeout": SECONDS,
        "socket_connect_timeout": SECONDS,
    }
    redis_type = store.config.online_store.redis_type
    if redis_type == "redis_sentinel":
        hosts = [(node["host"], int(node["port"])) for node in nodes]
        sentinels = redis.Sentinel(hosts, **settings)
        sentinels.master_for(store.config.online_store.sentinel_master).ping()
        return
    if redis_type == "redis_cluster":
        # Its nodes know each other, so that one of them is enough.
        nodes = [next((node for node in nodes if _is_there(node)), nodes[0])]
    with redis.Redis(**nodes[0], **settings) as client:
        if redis_type == "redis_cluster":
            client.execute_command("CLUSTER SHARDS")
        else:
            client.get(f"activity:{store.project}:owner")


def _is_there(node: dict[str, Any]) -> bool:
    with suppress(OSError), socket.create_connection((node["host"], int(node["port"])), SECONDS):
        return True
    return False


def _postgres(store: FeatureStore) -> None:
    with postgres_connection(store) as connection:
        connection.execute("select 1")


ONLINE: dict[str, tuple[Callable[[FeatureStore], None], dict[str, str]]] = {
    "redis": (_redis, REDIS),
    "postgres": (_postgres, POSTGRES),
}
"""Name of a kind in stores/kinds.py → what it is asked, and its settings."""
