"""How long: durations of `activity.yaml` and of the command line."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

DURATION_UNITS = {
    "d": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
}


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d+)\s*(ms|[dhms])", str(value).strip())
    if match is None:
        raise ValueError(f"expected a duration such as 28d, 12h, 30m or 45s, got {value!r}")
    return timedelta(**{DURATION_UNITS[match[2]]: int(match[1])})


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError(f"expected a duration above zero, got {value}")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
Delay = Annotated[timedelta, BeforeValidator(_duration)]


WORDS = {"hourly": "1h", "daily": "1d", "weekly": "7d", "monthly": "30d"}


def _every(value: Any) -> Any:
    if value is None or value == "never":
        return None
    try:
        return _positive(_duration(WORDS.get(value, value) if isinstance(value, str) else value))
    except ValueError:
        words = ", ".join(WORDS)
        raise ValueError(
            f"expected {words}, never, or a duration such as 14d or 12h, got {value!r}"
        ) from None


Every = Annotated[timedelta | None, BeforeValidator(_every)]
"""How often: a word, a duration above zero, or None for `never`."""


def said(duration: timedelta | None) -> str:
    """Write a duration as `activity.yaml` has it.

    >>> said(timedelta(days=7)), said(timedelta(hours=36)), said(None)
    ('7d', '36h', 'never')
    """
    if duration is None:
        return "never"
    for unit, name in (("d", "days"), ("h", "hours"), ("m", "minutes"), ("s", "seconds")):
        one = timedelta(**{name: 1})
        if duration % one == timedelta(0):
            return f"{duration // one}{unit}"
    return f"{duration // timedelta(milliseconds=1)}ms"
