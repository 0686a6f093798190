"""A store that forgets part of what it held: states are made again, and it is said why."""

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import numpy as np
import pytest
import redis

from pipelines.private_redis import private_redis
from serving import publish
from serving.stream.offline_log import parts
from serving.stream.snapshot import follow_snapshot, prepare
from serving.stream.states.protocol import StateLostError
from serving.stream.updater import utc_now
from serving.stream.worker import Worker
from stores.eviction import eviction
from tests.worlds.events import Event
from tests.worlds.live import (
    Live,
    drain,
    free_port,
    midnight,
    past_events,
    random_events,
    redis_client,
    redis_online,
    send,
    sqlite_online,
)
from tests.worlds.servers import emptied, redis_of
from transformations.errors import InputError, RunFailedError

pytestmark = pytest.mark.redis

MEMBERS = list(range(1, 21))
NEW = 99


@pytest.fixture(scope="module")
def built(tmp_path_factory, _redis_process):
    live = Live(tmp_path_factory.mktemp("live"), redis_online(emptied(_redis_process)))
    before = past_events(np.random.default_rng(7), 300, 18)
    live.build(before, midnight())
    return live, before


@pytest.fixture
def live(built, redis_server):
    live = built[0]
    for view in live.view_names():
        for part in parts(live.config.layout.table(view)):
            part.unlink()
    return live


@pytest.fixture
def worker(live, redis_server) -> Iterator[Worker]:
    one = live.worker(f"redis://{redis_server}")
    yield one
    one.close()


def forget(address: str, *members: int) -> None:
    """Delete the states of members, as an eviction does; the base stays."""
    with redis_client(address) as client:
        keys = [key for m in members for key in client.scan_iter(match=f"*:m:{m}")]
        assert len(keys) == len(members)
        client.delete(*keys)


def since(count: int, seed: int) -> list[Event]:
    rng = np.random.default_rng(seed)
    return random_events(rng, count, 20, utc_now() - timedelta(hours=9), utc_now())


@pytest.mark.parametrize("flushed", [True, False], ids=["in a part", "in a spool"])
def test_a_state_is_made_again_of_the_snapshot_and_what_was_streamed(
    live, built, worker, redis_server, flushed, caplog
):
    first, second = since(120, 8), [Event(m, 7, "APPLY", utc_now()) for m in (*MEMBERS, NEW)]
    send(worker.bus, first)
    drain(worker)
    if flushed:
        worker.updater.log.flush()
    lost = MEMBERS[:10]
    forget(redis_server, *lost)
    with caplog.at_level(logging.WARNING):
        send(worker.bus, second)
        drain(worker)
    live.assert_is_the_batch([*built[1], *first, *second], [*MEMBERS, NEW])
    assert worker.metrics.value("recovered_members_total") == len(lost)
    assert "the store had lost the states of 10 members" in caplog.text
    assert "maxmemory-policy" in caplog.text


def test_a_member_that_is_new_is_none_that_was_lost(live, built, worker, redis_server):
    events = [Event(NEW, 7, "APPLY", utc_now())]
    send(worker.bus, events)
    drain(worker)
    live.assert_is_the_batch([*built[1], *events], [*MEMBERS, NEW])
    assert worker.metrics.value("recovered_members_total") == 0


def test_a_member_that_no_snapshot_knows_has_its_state_made_again(live, built, redis_server):
    """Whether this worker streamed its rows, or one before it."""
    events = [Event(NEW, item, "APPLY", utc_now()) for item in range(1, 6)]
    before, after = Event(NEW + 1, 7, "APPLY", utc_now()), Event(NEW + 1, 8, "SAVE", utc_now())
    one = live.worker(f"redis://{redis_server}")
    send(one.bus, [*events[:2], before])
    drain(one)
    one.close()
    other = live.worker(f"redis://{redis_server}")
    forget(redis_server, NEW)
    for event in events[2:]:
        send(other.bus, [event])
        drain(other)
        forget(redis_server, NEW)
    last = Event(NEW, 9, "SAVE", events[-1].event_timestamp)
    send(other.bus, [last, after])
    drain(other)
    live.assert_is_the_batch([*built[1], *events, last, before, after], [*MEMBERS, NEW, NEW + 1])
    assert other.metrics.value("recovered_members_total") == 4
    other.close()


def test_a_new_snapshot_does_not_end_what_was_streamed_after_it(live, built, worker, redis_server):
    """The snapshot is older than the lost state: its row alone would be too little."""
    first = since(60, 8)
    send(worker.bus, first)
    drain(worker)
    forget(redis_server, *range(1, 19))  # whom the snapshot knows
    live.snapshot(built[1], midnight())  # the same day again, which is another snapshot
    assert follow_snapshot(live.config, worker.updater)
    second = [Event(m, 7, "APPLY", utc_now()) for m in MEMBERS]
    send(worker.bus, second)
    drain(worker)
    live.assert_is_the_batch([*built[1], *first, *second], MEMBERS)


