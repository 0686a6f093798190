"""A training join: the ASOF store, Feast's DuckDB store, and the bare ASOF query in DuckDB.

Labels at random times over `--label-days` days, members' vectors of 64 floats in daily snapshots
(hive partitions, random floats, published six hours after their time). Every measurement is a
process of its own: wall time from the label DataFrame to an Arrow table, without imports, and the
process's peak resident memory, imports included.

All sides: the same files, all cores, created_timestamp declared. Ours: memory_limit as the store's
default. Feast's: DuckDB with Feast's settings (no memory limit). Bare: `asof left join` with
DuckDB's defaults, vectors through the join, no tie decided, no order kept.

    python -m benchmarks.training_join --labels 50000 --members 2500     # a twentieth
    python -m benchmarks.training_join --labels-from-parquet 100000000
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "training_join.json"
END = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WIDTH = 64
SETTINGS = """
project: benchmark
provider: local
registry: {folder}/registry.db
offline_store:
    type: {store}
online_store:
    type: sqlite
    path: {folder}/online.db
entity_key_serialization_version: 3
"""
WORKER = [sys.executable, "-W", "ignore", "-m", "benchmarks.training_join"]
STORES = {"ours": "stores.duckdb_asof.DuckDBAsofOfflineStore", "feast": "duckdb"}


def write_snapshots(folder: Path, members: int, days: int) -> None:
    """Write one partition per day, the last one at END less a day."""
    rng = np.random.default_rng(days)
    timestamps = pa.timestamp("us", tz="UTC")
    for day in range(days):
        at = END - (days - day) * DAY
        vectors = pa.array(rng.standard_normal(members * WIDTH, dtype=np.float32))
        offsets = pa.array(np.arange(0, (members + 1) * WIDTH, WIDTH, dtype=np.int32))
        path = folder / f"as_of={at:%F}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(
            pa.table(
                {
                    "member_id": np.arange(members),
                    "event_timestamp": pa.array([at] * members, timestamps),
                    "created_timestamp": pa.array([at + DAY / 4] * members, timestamps),
                    "embedding": pa.ListArray.from_arrays(offsets, vectors),
                    "n_actions": rng.integers(0, 32, members),
                }
            ),
            path,
        )


def labels(count: int, members: int, days: int) -> pd.DataFrame:
    """Draw labels at random times of the last `days` days."""
    rng = np.random.default_rng(1)
    ago = pd.to_timedelta(rng.integers(0, days * DAY // timedelta(microseconds=1), count), "us")
    return pd.DataFrame(
        {
            "member_id": rng.integers(0, members, count),
            "event_timestamp": (pd.Timestamp(END) - ago).as_unit("us"),
            "label": rng.integers(0, 2, count),
        }
    )


def joined_by(side: str, snapshots: Path, frame: pd.DataFrame) -> Callable[[], pa.Table]:
    """Prepare one side's join."""
    if side == "bare":
        import duckdb

        con = duckdb.connect()
        con.register("labels", pa.Table.from_pandas(frame, preserve_index=False))
        query = f"""
            select labels.*, snapshots.embedding, snapshots.n_actions
            from labels asof left join read_parquet('{snapshots}/**/*.parquet') as snapshots
                on labels.member_id = snapshots.member_id
                and labels.event_timestamp >= snapshots.event_timestamp
        """
        return lambda: con.sql(query).to_arrow_table()

    store, features = opened(side, snapshots)
    return lambda: store.get_historical_features(frame, features).to_arrow()


