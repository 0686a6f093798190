"""One activity event as a message: JSON with a versioned schema, read strictly.

    {"schema": 1, "member_id": 42, "item_id": 101, "action": "APPLY",
     "event_timestamp": "2026-03-01T12:00:00.000123Z"}

`event_timestamp` is ISO 8601 with a zone, or an integer of microseconds since 1970. What the
action carries may stand beside it: "attributes": {"dwell": 12.5}. A message without it is an event
without attributes, and those that are not configured are left out. An action with a text has the
text under the configured key instead of item_id: "query": "night nurse". Other keys are ignored: a
producer may be ahead. A change that a reader of schema 1 would get wrong needs a new schema number;
a worker refuses unknown numbers.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from serving.times import out_of_bounds, read_time
from transformations.attributes import problem
from transformations.ids import is_id
from transformations.rules import Rules
from transformations.searches import RESERVED, is_search, read
from transformations.timestamps import microseconds

SCHEMA = 1
LONGEST = 1024 * 1024
"""Bytes of a message."""
# How far ahead an event may lie, as in transformations/sql/stg_activity.sql.
AHEAD = timedelta(days=1)

UNREADABLE = "cannot be read"
MEMBER = re.compile(rb'"member_id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")')
"""The id in a message that may be no JSON: longer than its dead letter, or of another schema."""

Id = int | str

logger = logging.getLogger(__name__)


class StreamEvent(NamedTuple):
    """One action: who, on what, the action's code, microseconds since 1970, what it carries.

    `text` is the normalized text that item_id stands for; None where it was not sent.
    """

    member_id: Id
    item_id: Id
    code: int
    timestamp: int
    attributes: Mapping[str, Any] = {}
    text: str | None = None


class MessageError(ValueError):
    """A message that no later try can read; the text is the reason, one of a fixed set."""


def encode(
    member_id: Id,
    item_id: Id | None,
    action: str,
    event_timestamp: datetime,
    attributes: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """Write one event as a message.

    Args:
        item_id: None where the action has a text instead.
        texts: Its key, and the text.

    >>> encode(42, 101, "APPLY", datetime.fromisoformat("1970-01-01T00:00:01.000001Z"))
    b'{"schema":1,"member_id":42,"item_id":101,"action":"APPLY","event_timestamp":1000001}'
    """
    event = {
        "schema": SCHEMA,
        "member_id": member_id,
        **({} if item_id is None else {"item_id": item_id}),
        "action": action,
        "event_timestamp": microseconds(event_timestamp),
        **({"attributes": attributes} if attributes else {}),
        **(texts or {}),
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def decode(rules: Rules, message: bytes, now: datetime) -> StreamEvent:
    """Read one message.

    Raises:
        MessageError: it does not fit the schema, or the batch would refuse it; the reasons match
            those of the batch quarantine.
    """
    if len(message) > LONGEST:
        raise MessageError("longer than 1 MiB")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(event, dict):
        raise MessageError("not a JSON object")
    schema = event.get("schema")
    # In Python True == 1 and 1.0 == 1.
    if type(schema) is not int or schema != SCHEMA:
        raise MessageError("schema is unknown")
    action = event.get("action")
    if not isinstance(action, str) or action not in rules.actions:
        raise MessageError("action is unknown")
    timestamp = read_time(event.get("event_timestamp"))
    if timestamp is None:
        raise MessageError("event_timestamp cannot be read")
    wrong = out_of_bounds(rules, timestamp, now)
    if wrong is None and timestamp > microseconds(now + AHEAD):
        wrong = "is in the future"
    if wrong is not None:
        raise MessageError(f"event_timestamp {wrong}")
    member_id = _id(rules, "member_id", event.get("member_id"))
    item_id, text = _item(rules, action, event)
    return StreamEvent(
        member_id,
        item_id,
        rules.action_code(action),
        timestamp,
        _attributes(rules, event.get("attributes")),
        text,
    )


def decode_all(
    rules: Rules, messages: Sequence[bytes], now: datetime
) -> tuple[list[StreamEvent], dict[int, str]]:
    """Read many messages: the events, and for each refused message its index and reason."""
    events, refused = [], {}
    for index, message in enumerate(messages):
        try:
            events.append(decode(rules, message, now))
        except MessageError as error:
            refused[index] = str(error)
        except Exception as error:  # whatever it is, it is this message's
            logger.warning("a message %s: %r", UNREADABLE, error)
            refused[index] = UNREADABLE
    return events, refused


def member_in(message: bytes) -> Id | None:
    """Return whose a message is, also one that is refused or cut off; None where it does not say.

    >>> member_in(b'{"schema": 9, "member_id": 42, "acti'), member_in(b'{"member_id": "x"}')
    (42, 'x')
    """
    found = MEMBER.search(message)
    if found is None:
        return None
    try:
        value = json.loads(found[1])
    except ValueError:
        return None
    return value if isinstance(value, int | str) else None


def _attributes(rules: Rules, given: object) -> Mapping[str, Any]:
    if given is None or not rules.attributes:
        return {}
    if not isinstance(given, dict):
        raise MessageError("attributes are not a JSON object")
    found = {name: given[name] for name in rules.attributes if given.get(name) is not None}
    for name, value in found.items():
        wrong = problem(name, rules.attributes[name], value)
        if wrong is None and isinstance(value, str) and not _is_text(value):
            wrong = f"attribute {name} is not a text"
        if wrong is not None:
            raise MessageError(wrong)
    return found


def _item(rules: Rules, action: str, event: Mapping[str, Any]) -> tuple[Id, str | None]:
    """Return an event's item_id, and the text that it stands for."""
    key = rules.texts.get(action)
    if key is None:
        item_id = _id(rules, "item_id", event.get("item_id"))
        if rules.texts and is_search(item_id):
            raise MessageError(RESERVED)
        return item_id, None
    search = read(rules.item_id_type, action, event.get(key))
    if search.item_id is None:
        raise MessageError(search.problem)
    return search.item_id, search.text


def _id(rules: Rules, name: str, value: object) -> Id:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MessageError(f"{name} is null")
    kind = rules.member_id_type if name == "member_id" else rules.item_id_type
    if kind == "int64":
        # JSON's true and false are integers in Python.
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
    elif isinstance(value, str) and is_id(value):
        return value
    raise MessageError(f"{name} is not of the id type")


def _is_text(value: str) -> bool:
    """Whether a string can be encoded as UTF-8; JSON escapes can leave a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
