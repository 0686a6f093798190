"""Two minutes of a stream: memory stays flat, no descriptor leaks, nothing is lost."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from serving.stream.updater import utc_now
from serving.stream.worker import Pace
from tests.serving.test_stream_faults import FORKS, all_done
from tests.worlds.live import (
    Live,
    midnight,
    past_events,
    random_events,
    redis_client,
    redis_online,
    send,
)

pytestmark = pytest.mark.redis

SECONDS = 120.0
MEMBERS = list(range(1, 21))
ALLOWED = 24 << 20
NOTICED = 100  # bytes an event


def work(folder: Path, online: str, url: str, stop: Any) -> None:
    """A worker in a separate process, which holds nothing else."""
    worker = Live(folder, online).worker(url)
    worker.pace = Pace(linger=0.0, snapshot_every=5.0)
    worker.updater.log._seconds = 5.0
    worker.run(stop)
    worker.close()


def test_two_minutes_leave_memory_and_descriptors_as_they_were(tmp_path, redis_server):
    """Each event is sent ten times: many messages, and not too many events for the batch."""
    rng = np.random.default_rng(1)
    live = Live(tmp_path, redis_online(redis_server))
    before = past_events(rng, 100, 18)
    live.build(before, midnight())
    first = live.worker(f"redis://{redis_server}")  # makes the states
    stop = FORKS.Event()
    child = FORKS.Process(
        target=work, args=(live.folder, live.online, f"redis://{redis_server}", stop)
    )
    child.start()
    process = psutil.Process(child.pid)
    events, sent, memory, descriptors = [], [], [], []
    began = time.monotonic()
    try:
        while time.monotonic() - began < SECONDS:
            some = random_events(rng, 100, 20, utc_now() - timedelta(hours=3), utc_now())
            events += some
            send(first.bus, some * 10)
            while behind(redis_server) > 4_000:
                child.join(0.01)
                assert child.exitcode is None
            if time.monotonic() - began > SECONDS / 4:  # what is allocated once is allocated now
                sent.append(10 * len(events))
                memory.append(process.memory_info().rss)
                descriptors.append(process.num_fds())
        while not all_done(redis_server):
            child.join(0.1)
            assert child.exitcode is None
        stop.set()
        child.join(600)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    live.assert_is_the_batch([*before, *events], MEMBERS)
    first.close()
    third = len(memory) // 3
    handled = np.median(sent[-third:]) - np.median(sent[:third])
    assert NOTICED * handled > ALLOWED, "too few events to notice a leak"
    assert np.median(memory[-third:]) < np.median(memory[:third]) + ALLOWED
    assert max(descriptors[-third:]) <= max(descriptors[:third]) + 2


def behind(address: str) -> int:
    """How many messages wait for the group to read them."""
    with redis_client(address) as client:
        (group,) = client.xinfo_groups("activity")
    return int(group["lag"])
