"""Workers that start at the same time on an empty store: one makes the states, the others wait."""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis.lock

from serving.stream import snapshot as base
from serving.stream.offline_log import OfflineLog
from serving.stream.states import redis as redis_states
from tests.serving.test_stream_faults import FORKS, MEMBERS, since_midnight
from tests.worlds.events import Event
from tests.worlds.live import Live, drain, midnight, past_events, redis_client, send
from tests.worlds.states import STATES, kinds

pytestmark = [
    pytest.mark.redis,
    # A FeatureStore has no close: the connections of one that is let go are closed with it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let go of them here, and not while a test of another file runs."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def before() -> list[Event]:
    return past_events(np.random.default_rng(7), 200, 18)


@pytest.fixture(params=kinds())
def live(request: Any, tmp_path: Path, before: list[Event]) -> Iterator[Live]:
    live = Live(tmp_path, STATES[request.param].online(tmp_path, request))
    live.build(before, midnight())
    yield live
    live.close()


def test_of_two_that_start_at_once_one_rebuilds(live, before, redis_server, monkeypatch):
    url = f"redis://{redis_server}"
    events = since_midnight(60, 51)
    rebuild, rebuilt = base.rebuild, []
    both = threading.Barrier(2)

    def counted(*arguments: Any) -> None:
        rebuilt.append(threading.get_ident())
        rebuild(*arguments)

    def start(name: str) -> None:
        live.worker(url, name).close()

    with monkeypatch.context() as patch:
        patch.setattr(base, "rebuild", counted)
        # What a worker does first: from here on both are on their way.
        patch.setattr(OfflineLog, "recover", lambda _: both.wait(600))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(start, ("one", "two")))
    assert len(rebuilt) == 1
    worker = live.worker(url)
    send(worker.bus, events)
    assert drain(worker) == len(events)
    live.assert_is_the_batch([*before, *events], MEMBERS)
    worker.close()


def dies_rebuilding(folder: Any, online: str) -> None:
    redis_states.LOCKED_FOR = 0.5
    states = Live(folder, online).updater().states
    with states.rebuilding():
        os.kill(os.getpid(), signal.SIGKILL)


def test_who_dies_rebuilding_lets_the_next_one_in(live):
    child = FORKS.Process(target=dies_rebuilding, args=(live.folder, live.online))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    updater = live.updater()
    with updater.states.rebuilding():
        pass
    updater.log.close()
    updater.states.close()


@pytest.mark.parametrize("live", kinds(lock_expires=True), indirect=True)
def test_the_lock_in_redis_outlives_its_time_while_it_is_needed(live, redis_server, monkeypatch):
    monkeypatch.setattr(redis_states, "LOCKED_FOR", 0.3)
    reacquire, kept = redis.lock.Lock.reacquire, threading.Semaphore(0)

    def counted(lock: redis.lock.Lock) -> bool:
        found = reacquire(lock)
        kept.release()
        return found

    monkeypatch.setattr(redis.lock.Lock, "reacquire", counted)
    updater = live.updater()
    with redis_client(redis_server) as client:
        with updater.states.rebuilding():
            for _ in range(6):  # twice its time
                assert kept.acquire(timeout=600)
            assert list(client.scan_iter("*:rebuilding"))
        assert not list(client.scan_iter("*:rebuilding"))
    updater.log.close()
    updater.states.close()
