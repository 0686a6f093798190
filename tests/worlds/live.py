"""A market small enough for a test, with a snapshot online, a bus, and workers on it."""

import json
import multiprocessing
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import Producer
from feast import FeatureStore

from models.embed import embed_snapshot
from models.layers.build import build
from models.packaging import package
from models.spec import Aggregator, Average, GeometricDecay
from serving import publish
from serving.stream.bus.messages import encode
from serving.stream.bus.open import open_bus
from serving.stream.bus.protocol import Bus
from serving.stream.bus.redis import RedisBus
from serving.stream.metrics import Metrics
from serving.stream.offline_log import parts
from serving.stream.snapshot import prepare
from serving.stream.states.open import open_states
from serving.stream.states.protocol import StateStore, unpack
from serving.stream.updater import MemberUpdater, open_updater, utc_now
from serving.stream.worker import Pace, Worker
from tests.worlds import plain_feast
from tests.worlds.events import Event, write_activity
from tests.worlds.online import close
from tests.worlds.servers import missing
from tests.worlds.tiny_models import write_items
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition
from transformations.names import MEMBER_STATS_VIEW, SEQUENCE_VIEW
from transformations.stats.member_stats import build_member_stats
from transformations.stream import Actions, fold, to_sequences
from transformations.tables import build_sequences
from transformations.timestamps import microseconds, timestamp_of

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1, stream=True),
    GeometricDecay(version=1, decay=0.8, stream=True),
)
DAY = timedelta(days=1)
ITEMS = range(1, 41)
TIMES = ("last_action_at", "last_acted_at", "last_session_at")
ACTIONS = ("APPLY", "SAVE", "DISMISS")

STORE = """
project: live
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: stores.duckdb_asof.DuckDBAsofOfflineStore}}
online_store: {online}
batch_engine: {{type: stores.columnar.ColumnarComputeEngine}}
entity_key_serialization_version: 3
"""


@cache
def midnight() -> datetime:
    """The last midnight when it was first asked for: a run may go on past the next one."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def redis_online(address: str) -> str:
    """Feast's settings of the Redis plug-in."""
    return json.dumps(
        {"type": "stores.redis.ColumnarRedisOnlineStore", "connection_string": address}
    )


def sqlite_online(folder: Path) -> str:
    """Feast's settings of the SQLite plug-in."""
    path = str(folder / "online.db")
    return json.dumps({"type": "stores.sqlite.ColumnarSqliteOnlineStore", "path": path})


def random_events(
    rng: np.random.Generator, count: int, members: int, first: datetime, last: datetime
) -> list[Event]:
    """Draw events between two timestamps, ordered by time."""
    span = (last - first) / timedelta(microseconds=1)
    offsets = np.sort(rng.uniform(0, span, count))
    return [
        Event(
            int(rng.integers(1, members + 1)),
            int(rng.choice(ITEMS)),
            ACTIONS[int(rng.integers(3))],
            first + timedelta(microseconds=int(us)),
        )
        for us in offsets
    ]


def past_events(rng: np.random.Generator, count: int, members: int) -> list[Event]:
    """Draw events before midnight, none of which leaves the window between midnight and tomorrow.

    Otherwise the row of a member whom only the snapshot wrote would differ from a batch of now.
    """
    long_ago = random_events(
        rng, count // 10, members, midnight() - 40 * DAY, midnight() - 30 * DAY
    )
    return [*long_ago, *random_events(rng, count, members, midnight() - 26 * DAY, midnight())]


