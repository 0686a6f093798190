"""One member, one message or one clock stops nobody else: each error is put where it belongs."""

import json
import struct
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import redis
from confluent_kafka.admin import AdminClient

from serving.stream.blame import TOO_FAR_AHEAD, UNWRITABLE
from serving.stream.bus import messages
from serving.stream.bus.messages import LONGEST, UNREADABLE, encode
from serving.stream.bus.protocol import DEAD_LONGEST, Message
from serving.stream.offline_log import parts
from serving.stream.states.protocol import pack, unpack
from serving.stream.updater import TOLERANCE, utc_now
from tests.serving.test_messages import GOOD, NOW, config
from tests.worlds.events import Event
from tests.worlds.live import (
    ITEMS,
    Live,
    drain,
    kafka,
    midnight,
    past_events,
    redis_client,
    redis_online,
    send,
)
from tests.worlds.servers import emptied
from transformations.names import SEQUENCE_VIEW
from transformations.stream import MOST_HELD
from transformations.timestamps import microseconds

__all__ = ["kafka"]

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)
MEMBERS = list(range(1, 7))
POISON = 3
"""The member that no write takes."""


@pytest.fixture(scope="module")
def built(tmp_path_factory, _redis_process):
    live = Live(tmp_path_factory.mktemp("live"), redis_online(emptied(_redis_process)))
    before = past_events(np.random.default_rng(7), 40, 6)
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
def worker(live, redis_server):
    worker = live.worker(f"redis://{redis_server}")
    yield worker
    worker.close()


def dead_letters(address: str) -> list[tuple[bytes, str]]:
    with redis_client(address) as client:
        entries = client.xrange("activity.dead")
    return [(fields[b"event"], fields[b"reason"].decode()) for _, fields in entries]


def now_events(members: Any) -> list[Event]:
    now = utc_now()
    return [
        Event(member, ITEMS[member], "SAVE", now - timedelta(seconds=number))
        for number, member in enumerate(members)
    ]


def refuse(worker: Any, member: int, error: Exception) -> None:
    """Let the states refuse every write in which a member is."""
    write = worker.updater.states.write

    def refusing(members: Any, *arguments: Any) -> Any:
        if member in members:
            raise error
        return write(members, *arguments)

    worker.updater.states.write = refusing


ERRORS = [
    struct.error("ushort format requires 0 <= number <= 65535"),
    psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
    psycopg.errors.ProgramLimitExceeded("index row size exceeds maximum"),
    OSError("what a library calls it"),
    KeyError("a name"),
]


def test_an_error_of_one_member_is_that_members(built, live, worker, redis_server):
    fine = []
    for error in ERRORS:
        write = worker.updater.states.write
        refuse(worker, POISON, error)
        events = now_events([1, 2, POISON, 4, 5, POISON, 6])
        fine += [event for event in events if event.member_id != POISON]
        send(worker.bus, events)
        assert drain(worker) == len(events)
        worker.updater.states.write = write
    dead = dead_letters(redis_server)
    assert [reason for _, reason in dead] == [UNWRITABLE] * 2 * len(ERRORS)
    assert {json.loads(value)["member_id"] for value, _ in dead} == {POISON}
    assert worker.metrics.value("dead_letters_total", reason=UNWRITABLE) == 2 * len(ERRORS)
    live.assert_is_the_batch([*built[1], *fine], MEMBERS)


def test_the_very_first_message_may_be_the_one(worker, redis_server):
    """Nothing was written yet: the store is asked for a member of the snapshot."""
    refuse(worker, POISON, psycopg.errors.ProgramLimitExceeded("too large"))
    send(worker.bus, now_events([POISON]))
    assert worker.step() == 1
    assert [reason for _, reason in dead_letters(redis_server)] == [UNWRITABLE]


