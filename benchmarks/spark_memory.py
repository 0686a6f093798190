"""Memory of a task that builds sequences: ten times the members, and a member who does most.

Ten times the actions of ten times the members lie in ten times the buckets, so that a task should
take as much memory as before. In the other log one member has a fifth of all actions, and each
other action is of a member of its own. Both are built in the tasks of Spark and in the pool;
a task's process says what its most memory was. `benchmarks.spark_page` writes the page.

    python -m benchmarks.spark_memory
    python -m benchmarks.spark_memory --only hot --events 12500000 --buckets 16
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console

from benchmarks.sequences import AS_OF, DAY, DAYS, THREADS, generate
from benchmarks.spark import divide, keep, measured
from transformations.duck import copy
from transformations.layout import period_file

WAYS = ("pool", "spark")
SMALL = (1_000_000, 4)
"""Actions and buckets; the larger log has ten times both."""
HOT = (5_000_000, 8)
ONE_IN = 5
"""Which part of the actions the one member has."""

# Member 0 is the one; any other action's member has no second action.
HOT_EVENTS = f"""
select
    case when n % {ONE_IN} = 0 then 0 else n end as member_id,
    (hash(4 * n) % 100_000)::bigint as item_id,
    ['APPLY', 'SAVE', 'DISMISS'][1 + (hash(4 * n + 1) % 3)::bigint] as action,
    $day + to_microseconds((hash(4 * n + 2) % 86_400_000_000)::bigint) as event_timestamp,
    event_timestamp + to_microseconds((hash(4 * n + 3) % 600_000_000)::bigint) as ingested_at,
from (select unnest(range($first, $last)) as n)
order by member_id, event_timestamp, item_id, action
"""


def generate_hot(folder: Path, events: int) -> None:
    """Write a day file for each day of the window."""
    per_day = events // DAYS
    with duckdb.connect(config={"threads": THREADS, "memory_limit": "4GB"}) as con:
        con.execute("set TimeZone = 'UTC'")
        for number in range(DAYS):
            day, first = AS_OF - (number + 1) * DAY, number * per_day
            file = period_file(folder / "activity", day.date())
            file.parent.mkdir(parents=True, exist_ok=True)
            copy(con, HOT_EVENTS, file, {"first": first, "last": first + per_day, "day": day})


def measure(events: int, buckets: int, hot: bool, ways: Sequence[str]) -> dict[str, Any]:
    """Build the sequences of one log in some ways."""
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        (generate_hot if hot else generate)(folder / "buckets-1", events)
        divide(folder, buckets)
        found = [measured(way, folder, buckets) for way in ways]
    return {"events": events, "buckets": buckets, "ways": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the logs, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("grown", "hot"))
    parser.add_argument("--events", type=int)
    parser.add_argument("--buckets", type=int)
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    given = parser.parse_args(arguments)
    sizes = {"grown": [SMALL, (10 * SMALL[0], 10 * SMALL[1])], "hot": [HOT]}
    if given.events:
        sizes[given.only] = [(given.events, given.buckets)]
    for log in [given.only] if given.only else sizes:
        for events, buckets in sizes[log]:
            found = measure(events, buckets, log == "hot", given.way or WAYS)
            keep(log, str(events), found)
            for one in found["ways"]:
                Console().print(
                    f"{log}: {events:,} actions, {one['members']:,} members, {one['way']}: "
                    f"{one['peak_mb']:.0f} MB, {one['wall_s']:.1f} s, CPU {one['cpu_s']:.1f} s"
                )


if __name__ == "__main__":
    main()
