"""Events per second from `activity` to `member_sequences`, compared with the alternatives.

Each way runs in its own process, on two threads, over the same day files, and writes one Parquet
file. Their counts must agree. Ours includes the check of the table.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from transformations.config import ROOT, Config
from transformations.duck import connect, copy
from transformations.layout import partition, partition_files, period_file
from transformations.tables import build_sequences

RESULTS = Path(__file__).parent / "results" / "sequences.json"
AS_OF = datetime(2026, 1, 29, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 28
THREADS = 2
EVENTS_PER_MEMBER = 20
PANDAS_AT_MOST = 2_000_000
OTHERS_AT_MOST = 20_000_000

# A few members do most: the busiest of a million has about 20,000 of 20 million events. Hashes of
# the row number serve as random numbers, so every run has the same events.
EVENTS = """
with
numbers as (select unnest(range($first, $last)) as n),

uniform as (
    select
        hash(n, 1) / 18446744073709551616.0 as member,
        hash(n, 2) / 18446744073709551616.0 as item,
        hash(n, 3) / 18446744073709551616.0 as action,
        hash(n, 4) / 18446744073709551616.0 as time_of_day,
        hash(n, 5) / 18446744073709551616.0 as lag,
        hash(n, 6) / 18446744073709551616.0 as carried,
    from numbers
)

select
    (floor($members * member * member)::bigint * 7919) % $members as member_id,
    floor(100_000 * item * item)::bigint as item_id,
    case when action < 0.5 then 'APPLY' when action < 0.9 then 'SAVE' else 'DISMISS' end as action,
    $day + to_microseconds((time_of_day * 86_400_000_000)::bigint) as event_timestamp,
    event_timestamp + to_microseconds((-ln(1 - lag) * 180_000_000)::bigint) as ingested_at,
    {carried}
from uniform
order by member_id, event_timestamp, item_id, action
"""
# A number, a category and a text. A quarter of the actions have none of the first, three quarters
# none of the last.
ATTRIBUTES = {
    "dwell": {"type": "number", "unit": "s", "min": 0, "max": 3600},
    "seen_on": {"type": "category"},
    "comment": {"type": "text"},
}
CARRIED = """
    case when carried > 0.25 then round(3600 * carried, 1) end as dwell,
    ['feed', 'search', 'mail', 'ad'][1 + floor(4 * item)::bigint] as seen_on,
    case
        when carried < 0.25 then 'a text of some forty letters, the ' || floor(4000 * carried)
    end as comment,
"""
VISIBLE = f"""
select * from activity
where
    event_timestamp >= timestamptz '{AS_OF - DAYS * DAY}'
    and event_timestamp < timestamptz '{AS_OF}'
    and (ingested_at is null or ingested_at < timestamptz '{AS_OF}')
"""
OBVIOUS = f"""
select
    member_id,
    list(item_id order by event_timestamp, item_id, action)[-32:] as item_ids,
    list(action order by event_timestamp, item_id, action)[-32:] as actions,
    list(event_timestamp order by event_timestamp, item_id, action)[-32:] as event_timestamps,
    len(item_ids) as n_actions,
