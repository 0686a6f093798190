"""The stream on a private Redis: sustained events per second, event to visible, growth, soak.

    python -m benchmarks.stream                   # throughput by workers; latency for a minute
    python -m benchmarks.stream --soak 30         # only 500 events per second for 30 minutes

Workers are separate processes; this one sends the events and reads them back through Feast.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.sequences import ATTRIBUTES
from pipelines.private_redis import private_redis, write_store
from transformations.layout import period_file

RESULTS = Path(__file__).parent / "results" / "stream.json"
MEMBERS, ITEMS = 20_000, 5_000
ACTIONS = ("APPLY", "SAVE", "DISMISS")
LINES = {
    "average and decay": ("average", "decay"),
    "learned": ("learned",),
    "decay and learned": ("decay", "learned"),  # what the catalogue streams
    "average and decay, 3 attributes": ("average", "decay"),
}
CARRYING = {"average and decay, 3 attributes"}  # each action has what ATTRIBUTES names
RATE = 500
TICK = 0.02
SAMPLED = 25  # one event in SAMPLED is read back
AWAITED = 5_000  # further items, used only by events that are read back
PATIENCE = 60.0  # seconds after the last event; what is not visible by then is lost

Event = tuple[int, int, str, datetime, dict[str, Any]]


# What past actions carry, as SQL; what new ones do, in `events_of`.
PAST = """
    case when random() > 0.25 then random() * 3600 end as dwell,
    ['feed', 'search', 'mail', 'ad'][1 + (random() * 3.99)::int % 4] as seen_on,
    case
        when random() < 0.25 then 'a text of some forty letters, the ' || (random() * 1000)::int
    end as comment,
"""


def aggregators(names: Sequence[str]) -> tuple[Any, ...]:
    """Return these lines, all with stream=True; the learned one is the catalogue's."""
    from models.catalog import AGGREGATORS
    from models.spec import Average, GeometricDecay, Learned

    learned = next(line for line in AGGREGATORS if isinstance(line, Learned))
    lines = {
        "average": Average(version=1),
        "decay": GeometricDecay(version=1, decay=0.8),
        "learned": learned,
    }
    return tuple(replace(lines[name], stream=True) for name in names)


def configured(folder: Path) -> Any:
    """Return the configuration of a benchmark's folder; `build_world` writes the attributes."""
    from transformations.config import Config

    attributes = json.loads((folder / "attributes.json").read_text())
    settings = {
        "events": {"attributes": attributes},
        "data_dir": str(folder / "data"),
        "feature_store": str(folder / "feature_store.yaml"),
        "items": {"text": ["title"]},
    }
    return Config.model_validate(settings)


def build_world(
    folder: Path, port: int, names: Sequence[str], attributes: dict[str, Any] | None = None
) -> None:
    """Write items and half a million past actions, build their snapshot, publish it."""
    import duckdb

    from models.embed import embed_snapshot
    from models.layers.build import build
    from models.packaging import package
    from serving import publish
    from transformations.duck import connect
    from transformations.tables import build_sequences

    write_store(folder, port)
    (folder / "attributes.json").write_text(json.dumps(attributes or {}))
    config, as_of, lines = configured(folder), midnight(), aggregators(names)
    config.items_dir.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        con.execute("select setseed(0.5)")
        con.execute(
            f"copy (select i as item_id, list_transform(range({config.dim}), "
            "lambda k: (random() - 0.5 + 0 * k)::float) as embedding, "
            "timestamptz '2020-01-01' as available_at, 'tfidf_svd' as encoder, "
            f"1 as encoder_version from range(1, {ITEMS + AWAITED + 1}) t(i)) to "
            f"'{config.items_dir}/part-0.parquet'"
        )
        con.execute(
            "create table activity as select * from (select "
            f"(1 + random() * {MEMBERS - 1})::bigint as member_id, "
            f"(1 + random() * {ITEMS - 1})::bigint as item_id, "
            "['APPLY', 'SAVE', 'DISMISS'][1 + (random() * 2.99)::int % 3] as action, "
            "$end - to_microseconds((1 + random() * 27 * 86400000000)::bigint) as event_timestamp, "
            "null::timestamptz as ingested_at, "
            f"{PAST if attributes else ''} from range(500000)) order by all",
            {"end": as_of},
        )
        for (day,) in con.execute("select distinct event_timestamp::date from activity").fetchall():
            file = period_file(config.layout.activity, day)
            file.parent.mkdir(parents=True)
            con.execute(
                f"copy (from activity where event_timestamp::date = '{day}' order by all) "
                f"to '{file}' (format parquet)"
            )
    for line in lines:
        package(line, config, trained=build(line, config))
    with connect(config) as con:
        build_sequences(config, con, as_of, as_of - timedelta(days=1), as_of)
        embed_snapshot(config, con, as_of, as_of, lines)
    store = publish.open_store(config)
    publish.apply(config, store, lines)
    publish.publish(config, store, as_of, lines)


