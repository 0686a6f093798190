"""Every kind of bus, by its name: how tests open one, and what it can do."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

# The simulated broker delays a new group by three seconds, and notices only by the end of its
# session that a consumer has left.
SESSION = "session.timeout.ms=3500&heartbeat.interval.ms=300"

Wrapper = Callable[[Any], Any]


@dataclass(frozen=True)
class BusKind:
    """One kind of bus.

    Attributes:
        url: The URL of an empty bus for the test.
        dead_letters: `count` refused messages of the bus at a URL, each with its reason.
        wrap_reads: Replaces the call that asks the server for messages by a wrapper of it.
        claims: Whether the messages of a dead worker are claimed by their age (else the group
            hands them over), so that a test sets that age to zero.
    """

    url: Callable[[pytest.FixtureRequest], str]
    dead_letters: Callable[[str, int], list[tuple[bytes, bytes]]]
    wrap_reads: Callable[[Any, Wrapper], None]
    claims: bool


def _redis_url(request: pytest.FixtureRequest) -> str:
    return f"redis://{request.getfixturevalue('redis_server')}"


def _redis_dead_letters(url: str, count: int) -> list[tuple[bytes, bytes]]:
    with redis.Redis.from_url(url) as client:
        entries: Any = client.xrange("activity.dead", count=count)
    return [(fields[b"event"], fields[b"reason"]) for _, fields in entries]


def _wrap_redis_reads(bus: Any, wrapper: Wrapper) -> None:
    bus._entries = wrapper(bus._entries)


def _kafka_url(request: pytest.FixtureRequest) -> str:
    brokers = request.getfixturevalue("kafka")
    topic = f"topic-{request.node.name.translate(str.maketrans('[]', '--'))}"
    # The simulator makes a topic when it is asked for one.
    admin = AdminClient({"bootstrap.servers": brokers})
    assert len(admin.list_topics(topic, timeout=300).topics[topic].partitions) > 1
    return f"kafka://{brokers}/{topic}?group=g-{topic}&{SESSION}"


def _kafka_dead_letters(url: str, count: int) -> list[tuple[bytes, bytes]]:
    brokers, topic = url.removeprefix("kafka://").split("?")[0].split("/")
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "people", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([f"{topic}.dead"])
    letters: list[Any] = []
    while len(letters) < count:
        letters += [m for m in consumer.consume(count, 0.5) if m.error() is None]
    consumer.close()
    return [(m.value(), dict(m.headers())["reason"]) for m in letters]


def _wrap_kafka_reads(bus: Any, wrapper: Wrapper) -> None:
    consumer = bus._consumer
    bus._consumer = SimpleNamespace(consume=wrapper(consumer.consume), close=consumer.close)


BUSES = {
    "redis": BusKind(_redis_url, _redis_dead_letters, _wrap_redis_reads, claims=True),
    "kafka": BusKind(_kafka_url, _kafka_dead_letters, _wrap_kafka_reads, claims=False),
}