from ({VISIBLE})
group by member_id
"""
SORT = f"select * from ({VISIBLE}) order by member_id, event_timestamp, item_id, action"


def generate(folder: Path, events: int, carried: str = "") -> None:
    """Write DAYS + 1 day files with `events` in the window, EVENTS_PER_MEMBER for each member.

    Args:
        carried: SQL of further columns.
    """
    query = EVENTS.format(carried=carried)
    per_day = events // DAYS
    with duckdb.connect(config={"threads": THREADS, "memory_limit": "4GB"}) as con:
        con.execute("set TimeZone = 'UTC'")
        for number in range(DAYS + 1):
            day = AS_OF - (number + 1) * DAY
            file = period_file(folder / "activity", day.date())
            file.parent.mkdir(parents=True, exist_ok=True)
            first = number * per_day
            parameters = {"first": first, "last": first + per_day, "day": day}
            copy(con, query, file, parameters | {"members": events // EVENTS_PER_MEMBER})


def ours(
    folder: Path, memory_limit: str, attributes: dict[str, Any] | None = None
) -> tuple[int, int]:
    """Build the snapshot as the daily run does; return members and the sum of n_actions."""
    config = Config.model_validate(
        {
            "data_dir": str(folder),
            "events": {"attributes": attributes or {}},
            "items": {"text": ["title"]},
            "duckdb": {"memory_limit": memory_limit, "threads": THREADS},
        }
    )
    with connect(config) as con:
        build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF)
        path = partition(config.layout.sequences, AS_OF)
        return _counted(con, f"select n_actions from '{path}' where n_actions > 0")


def with_attributes(folder: Path, memory_limit: str) -> tuple[int, int]:
    """Ours, where each action carries three attributes."""
    return ours(folder, memory_limit, ATTRIBUTES)


def _duckdb(query: str, folder: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": THREADS, "temp_directory": str(folder / "spill")})
    if memory_limit:
        con.execute(f"set memory_limit = '{memory_limit}'")
    con.execute("set TimeZone = 'UTC'")
    con.execute(f"create view activity as from read_parquet('{folder}/activity/*/*.parquet')")
    copy(con, query, folder / "out.parquet")
    return con


def obvious(folder: Path, memory_limit: str) -> tuple[int, int]:
    """The obvious query."""
    with _duckdb(OBVIOUS, folder, memory_limit) as con:
        return _counted(con, f"select n_actions from '{folder}/out.parquet'")


def sort(folder: Path, memory_limit: str) -> None:
    """The lower bound: the same rows, sorted, to Parquet."""
    _duckdb(SORT, folder, memory_limit).close()


def with_polars(folder: Path, _: str) -> tuple[int, int]:
    """Sort lazily, then the tail of each group."""
    import polars as pl

    lists = ["item_id", "action", "event_timestamp"]
    rows = (
        pl.scan_parquet(folder / "activity" / "*" / "*.parquet", hive_partitioning=False)
        .filter(
            pl.col("event_timestamp").is_between(AS_OF - DAYS * DAY, AS_OF, closed="left"),
            pl.col("ingested_at").is_null() | (pl.col("ingested_at") < AS_OF),
        )
        .sort("member_id", "event_timestamp", "item_id", "action")
        .group_by("member_id", maintain_order=True)
        .agg(pl.col(*lists).tail(32))
        .with_columns(n_actions=pl.col("item_id").list.len())
        .collect()
    )
    rows.write_parquet(folder / "out.parquet")
    return rows.height, int(rows["n_actions"].sum())


def with_pandas(folder: Path, _: str) -> tuple[int, int]:
    """Sort, then the tail of each group as lists."""
    import pandas as pd

    rows = pd.read_parquet(folder / "activity").drop(columns="period")
    at, ingested = rows["event_timestamp"], rows["ingested_at"]
    is_visible = ingested.isna() | (ingested < AS_OF)
    inside = (at >= AS_OF - DAYS * DAY) & (at < AS_OF) & is_visible
    rows = rows[inside].sort_values(["member_id", "event_timestamp", "item_id", "action"])
    last = rows.groupby("member_id").tail(32)
    lists = last.groupby("member_id")[["item_id", "action", "event_timestamp"]].agg(list)
    lists["n_actions"] = lists["item_id"].str.len()
    lists.to_parquet(folder / "out.parquet")
    return len(lists), int(lists["n_actions"].sum())


def _counted(con: duckdb.DuckDBPyConnection, query: str) -> tuple[int, int]:
    row = con.execute(f"select count(*), sum(n_actions) from ({query})").fetchone()
    assert row is not None
    return row[0], row[1]


WITH_ATTRIBUTES = "ours, 3 attributes"
WAYS: dict[str, Callable[[Path, str], tuple[int, int] | None]] = {
    "ours": ours,
    "bare sort (DuckDB)": sort,
    "obvious query (DuckDB)": obvious,
    "polars": with_polars,
    "pandas": with_pandas,
    WITH_ATTRIBUTES: with_attributes,
}
AT_MOST = {
    "bare sort (DuckDB)": OTHERS_AT_MOST,
    "obvious query (DuckDB)": OTHERS_AT_MOST,
    "polars": OTHERS_AT_MOST,
    "pandas": PANDAS_AT_MOST,
    WITH_ATTRIBUTES: OTHERS_AT_MOST,
}
"""Events beyond which a way exhausts the memory, or takes too long."""


def run(events: list[int], memory_limits: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Measure every way at every size that it can handle; one dictionary each.

    Args:
        events: Sizes, in events within the window; the one that pandas can handle is added.
        memory_limits: DuckDB's limit for ours, by size; the others have no limit.
    """
    limits = {100_000_000: "2GB"} | (memory_limits or {})
    results = []
    for size in sorted({*events, PANDAS_AT_MOST}):
        # Beside the results, since /tmp may be memory and 100 million events are large.
        with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks") as name:
            folder = Path(name)
            generate(folder, size)
            counts = set()
            for way in (way for way in WAYS if size <= AT_MOST.get(way, size)):
                if way == WITH_ATTRIBUTES:  # the last way: the others read files without them
                    generate(folder, size, CARRIED)
                limit = limits.get(size, "1300MB") if way in ("ours", WITH_ATTRIBUTES) else ""
                result = _measure(way, folder, limit)
                counts.add(result.pop("counts", None))
                results.append({"way": way, "events": size, "memory_limit": limit, **result})
            if len(counts - {None}) > 1:
                raise SystemExit(f"the ways disagree on members and actions: {counts}")
    return results