def test_an_error_of_a_moment_is_no_messages(built, live, worker, redis_server):
    """The store was away for one write: when it is asked, it is there again."""
    write = worker.updater.states.write
    errors: list[Exception] = []

    def failing_once(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return write(*arguments)

    worker.updater.states.write = failing_once
    events = now_events([1, 2])
    for event, error in zip(events, (redis.ConnectionError("cut"), OSError("reset")), strict=True):
        errors.append(error)
        send(worker.bus, [event])
        assert (worker.step(), errors) == (1, [])
    assert dead_letters(redis_server) == []
    live.assert_is_the_batch([*built[1], *events], MEMBERS)


def test_one_message_of_a_member_is_not_all_of_them(built, live, worker, redis_server):
    """What cannot be written is the item, not the member."""
    learn = worker.updater._publish_searches

    def refusing(events: Any) -> None:
        if any(event.item_id == ITEMS[5] for event in events):
            raise ValueError("this one")
        learn(events)

    worker.updater._publish_searches = refusing
    now = utc_now()
    events = [Event(1, item, "SAVE", now - timedelta(seconds=item)) for item in ITEMS[:9]]
    send(worker.bus, events)
    assert drain(worker) == 9
    (value, reason), *more = dead_letters(redis_server)
    assert (json.loads(value)["item_id"], reason, more) == (ITEMS[5], UNWRITABLE, [])
    live.assert_is_the_batch([*built[1], *events[:5], *events[6:]], MEMBERS)


def test_what_no_write_takes_is_the_stores(worker, redis_server):
    """The error of a message, of every message: nothing is put away, and nothing is lost."""
    away = psycopg.errors.ProgramLimitExceeded("too large")
    write = worker.updater.states.write

    def refusing(*_: Any) -> Any:
        raise away

    worker.updater.states.write = refusing
    send(worker.bus, now_events([1, 2]))
    with pytest.raises(type(away)):
        worker.step()
    worker.updater.states.write = write
    assert worker.step() == 2
    assert dead_letters(redis_server) == []


def test_held_actions_that_cannot_be_written_stop_no_others(live, worker):
    now = [utc_now()]
    worker.updater.clock = lambda: now[0]
    ahead = [Event(member, 7, "APPLY", now[0] + HOUR) for member in (1, 2, POISON, 4)]
    send(worker.bus, ahead)
    drain(worker)
    refuse(worker, POISON, struct.error("of one"))
    now[0] += 2 * HOUR
    worker._apply_due()
    worker._apply_due()
    of_item_7 = [
        member
        for member in (1, 2, POISON, 4)
        if 7 in live.online_rows(SEQUENCE_VIEW, [member])[member]["item_ids"]
    ]
    assert of_item_7 == [1, 2, 4]


def test_66_000_events_of_one_member_twelve_hours_ahead(live, worker):
    """A thousand are held, the rest goes to the dead letters, and nobody else notices."""
    start = utc_now() + 12 * HOUR
    ahead = [
        Event(1, ITEMS[number % 40], "SAVE", start + timedelta(microseconds=number))
        for number in range(66_000)
    ]
    worker.bus.read = _given(worker, [*ahead, *now_events([2, 4])])
    worker.bus.done = worker.bus.refuse = lambda _: None
    assert worker.step() == 66_002
    assert worker.metrics.value("dead_letters_total", reason=TOO_FAR_AHEAD) == 65_000
    assert worker.metrics.value("events_total", outcome="held") == MOST_HELD
    (state,) = worker.updater.states.read([1])
    assert len(state) < 30 * MOST_HELD
    for member in (2, 4):
        assert ITEMS[member] in live.online_rows(SEQUENCE_VIEW, [member])[member]["item_ids"]


def _given(worker: Any, events: list[Event]) -> Any:
    """One read of these events, without 66,000 entries on the bus."""
    batches = [[Message(encode(*event[:4]), 0, b"1-0") for event in events]]
    return lambda *_: batches.pop() if batches else []


def test_a_state_of_another_clock_does_not_move_the_others(live, worker):
    """A worker whose clock was a year ahead wrote member 1: only member 1 waits for that year."""
    rules, states = worker.config.rules, worker.updater.states
    found, versions = unpack(rules, states.read([1]))
    year_ahead = microseconds(utc_now() + timedelta(days=365))
    due = np.zeros(1, np.int64)
    assert states.write([1], versions, pack(found, year_ahead), due).all()
    events = now_events([1, 2, 4])
    send(worker.bus, events)
    assert drain(worker) == 3
    for event in events[1:]:
        row = live.online_rows(SEQUENCE_VIEW, [event.member_id])[event.member_id]
        assert row["item_ids"][-1] == event.item_id
    _, versions = unpack(rules, states.read([1, 2, 4]))
    assert versions[0] > year_ahead
    assert (versions[1:] < microseconds(utc_now() + TOLERANCE)).all()


def test_a_message_of_any_size_ends_as_a_dead_letter(worker, redis_server):
    long = b'{"schema": 1, "member_id": "' + b"x" * LONGEST + b'"}'
    worker.bus.send([("1", long)])
    send(worker.bus, now_events([2]))
    assert drain(worker) == 2
    assert dead_letters(redis_server) == [(long[:DEAD_LONGEST], "longer than 1 MiB")]


def test_kafka_takes_the_dead_letter_of_a_message_that_it_would_not_take_again(live, kafka):
    """A broker that allows larger messages than a producer's default has delivered it."""
    AdminClient({"bootstrap.servers": kafka}).list_topics("large", timeout=300)
    bus_url = f"kafka://{kafka}/large?group=large"
    worker = live.worker(bus_url, "large")
    worker.bus.refuse([(Message(b"x" * 5_000_000, 0, (0, 1)), "longer than 1 MiB")])
    worker.close()


def test_an_error_in_reading_a_message_is_that_messages(monkeypatch):
    read = messages._attributes

    def failing(rules: Any, given: Any) -> Any:
        if given:
            raise OverflowError("whatever a library raises")
        return read(rules, given)

    monkeypatch.setattr(messages, "_attributes", failing)
    both = [json.dumps(GOOD | more).encode() for more in ({}, {"attributes": {"a": 1}})]
    events, refused = messages.decode_all(config().rules, both, NOW)
    assert (len(events), refused) == (1, {1: UNREADABLE})
