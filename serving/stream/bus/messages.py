"""One activity event as a message: JSON with a versioned schema, read strictly.

    {"schema": 1, "member_id": 42, "item_id": 101, "action": "APPLY",
     "event_timestamp": "2026-03-01T12:00:00.000123Z"}

`event_timestamp` is ISO 8601 with a zone, or an integer of microseconds since 1970. Other keys are
left alone, so that a producer may add its own. A change that a reader of schema 1 would get wrong
is a new number; a worker refuses numbers that it does not know.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from transformations.rules import Rules
from transformations.stream import microseconds

SCHEMA = 1
# As far as transformations/sql/stg_activity.sql lets an event lie in the future.
FURTHEST = timedelta(days=1)

Id = int | str


class Event(NamedTuple):
    """One action: who, on what, the action's code, microseconds since 1970."""

    member_id: Id
    item_id: Id
    code: int
    moment: int


class MessageError(ValueError):
    """A message that no later try can read; the text is the reason, the same for all alike."""


def encode(member_id: Id, item_id: Id, action: str, event_timestamp: datetime) -> bytes:
    """Write one event as a message.

    >>> encode(42, 101, "APPLY", datetime.fromisoformat("1970-01-01T00:00:01.000001Z"))
    b'{"schema":1,"member_id":42,"item_id":101,"action":"APPLY","event_timestamp":1000001}'
    """
    event = {
        "schema": SCHEMA,
        "member_id": member_id,
        "item_id": item_id,
        "action": action,
        "event_timestamp": microseconds(event_timestamp),
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def decode(rules: Rules, message: bytes, now: datetime) -> Event:
    """Read one message.

    Raises:
        MessageError: it is not an event of this schema, or no event that the batch would take; the
            reasons are those of the quarantine where there is one.
    """
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(event, dict):
        raise MessageError("not a JSON object")
    schema = event.get("schema")
    # To Python, true is 1, and so is 1.0.
    if type(schema) is not int or schema != SCHEMA:
        raise MessageError("schema is unknown")
    action = event.get("action")
    if not isinstance(action, str) or action not in rules.actions:
        raise MessageError("action is unknown")
    moment = _moment(event.get("event_timestamp"))
    if moment < 0:
        raise MessageError("event_timestamp is before 1970")
    if moment > microseconds(now + FURTHEST):
        raise MessageError("event_timestamp is in the future")
    return Event(
        _id(rules, "member_id", event.get("member_id")),
        _id(rules, "item_id", event.get("item_id")),
        rules.action_code(action),
        moment,
    )


def decode_all(
    rules: Rules, messages: Sequence[bytes], now: datetime
) -> tuple[list[Event], dict[int, str]]:
    """Read many: the events, and the place of each message that is none, with the reason."""
    events, refused = [], {}
    for place, message in enumerate(messages):
        try:
            events.append(decode(rules, message, now))
        except MessageError as error:
            refused[place] = str(error)
    return events, refused


def _id(rules: Rules, name: str, value: object) -> Id:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MessageError(f"{name} is null")
    if rules.id_type == "int64":
        # JSON's true and false are integers to Python.
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
    elif isinstance(value, str) and _is_text(value):
        return value
    raise MessageError(f"{name} is not of the id type")


def _is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8; JSON's escapes can make half a pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        # What no datetime can hold is as far in the future, or as long ago, as any other.
        return max(min(value, 2**62), -1)
    unreadable = MessageError("event_timestamp cannot be read")
    if not isinstance(value, str):
        raise unreadable
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise unreadable from None
    if moment.tzinfo is None:
        raise unreadable
    return microseconds(moment)
