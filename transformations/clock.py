"""The one clock: what time it is for all that runs here, except inside Feast and its stores.

A simulation moves it (`moved`), so that weeks pass in minutes, and what a run writes down as its
time is that of the simulated day. Deadlines and durations use `time.monotonic` and are real.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

_read: Callable[[], datetime] | None = None


def now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC) if _read is None else _read()


@contextmanager
def moved(read: Callable[[], datetime]) -> Iterator[None]:
    """Let another clock tell the time, in every thread of this process, until the block ends.

    Args:
        read: Returns the time, in UTC; it is called often.

    >>> with moved(lambda: datetime(2026, 3, 1, tzinfo=UTC)):
    ...     now().isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    global _read
    before, _read = _read, read
    try:
        yield
    finally:
        _read = before
