"""Every kind of bus by one contract: at least once, acknowledged, refused with the reason."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serving.stream.bus.open import open_bus
from serving.stream.bus.protocol import Bus, BusGoneError, Message
from tests.worlds.buses import BUSES
from tests.worlds.live import free_port, kafka
from transformations.errors import InputError

__all__ = ["kafka"]


class Opener:
    """Opens buses of one kind, on a topic that no other test has."""

    def __init__(self, name: str, request: pytest.FixtureRequest) -> None:
        self.kind = BUSES[name]
        self.url = self.kind.url(request)
        self.opened: list[Bus] = []

    def __call__(self, consumer: str = "one") -> Any:
        self.opened.append(open_bus(self.url, consumer))
        return self.opened[-1]


@pytest.fixture(params=BUSES)
def start(request: Any) -> Iterator[Opener]:
    opener = Opener(request.param, request)
    yield opener
    for bus in opener.opened:
        bus.close()


def numbered(first: int, last: int) -> list[tuple[str, bytes]]:
    return [(f"member {n % 7}", f"event {n}".encode()) for n in range(first, last)]


def values(messages: list[Message]) -> list[bytes]:
    return sorted((m.value for m in messages), key=lambda value: int(value.split()[1]))


def read(bus: Bus, count: int, limit: int = 1000) -> list[Message]:
    """Read until there are `count`; each read waits half a second at most for the first."""
    found: list[Message] = []
    for _ in range(60):
        if len(found) >= count:
            return found
        # Never more than `count`: two reads of `limit` could be too many.
        found += bus.read(min(limit, count - len(found)), 0.01)
    raise AssertionError(f"expected {count} messages, got {len(found)}")


def test_what_is_done_does_not_come_again(start: Opener) -> None:
    first = start()
    first.send(numbered(0, 20))
    messages = read(first, 20)
    assert values(messages) == [value for _, value in numbered(0, 20)]
    first.done(messages)
    first.send(numbered(20, 30))
    first.close()
    second = start()
    assert values(read(second, 10)) == [value for _, value in numbered(20, 30)]


def test_what_is_not_done_comes_again(start: Opener) -> None:
    bus = start()
    bus.send(numbered(0, 20))
    half = read(bus, 10, limit=10)
    bus.done(half)
    rest = read(bus, 10)
    bus.reset()
    again = read(bus, 10)
    assert values(rest) == values(again)
    assert values(half + again) == [value for _, value in numbered(0, 20)]


def test_a_batch_is_no_larger_than_asked_for(start: Opener) -> None:
    bus = start()
    bus.send(numbered(0, 50))
    sizes, found = [], []
    while len(found) < 50:
        messages = bus.read(7, 0.0)
        sizes.append(len(messages))
        found += messages
        bus.done(messages)
    assert max(sizes) == 7
    assert values(found) == [value for _, value in numbered(0, 50)]


def test_what_is_sent_within_the_linger_comes_in_the_same_batch(start: Opener) -> None:
    """The second message is sent when the reader has the first one."""
    bus, other = start("one"), start("other")
    other.send(numbered(0, 1))
    bus.done(read(bus, 1))
    late = [numbered(2, 3)]

    def then_send(ask: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            found = ask(*arguments, **more)
            if found and late:
                other.send(late.pop())
            return found

        return call

    start.kind.wrap_reads(bus, then_send)
    other.send(numbered(1, 2))
    found: list[Message] = []
    for _ in range(60):
        found = found or bus.read(2, 2.0)
    assert values(found) == [value for _, value in numbered(1, 3)]


def test_a_message_says_when_the_bus_took_it(start: Opener) -> None:
    bus = start()
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    bus.send(numbered(0, 1))
    (message,) = read(bus, 1)
    after = datetime.now(UTC)
    assert before.timestamp() * 1e6 <= message.sent <= after.timestamp() * 1e6


def test_rewound_everything_comes_again(start: Opener) -> None:
    bus = start()
    bus.send(numbered(0, 20))
    bus.done(read(bus, 20))
    bus.rewind(datetime.now(UTC) - timedelta(days=1))
    assert values(read(bus, 20)) == [value for _, value in numbered(0, 20)]


def test_who_has_rewound_does_not_go_back_when_another_joins(start: Opener) -> None:
    one = start("one")
    one.send(numbered(0, 20))
    one.rewind(datetime.now(UTC) - timedelta(days=1))
    one.done(read(one, 20))
    two = start("two")
    got: dict[str, list[Message]] = {"one": [], "two": []}
    sent = 20
    for _ in range(60):
        if got["two"]:
            break
        one.send(numbered(sent, sent + 7))
        sent += 7
        for name, bus in (("one", one), ("two", two)):
            messages = bus.read(3, 0.01)
            bus.done(messages)
            got[name] += messages
    assert got["two"]
    first = {value for _, value in numbered(0, 20)}
    assert first.isdisjoint(message.value for message in got["one"] + got["two"])


def test_a_refused_message_is_kept_with_its_reason(start: Opener) -> None:
    bus = start()
    bus.send([("1", b"{"), ("2", b"[]")])
    messages = sorted(read(bus, 2), key=lambda message: message.value)
    bus.refuse(list(zip(messages, ["not a JSON object", "not JSON"], strict=True)))
    bus.done(messages)
    assert sorted(start.kind.dead_letters(start.url, 2)) == [
        (b"[]", b"not a JSON object"),
        (b"{", b"not JSON"),
    ]


def test_two_workers_share_the_messages_and_one_inherits_the_rest(start: Opener) -> None:
    one, two = start("one"), start("two")
    if start.kind.claims:
        two._claim_after = 0.0
    one.send(numbered(0, 40))
    first = read(one, 20, limit=20)
    one.done(first[:10])
    one.close()  # with the other ten not done
    seen = {message.value for message in first[:10]}
    while len(seen) < 40:
        messages = two.read(100, 0.01)
        two.done(messages)
        seen |= {message.value for message in messages}
    assert seen == {value for _, value in numbered(0, 40)}


@pytest.mark.redis
def test_a_redis_that_is_not_there() -> None:
    bus = open_bus(f"redis://127.0.0.1:{free_port()}", "one")
    for ask in (lambda: bus.read(1, 0.0), lambda: bus.send(numbered(0, 1))):
        with pytest.raises(BusGoneError, match="Redis, stream activity"):
            ask()
    bus.close()


@pytest.mark.parametrize(
    "url", ["amqp://host/topic", "redis:activity", "kafka:///activity", "activity"]
)
def test_a_url_of_no_bus(url: str) -> None:
    with pytest.raises(InputError, match="expected a bus such as redis://"):
        open_bus(url, "one")


def test_an_unknown_key_of_a_redis_url() -> None:
    with pytest.raises(InputError, match="expected the keys stream and group"):
        open_bus("redis://localhost:6379?topic=activity", "one")