@dataclass
class Live:
    """A data folder and a feature store with any online store."""

    folder: Path
    online: str
    aggregators: Sequence[Aggregator] = AGGREGATORS
    length: int = 6
    _opened: list[FeatureStore] = field(default_factory=list)

    @property
    def config(self) -> Config:
        return Config.model_validate(
            {
                "data_dir": str(self.folder / "data"),
                "feature_store": str(self.folder / "feature_store.yaml"),
                "items": {"text": ["title"]},
                "dim": 4,
                "length": self.length,
                "duckdb": {"memory_limit": "500MB", "threads": 1},
            }
        )

    def store(self) -> FeatureStore:
        self._opened.append(publish.open_store(self.config))
        return self._opened[-1]

    def close(self) -> None:
        """Close the online connections of every store that was opened: Feast has no close."""
        for store in self._opened:
            close(store)

    def write_settings(self) -> None:
        """Write feature_store.yaml."""
        text = STORE.format(folder=self.folder, online=self.online)
        (self.folder / "feature_store.yaml").write_text(plain_feast.settings(text))

    def build(self, events: Sequence[Event], as_of: datetime) -> None:
        """Package, snapshot `events` as of a timestamp, apply the views, publish."""
        config = self.config
        self.write_settings()
        rng = np.random.default_rng(1)
        # The last item has no vector.
        long_ago = as_of - 200 * DAY
        write_items(config, [(i, rng.normal(size=4).tolist(), long_ago) for i in ITEMS[:-1]])
        for aggregator in self.aggregators:
            package(aggregator, config, trained=build(aggregator, config))
        self.snapshot(events, as_of)
        store = self.store()
        publish.apply(config, store, self.aggregators)
        publish.publish(config, store, as_of, self.aggregators)

    def snapshot(self, events: Sequence[Event], as_of: datetime) -> None:
        """Build the partitions of a timestamp, as the daily run would."""
        write_activity(self.config, events)
        with connect(self.config) as con:
            build_sequences(self.config, con, as_of, as_of - DAY, as_of)
            build_member_stats(self.config, as_of)
            embed_snapshot(self.config, con, as_of, as_of, self.aggregators)

    def expected(
        self, events: Sequence[Event], as_of: datetime
    ) -> dict[str, dict[Any, dict[str, Any]]]:
        """What the batch makes of these events at a timestamp: view → member → row."""
        with TemporaryDirectory() as folder:
            for name in ("artifacts", "items"):
                (Path(folder) / name).symlink_to(self.config.data / name)
            config = self.config.model_copy(update={"data_dir": folder})
            write_activity(config, events)
            with connect(config) as con:
                build_sequences(config, con, as_of, as_of - DAY, as_of)
                build_member_stats(config, as_of)
                embed_snapshot(config, con, as_of, as_of, self.aggregators)
            return {
                view: {
                    row["member_id"]: row
                    for row in _rows(partition(config.layout.table(view), as_of))
                }
                for view in self.view_names()
            }

    def updater(self, worker: str = "worker", **more: Any) -> MemberUpdater:
        """What a worker updates members with; `clock` may be another one."""
        streamed = [aggregator for aggregator in self.aggregators if aggregator.stream]
        return open_updater(self.config, self.store(), streamed, worker, **more)

    def worker(self, url: str, name: str = "worker", **more: Any) -> Worker:
        """A worker; its states are built if they do not exist yet."""
        updater = self.updater(name, **more)
        bus = open_bus(url, name)
        prepare(self.config, self.store(), updater, bus, self.aggregators)
        return Worker(self.config, bus, updater, Metrics(), Pace(linger=0.0))

    def sequences(self, members: Sequence[Any], as_of: datetime) -> dict[Any, dict[str, Any]]:
        """The states, folded to a timestamp, as rows of member_sequences."""
        config = self.config
        states: StateStore = open_states(config, self.store())
        found, _ = unpack(config.rules, states.read(members))
        states.close()
        nothing = Actions.of(config.rules, [], [], [], [])
        folded = fold(config.rules, found, nothing, microseconds(as_of)).states
        rows = to_sequences(config.rules, pa.array(members), folded, microseconds(as_of), as_of)
        return {row["member_id"]: row for row in rows.to_pylist()}

    def bus_of(self, worker: Worker) -> Bus:
        """A separate bus for a producer: the worker's belongs to the worker's thread."""
        bus = worker.bus
        assert isinstance(bus, RedisBus)
        return RedisBus(bus.url, "activity", "activity-stream", "producer")

    def view_names(self) -> list[str]:
        return [
            SEQUENCE_VIEW,
            MEMBER_STATS_VIEW,
            *(aggregator.view for aggregator in self.aggregators),
        ]

    def table(self, view: str) -> list[dict[str, Any]]:
        """The rows of midnight's snapshot."""
        file = partition(self.config.layout.table(view), midnight())
        return _rows(file)

    def offline_rows(self, view: str, worker: Worker | None = None) -> list[dict[str, Any]]:
        """The streamed rows of a view's offline table, oldest part first."""
        if worker is not None:
            worker.updater.log.flush()
        files = parts(self.config.layout.table(view))
        return [row for file in files for row in _rows(file)]

    def online_rows(self, view: str, members: Sequence[Any]) -> dict[Any, dict[str, Any]]:
        """What `get_online_features` returns of a view, with its event_timestamp."""
        store = self.store()
        fields = [field.name for field in store.get_feature_view(view).features]
        answer = store.get_online_features(
            features=[f"{view}:{name}" for name in fields],
            entity_rows=[{"member_id": member} for member in members],
        )
        values = answer.to_dict()
        vector = answer.proto.results[
            list(answer.proto.metadata.feature_names.val).index(fields[0])
        ]
        timestamps = [stamp.ToMicroseconds() for stamp in vector.event_timestamps]
        return {
            member: {name: values[name][index] for name in fields}
            | {"event_timestamp": timestamp_of(timestamps[index])}
            for index, member in enumerate(members)
        }

    def assert_is_the_batch(self, events: Sequence[Event], members: Sequence[Any]) -> None:
        """Assert that every member's state and online row equal the batch of all events."""
        as_of = utc_now() + timedelta(seconds=10)
        expected = self.expected(events, as_of)
        states = self.sequences(members, as_of)
        wanted = expected[SEQUENCE_VIEW]
        assert {m: row for m, row in states.items() if row["n_actions"]} == {
            m: row for m, row in wanted.items() if row["n_actions"]
        }
        for view, rows in expected.items():
            online = self.online_rows(view, members)
            for member, row in rows.items():
                if wanted[member]["n_actions"]:
                    assert_same_row(row, online[member])


