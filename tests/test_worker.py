"""A worker on a real Redis: what it writes is what the batch would have, read through Feast."""

from datetime import timedelta

import numpy as np
import pytest

from serving.fresh import utc_now
from tests.live_worlds import DAY, Live, drain, midnight, random_events, redis_online, send

pytestmark = pytest.mark.redis

MEMBERS = list(range(1, 21))


@pytest.fixture(scope="module")
def built(tmp_path_factory, _redis_process):
    """A snapshot of a month, and what happens after it."""
    rng = np.random.default_rng(7)
    live = Live(tmp_path_factory.mktemp("live"), redis_online(_redis_process))
    before = random_events(rng, 300, 18, midnight() - 30 * DAY, midnight())
    live.build(before, midnight())
    return live, before


@pytest.fixture
def live(built, redis_server):
    """The same, its Redis empty: a worker that starts makes everything anew."""
    return built[0]


@pytest.fixture
def before(built):
    return built[1]


def later(count, seed=8, members=20):
    """Events since midnight, or of the last hours."""
    rng = np.random.default_rng(seed)
    return random_events(rng, count, members, utc_now() - timedelta(hours=9), utc_now())


@pytest.fixture
def start(live, redis_server):
    """Start workers that are closed when the test ends."""
    started = []

    def worker(name="worker", **more):
        started.append(live.worker(f"redis://{redis_server}", name, **more))
        return started[-1]

    yield worker
    for one in started:
        one.close()


def test_the_stream_ends_where_the_batch_does(live, before, start):
    worker = start()
    since = later(120)
    rng = np.random.default_rng(9)
    again = [since[place] for place in rng.permutation(len(since))[:40]]
    send(worker.bus, [since[place] for place in rng.permutation(len(since))])
    send(worker.bus, again)
    assert drain(worker) == 160
    live.assert_is_the_batch([*before, *since], MEMBERS)
    assert worker.metrics.value("events_total", outcome="duplicate") == 40
