"""A training join in Spark: our store in Spark, the DuckDB store, and Feast's own Spark store.

Labels at random times, members' vectors of 64 floats in daily snapshots of several buckets
(`as_of=…/bucket=…`, random floats, published six hours after their time); created_timestamp is a
cutoff. Each side goes from a Parquet file of labels into Parquet files: `to_parquet` of the DuckDB
store, `to_remote_storage` of the two others, and is a process of its own. CPU seconds are those of
all its processes (the driver's Python, the JVM, the workers' Python) from when Spark has run a
first task on; what it took until then is stated apart.

    python -m benchmarks.spark_join --labels 2000000 --members 100000
    python -m benchmarks.spark_join --master spark://127.0.0.1:7077     # default: local[2]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "spark_join.json"
END = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WIDTH = 64
BUCKETS = 8
STORES = {
    "DuckDB store": {"type": "stores.duckdb_asof.DuckDBAsofOfflineStore", "threads": 2},
    "store in Spark": {"type": "stores.spark_asof.SparkAsofOfflineStore", "buckets": BUCKETS},
    "Feast's Spark store": {"type": "spark"},
}
FEATURES = ["activity:embedding", "activity:n_actions"]


def write_snapshots(folder: Path, members: int, days: int) -> None:
    """Write one file per day and bucket, the last day at END less a day."""
    rng = np.random.default_rng(days)
    digests = [sha256(str(one).encode()).hexdigest()[-15:] for one in range(members)]
    bucket = np.array([int(digest, 16) % BUCKETS for digest in digests])
    for day in range(days):
        at = END - (days - day) * DAY
        for number in range(BUCKETS):
            some = np.flatnonzero(bucket == number)
            vectors = pa.array(rng.standard_normal(len(some) * WIDTH, dtype=np.float32))
            ends = np.arange(0, (len(some) + 1) * WIDTH, WIDTH, dtype=np.int32)
            path = folder / f"as_of={at:%F}" / f"bucket={number}" / "part-0.parquet"
            path.parent.mkdir(parents=True)
            times = pa.timestamp("us", tz="UTC")
            columns = {
                "member_id": some,
                "event_timestamp": pa.array([at] * len(some), times),
                "created_timestamp": pa.array([at + DAY / 4] * len(some), times),
                "embedding": pa.ListArray.from_arrays(ends, vectors),
                "n_actions": rng.integers(0, 32, len(some)),
            }
            pq.write_table(pa.table(columns), path)


def write_labels(path: Path, count: int, members: int, days: int) -> None:
    """Write labels of random members, evenly over the last `days` days."""
    apart = days * DAY / count / timedelta(microseconds=1)
    with duckdb.connect(config={"memory_limit": "500MB"}) as con:
        con.execute("set TimeZone = 'UTC'")
        con.execute(
            f"""
            copy (
                select
                    (hash(range) % {members})::bigint as member_id,
                    timestamptz '{END - days * DAY}' + to_microseconds((range * {apart})::bigint)
                        as event_timestamp,
                    (hash(range + {count}) % 2)::bigint as label
                from range({count})
            ) to '{path}' (format parquet)
            """
        )


def opened(side: str, folder: Path, master: str) -> Any:
    """Open a repository with one view over the snapshots."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.repo_config import RegistryConfig, RepoConfig
    from feast.types import Array, Float32, Int64

    snapshots = str(folder / "snapshots")
    times = {
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    source: Any = FileSource(path=snapshots, **times)
    if side == "Feast's Spark store":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        source = SparkSource(name="snapshots", path=snapshots, file_format="parquet", **times)
    member = Entity(name="member_id", join_keys=["member_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="activity",
        entities=[member],
        schema=[
            Field(name="member_id", dtype=Int64),
            Field(name="embedding", dtype=Array(Float32)),
            Field(name="n_actions", dtype=Int64),
        ],
        source=source,
    )
    settings: dict[str, Any] = dict(STORES[side])
    if side != "DuckDB store":
        settings["staging_location"] = f"file://{folder}/{side.split()[0]}"
        settings["spark_conf"] = {
            "spark.master": master,
            "spark.driver.memory": "3g",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": str(BUCKETS),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=RegistryConfig(path=f"{folder}/{side.split()[0]}.db"),
        offline_store=settings,
        online_store={"type": "sqlite", "path": f"{folder}/online.db"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply([member, view])
    return store


def measure(side: str, folder: Path, master: str) -> dict[str, Any]:
    """Run one side in this process."""
    warnings.simplefilter("ignore")
    store = opened(side, folder, master)
    began, cpu = time.perf_counter(), cpu_seconds()
    labels: Any = folder / "labels.parquet"
    if side != "DuckDB store":
        from stores.spark.session import session_of

        session = session_of(store.config.offline_store.spark_conf)
        session.sparkContext.parallelize([1], 1).map(abs).collect()
        labels = session.read.parquet(str(labels))
    started, started_cpu = time.perf_counter() - began, cpu_seconds() - cpu
    began, cpu = time.perf_counter(), cpu_seconds()
    job = store.get_historical_features(labels, FEATURES, filter_by_created_timestamp=True)
    if side == "DuckDB store":
        job.to_parquet(folder / "DuckDB/joined.parquet")
    else:
        job.to_remote_storage()
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(cpu_seconds() - cpu, 1),
        "start_wall_s": round(started, 1),
        "start_cpu_s": round(started_cpu, 1),
    }


def cpu_seconds() -> float:
    """Return what this process and its children have used, those that have ended among them."""
    here = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in [here, *here.children(recursive=True)])


def checksum(folder: Path) -> tuple[int, int, float]:
    """Count the rows and those with a vector, and add up what the vectors begin with."""
    found = duckdb.execute(
        "select count(*), count(embedding), coalesce(sum(embedding[1]::double), 0) "
        f"from read_parquet('{folder}/**/*.parquet')"
    ).fetchone()
    assert found is not None
    return found[0], found[1], round(found[2], 3)


def run(count: int, members: int, days: int, master: str, sides: list[str]) -> dict[str, Any]:
    """Measure the sides, and check that they give the same."""
    found: dict[str, Any] = {}
    sums = {}
    load = os.getloadavg()[0]  # of other work
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_snapshots(folder / "snapshots", members, days)
        write_labels(folder / "labels.parquet", count, members, days)
        for side in sides:
            call = [sys.executable, "-m", "benchmarks.spark_join", "--side", side, name, master]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr[-4000:], file=sys.stderr)
                said = [line for line in done.stderr.splitlines() if "Error" in line]
                found[side] = {"failed": said[-1][:300] if said else "no reason given"}
                continue
            found[side] = json.loads(done.stdout.splitlines()[-1])
            sums[side] = checksum(folder / side.split()[0])
            print(side, found[side], sums[side], file=sys.stderr, flush=True)
    return {
        "labels": count,
        "members": members,
        "snapshots": days,
        "width": WIDTH,
        "buckets": BUCKETS,
        "master": master,
        "cores": os.cpu_count(),
        "load_average": round(load, 1),
        "equal": len(set(sums.values())) == 1,
        "rows": {side: rows for side, (rows, *_) in sums.items()},
        "sides": found,
    }


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=2_000_000)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--without", action="append", default=[], choices=STORES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, folder, master = given.side
        print(json.dumps(measure(side, Path(folder), master)))
        return
    sides = [side for side in STORES if side not in given.without]
    found = run(given.labels, given.members, given.days, given.master, sides)
    table = Table(title=f"{found['labels']:,} labels, {found['members']:,} members")
    for column in ("side", "CPU s", "wall s", "start, CPU s", "start, wall s"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for side, one in found["sides"].items():
        table.add_row(side, *map(str, one.values()))
    Console().print(table, f"equal: {found['equal']}")
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    given.output.parent.mkdir(exist_ok=True)
    known[str(given.labels)] = found
    given.output.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