def test_a_file_that_lost_a_state(tmp_path, built, redis_server):
    live = Live(tmp_path, sqlite_online(tmp_path))
    live.build(built[1], midnight())
    worker = live.worker(f"redis://{redis_server}")
    first = since(60, 8)
    send(worker.bus, first)
    drain(worker)
    states = worker.updater.states
    states._con.execute(f"delete from {states._members} where member = 3")
    second = [Event(3, 7, "APPLY", utc_now())]
    send(worker.bus, second)
    drain(worker)
    live.assert_is_the_batch([*built[1], *first, *second], MEMBERS)
    worker.close()


@pytest.mark.parametrize(
    ("policy", "memory", "ttl", "evicts"),
    [
        ("noeviction", "200mb", None, False),
        ("allkeys-lru", "0", None, False),
        ("allkeys-lru", "200mb", None, True),
        ("allkeys-lfu", "200mb", None, True),
        ("allkeys-random", "200mb", None, True),
        ("volatile-lru", "200mb", None, False),
        ("volatile-ttl", "200mb", 60, True),
    ],
)
def test_which_policies_may_evict(live, redis_server, policy, memory, ttl, evicts):
    store = live.store()
    store.config.online_store.key_ttl_seconds = ttl
    with memory_policy(redis_server, policy, memory):
        found = eviction(store)
    assert (found is not None) == evicts
    if found is not None:
        assert found == f"maxmemory-policy {policy}, maxmemory 200.00M, 0 keys evicted so far"


@contextmanager
def memory_policy(address: str, policy: str, memory: str) -> Iterator[None]:
    with redis_client(address) as client:
        client.config_set("maxmemory", memory)
        client.config_set("maxmemory-policy", policy)
        client.config_resetstat()
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")


POLICIES = ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru"]


def reached(address: str) -> str:
    """A limit that the next write is beyond."""
    with redis_client(address) as client:
        return str(client.info("memory")["used_memory"])


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_that_is_reached_while_streaming_loses_nothing(
    live, built, redis_server, tmp_path, policy
):
    """Refused or evicted, whichever keys: what came is there after each member's next action."""
    first, second = since(120, 8), [Event(m, 7, "APPLY", utc_now()) for m in (*MEMBERS, NEW)]
    with private_redis(tmp_path) as port:
        worker = live.worker(f"redis://127.0.0.1:{port}")
        for events in (first, second):
            send(worker.bus, events)
            if events is first:
                full = memory_policy(redis_server, policy, reached(redis_server))
                with full, suppress(StateLostError, redis.OutOfMemoryError):
                    drain(worker)
            try:
                drain(worker)
            except StateLostError:  # the base is gone too
                prepare(live.config, live.store(), worker.updater, worker.bus, live.aggregators)
                drain(worker)
        live.assert_is_the_batch([*built[1], *first, *second], [*MEMBERS, NEW])
        worker.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_that_is_reached_while_publishing_is_said(live, redis_server, policy):
    store = live.store()
    with memory_policy(redis_server, policy, "1"), pytest.raises(Exception, match="maxmemory"):
        publish.publish(live.config, store, midnight(), live.aggregators)


def test_a_state_is_made_again_over_tls(tmp_path, built, redis_server):
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ("--tls-port", str(port), "--port", "0", "--tls-auth-clients", "no")
    options += ("--tls-cert-file", str(cert), "--tls-key-file", str(key))
    with redis_of(tmp_path, *options, "--tls-ca-cert-file", str(cert)):
        for missing, said in (("", "Look at TLS"), (",ssl=true", "Look at the certificate")):
            live = Live(tmp_path, redis_online(f"127.0.0.1:{port}{missing}"))
            live.write_settings()
            with pytest.raises(InputError, match=said):
                publish.ask(live.config, live.store())
        live = Live(tmp_path, redis_online(f"127.0.0.1:{port},ssl=true,ssl_ca_certs={cert}"))
        live.build(built[1], midnight())
        worker = live.worker(f"redis://{redis_server}")
        first, second = since(60, 8), [Event(3, 7, "APPLY", utc_now())]
        send(worker.bus, first)
        drain(worker)
        with redis.Redis("127.0.0.1", port, ssl=True, ssl_ca_certs=str(cert)) as client:
            client.delete(*client.scan_iter(match="*:m:3"))
        send(worker.bus, second)
        drain(worker)
        assert worker.metrics.value("recovered_members_total") == 1
        live.assert_is_the_batch([*built[1], *first, *second], MEMBERS)
        worker.close()


def test_it_is_said_at_the_start_and_by_the_read_back(live, redis_server, caplog):
    with memory_policy(redis_server, "allkeys-lru", "200mb"):
        with caplog.at_level(logging.WARNING):
            worker = live.worker(f"redis://{redis_server}")
        worker.close()
        assert "the online store evicts keys when its memory is full" in caplog.text
        store = live.store()
        publish.publish(live.config, store, midnight(), live.aggregators)
        with redis_client(redis_server) as client:
            client.delete(*[key for key in client.scan_iter() if key.endswith(b"live")])
        with pytest.raises(RunFailedError, match=r"evicts keys .*allkeys-lru.*noeviction"):
            publish.read_back(live.config, store, midnight(), live.aggregators)