def opened(side: str, snapshots: Path) -> tuple[Any, list[str]]:
    """Open a repository with one view over the snapshots; return it and the view's features."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, Int64

    member = Entity(name="member_id", join_keys=["member_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="activity",
        entities=[member],
        schema=[
            Field(name="member_id", dtype=Int64),
            Field(name="embedding", dtype=Array(Float32)),
            Field(name="n_actions", dtype=Int64),
        ],
        source=FileSource(
            path=str(snapshots),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    folder = Path(tempfile.mkdtemp(dir=snapshots.parent))
    (folder / "feature_store.yaml").write_text(SETTINGS.format(folder=folder, store=STORES[side]))
    store = FeatureStore(repo_path=folder)
    store.apply([member, view])
    return store, ["activity:embedding", "activity:n_actions"]


def measure_from_parquet(count: int, members: int) -> dict[str, Any]:
    """Join labels that lie in Parquet, in the order of time as a log has them, into Parquet.

    Neither the labels nor the rows are ever in memory as a whole.
    """
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_snapshots(folder / "snapshots", members, 30)
        labels_file = folder / "labels.parquet"
        write_labels(labels_file, count, members, 30)
        gc.collect()
        store, features = opened("ours", folder / "snapshots")
        began = time.perf_counter()
        job: Any = store.get_historical_features(labels_file, features)
        rows = job.to_parquet(folder / "joined.parquet")
        seconds = time.perf_counter() - began
        assert rows == count, (rows, count)
        return {
            "labels": count,
            "members": members,
            "snapshots": 30,
            "width": WIDTH,
            "memory_limit": store.config.offline_store.memory_limit,
            "seconds": round(seconds, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "labels_mb": round(labels_file.stat().st_size / 1e6),
            "written_mb": round((folder / "joined.parquet").stat().st_size / 1e6),
        }


def write_labels(path: Path, count: int, members: int, days: int) -> None:
    """Write labels of random members, evenly over the last `days` days."""
    import duckdb

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


def measure(side: str, snapshots: Path, count: int, members: int, days: int) -> dict[str, Any]:
    """Run one side in this process; return seconds, peak MB and a sum that all sides share."""
    warnings.simplefilter("ignore")
    join = joined_by(side, snapshots, labels(count, members, days))
    began = time.perf_counter()
    table = join()
    seconds = time.perf_counter() - began
    vectors = table["embedding"].combine_chunks()
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": len(table),
        "sum": float(np.sum(vectors.flatten().to_numpy(), dtype=np.float64)),
    }


def run(count: int, members: int, rounds: int, history: int = 90) -> dict[str, Any]:
    """Measure every side at 30 snapshots, and ours where history is three times as long."""
    days = 30
    cases = {
        "ours": ("ours", days, days),
        "Feast's DuckDB store": ("feast", days, days),
        "bare ASOF query": ("bare", days, days),
        f"ours, {history} snapshots, the same labels": ("ours", history, days),
        f"ours, {history} snapshots, labels over all": ("ours", history, history),
        f"bare ASOF query, {history} snapshots, labels over all": ("bare", history, history),
    }
    results: dict[str, Any] = {}
    load = os.getloadavg()[0]  # of other work
    with tempfile.TemporaryDirectory() as name:
        for snapshots in (days, history):
            write_snapshots(Path(name) / str(snapshots), members, snapshots)
        for _ in range(rounds):
            for case, (side, snapshots, label_days) in cases.items():
                path = Path(name) / str(snapshots)
                call = [side, str(path), str(count), str(members), str(label_days)]
                done = subprocess.run(
                    [*WORKER, "--side", *call],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                results.setdefault(case, []).append(json.loads(done.stdout.splitlines()[-1]))
    first = [results[case][0] for case in list(cases)[:3]]
    assert len({(each["rows"], round(each["sum"], 3)) for each in first}) == 1, first
    return {
        "labels": count,
        "members": members,
        "width": WIDTH,
        "cores": os.cpu_count(),
        "load_average": load,
        "rounds": rounds,
        "cases": {
            case: {
                "seconds": round(median(each["seconds"] for each in each_round), 3),
                "worst_seconds": round(max(each["seconds"] for each in each_round), 3),
                "peak_mb": round(median(each["peak_mb"] for each in each_round)),
            }
            for case, each_round in results.items()
        },
    }


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--labels-from-parquet",
        type=int,
        metavar="N",
        help="instead: N labels in a Parquet file, joined into another",
    )
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, snapshots, *numbers = arguments.side
        print(json.dumps(measure(side, Path(snapshots), *map(int, numbers))))
        return
    known = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if arguments.labels_from_parquet:
        found = measure_from_parquet(arguments.labels_from_parquet, arguments.members)
        Console().print(found)
        arguments.output.write_text(json.dumps(known | {"from_parquet": found}, indent=1) + "\n")
        return
    results = run(arguments.labels, arguments.members, arguments.rounds)
    ours = results["cases"]["ours"]
    table = Table(
        title=f"{results['labels']:,} labels x {results['members']:,} members x 30 snapshots"
    )
    for column in ("side", "seconds", "peak MB", "time against ours", "memory against ours"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for case, numbers in results["cases"].items():
        table.add_row(
            case,
            f"{numbers['seconds']:.2f}",
            f"{numbers['peak_mb']:,}",
            f"{numbers['seconds'] / ours['seconds']:.2f}",
            f"{numbers['peak_mb'] / ours['peak_mb']:.2f}",
        )
    Console().print(table)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(known | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