def midnight() -> datetime:
    """Return the last midnight."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def work(folder: Path, port: int, names: Sequence[str], name: str, pipe: Any) -> None:
    """Run one worker until told to stop; report when it is ready, and its counts."""
    from serving.publish.feast_store import open_store
    from serving.stream.bus.open import open_bus
    from serving.stream.snapshot import prepare
    from serving.stream.updater import open_updater
    from serving.stream.worker import Worker

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    config = configured(folder)
    store, lines = open_store(config), aggregators(names)
    bus = open_bus(f"redis://127.0.0.1:{port}", name)
    worker = Worker(config, bus, open_updater(config, store, lines, name))
    prepare(config, store, worker.updater, bus, lines)
    stop = threading.Event()
    pipe.send("ready")
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    pipe.recv()
    stop.set()
    thread.join()
    value = worker.metrics.value
    outcomes = ("applied", "duplicate", "expired", "clipped", "held")
    pipe.send({o: int(value("events_total", outcome=o)) for o in outcomes})
    worker.close()


@contextmanager
def workers(folder: Path, port: int, names: Sequence[str], count: int) -> Iterator[list[Any]]:
    """Start `count` workers, one after the other; yield their processes.

    When they have ended, the total of their counts is appended to that list.
    """
    spawn = multiprocessing.get_context("spawn")
    started, pipes = [], []
    for number in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=work, args=(folder, port, names, f"worker-{number}", theirs))
        process.start()
        assert ours.recv() == "ready"
        started.append(process)
        pipes.append(ours)
    yield started
    totals: dict[str, int] = {}
    for process, pipe in zip(list(started), pipes, strict=True):
        pipe.send("stop")
        for outcome, events in pipe.recv().items():
            totals[outcome] = totals.get(outcome, 0) + events
        process.join()
    started.append(totals)


def events_of(rng: np.random.Generator, count: int, carrying: bool = False) -> list[Event]:
    """Draw events with current timestamps, and with attributes where they carry some."""
    now = datetime.now(UTC)
    columns = zip(
        rng.integers(1, MEMBERS + 1, count).tolist(),
        rng.integers(1, ITEMS + 1, count).tolist(),
        rng.integers(3, size=count).tolist(),
        strict=True,
    )
    carried: Sequence[dict[str, Any]] = [{}] * count
    if carrying:
        carried = [
            {
                "dwell": 3600 * share if share > 0.25 else None,
                "seen_on": ("feed", "search", "mail", "ad")[code],
                "comment": f"a text of some forty letters, the {index}" if share < 0.25 else None,
            }
            for index, (share, code) in enumerate(
                zip(rng.random(count).tolist(), rng.integers(4, size=count).tolist(), strict=True)
            )
        ]
    return [
        (member, item, ACTIONS[code], now - timedelta(microseconds=count - index), carried[index])
        for index, (member, item, code) in enumerate(columns)
    ]


def send(bus: Any, events: Sequence[Event]) -> None:
    """Put events on the bus."""
    from serving.stream.bus.messages import encode

    bus.send([(str(event[0]), encode(*event)) for event in events])


def left(client: redis.Redis) -> int:
    """Return the number of events that the group has not acknowledged."""
    groups: Any = client.xinfo_groups("activity")
    return int(groups[0]["lag"] or 0) + int(groups[0]["pending"])


def sustained(folder: Path, port: int, names: Sequence[str], count: int, events: int) -> float:
    """Return the events per second at which `count` workers empty a full bus."""
    from serving.stream.bus.open import open_bus

    carrying = bool(configured(folder).events.attributes)
    bus, client = open_bus(f"redis://127.0.0.1:{port}", "producer"), redis.Redis(port=port)
    rng = np.random.default_rng(count)
    with workers(folder, port, names, count) as running:
        # Warm up: the first call of a model is traced.
        send(bus, events_of(rng, 2_000, carrying))
        while left(client):
            time.sleep(TICK)
        # Sent before the measurement, so that the bus is full from the start.
        for _ in range(events // 5_000):
            send(bus, events_of(rng, 5_000, carrying))
        began, waiting = time.perf_counter(), left(client)
        while left(client):
            time.sleep(TICK)
        seconds = time.perf_counter() - began
    handled = sum(running[-1].values())
    assert handled == 2_000 + events // 5_000 * 5_000, f"lost or doubled: {running[-1]}"
    return waiting / seconds


class Reader:
    """Reads members through Feast: their items, and all vectors of a line as one list."""

    def __init__(self, folder: Path, name: str) -> None:
        from serving.publish.feast_store import open_store

        config, (line,) = configured(folder), aggregators([name])
        self._store = open_store(config)
        self._fields = list(line.vectors(config))
        self._features = ["member_activity_sequence:item_ids"]
        self._features += [f"{line.view}:{field}" for field in self._fields]

    def read(self, members: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """Return each member's items and vectors, as `get_online_features` has them."""
        answer = self._store.get_online_features(
            features=self._features, entity_rows=[{"member_id": member} for member in members]
        ).to_dict()
        vectors = zip(*(answer[field] for field in self._fields), strict=True)
        return [
            (items or [], [number for one in several for number in one or []])
            for items, several in zip(answer["item_ids"], vectors, strict=True)
        ]


