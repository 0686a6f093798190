"""Killed writers, servers that go away: every key has its complete old or its complete new row."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore, Field
from feast import types as ft
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from stores import postgres as postgres_store
from stores import redis as redis_store
from stores import sqlite as sqlite_store
from stores.columnar import OnlineWriteError
from tests.worlds.kinds import each_kind
from tests.worlds.servers import missing
from tests.worlds.stores import END, MOMENT, PROJECT, START, World, declare, open_world

KILLS = 50
KEYS = 1000
BATCH = 100

# A clean process that has imported everything and forks a child per materialization.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("tests.stores.test_materialize_faults", "stores.columnar", "stores.sqlite"),
        # Feast imports these when it opens a store, which would take most of a child's time.
        *("feast.infra.offline_stores.duckdb", "feast.infra.passthrough_provider"),
    ]
)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    opened = open_world(request.param, tmp_path, request)
    yield opened
    opened.close()


every_kind = pytest.mark.parametrize("world", each_kind(), indirect=True)


def write_version(world: World, version: int) -> None:
    """Write the source: all features of a key hold one version."""
    pq.write_table(
        pa.table(
            {
                "int_id": pa.array(range(KEYS)),
                "event_timestamp": pa.array(
                    [MOMENT + timedelta(days=version)] * KEYS, pa.timestamp("us", "UTC")
                ),
                "number": pa.array([version] * KEYS),
                "text": pa.array([f"version {version}"] * KEYS),
                "vector": pa.array([[float(version)] * 16] * KEYS, pa.list_(pa.float32())),
            }
        ),
        world.folder / "rows.parquet",
    )


def declared(world: World) -> list[Any]:
    fields = [
        Field(name="number", dtype=ft.Int64),
        Field(name="text", dtype=ft.String),
        Field(name="vector", dtype=ft.Array(ft.Float32)),
    ]
    return declare("rows", world.folder / "rows.parquet", ["int"], fields)


def materialize(world: World, each_batch: Connection | None = None) -> None:
    """Run one materialization; in a child process, announce each batch before it is written."""
    with open(os.devnull, "w") as quiet, ExitStack() as stack:  # noqa: PTH123
        stack.enter_context(redirect_stdout(quiet))
        stack.enter_context(redirect_stderr(quiet))
        store = world.store("ours", declared(world), batch_rows=BATCH)
        if each_batch is not None:
            # Two statements for the features of a key: a kill may fall between them.
            sqlite_store.FEATURES_PER_STATEMENT = 2
            online = store._get_provider().online_store
            prepare = online.prepare_write

            def announced(*arguments: Any) -> Callable[[], None]:
                write = prepare(*arguments)

                def announce_and_write() -> None:
                    each_batch.send("batch")
                    write()

                return announce_and_write

            online.prepare_write = announced
        store.materialize(START, END)


def start_child(world: World) -> tuple[Any, Connection]:
    ours, theirs = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=materialize, args=(bare(world), theirs))
    child.start()
    theirs.close()
    return child, ours


def bare(world: World) -> World:
    """The same world without the parts that cannot be pickled."""
    return World(world.kind, world.folder, world.plain, world.ours)


def read_versions(
    world: World, store: FeatureStore | None = None, ids: Iterable[int] = range(KEYS)
) -> list[int]:
    """Return every key's version, after checking that all its features have it.

    Through the online store alone: Feast's registry refuses reads of a view whose materialization
    was killed, unless it has `serve_features_while_materializing`.
    """
    store = store or world.store("ours", declared(world))
    keys = [EntityKey(join_keys=["int_id"], entity_values=[Value(int64_val=key)]) for key in ids]
    online = store._get_provider().online_store
    view = store.get_feature_view("rows")
    versions: list[int] = []
    for _, row in online.online_read(store.config, view, keys, ["number", "text", "vector"]):
        number = row["number"].int64_val
        assert row["text"].string_val == f"version {number}"
        assert list(row["vector"].float_list_val.val) == [float(number)] * 16
        versions.append(number)
    return versions


@every_kind
def test_a_killed_materialization_leaves_old_or_new_rows_and_can_be_run_again(
    world: World,
) -> None:
    write_version(world, 0)
    materialize(world)
    store = world.store("ours", declared(world))
    registry = world.folder / "ours.registry.db"
    whole_registry = registry.read_bytes()
    draw = random.Random(7)
    version, oldest, killed, midway = 0, 0, 0, 0
    while killed < KILLS:
        version += 1
        assert version < 5 * KILLS, f"only {killed} runs were slow enough to be killed"
        write_version(world, version)
        child, pipe = start_child(world)
        for _ in range(draw.randint(1, KEYS // BATCH)):
            pipe.recv()
        time.sleep(draw.uniform(0, 0.003))  # a random point within the batch
        child.kill()
        child.join()
        pipe.close()
        killed += child.exitcode == -signal.SIGKILL
        # Feast empties its registry's file before writing it, and a kill may fall between.
        registry.write_bytes(whole_registry)
        versions = read_versions(world, store)
        assert oldest <= min(versions)
        assert max(versions) <= version
        midway += min(versions) < max(versions)
        oldest = min(versions)
    assert midway > 0, "no kill fell between two batches: this shows nothing"
    materialize(world)
    assert set(read_versions(world)) == {version}


# --- the server goes away ------------------------------------------------------------------------


@contextmanager
def durable_redis(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a Redis that acknowledges a write once it is on disk."""
    program = shutil.which("redis-server")
    if program is None:
        missing("no redis-server on the PATH")
    process = subprocess.Popen(
        [
            *(str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("Ready to accept connections" in line for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.communicate()


def acknowledged(error: OnlineWriteError) -> int:
    return int(str(error).split("had acknowledged ")[1].split(" rows")[0].replace(",", ""))


@pytest.mark.redis
def test_redis_killed_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {
        "type": "stores.redis.ColumnarRedisOnlineStore",
        "connection_string": f"127.0.0.1:{port},db=0",
    }
    world = World("redis", tmp_path, {}, ours)
    write_version(world, 1)
    with durable_redis(tmp_path, port) as server:
        whole = redis_store._exchange
        calls = 0

        def kill_at_the_sixth(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 6:
                server.kill()
                server.wait()
            whole(*arguments)

        monkeypatch.setattr(redis_store, "_exchange", kill_at_the_sixth)
        with pytest.raises(OnlineWriteError, match=r"rows: ColumnarRedis.* failed") as raised:
            materialize(world)
        assert isinstance(raised.value.__cause__, redis.RedisError)
        kept = acknowledged(raised.value)
        monkeypatch.undo()
    assert 0 < kept < KEYS
    with durable_redis(tmp_path, port):
        with world.redis("ours") as client:
            keys = [key.removesuffix(PROJECT.encode()) for key in client.scan_iter()]
        assert len(keys) >= kept
        ids = [int.from_bytes(key[-8:], "little") for key in keys]
        assert read_versions(world, ids=ids) == [1] * len(ids)
        materialize(world)  # the script is unknown to the new server, too
        assert set(read_versions(world)) == {1}
        world.close()


@pytest.mark.redis
@pytest.mark.parametrize("world", ["redis"], indirect=True)
def test_a_redis_that_refuses_leaves_no_answer_on_the_connection(world: World) -> None:
    write_version(world, 1)
    store = world.store("ours", declared(world), batch_rows=BATCH)
    with world.redis("ours") as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(OnlineWriteError, match=r"acknowledged 0 rows.*maxmemory"):
                store.materialize(START, END)
        finally:
            client.config_set("maxmemory", 0)
    store.materialize(START, END)
    assert read_versions(world, store) == [1] * KEYS


@pytest.mark.postgres
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_postgres_ends_the_session_midway(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(world, 1)
    store = world.store("ours", declared(world), batch_rows=BATCH)
    whole = postgres_store.ColumnarPostgreSQLOnlineStore._merge
    calls = 0

    def end_at_the_sixth(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            with world.postgres("ours") as other:
                other.execute("select pg_terminate_backend(%s)", [self._writer.info.backend_pid])
        whole(self, *arguments, **options)

    monkeypatch.setattr(postgres_store.ColumnarPostgreSQLOnlineStore, "_merge", end_at_the_sixth)
    with pytest.raises(OnlineWriteError, match="acknowledged 500 rows"):
        store.materialize(START, END)
    monkeypatch.undo()
    with world.postgres("ours") as connection:
        kept = connection.execute('select count(distinct entity_key) from "world_rows"').fetchone()
    assert kept == (500,)
    # The same store object continues over a new session.
    store.materialize(START, END)
    assert set(read_versions(world)) == {1}


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_a_failing_batch_on_sqlite_is_rolled_back_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "ROWS_PER_STATEMENT", 30)  # ten statements per batch
    write_version(world, 1)
    store = world.store("ours", declared(world), batch_rows=BATCH)
    online = store._get_provider().online_store
    connection = online._writer_connection(store.config)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    # The 761st row of the table: within the third batch, between two features of one key.
    connection.execute(
        "create trigger full before insert on world_rows "
        "when (select count(*) from world_rows) = 760 "
        "begin select raise(abort, 'disk full'); end"
    )
    with pytest.raises(OnlineWriteError, match=r"acknowledged 200 rows.*disk full"):
        store.materialize(START, END)
    with closing(sqlite3.connect(world.ours["path"])) as other:
        assert other.execute("select count(*) from world_rows").fetchone() == (600,)
    connection.execute("drop trigger full")
    store.materialize(START, END)
    assert set(read_versions(world)) == {1}
