"""What goes wrong with a stream: killed workers, servers that go away, two writers at once."""

import multiprocessing
import os
import random
import signal
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from serving import publish
from serving.stream.bus.messages import encode
from serving.stream.offline_log import OfflineLog
from serving.stream.snapshot import prepare
from serving.stream.states.protocol import StateLostError
from serving.stream.updater import utc_now
from serving.stream.worker import Pace
from tests.worlds.events import Event
from tests.worlds.live import (
    Live,
    drain,
    free_port,
    kafka_process,
    midnight,
    past_events,
    random_events,
    redis_client,
    redis_online,
    send,
    server,
)
from transformations.archive import Read, reads
from transformations.config import Config
from transformations.names import SEQUENCE_VIEW

pytestmark = pytest.mark.redis

KILLS = 20
AWAY = 10.0
MEMBERS = list(range(1, 21))

# A clean process that has everything imported and forks a child for each life of a worker.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.worlds.live"])


def since_midnight(count: int, seed: int) -> list[Event]:
    rng = np.random.default_rng(seed)
    return random_events(rng, count, 20, utc_now() - timedelta(hours=9), utc_now())


@pytest.fixture(scope="module")
def before() -> list[Event]:
    return past_events(np.random.default_rng(7), 200, 18)


@pytest.fixture
def live(tmp_path, redis_server, before) -> Live:
    live = Live(tmp_path, redis_online(redis_server))
    live.build(before, midnight())
    return live


def one_life(folder: Any, online: str, url: str, commands: int) -> None:
    """Work until `commands` commands have gone to Redis; then die while sending the next one.

        worker ── command 1 ──► redis      sent whole
        worker ── command 2 ──► redis      sent whole
          …                                `left` counts down to 0
        worker ── XACK acti┊    redis      only the first bytes, a random number from 0 to all
             SIGKILL ──────┘               as a kill within a system call leaves it

    The next life finds what Redis made of the bytes that arrived.
    """
    live = Live(folder, online)
    sent = redis.connection.Connection.send_packed_command
    left = commands

    def last_words(self: Any, command: Any, check_health: bool = True) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            parts = [command] if isinstance(command, bytes) else list(command)
            data = b"".join(parts)
            self._sock.sendall(data[: random.Random(commands).randrange(len(data) + 1)])
            os.kill(os.getpid(), signal.SIGKILL)
        sent(self, command, check_health)

    redis.connection.Connection.send_packed_command = last_words
    worker = live.worker(url)
    worker.pace = Pace(max_batch=10, linger=0.0)
    drain(worker)
    worker.close()


def test_twenty_killed_workers_end_in_the_batchs_state(live, before, redis_server):
    url = f"redis://{redis_server}"
    events = since_midnight(300, 11)
    first = live.worker(url)
    send(first.bus, [*events, *events[:50]])
    first.close()
    draw = random.Random(5)
    killed = 0
    while killed < KILLS:
        arguments = (live.folder, live.online, url, draw.randrange(5, 60))
        child = FORKS.Process(target=one_life, args=arguments)
        child.start()
        child.join(600)
        assert child.exitcode in (-signal.SIGKILL, 0)
        killed += child.exitcode == -signal.SIGKILL
        if child.exitcode == 0:  # it handled everything: send more, so that the next ones can die
            more = since_midnight(100, 100 + killed)
            events += more
            last = live.worker(url)
            send(last.bus, more)
            last.close()
    last = live.worker(url)
    drain(last)
    live.assert_is_the_batch([*before, *events], MEMBERS)
    last.close()
    # What is online was appended offline, whoever wrote it.
    offline = live.offline_rows(SEQUENCE_VIEW)
    online = live.online_rows(SEQUENCE_VIEW, MEMBERS)
    for member in {event.member_id for event in events}:
        newest = max(row["event_timestamp"] for row in offline if row["member_id"] == member)
        assert newest == online[member]["event_timestamp"]
    # What was acknowledged is in the archive, whoever read it.
    kept = {value for each in reads(live.config) for value in messages_in(live.config, each)}
    assert kept == {encode(*event[:4]) for event in events}


def messages_in(config: Config, read: Read) -> list[bytes]:
    values: list[bytes] = (
        pq.ParquetFile(config.layout.archived(str(read.sha256))).read()["value"].to_pylist()
    )
    return values


def a_life_without_spooling(folder: Any, online: str, url: str) -> None:
    """Die right after the first batch's rows can be read online, before any is spooled."""
    live = Live(folder, online)
    worker = live.worker(url)
    worker.pace = Pace(max_batch=40, linger=0.0)
    OfflineLog.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    drain(worker)


