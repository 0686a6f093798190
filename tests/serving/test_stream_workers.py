"""Several workers in one group, on every kind of bus: the end is the batch's."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from serving.stream.bus.open import open_bus
from serving.stream.bus.protocol import Message
from serving.stream.worker import Pace
from tests.serving.test_stream_faults import (
    FORKS,
    MEMBERS,
    Running,
    all_done,
    committed,
    since_midnight,
)
from tests.worlds.buses import SESSION
from tests.worlds.events import Event
from tests.worlds.live import Live, kafka, kafka_process, midnight, past_events, redis_online, send

__all__ = ["kafka"]

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def before() -> list[Event]:
    return past_events(np.random.default_rng(7), 200, 18)


@pytest.fixture
def live(tmp_path: Path, redis_server: str, before: list[Event]) -> Live:
    live = Live(tmp_path, redis_online(redis_server))
    live.build(before, midnight())
    return live


@pytest.mark.mended_trap(
    "plain Feast's Redis store reads a row's age before it writes", strict=False
)
def test_two_workers_at_once_end_in_the_batchs_state(live, before, redis_server):
    """Both take events of every member, and fold again what the other has written meanwhile."""
    url = f"redis://{redis_server}"
    events = since_midnight(600, 47)
    workers = [live.worker(url, name) for name in ("one", "two")]
    for worker in workers:
        worker.pace = Pace(max_batch=10, linger=0.0)
    send(workers[0].bus, events)
    running = [Running(worker) for worker in workers]
    try:
        for one in running * 100:
            if all_done(redis_server):
                break
            one.batches()
        assert all_done(redis_server)
    finally:
        for one in running:
            one.end()
            one.worker.close()
    assert [one.error for one in running] == [None, None]
    taken = [worker.metrics.value("events_total", outcome="applied") for worker in workers]
    assert min(taken) > 0
    live.assert_is_the_batch([*before, *events], MEMBERS)


def a_kafka_life(folder: Path, online: str, url: str, death: str) -> None:
    """Work until killed; by itself, with the fourth batch in hand, where a death is named."""
    worker = Live(folder, online).worker(url, death or "lives")
    worker.pace = Pace(max_batch=5, linger=0.0)
    left = 3

    def deadly(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    if death == "nothing written":
        worker.updater.states.read = deadly(worker.updater.states.read)
    elif death == "rows written":
        worker.bus.done = deadly(worker.bus.done)
    while True:
        worker.step()


def test_kafka_workers_killed_with_messages_in_hand_lose_nothing(live, before):
    """Of three in a group one dies before a batch's rows, one after them; the third goes on."""
    events: list[Event] = []
    with kafka_process() as (brokers, _), ExitStack() as stack:
        AdminClient({"bootstrap.servers": brokers}).list_topics("worker", timeout=300)
        url = f"kafka://{brokers}/worker?group=worker&{SESSION}"
        first = live.worker(url)  # makes the states
        stack.callback(first.close)
        children = [
            FORKS.Process(target=a_kafka_life, args=(live.folder, live.online, url, death))
            for death in ("", "nothing written", "rows written")
        ]
        for child in children:
            child.start()
            stack.callback(child.join)
            stack.callback(child.kill)
        lives, *dying = children
        for seed in range(400):
            more = since_midnight(20, 100 + seed)
            send(first.bus, more)
            events += more
            lives.join(0.2)
            if all(child.exitcode is not None for child in dying):
                break
        assert [child.exitcode for child in dying] == [-signal.SIGKILL] * 2
        for _ in range(600):
            lives.join(0.1)
            assert lives.exitcode is None
            if committed(brokers, "worker", "worker") == len(events):
                break
        assert committed(brokers, "worker", "worker") == len(events)
    live.assert_is_the_batch([*before, *events], MEMBERS)


def test_the_messages_of_a_member_lie_in_one_partition(kafka):
    AdminClient({"bootstrap.servers": kafka}).list_topics("keyed", timeout=300)
    bus = open_bus(f"kafka://{kafka}/keyed?group=keyed&{SESSION}", "one")
    bus.send([(f"member {n % 12}", f"{n % 12} {n}".encode()) for n in range(240)])
    found: list[Message] = []
    for _ in range(60):
        found += bus.read(240 - len(found), 0.05) if len(found) < 240 else []
    bus.close()
    assert len(found) == 240
    partitions: dict[int, list[int]] = {}
    numbers: dict[int, list[int]] = {}
    for message in sorted(found, key=lambda message: message.position):
        member, number = map(int, message.value.split())
        partitions.setdefault(member, []).append(message.position[0])
        numbers.setdefault(member, []).append(number)
    assert {len(set(numbered)) for numbered in partitions.values()} == {1}
    assert len({numbered[0] for numbered in partitions.values()}) > 1
    assert all(sent == sorted(sent) for sent in numbers.values())
