"""A market small enough for a test, with a snapshot online, a bus, and workers on it."""

import json
import multiprocessing
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from serving.stream.offline_log import OfflineLog, parts, table_folder
from serving.stream.online_views import OnlineViews
from serving.stream.snapshot import prepare
from serving.stream.states.open import open_states
from serving.stream.states.protocol import StateStore, unpack
from serving.stream.updater import Fresh, utc_now
from serving.stream.vectors import Vectors
from serving.stream.worker import Pace, Worker
from tests.worlds import plain_feast
from tests.worlds.events import Event, write_activity
from tests.worlds.servers import missing
from tests.worlds.tiny_models import write_items
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition
from transformations.names import SEQUENCE_VIEW
from transformations.stream import Actions, fold, microseconds, moment_of, to_sequences
from transformations.tables import build_sequences

AGGREGATORS: tuple[Aggregator, ...] = (
    Average(version=1, stream=True),
    GeometricDecay(version=1, decay=0.8, stream=True),
)
DAY = timedelta(days=1)
ITEMS = range(1, 41)
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
    """Draw events between two moments, ordered by time."""
    span = (last - first) / timedelta(microseconds=1)
    moments = np.sort(rng.uniform(0, span, count))
    return [
        Event(
            int(rng.integers(1, members + 1)),
            int(rng.choice(ITEMS)),
            ACTIONS[int(rng.integers(3))],
            first + timedelta(microseconds=int(us)),
        )
        for us in moments
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
    """A data folder and a feature store whose online side may be any."""

    folder: Path
    online: str
    aggregators: Sequence[Aggregator] = AGGREGATORS
    length: int = 6

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
        return publish.open_store(self.config)

    def build(self, events: Sequence[Event], as_of: datetime) -> None:
        """Package, snapshot `events` as of a moment, apply the views, publish."""
        config = self.config
        text = STORE.format(folder=self.folder, online=self.online)
        (self.folder / "feature_store.yaml").write_text(plain_feast.settings(text))
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
        """Build the partitions of a moment, as the daily run would."""
        write_activity(self.config, events)
        with connect(self.config) as con:
            build_sequences(self.config, con, as_of, as_of - DAY, as_of)
            embed_snapshot(self.config, con, as_of, as_of, self.aggregators)

    def expected(
        self, events: Sequence[Event], as_of: datetime
    ) -> dict[str, dict[Any, dict[str, Any]]]:
        """What the batch makes of these events at a moment: view → member → row."""
        with TemporaryDirectory() as folder:
            for name in ("artifacts", "items"):
                (Path(folder) / name).symlink_to(self.config.data / name)
            config = self.config.model_copy(update={"data_dir": folder})
            write_activity(config, events)
            with connect(config) as con:
                build_sequences(config, con, as_of, as_of - DAY, as_of)
                embed_snapshot(config, con, as_of, as_of, self.aggregators)
            folders = {SEQUENCE_VIEW: config.layout.sequences}
            folders |= {a.view: config.layout.embeddings(a.view) for a in self.aggregators}
            return {
                view: {
                    row["member_id"]: row
                    for row in pq.ParquetFile(partition(path, as_of)).read().to_pylist()
                }
                for view, path in folders.items()
            }

    def fresh(self, worker: str = "worker", **more: Any) -> Fresh:
        config, store = self.config, self.store()
        streamed = [aggregator for aggregator in self.aggregators if aggregator.stream]
        return Fresh(
            config,
            open_states(config, store),
            OnlineViews(config, store),
            Vectors(config, streamed, utc_now()),
            OfflineLog(config, worker),
            **more,
        )

    def worker(self, url: str, name: str = "worker", **more: Any) -> Worker:
        """A worker whose states are made, if they are not yet."""
        fresh = self.fresh(name, **more)
        bus = open_bus(url, name)
        prepare(self.config, self.store(), fresh, bus, self.aggregators)
        return Worker(self.config, bus, fresh, Metrics(), Pace(linger=0.0))

    def sequences(self, members: Sequence[Any], as_of: datetime) -> dict[Any, dict[str, Any]]:
        """The states, folded to a moment, as rows of member_sequences."""
        config = self.config
        states: StateStore = open_states(config, self.store())
        found, _ = unpack(config.rules, states.read(members))
        states.close()
        nothing = Actions.of(config.rules, [], [], [], [])
        folded = fold(config.rules, found, nothing, microseconds(as_of)).states
        rows = to_sequences(config.rules, pa.array(members), folded, microseconds(as_of), as_of)
        return {row["member_id"]: row for row in rows.to_pylist()}

    def bus_of(self, worker: Worker) -> Bus:
        """A bus of its own for a producer: the worker's belongs to the worker's thread."""
        bus = worker.bus
        assert isinstance(bus, RedisBus)
        return RedisBus(bus.url, "activity", "activity-stream", "producer")

    def view_names(self) -> list[str]:
        return [SEQUENCE_VIEW, *(aggregator.view for aggregator in self.aggregators)]

    def table(self, view: str) -> list[dict[str, Any]]:
        """The rows of midnight's snapshot."""
        file = partition(table_folder(self.config, view), midnight())
        return pq.ParquetFile(file).read().to_pylist()

    def offline_rows(self, view: str, worker: Worker | None = None) -> list[dict[str, Any]]:
        """The streamed rows of a view's offline table, oldest part first."""
        if worker is not None:
            worker.fresh.log.flush()
        files = parts(table_folder(self.config, view))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

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
        moments = [stamp.ToMicroseconds() for stamp in vector.event_timestamps]
        return {
            member: {name: values[name][place] for name in fields}
            | {"event_timestamp": moment_of(moments[place])}
            for place, member in enumerate(members)
        }

    def assert_is_the_batch(self, events: Sequence[Event], members: Sequence[Any]) -> None:
        """Every member's state and online row is what the batch makes of all events."""
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
                if row["n_actions"]:
                    assert_same_row(row, online[member])


def assert_same_row(row: dict[str, Any], online: dict[str, Any]) -> None:
    """Compare a table's row with the online one: vectors to 1e-5, moments in whole seconds."""
    for name, value in online.items():
        wanted = row[name.removeprefix("stored_")]
        if name == "event_timestamp":
            continue
        if name.endswith("_embedding"):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
        elif name == "event_timestamps":
            assert [v.timestamp() for v in value] == [w.timestamp() // 1 for w in wanted]
        elif name == "last_action_at":
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
    """A redis-server that keeps what it acknowledged in `folder`; killed at the end."""
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
    """A port that nobody has, below those that Linux gives to clients.

    While a server that is to come back on its port is away, no connection gets that port.
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
    """librdkafka's broker simulator, over TCP: it lives within a client, and others may connect."""
    cluster, brokers = _simulated()
    yield brokers
    cluster.flush(10)


@contextmanager
def kafka_process() -> Iterator[tuple[str, int]]:
    """The simulator in a process of its own; yields its brokers and its process id."""
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
    brokers = cluster.list_topics(timeout=10).brokers.values()
    return cluster, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def _simulate(pipe: Connection) -> None:
    cluster, brokers = _simulated()
    pipe.send(brokers)
    pipe.recv()  # nothing comes: it lives until it is killed
    cluster.flush(10)
