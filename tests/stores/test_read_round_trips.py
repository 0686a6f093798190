"""The cost of a read for its server: one round trip for all views, over kept connections."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
from feast import FeatureStore

from stores.read import Reader
from stores.reading import sql as read_sql
from tests.worlds.kinds import each_kind
from tests.worlds.online import opened
from tests.worlds.ranker import SERVICE, feasts, fill

IDS = {"member_id": [1, 1, 404], "item_id": ["a", "c", "a"]}
THREADS = 8
SENDS = {
    "redis": (
        (redis.connection.AbstractConnection, "send_packed_command"),
        (redis.asyncio.connection.AbstractConnection, "send_packed_command"),
    ),
    "postgres": ((psycopg.Cursor, "execute"), (psycopg.AsyncCursor, "execute")),
}


@pytest.fixture(params=each_kind())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened(request.param, request, tmp_path):
        fill(made)
        yield made


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Record every call of a method."""
    calls: list[Any] = []
    whole = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[1:])
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("store", each_kind("server"), indirect=True)
def test_all_views_of_a_service_are_one_round_trip(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = feasts(store, SERVICE, IDS)
    plain, waiting = SENDS[store.config.online_store.type]

    async def ask() -> None:
        async with Reader(store, SERVICE) as reader:
            reader.read(IDS)
            await reader.read_async(IDS)  # from here on there are connections
            sent = counted(monkeypatch, *plain)
            assert reader.read(IDS).to_dict() == expected
            assert len(sent) == 1
            sent = counted(monkeypatch, *waiting)
            assert (await reader.read_async(IDS)).to_dict() == expected
            assert len(sent) == 1

    asyncio.run(ask())


def test_threads_keep_a_connection_each_at_most(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = store.config.online_store.type
    if kind == "redis":
        host, port = store.config.online_store.connection_string.split(":")
        with redis.Redis(host=host, port=int(port)) as client:
            before = client.info("stats")["total_connections_received"]
            threads_read(store)
            received = client.info("stats")["total_connections_received"] - before
    else:
        owner = {"sqlite": read_sql.sqlite3, "postgres": psycopg.Connection}[kind]
        made = counted(monkeypatch, owner, "connect")
        threads_read(store)
        received = len(made)
    assert 1 <= received <= THREADS


def threads_read(store: FeatureStore) -> None:
    """Read more often than there are threads."""
    with Reader(store, SERVICE) as reader:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: reader.read(IDS), range(20 * THREADS)))
        idle = getattr(reader._backend, "_idle", [])
        assert len(idle) <= THREADS
