"""One reader among threads, coroutines and servers that come and go."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from feast import FeatureStore

from stores.read import Reader, ReadError
from tests.worlds.kinds import each_kind
from tests.worlds.online import opened
from tests.worlds.ranker import HISTORY, ITEMS, MEMBERS, SERVICE, feasts, fill


@pytest.fixture(params=each_kind())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened(request.param, request, tmp_path):
        fill(made)
        yield made


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened("sqlite", request, tmp_path):
        fill(made)
        yield made


@pytest.fixture
def on_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened("redis", request, tmp_path):
        fill(made)
        yield made


@pytest.fixture
def server(redis_server: str) -> Iterator[redis.Redis]:
    """The test's own connection to the Redis of `on_redis`."""
    host, port = redis_server.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        yield client


@pytest.mark.redis
def test_each_key_is_read_once_for_all_its_views(
    on_redis: FeatureStore, server: redis.Redis
) -> None:
    """Members and history share a hash: one member and two items take three commands."""
    views = (MEMBERS, HISTORY, ITEMS)
    service = [f"{each.name}:{field.name}" for each in views for field in each.features]
    with Reader(on_redis, service) as reader:
        reader.read({"member_id": 1, "item_id": "a"})
        server.config_resetstat()
        reader.read({"member_id": 1, "item_id": ["a", "c", "a", "a"]})
        calls = {name: stat["calls"] for name, stat in server.info("commandstats").items()}
    assert calls.pop("cmdstat_hmget") == 3
    assert set(calls) <= {"cmdstat_info", "cmdstat_config|resetstat"}


def test_threads_share_a_reader(store: FeatureStore) -> None:
    """Every thread gets its own rows, over whichever connection."""
    items = ["a", "b", "c", "nobody"]
    asks = [([n % 5, (n + 1) % 5], [items[n % 4], items[n % 3]]) for n in range(200)]
    rows = [{"member_id": members, "item_id": chosen} for members, chosen in asks]
    with Reader(store, SERVICE) as reader, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda ids: reader.read(ids).to_dict(), rows))
    expected = {str(ids): ids for ids in rows}
    expected = {text: feasts(store, SERVICE, ids) for text, ids in expected.items()}
    assert got == [expected[str(ids)] for ids in rows]


def test_async_reads_at_once(store: FeatureStore) -> None:
    asks = [{"member_id": [n % 5], "item_id": ["abc"[n % 3]]} for n in range(40)]

    async def gather() -> list[Any]:
        async with Reader(store, SERVICE) as reader:
            return [
                found.to_dict()
                for found in await asyncio.gather(*(reader.read_async(ids) for ids in asks))
            ]

    got = asyncio.run(gather())
    assert got == [feasts(store, SERVICE, ids) for ids in asks]
    assert asyncio.run(gather()) == got, "another event loop, with a reader of its own"


def test_an_event_loop_cannot_borrow_the_connections_of_another(sqlite: FeatureStore) -> None:
    with Reader(sqlite, ["members:n_actions"]) as reader:
        asyncio.run(reader.read_async({"member_id": 1}))
        with pytest.raises(ReadError, match="another event loop"):
            asyncio.run(reader.read_async({"member_id": 1}))


@pytest.mark.parametrize("kind", each_kind("server"))
def test_reads_survive_a_server_that_dropped_the_connections(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for store in opened(kind, request, tmp_path):
        fill(store)

        async def twice(store: FeatureStore = store) -> list[Any]:
            async with Reader(store, ["members:n_actions"]) as reader:
                found = [await reader.read_async({"member_id": 1}), reader.read({"member_id": 1})]
                drop_connections(kind, store)
                found += [await reader.read_async({"member_id": 1}), reader.read({"member_id": 1})]
                return [each["n_actions"].tolist() for each in found]

        assert asyncio.run(twice()) == [[300]] * 4


def drop_connections(kind: str, store: FeatureStore) -> None:
    options = store.config.online_store
    if kind == "redis":
        host, port = options.connection_string.split(":")
        with redis.Redis(host=host, port=int(port)) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        return
    with psycopg.connect(
        host=options.host, port=options.port, dbname=options.database, user=options.user,
        password=options.password, autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )


@pytest.mark.redis
def test_a_failed_read_leaves_no_replies_behind(
    on_redis: FeatureStore, server: redis.Redis
) -> None:
    (spoiled,) = [key for key in server.scan_iter() if key.endswith(b"\x03" + bytes(7) + b"reads")]
    server.delete(spoiled)
    server.set(spoiled, "not a hash")
    with Reader(on_redis, ["members:n_actions"]) as reader:
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            reader.read({"member_id": [3, 1, 2]})
        assert reader.read({"member_id": [1]})["n_actions"].tolist() == [300]


@pytest.mark.redis
def test_a_cancelled_read_leaves_no_replies_behind(
    on_redis: FeatureStore, server: redis.Redis
) -> None:
    async def cancelled() -> list[int]:
        async with Reader(on_redis, ["members:n_actions"]) as reader:
            await reader.read_async({"member_id": [1]})
            server.client_pause(200)  # so that the replies arrive after the next request
            task = asyncio.create_task(reader.read_async({"member_id": [2]}))
            for _ in range(10):
                await asyncio.sleep(0)  # until it waits for the replies
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            return (await reader.read_async({"member_id": [1]}))["n_actions"].tolist()

    assert asyncio.run(cancelled()) == [300]