def test_a_row_that_was_online_and_not_spooled_is_appended_after_a_restart(live, redis_server):
    """Its events are redelivered as duplicates: the member's row is written and appended again."""
    url = f"redis://{redis_server}"
    events = since_midnight(40, 37)
    first = live.worker(url)
    send(first.bus, events)
    first.close()
    before = live.online_rows(SEQUENCE_VIEW, MEMBERS)
    child = FORKS.Process(target=a_life_without_spooling, args=(live.folder, live.online, url))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    acted = sorted({event.member_id for event in events})
    online = live.online_rows(SEQUENCE_VIEW, MEMBERS)
    assert all(online[m]["event_timestamp"] != before[m]["event_timestamp"] for m in acted)
    assert live.offline_rows(SEQUENCE_VIEW) == []
    last = live.worker(url)
    assert drain(last) == len(events)
    assert last.metrics.value("events_total", outcome="duplicate") == len(events)
    last.close()
    online = live.online_rows(SEQUENCE_VIEW, MEMBERS)
    for view in live.view_names():
        rows = {row["member_id"]: row for row in live.offline_rows(view)}
        assert sorted(rows) == acted
        for member, row in rows.items():
            assert row["event_timestamp"] == online[member]["event_timestamp"]
            assert row["created_timestamp"] >= row["event_timestamp"]


def test_what_a_dead_worker_had_spooled_is_appended_by_one_that_lives(live, redis_server):
    url = f"redis://{redis_server}"
    alive = live.worker(url, "alive")
    alive.pace = Pace(linger=0.0, spools_every=0.0)
    dead = live.worker(url, "dead.on.a.host.with.dots")
    send(dead.bus, since_midnight(30, 41))
    assert drain(dead) == 30
    alive.step()
    assert live.offline_rows(SEQUENCE_VIEW) == []  # it lives: its spool is its own
    dead.updater.log._lock.close()  # as the end of its process does
    alive.step()
    assert len(live.offline_rows(SEQUENCE_VIEW)) > 0
    spooled = [file.parent.name for file in live.config.layout.state.glob("stream/*/lock")]
    assert [name for name in spooled if name.startswith("dead")] == []
    dead.bus.close()
    dead.updater.states.close()
    alive.close()


