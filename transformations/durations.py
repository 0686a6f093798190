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
