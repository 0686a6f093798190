"""Times that messages and requests hold: one rule for both, and their bounds."""

from datetime import datetime

from transformations.rules import Rules
from transformations.timestamps import microseconds

BEFORE = "is before events.earliest"
AFTER = "is after events.latest"


def read_time(value: object) -> int | None:
    """Return microseconds since 1970 of ISO 8601 text with a zone, or of an integer, which it is.

    None for what is neither. An integer of any size is returned: `out_of_bounds` refuses it.

    >>> read_time(1_000_001), read_time("1970-01-01T00:00:01+00:00"), read_time("1970-01-01")
    (1000001, 1000000, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    try:
        timestamp = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if timestamp.tzinfo is None else microseconds(timestamp)


def out_of_bounds(rules: Rules, us: int, now: datetime) -> str | None:
    """Return how microseconds since 1970 lie outside what can be meant; None where they do not.

    >>> out_of_bounds(rules, 1772323200, datetime.now(UTC))  # doctest: +SKIP
    'is before events.earliest'
    """
    if us < microseconds(rules.earliest):
        return BEFORE
    return AFTER if us > microseconds(now + rules.latest) else None