class Running:
    """A worker in a thread, and what it ended with."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.stop = threading.Event()
        self.batch = threading.Event()
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run(self.stop, lambda _: self.batch.set())
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def batches(self, count: int = 1) -> None:
        """Wait until `count` further batches have ended."""
        for _ in range(count):
            self.batch.clear()
            assert self.batch.wait(600)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(600)
        assert not self.thread.is_alive()


def all_done(address: str) -> bool:
    """Whether the group has read and acknowledged every entry of the bus."""
    with redis_client(address) as client:
        (group,) = client.xinfo_groups("activity")
    return group["lag"] == 0 and group["pending"] == 0


def committed(brokers: str, topic: str, group: str) -> int:
    """Count the messages of a topic that a group has committed."""
    client = Consumer({"bootstrap.servers": brokers, "group.id": group})
    try:
        parts = client.list_topics(topic, 10).topics[topic].partitions
        offsets = client.committed([TopicPartition(topic, part) for part in parts], 10)
        return sum(max(partition.offset, 0) for partition in offsets)
    finally:
        client.close()


def wait_for(running: Running, condition: Any) -> None:
    """Wait until a condition holds; check it after every batch."""
    for _ in range(2_000):
        if condition():
            return
        running.batches()
    raise AssertionError("the condition never held")


@pytest.mark.parametrize("gone", ["bus", "store"])
def test_a_server_that_goes_away_is_waited_for(tmp_path, before, gone, caplog):
    """For 10 seconds; the server comes back with what it had acknowledged."""
    folders = {name: tmp_path / name for name in ("bus", "store")}
    ports = {name: free_port() for name in folders}
    with ExitStack() as stack:
        for folder in folders.values():
            folder.mkdir()
        there = "store" if gone == "bus" else "bus"
        stack.enter_context(server(folders[there], ports[there]))
        live = Live(tmp_path, redis_online(f"127.0.0.1:{ports['store']}"))
        events = since_midnight(200, 13)
        with server(folders[gone], ports[gone]) as process:
            live.build(before, midnight())
            worker = live.worker(f"redis://127.0.0.1:{ports['bus']}")
            worker.pace = Pace(max_batch=5, linger=0.0)
            send(worker.bus, events)
            running = Running(worker)
            stack.callback(running.end)
            running.batches(3)
            process.kill()
            process.wait()
            # The fault lasts this long; nothing else is waited for.
            assert not running.ended.wait(AWAY)
            # Redis' client itself tries three times before it fails, with random pauses: 7 seconds
            # on average, 14 at most.
            for _ in range(600):
                if worker.metrics.value("retries_total", what=gone):
                    break
                assert not running.ended.wait(0.1)
            else:
                raise AssertionError(f"the worker never noticed that the {gone} was away")
        with server(folders[gone], ports[gone]):
            wait_for(running, lambda: all_done(f"127.0.0.1:{ports['bus']}"))
            running.end()
            assert running.error is None
            live.assert_is_the_batch([*before, *events], MEMBERS)
            worker.close()
    told = [record.message for record in caplog.records if record.name == "serving.stream.worker"]
    assert any(f"waiting for the {gone}" in line for line in told)
    assert any("going on after" in line for line in told)


def test_a_kafka_that_answers_nothing_for_ten_seconds_loses_nothing(live, before):
    """Its process is stopped: connections stay open, but nothing arrives, not even a heartbeat."""
    events = since_midnight(200, 43)
    # Shorter than the outage, so that the group has lost its only member when the broker is back.
    settings = "group=worker&session.timeout.ms=6000&heartbeat.interval.ms=500"
    with kafka_process() as (brokers, pid), ExitStack() as stack:
        AdminClient({"bootstrap.servers": brokers}).list_topics("worker", timeout=300)
        worker = live.worker(f"kafka://{brokers}/worker?{settings}")
        worker.pace = Pace(max_batch=5, linger=0.0)
        handled = 0
        send(worker.bus, events)
        while handled < 15:
            handled += worker.step()
        running = Running(worker)
        stack.callback(running.end)
        running.batches(3)
        os.kill(pid, signal.SIGSTOP)
        # The fault lasts this long; nothing else is waited for.
        ended = running.ended.wait(AWAY)
        os.kill(pid, signal.SIGCONT)
        assert not ended
        wait_for(running, lambda: committed(brokers, "worker", "worker") == len(events))
        running.end()
        assert running.error is None
        live.assert_is_the_batch([*before, *events], MEMBERS)
        worker.close()


def test_a_poison_message_is_put_away_once_however_often_its_batch_is_tried(live, redis_server):
    """The store refuses three times; each time the whole batch is handled again."""
    worker = live.worker(f"redis://{redis_server}")
    worker.bus.send([("1", b"{")])
    send(worker.bus, since_midnight(5, 47))
    write = worker.updater.states.write

    def away(*_: Any) -> Any:
        raise redis.exceptions.ConnectionError("away")

    worker.updater.states.write = away
    for _ in range(3):
        with pytest.raises(redis.exceptions.ConnectionError):
            worker.step()
    worker.updater.states.write = write
    assert worker.step() == 6
    with redis_client(redis_server) as client:
        assert client.xlen("activity.dead") == 1
    assert worker.metrics.value("dead_letters_total", reason="not JSON") == 1
    worker.close()


def test_a_worker_that_ends_leaves_the_group_unless_it_holds_entries(live, redis_server):
    first = live.worker(f"redis://{redis_server}", "first")
    send(first.bus, since_midnight(20, 49))
    assert first.step() == 20
    holding = live.worker(f"redis://{redis_server}", "holding")
    send(holding.bus, since_midnight(5, 50))
    assert len(holding.bus.read(5, 0.0)) == 5
    first.close()
    holding.close()
    with redis_client(redis_server) as client:
        names = [found["name"] for found in client.xinfo_consumers("activity", "activity-stream")]
    assert names == [b"holding"]


def test_an_emptied_redis_stops_the_worker_and_is_rebuilt(live, before, redis_server):
    """The bus was in the same Redis and is lost with it: the offline rows replace it."""
    url = f"redis://{redis_server}"
    events = since_midnight(150, 17)
    worker = live.worker(url)
    send(worker.bus, events)
    drain(worker)
    with redis_client(redis_server) as client:
        client.flushall()
    late = since_midnight(5, 18)
    with pytest.raises(StateLostError, match="activity stream --rebuild"):
        worker.updater.apply(_as_events(live, late))
    worker.close()
    again = live.worker(url)
    send(again.bus, late)
    drain(again)
    live.assert_is_the_batch([*before, *events, *late], MEMBERS)
    again.close()


def test_a_rebuild_replays_what_the_bus_still_holds(live, before, redis_server):
    """Nothing was appended offline and the spool is lost, but the bus still has all events."""
    url = f"redis://{redis_server}"
    events = since_midnight(100, 19)
    worker = live.worker(url)
    send(worker.bus, events)
    drain(worker)
    for spool in live.config.layout.state.glob("stream/*/*/*.arrows"):
        spool.write_bytes(b"")
    with redis_client(redis_server) as client:
        for key in client.scan_iter():
            if key != b"activity":
                client.delete(key)
    prepare(worker.config, live.store(), worker.updater, worker.bus, live.aggregators, again=True)
    assert drain(worker) == 100
    live.assert_is_the_batch([*before, *events], MEMBERS)
    worker.close()


def _as_events(live: Live, events: list[Event]) -> Any:
    from serving.stream.bus.messages import decode, encode

    return [decode(live.config.rules, encode(*event[:4]), utc_now()) for event in events]


def one_folds_between(live: Live, before: list[Event], url: str) -> None:
    """One worker writes between the other's read and its write: the other has to fold again."""
    one, two = live.worker(url, "one"), live.worker(url, "two")
    events = since_midnight(60, 23)
    mine, others = events[::2], events[1::2]
    write = one.updater.states.write

    def interrupted(*arguments: Any) -> Any:
        one.updater.states.write = write
        two.updater.apply(_as_events(live, others))
        return write(*arguments)

    one.updater.states.write = interrupted
    applied = one.updater.apply(_as_events(live, mine))
    both = {e.member_id for e in mine} & {e.member_id for e in others}
    assert applied.conflicts == len(both) > 0
    assert sum(applied.outcomes.values()) == len(mine)
    live.assert_is_the_batch([*before, *events], MEMBERS)
    one.close()
    two.close()