def _rows(file: Path) -> list[dict[str, Any]]:
    return pq.ParquetFile(file).read().to_pylist()


def assert_same_row(row: dict[str, Any], online: dict[str, Any]) -> None:
    """Compare a table's row with the online one: vectors to 1e-5, timestamps in whole seconds."""
    for name, value in online.items():
        wanted = row[name.removeprefix("stored_")]
        if name == "event_timestamp":
            continue
        if name.endswith("_embedding"):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
        elif name == "event_timestamps":
            assert [v.timestamp() for v in value] == [w.timestamp() // 1 for w in wanted]
        elif name in TIMES:
            assert value.timestamp() == wanted.timestamp() // 1
        else:
            assert value == wanted


def send(bus: Bus, events: Sequence[Event]) -> None:
    """Put events on a bus."""
    bus.send(
        [
            (str(e.member_id), encode(e.member_id, e.item_id, e.action, e.event_timestamp))
            for e in events
        ]
    )


def drain(worker: Worker) -> int:
    """Take micro-batches until the bus is empty."""
    handled = 0
    while step := worker.step():
        handled += step
    return handled


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A redis-server that persists what it acknowledged in `folder`; killed at the end."""
    program = shutil.which("redis-server")
    if program is None:
        missing("no redis-server on the PATH")
    process = subprocess.Popen(
        f"{program} --port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always".split(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        assert any(b"Ready to accept connections" in line for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    """A free port, below those that Linux gives to clients.

    So no connection takes the port of a server while it is down and about to come back.
    """
    for port in random.sample(range(10_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports were tried, and none is free")


def redis_client(address: str) -> redis.Redis:
    host, port = address.split(":")
    return redis.Redis(host=host, port=int(port))


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """librdkafka's broker simulator, over TCP: it lives within a client; others may connect."""
    cluster, brokers = _simulated()
    yield brokers
    cluster.flush(10)


@contextmanager
def kafka_process() -> Iterator[tuple[str, int]]:
    """The simulator in a separate process; yields its brokers and its process id."""
    forks = multiprocessing.get_context("forkserver")
    here, there = forks.Pipe()
    process = forks.Process(target=_simulate, args=(there,))
    process.start()
    assert process.pid is not None
    try:
        yield here.recv(), process.pid
    finally:
        process.kill()
        process.join()


def _simulated() -> tuple[Producer, str]:
    cluster = Producer(
        {"test.mock.num.brokers": 1, "bootstrap.servers": "replaced", "log_level": 4}
    )
    brokers = cluster.list_topics(timeout=300).brokers.values()
    return cluster, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def _simulate(pipe: Connection) -> None:
    cluster, brokers = _simulated()
    pipe.send(brokers)
    pipe.recv()  # blocks until the process is killed
    cluster.flush(10)
