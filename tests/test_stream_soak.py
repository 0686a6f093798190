"""Two minutes of a stream: memory stays flat, no descriptor leaks, nothing is lost."""

import time
from datetime import timedelta

import numpy as np
import psutil
import pytest

from serving.fresh import utc_now
from serving.worker import Pace
from tests.live_worlds import Live, midnight, past_events, random_events, redis_online, send

pytestmark = pytest.mark.redis

SECONDS = 120.0
MEMBERS = list(range(1, 21))


def test_two_minutes_leave_memory_and_descriptors_as_they_were(tmp_path, redis_server):
    rng = np.random.default_rng(1)
    live = Live(tmp_path, redis_online(redis_server))
    before = past_events(rng, 100, 18)
    live.build(before, midnight())
    worker = live.worker(f"redis://{redis_server}")
    worker.pace = Pace(most=200, linger=0.0, snapshot_every=5.0)
    worker.fresh.log._seconds = 5.0
    process = psutil.Process()
    began = time.monotonic()
    events, memory, descriptors = [], [], []
    while time.monotonic() - began < SECONDS:
        some = random_events(rng, 100, 20, utc_now() - timedelta(hours=3), utc_now())
        events += some
        send(worker.bus, some)
        worker.step()
        if time.monotonic() - began > SECONDS / 4:  # what is allocated once is allocated by then
            memory.append(process.memory_info().rss)
            descriptors.append(process.num_fds())
    while worker.step():
        pass
    live.assert_is_the_batch([*before, *events], MEMBERS)
    worker.close()
    third = len(memory) // 3
    # The events are kept here, for the comparison: about half a kilobyte each.
    kept = 600 * len(events)
    assert np.median(memory[-third:]) < np.median(memory[:third]) + kept + (24 << 20)
    assert max(descriptors[-third:]) <= max(descriptors[:third]) + 2
