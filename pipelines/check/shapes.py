"""How the activity is distributed, for the plots of the page: counts in few bins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import duckdb

from pipelines.check.figures import Activity
from transformations.duck import sql

Connection = duckdb.DuckDBPyConnection
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
MOST_BINS = 240
"""Of actions over time; a plot has about two pixels for each."""

Unit = Literal["day", "week", "month", "year"]
UNITS: dict[Unit, timedelta] = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY, "year": 365 * DAY}
# Upper ends and what a length of time below one is called; that of the last is above all others.
AGES = (
    (DAY, "under 1 day"),
    (7 * DAY, "1 to 7 days"),
    (28 * DAY, "7 to 28 days"),
    (90 * DAY, "28 to 90 days"),
    (365 * DAY, "90 days to 1 year"),
    (730 * DAY, "1 to 2 years"),
    (timedelta.max, "over 2 years"),
)
PAUSES = (
    (MICROSECOND, "at the same time"),
    (timedelta(minutes=30), "under 30 minutes"),
    (DAY, "30 minutes to 1 day"),
    *AGES[1:],
)


@dataclass(frozen=True)
class Shapes:
    """Counts of all actions; of none, every one is 0.

    Attributes:
        unit: What a bin of `starts` is.
        starts: Where each bin begins, without those that no action lies in.
        over_time: Action → how often it happened in each bin.
        per_member: "1", "2 to 3", "4 to 7", … actions → members that have that many.
        ages: How long a member's last action is ago, as of `last_as_of` → members.
        pauses: How long after its member's action before an action follows → actions.
    """

    unit: Unit
    starts: Sequence[datetime]
    over_time: Mapping[str, Sequence[int]]
    per_member: Mapping[str, int]
    ages: Mapping[str, int]
    pauses: Mapping[str, int]


def shapes_of(con: Connection, activity: Activity) -> Shapes:
    """Count over the view `activity`, which `activity_of` has left."""
    figures = activity.figures
    span = timedelta(0)
    if figures.first_at is not None and figures.last_at is not None:
        span = figures.last_at - figures.first_at
    fits: list[Unit] = [unit for unit, length in UNITS.items() if span <= MOST_BINS * length]
    unit: Unit = fits[0] if fits else "year"
    rows = con.execute(sql("over_time", __file__), {"unit": unit}).fetchall()
    starts = sorted({start for start, _, _ in rows})
    counts = {(start, action): count for start, action, count in rows}
    doublings = dict(con.execute(sql("per_member", __file__)).fetchall())
    powers = range(max(doublings, default=-1) + 1)
    return Shapes(
        unit=unit,
        starts=starts,
        over_time={
            action: [counts.get((start, action), 0) for start in starts]
            for action in activity.actions
        },
        per_member={_doubling(power): doublings.get(power, 0) for power in powers},
        ages=_binned(con, "ages", AGES, {"as_of": activity.last_as_of}),
        pauses=_binned(con, "pauses", PAUSES),
    )


def _binned(
    con: Connection,
    query: str,
    bins: Sequence[tuple[timedelta, str]],
    parameters: Mapping[str, object] | None = None,
) -> dict[str, int]:
    """Count lengths of time by bin; `query` counts them by the index of the first end above."""
    ends = [end // MICROSECOND for end, _ in bins[:-1]]
    rows = con.execute(sql(query, __file__), {"ends": ends, **(parameters or {})}).fetchall()
    counts = dict(rows)
    return {name: counts.get(index, 0) for index, (_, name) in enumerate(bins)}


def _doubling(power: int) -> str:
    """Name the numbers from one power of two to below the next.

    >>> _doubling(0), _doubling(3)
    ('1', '8 to 15')
    """
    low = 2**power
    return f"{low:,}" if power == 0 else f"{low:,} to {2 * low - 1:,}"
