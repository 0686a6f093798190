"""Timestamps as DuckDB and Arrow hold them: microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta

from transformations.errors import InputError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000
"""Microseconds per day."""
NO_TIME = -(2**63)
"""The timestamp of what never happened, in microseconds; NaT to numpy."""


def microseconds(timestamp: datetime) -> int:
    """Return a timestamp in microseconds since 1970.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (timestamp - EPOCH) // MICROSECOND


def timestamp_of(us: int) -> datetime:
    """Return the timestamp `us` microseconds after 1970; the opposite of `microseconds`."""
    return EPOCH + us * MICROSECOND


def as_utc(timestamp: datetime) -> datetime:
    """Return a timestamp in UTC; one without a zone is UTC, as everywhere in this project."""
    return timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)


def read_timestamp(text: str) -> datetime:
    """Read a date or a time; one without a zone is UTC.

    Raises:
        InputError: it is neither.
    """
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"expected a date (2026-01-31) or a time (2026-01-31T06:00), got {text!r}"
        ) from None
    return as_utc(timestamp)


def day(timestamp: datetime) -> str:
    """Write a timestamp in UTC, its time only where it is not midnight.

    >>> day(datetime(2026, 1, 31, tzinfo=UTC)), day(datetime(2026, 1, 31, 6, 30, tzinfo=UTC))
    ('2026-01-31', '2026-01-31 06:30')
    """
    utc = as_utc(timestamp)
    return f"{utc:%Y-%m-%d}" if utc.time() == datetime.min.time() else f"{utc:%Y-%m-%d %H:%M}"
