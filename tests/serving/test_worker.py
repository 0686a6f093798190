"""A worker on a real Redis: what it writes is what the batch would have, read through Feast."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import redis
from confluent_kafka.admin import AdminClient
from prometheus_client import generate_latest

from serving import publish
from serving.stream.offline_log import parts
from serving.stream.states.protocol import StateLostError
from serving.stream.updater import utc_now
from serving.stream.worker import Pace
from tests.worlds.events import Event
from tests.worlds.live import (
    AGGREGATORS,
    DAY,
    ITEMS,
    Live,
    assert_same_row,
    drain,
    kafka,
    midnight,
    past_events,
    random_events,
    redis_client,
    redis_online,
    send,
    sqlite_online,
)
from tests.worlds.servers import emptied
from tests.worlds.tiny_models import Learned
from transformations.names import MEMBER_STATS_VIEW, SEQUENCE_VIEW
from transformations.timestamps import microseconds

__all__ = ["kafka"]

pytestmark = pytest.mark.redis

MEMBERS = list(range(1, 21))


@pytest.fixture(scope="module")
def built(tmp_path_factory, _redis_process):
    """A snapshot of a month, and what happens after it."""
    rng = np.random.default_rng(7)
    live = Live(tmp_path_factory.mktemp("live"), redis_online(emptied(_redis_process)))
    before = past_events(rng, 300, 18)
    live.build(before, midnight())
    return live, before


@pytest.fixture
def live(built, redis_server):
    """The same with an empty Redis and nothing streamed: a worker that starts builds it all."""
    live = built[0]
    for view in live.view_names():
        for part in parts(live.config.layout.table(view)):
            part.unlink()
    return live


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
    again = [since[index] for index in rng.permutation(len(since))[:40]]
    send(worker.bus, [since[index] for index in rng.permutation(len(since))])
    send(worker.bus, again)
    assert drain(worker) == 160
    live.assert_is_the_batch([*before, *since], MEMBERS)
    assert worker.metrics.value("events_total", outcome="duplicate") == 40


def test_the_vectors_are_those_of_the_batch_at_the_rows_own_moment(tmp_path, redis_server):
    """A learned aggregator looks at ages: as_of is the event_timestamp of the row."""
    aggregators = (*AGGREGATORS, Learned(version=1, stream=True))
    live = Live(tmp_path, redis_online(redis_server), aggregators)
    rng = np.random.default_rng(3)
    old = past_events(rng, 60, 3)
    live.build(old, midnight())
    worker = live.worker(f"redis://{redis_server}")
    since = random_events(rng, 12, 3, utc_now() - timedelta(hours=2), utc_now())
    send(worker.bus, since)
    drain(worker)
    offline = {row["member_id"]: row for row in live.offline_rows(SEQUENCE_VIEW, worker)}
    for member in (1, 2, 3):
        as_of = offline[member]["event_timestamp"]
        expected = live.expected([*old, *since], as_of)
        for view, rows in expected.items():
            assert_same_row(rows[member], live.online_rows(view, [member])[member])
    worker.close()


def test_an_event_from_the_future_is_held_back_and_applied_when_due(live, before, start):
    """A producer's clock is an hour ahead."""
    now = [utc_now()]
    worker = start(clock=lambda: now[0])
    early = Event(1, 7, "APPLY", now[0] + timedelta(hours=1))
    soon = Event(2, 8, "SAVE", now[0] + timedelta(seconds=3))
    send(worker.bus, [early, soon, early])
    assert drain(worker) == 3
    count = worker.metrics.value
    assert (count("events_total", outcome="held"), count("events_total", outcome="applied")) == (
        1,
        1,
    )
    assert early.event_timestamp not in times_of(live, 1)
    # A few seconds are a clock's due: it counts at once, and as_of lies behind it.
    assert soon.event_timestamp.replace(microsecond=0) in times_of(live, 2)
    now[0] += timedelta(minutes=59)
    worker._checked.clear()
    worker._apply_due()
    assert early.event_timestamp.replace(microsecond=0) not in times_of(live, 1)
    now[0] += timedelta(minutes=2)
    worker._apply_due()
    assert early.event_timestamp.replace(microsecond=0) in times_of(live, 1)
    assert worker.updater.states.due(microseconds(now[0] + DAY), 10) == []


def times_of(live, member):
    return live.online_rows(SEQUENCE_VIEW, [member])[member]["event_timestamps"] or []


def test_a_poison_message_goes_to_the_dead_letters_and_the_rest_goes_on(
    live, before, start, redis_server
):
    worker = start()
    good = later(5)
    poison = [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"schema": 2}', "schema is unknown"),
        (b'{"schema": 1, "action": "VIEW"}', "action is unknown"),
    ]
    worker.bus.send([("1", value) for value, _ in poison])
    send(worker.bus, good)
    assert drain(worker) == 9
    with redis_client(redis_server) as client:
        dead = [
            (fields[b"event"], fields[b"reason"].decode())
            for _, fields in client.xrange("activity.dead")
        ]
    assert dead == poison
    assert worker.metrics.value("dead_letters_total", reason="not JSON") == 1
    live.assert_is_the_batch([*before, *good], MEMBERS)


def test_a_burst_is_taken_a_batch_at_a_time(live, before, start):
    worker = start()
    worker.pace = Pace(max_batch=50, linger=0.0)
    burst = later(2_000)
    send(worker.bus, burst)
    sizes = []
    while size := worker.step():
        sizes.append(size)
    assert sizes == [50] * 40
    live.assert_is_the_batch([*before, *burst], MEMBERS)


def noted(calls, function, name=None):
    """The same function, which notes each call: its name, or else its first argument."""

    def call(*arguments):
        calls.append(name or arguments[0])
        return function(*arguments)

    return call