def latency(
    folder: Path, port: int, names: Sequence[str], seconds: float, rate: int
) -> dict[str, Any]:
    """Send at a rate; read one event in SAMPLED back through Feast until it is visible.

    It is visible when its item is in the sequence, and the vectors of the last line differ from
    those before it was sent.
    """
    from serving.stream.bus.open import open_bus

    carrying = bool(configured(folder).events.attributes)
    bus, client = open_bus(f"redis://127.0.0.1:{port}", "producer"), redis.Redis(port=port)
    rng = np.random.default_rng(99)
    before, after = Reader(folder, names[-1]), Reader(folder, names[-1])
    waiting: dict[int, tuple[int, list[float], float]] = {}
    found: list[float] = []
    done = threading.Event()

    def read_back() -> None:
        """Read all awaited members at once, repeatedly, as a ranker's requests would."""
        until = float("inf")
        while waiting or not done.is_set():
            if done.is_set():
                until = min(until, time.perf_counter() + PATIENCE)
            if time.perf_counter() > until:
                return
            asked = list(waiting.items())
            if not asked:
                time.sleep(0.001)
                continue
            answer = after.read([member for member, _ in asked])
            now = time.perf_counter()
            for (member, (item, old, since)), (items, new) in zip(asked, answer, strict=True):
                if item in items and new != old:
                    found.append(now - since)
                    del waiting[member]

    memory, descriptors = [], []
    with workers(folder, port, names, 1) as running:
        send(bus, events_of(rng, 2_000, carrying))
        while left(client):
            time.sleep(TICK)
        process = psutil.Process(running[0].pid)
        reader = threading.Thread(target=read_back)
        reader.start()
        began, sent, awaited = time.perf_counter(), 0, 0
        while (passed := time.perf_counter() - began) < seconds:
            due = int(passed * rate) - sent
            events = events_of(rng, due, carrying) if due else []
            sampled = {
                events[index][0]: index
                for index in range(0, len(events), SAMPLED)
                if events[index][0] not in waiting
            }
            olds = before.read(list(sampled)) if sampled else []
            for (member, index), (_, old) in zip(sampled.items(), olds, strict=True):
                item = ITEMS + 1 + awaited % AWAITED
                awaited += 1
                events[index] = (member, item, *events[index][2:])
                waiting[member] = (item, old, time.perf_counter())
            send(bus, events)
            sent += due
            if len(memory) < passed:
                memory.append(process.memory_info().rss)
                descriptors.append(process.num_fds())
            time.sleep(TICK)
        done.set()
        reader.join()
        while left(client):
            time.sleep(TICK)
    lost = sent + 2_000 - sum(running[-1].values())
    median, high = np.quantile(found, [0.5, 0.99])
    quarter = max(len(memory) // 4, 1)
    return {
        "events_per_second": rate,
        "seconds": seconds,
        "awaited": awaited,
        "read_back": len(found),
        "p50_ms": round(float(median) * 1000, 1),
        "p99_ms": round(float(high) * 1000, 1),
        "lost": lost + len(waiting),
        "memory_mb_by_minute": [
            round(float(np.median(memory[second : second + 60])) / 1e6, 1)
            for second in range(0, len(memory), 60)
        ],
        "memory_mb_first_quarter": round(float(np.median(memory[:quarter])) / 1e6, 1),
        "memory_mb_last_quarter": round(float(np.median(memory[-quarter:])) / 1e6, 1),
        "descriptors_first": descriptors[0],
        "descriptors_last": descriptors[-1],
    }


def run(line: str, counts: Sequence[int], events: int, seconds: float) -> dict[str, Any]:
    """Measure one set of aggregators in a new world."""
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        folder = Path(name)
        build_world(folder, port, LINES[line], ATTRIBUTES if line in CARRYING else None)
        speeds = {
            str(count): round(sustained(folder, port, LINES[line], count, events))
            for count in counts
        }
        result: dict[str, Any] = {
            "aggregators": [one.name for one in aggregators(LINES[line])],
            "events": events,
            "members": MEMBERS,
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),  # of other work too
            "events_per_second_by_workers": speeds,
        }
        if seconds:
            result["at_a_rate"] = latency(folder, port, LINES[line], seconds, RATE)
        return result


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="at 500 events per second")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes at 500 events per second")
    asked = parser.parse_args()
    if asked.soak:
        found = {"average and decay": run("average and decay", [], 0, asked.soak * 60)}
    else:
        found = {line: run(line, asked.workers, asked.events, asked.seconds) for line in LINES}
    table = Table(title="The stream")
    for name in ("aggregators", "what", "value"):
        table.add_column(name)
    for line, result in found.items():
        for count, speed in result["events_per_second_by_workers"].items():
            table.add_row(line, f"events per second, {count} worker(s)", f"{speed:,}")
        for name, value in result.get("at_a_rate", {}).items():
            values = value if isinstance(value, list) else [value]
            table.add_row(line, name, " ".join(f"{each:,}" for each in values))
        table.add_section()
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    file = RESULTS.with_name("stream_soak.json") if asked.soak else RESULTS
    file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
