"""Messages: what is an event, what is refused and why, what the states look like as bytes."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.stream.bus.messages import MessageError, StreamEvent, decode, decode_all, encode
from serving.stream.states.protocol import NONE, digest, pack, unpack
from tests.worlds.events import AS_OF, DAY, INTEGERS, STRINGS, at, configure, event_logs
from tests.worlds.stream import folded
from transformations.stream import NO_TIME, States, differ
from transformations.timestamps import microseconds

NOW = at("2026-03-10")
GOOD: dict[str, Any] = {
    "schema": 1,
    "member_id": 1,
    "item_id": 2,
    "action": "SAVE",
    "event_timestamp": "2026-03-09T12:00:00.000001Z",
}
MOMENT = microseconds(at("2026-03-09 12:00:00.000001"))


def config(id_type: str = "int64") -> Any:
    return configure(Path("unused"), id_type=id_type)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"event_timestamp": MOMENT},
        {"event_timestamp": "2026-03-09T13:00:00.000001+01:00"},
        {"something": "else"},
    ],
)
def test_what_is_an_event(changed: dict[str, Any]) -> None:
    message = json.dumps(GOOD | changed).encode()
    assert decode(config().rules, message, NOW) == StreamEvent(1, 2, 2, MOMENT)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schema": 2}, "schema is unknown"),
        ({"schema": None}, "schema is unknown"),
        ({"schema": True}, "schema is unknown"),
        ({"schema": 1.0}, "schema is unknown"),
        ({"action": "VIEW"}, "action is unknown"),
        ({"action": ["SAVE"]}, "action is unknown"),
        ({"member_id": None}, "member_id is null"),
        ({"member_id": " "}, "member_id is null"),
        ({"member_id": "1"}, "member_id is not of the id type"),
        ({"member_id": True}, "member_id is not of the id type"),
        ({"member_id": 1.0}, "member_id is not of the id type"),
        ({"item_id": 2**63}, "item_id is not of the id type"),
        ({"event_timestamp": None}, "event_timestamp cannot be read"),
        ({"event_timestamp": "noon"}, "event_timestamp cannot be read"),
        ({"event_timestamp": "2026-03-09T12:00:00"}, "event_timestamp cannot be read"),
        ({"event_timestamp": 1.5}, "event_timestamp cannot be read"),
        ({"event_timestamp": 1772323200}, "event_timestamp is before events.earliest"),
        ({"event_timestamp": 1772323200000}, "event_timestamp is before events.earliest"),
        ({"event_timestamp": 1772323200 * 10**9}, "event_timestamp is after events.latest"),
        ({"event_timestamp": "1772323200"}, "event_timestamp cannot be read"),
        ({"event_timestamp": True}, "event_timestamp cannot be read"),
        ({"event_timestamp": "1989-12-31T23:59:59Z"}, "event_timestamp is before events.earliest"),
        ({"event_timestamp": -1}, "event_timestamp is before events.earliest"),
        ({"event_timestamp": -(10**30)}, "event_timestamp is before events.earliest"),
        ({"event_timestamp": 10**30}, "event_timestamp is after events.latest"),
        ({"event_timestamp": "2027-03-10T00:00:00Z"}, "event_timestamp is in the future"),
        (
            {"event_timestamp": "2027-03-10T00:00:00.000001Z"},
            "event_timestamp is after events.latest",
        ),
        ({"event_timestamp": "2026-03-11T00:00:00.000001Z"}, "event_timestamp is in the future"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=f"^{reason}$"):
        decode(config().rules, json.dumps(GOOD | changed).encode(), NOW)


@pytest.mark.parametrize(
    ("value", "reason"), [(1, "item_id is not of the id type"), ("\ud800", "item_id is not of")]
)
def test_text_ids(value: Any, reason: str) -> None:
    good = GOOD | {"member_id": "a", "item_id": "é"}
    assert decode(config("string").rules, json.dumps(good).encode(), NOW)[:2] == ("a", "é")
    with pytest.raises(MessageError, match=reason):
        decode(config("string").rules, json.dumps(good | {"item_id": value}).encode(), NOW)


@settings(max_examples=150, deadline=None)
@given(message=st.binary() | st.text().map(str.encode))
@example(message=b"[" * 100_000)
def test_no_bytes_break_the_reader(message: bytes) -> None:
    with pytest.raises(MessageError):
        decode(config().rules, message, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(changed=st.dictionaries(st.sampled_from(list(GOOD)), JSON, max_size=3))
def test_no_value_breaks_the_reader(changed: dict[str, Any]) -> None:
    events, refused = decode_all(config().rules, [json.dumps(GOOD | changed).encode()], NOW)
    assert len(events) + len(refused) == 1


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read(id_type: str, data: st.DataObject) -> None:
    log = data.draw(event_logs(id_type, [AS_OF], timedelta(days=3)))
    for event in log:
        message = encode(*event[:4])
        assert decode(config(id_type).rules, message, AS_OF + 10 * DAY) == StreamEvent(
            event.member_id,
            event.item_id,
            config(id_type).rules.action_code(event.action),
            microseconds(event.event_timestamp),
        )


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_states_survive_as_bytes(id_type: str, data: st.DataObject) -> None:
    window = timedelta(days=3)
    config = configure(Path("unused"), id_type=id_type, window=window, length=4)
    rules = config.rules
    members = (INTEGERS if id_type == "int64" else STRINGS)[-4:]
    log = data.draw(event_logs(id_type, [AS_OF], window))
    states = folded(config, States.empty(rules, 4), log, members, AS_OF).states
    values: list[bytes | None] = [*pack(states, 77)]
    gone = data.draw(st.sets(st.integers(0, 3)))
    for index in gone:
        values[index] = None
    back, versions = unpack(rules, values)
    assert versions.tolist() == [NONE if index in gone else 77 for index in range(4)]
    kept = np.array(sorted({0, 1, 2, 3} - gone), int)
    assert not differ(states.of_members(kept), back.of_members(kept)).any()
    np.testing.assert_array_equal(back.held.timestamp, states.held.timestamp[
        ~np.isin(states.held.member, list(gone))
    ])  # fmt: skip
    assert all(back.last[index] == NO_TIME for index in gone)
    np.testing.assert_array_equal(back.last[kept], states.last[kept])


def test_other_rules_have_other_states() -> None:
    base = configure(Path("unused"))
    others = [
        configure(Path("unused"), id_type="string"),
        configure(Path("unused"), length=31),
        configure(Path("unused"), window=timedelta(days=27)),
        configure(Path("unused"), actions={"SAVE": "positive", "APPLY": "positive"}),
    ]
    assert len({digest(one.rules) for one in (base, *others)}) == 5
    assert digest(base.rules) == digest(
        configure(Path("elsewhere"), publish_delay=timedelta(0)).rules
    )
