"""Timestamps in SQLite: those that Feast's store would keep, and exact ones in UTC beside them.

Feast takes a UTC time for one of the machine's zone, and keeps whole seconds (event_ts,
created_ts). Where the zone has summer time, the hour that is left out in spring comes out an hour
late, so that an older row could win over a newer one; and a reader in another zone than the
writer's sees other times. So two more columns, which Feast neither reads nor writes, hold the
microseconds since 1970 (event_us, created_us). They order rows and are what is read. Feast's two
columns are still written as Feast would, for plain Feast's reads in the same zone.

Where event_us is null, plain Feast wrote the row; where it is less than a second, an older version
did, which kept there what event_ts drops. Then event_ts counts, read in the machine's zone. (Of a
time in the first second of 1970 that is the same.)
"""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from stores.bytes.wire import MICROSECONDS

ADDED = ("event_us", "created_us")
LEAST = -(2**63)
"""Older than any timestamp."""


def stored_seconds(timestamps_us: NDArray[np.int64]) -> list[int]:
    """Return the seconds that Feast's SQLite store would keep of microseconds since 1970.

    Feast converts a naive UTC datetime with `timestamp()`, which reads it in the machine's zone,
    and truncates towards zero; its reads undo the first. This function does both, once per distinct
    timestamp.
    """
    distinct, where = np.unique(timestamps_us, return_inverse=True)
    epoch = datetime(1970, 1, 1)
    seconds = np.fromiter(
        (int((epoch + np.timedelta64(us, "us").item()).timestamp()) for us in distinct.tolist()),
        dtype=np.int64,
        count=len(distinct),
    )
    found: list[int] = seconds[where].tolist()
    return found


def exact(name: str) -> str:
    """Return SQL for the microseconds of a row's `event` or `created` timestamp, whoever wrote it.

    A row without one is older than any other.
    """
    return (
        f"case when abs({name}_us) >= {MICROSECONDS} then {name}_us "
        f"when {name}_ts is null then {LEAST} "
        f"else {_unzoned(name)} * {MICROSECONDS} + ifnull({name}_us, 0) end"
    )


def event_seconds(columns: Sequence[str]) -> str:
    """Return SQL for the whole seconds since 1970 of a row's event timestamp, as Feast returns it.

    Args:
        columns: Those of the table: one that only plain Feast wrote has no event_us.
    """
    if "event_us" not in columns:
        return _unzoned("event")
    return (
        f"case when abs(event_us) >= {MICROSECONDS} then event_us / {MICROSECONDS} "
        f"else {_unzoned('event')} end"
    )


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns; none where there is no such table."""
    rows = connection.execute("select name from pragma_table_info(?)", [table])
    return [name for (name,) in rows]


def _unzoned(name: str) -> str:
    return f"cast(strftime('%s', {name}_ts, 'unixepoch', 'localtime') as integer)"