def test_two_workers_with_the_same_member_lose_nothing(live, before, redis_server):
    one_folds_between(live, before, f"redis://{redis_server}")


def test_a_dead_workers_entries_are_claimed(live, before, redis_server):
    url = f"redis://{redis_server}"
    dead, alive = live.worker(url, "dead"), live.worker(url, "alive")
    events = since_midnight(40, 29)
    send(dead.bus, events)
    assert len(dead.bus.read(25, 0.0)) == 25
    dead.close()
    alive.bus._claim_after = 0.0
    assert drain(alive) == 40
    live.assert_is_the_batch([*before, *events], MEMBERS)
    alive.close()


def test_a_snapshot_published_meanwhile_undoes_nothing(live, before, redis_server):
    """The daily run publishes midnight's snapshot, again and again, while events are streamed."""
    worker = live.worker(f"redis://{redis_server}")
    worker.pace = Pace(max_batch=5, linger=0.0, snapshot_every=0.05)
    events = since_midnight(300, 31)
    running = Running(worker)
    publishing = threading.Event()
    store = live.store()

    def daily() -> None:
        while not publishing.is_set():
            publish.publish(live.config, store, midnight(), live.aggregators)

    thread = threading.Thread(target=daily)
    thread.start()
    send(live.bus_of(worker), events)
    wait_for(running, lambda: all_done(redis_server))
    publishing.set()
    thread.join(600)
    running.batches()
    running.end()
    assert running.error is None
    # Published after the last event, like a midnight snapshot at 06:00.
    publish.publish(live.config, store, midnight(), live.aggregators)
    live.assert_is_the_batch([*before, *events], MEMBERS)
    worker.close()


def test_what_only_the_snapshot_saw_and_what_it_did_not_see(live, before, redis_server):
    """Late in the events' source, or never on the bus: the next snapshot brings both together."""
    worker = live.worker(f"redis://{redis_server}")
    worker.pace = Pace(snapshot_every=0.0)
    on_bus = [
        Event(1, 5, "APPLY", midnight() - timedelta(seconds=10)),
        Event(2, 6, "SAVE", utc_now()),
    ]
    send(worker.bus, on_bus)
    drain(worker)
    only_in_source = [Event(m, 7, "DISMISS", midnight() - timedelta(hours=3)) for m in (1, 2, 3)]
    # The source brings the first event of the bus too late: ingested after midnight.
    late = on_bus[0]._replace(ingested_at=midnight() + timedelta(seconds=5))
    live.snapshot([*before, *only_in_source, late], midnight())
    publish.publish(live.config, live.store(), midnight(), live.aggregators)
    worker._checked.clear()
    worker.step()
    worker.step()
    live.assert_is_the_batch([*before, *only_in_source, *on_bus], MEMBERS)
    worker.close()