def _measure(way: str, folder: Path, memory_limit: str) -> dict[str, Any]:
    """Run one way in its own process."""
    shutil.rmtree(folder / "member_sequences", ignore_errors=True)
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.sequences", "--way", way, str(folder), memory_limit],
        env={**os.environ, "POLARS_MAX_THREADS": str(THREADS)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"ended by signal {-process.returncode}"]
        return {"failed": lines[-1][:200]}
    result = json.loads(process.stdout.splitlines()[-1])
    counts = result.pop("counts")
    return {**result, "counts": None if counts is None else tuple(counts)}


def _child(way: str, folder: Path, memory_limit: str) -> None:
    if way == "polars":
        import polars  # noqa: F401  (its import is not what is measured)
    elif way == "pandas":
        import pandas  # noqa: F401
    rows = sum(pq.read_metadata(file).num_rows for file in partition_files(folder / "activity"))
    began, began_cpu = time.perf_counter(), time.process_time()
    counts = WAYS[way](folder, memory_limit)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    in_window = rows * DAYS // (DAYS + 1)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "events_per_second": round(in_window / seconds),
                "peak_rss_mb": round(megabytes),
                "counts": counts,
            }
        )
    )


def show(results: list[dict[str, Any]]) -> Table:
    """Return the results as a table. CPU seconds are the cost even on a busy machine."""
    table = Table(title=f"events → member_sequences, {THREADS} threads")
    table.add_column("way", no_wrap=True)
    for name in ("million events", "seconds", "CPU s", "million/s", "RSS MB", "limit"):
        table.add_column(name, justify="right")
    for one in results:
        if "failed" in one:
            numbers = [one["failed"], "", "", ""]
        else:
            numbers = [
                f"{one['seconds']:.1f}",
                f"{one['cpu_seconds']:.1f}",
                f"{one['events_per_second'] / 1e6:.2f}",
                f"{one['peak_rss_mb']:,}",
            ]
        table.add_row(one["way"], f"{one['events'] / 1e6:g}", *numbers, one["memory_limit"])
    return table


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[20_000_000, 100_000_000])
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        way, folder, memory_limit = arguments.way
        _child(way, Path(folder), memory_limit)
        return
    results = run(arguments.events)
    Console().print(show(results))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