def test_a_batch_is_one_read_one_call_of_the_models_and_one_write_a_table(live, start):
    """In the order that makes a death anywhere harmless."""
    worker = start()
    calls = []
    for owner, method in (
        (worker.bus, "read"),
        (worker.bus, "done"),
        (worker.updater.states, "read"),
        (worker.updater.states, "write"),
        (worker.updater.vectors, "rows"),
    ):
        name = f"{type(owner).__name__}.{method}"
        setattr(owner, method, noted(calls, getattr(owner, method), name))
    worker.updater.online.write = noted(calls, worker.updater.online.write)
    send(worker.bus, later(50))
    assert worker.step() == 50
    assert calls == [
        "RedisBus.read",
        "RedisStates.read",
        "RedisStates.write",
        "Vectors.rows",
        *(aggregator.view for aggregator in AGGREGATORS),
        MEMBER_STATS_VIEW,
        SEQUENCE_VIEW,
        "RedisBus.done",
    ]


def test_while_the_store_takes_nothing_no_more_is_read(live, before, start, redis_server):
    """A Redis without memory for a write answers reads, so that the bus could go on."""
    worker = start()
    worker.pace = Pace(max_batch=10, linger=0.0)
    since = later(20)
    send(worker.bus, since)
    reads = []
    worker.bus.read = noted(reads, worker.bus.read, "read")
    with redis_client(redis_server) as client:
        client.config_set("maxmemory", 1)
        try:
            for _ in range(3):
                with pytest.raises(redis.exceptions.OutOfMemoryError):
                    worker.step()
        finally:
            client.config_set("maxmemory", 0)
    assert reads == ["read"]
    assert worker.step() == 10
    assert reads == ["read"]
    assert drain(worker) == 10
    live.assert_is_the_batch([*before, *since], MEMBERS)


@pytest.mark.parametrize(
    ("view", "name"),
    [
        (SEQUENCE_VIEW, "item_ids"),
        (MEMBER_STATS_VIEW, "share_apply"),
        *((a.view, "apply_embedding") for a in AGGREGATORS),
    ],
)
def test_a_training_join_sees_what_a_ranker_could_see(live, start, view, name):
    """Between two writes, the first; before its created_timestamp, the row before it."""
    worker = start()
    timestamps, seen = [], []
    for number in range(4):
        events = [Event(1, 10 + number, "APPLY", utc_now())]
        before_it = utc_now()
        send(worker.bus, events)
        drain(worker)
        timestamps += [before_it, utc_now()]
        seen.append(live.online_rows(view, [1])[1][name])
    assert len({str(value) for value in seen}) == 4
    worker.updater.log.flush()
    labels = pd.DataFrame({"member_id": [1] * 8, "event_timestamp": timestamps})
    joined = live.store().get_historical_features(
        entity_df=labels, features=[f"{view}:{name}"], filter_by_created_timestamp=True
    )
    frame = joined.to_df().sort_values("event_timestamp")
    found = [value if np.isscalar(value) else list(value) for value in frame[name]]
    assert found[1::2] == seen
    assert found[2::2] == seen[:-1]


def test_a_daily_run_meanwhile_reads_back_what_is_its_own(live, before, start):
    """A member that acted since is not the snapshot's any more; every other one is compared."""
    worker = start()
    acted = later(30)
    send(worker.bus, acted)
    drain(worker)
    store = live.store()
    publish.publish(live.config, store, midnight(), live.aggregators)
    rows = sum(len(live.table(view)) for view in live.view_names())
    streamed = len({event.member_id for event in acted} & {e.member_id for e in before})
    compared = publish.read_back(live.config, store, midnight(), live.aggregators)
    assert compared == rows - len(live.view_names()) * streamed + len(ITEMS) - 1
    publish.restamp(live.config, midnight(), utc_now(), live.aggregators)
    worker.updater.log.flush()
    assert len(live.offline_rows(SEQUENCE_VIEW)) >= streamed


def test_an_online_store_in_a_file(tmp_path, before, redis_server):
    """Not Redis: the states lie in a file beside the data."""
    live = Live(tmp_path, sqlite_online(tmp_path))
    live.build(before, midnight())
    worker = live.worker(f"redis://{redis_server}")
    since = later(60)
    send(worker.bus, [*since, *since[:20]])
    drain(worker)
    live.assert_is_the_batch([*before, *since], MEMBERS)
    worker.updater.states.clear()
    with pytest.raises(StateLostError):
        worker.updater.apply([], [1])
    worker.close()
    again = live.worker(f"redis://{redis_server}")
    assert drain(again) == 80
    live.assert_is_the_batch([*before, *since], MEMBERS)
    again.close()


def test_kafka_ends_where_the_batch_does(live, before, kafka):
    # The simulator makes a topic when it is asked for one.
    AdminClient({"bootstrap.servers": kafka}).list_topics("worker", timeout=300)
    settings = "group=worker&session.timeout.ms=3500&heartbeat.interval.ms=300"
    worker = live.worker(f"kafka://{kafka}/worker?{settings}")
    since = later(80)
    send(worker.bus, [*since, *since[:20]])
    handled = 0
    while handled < 100:
        handled += worker.step()
    live.assert_is_the_batch([*before, *since], MEMBERS)
    worker.close()


def test_the_metrics_are_what_prometheus_reads(live, start):
    worker = start()
    send(worker.bus, later(10))
    drain(worker)
    text = generate_latest(worker.metrics.registry).decode()
    for line in (
        'activity_stream_events_total{outcome="applied"}',
        "activity_stream_on_bus_seconds_count 10.0",
        'activity_stream_event_seconds_bucket{le="+Inf"} 10.0',
        'activity_stream_event_seconds_quantile{quantile="0.99"}',
    ):
        assert line in text
