"""Materialize members into an online store: the plug-ins, Feast's own engine, and ready bytes.

One snapshot of `--members` rows, each with one 64-float vector, a count and a timestamp. Every
measurement is a separate process over an empty store: the wall time of `FeatureStore.materialize`
and the process's peak resident memory. The bare side times the writes alone, with every byte made
beforehand. Feast's side runs with `pull_latest_features` and `online_write_batch_size` set. Bare is
written twice: into plain Feast's table and the plug-in's.

    python -m benchmarks.materialize --members 20000
    python -m benchmarks.materialize --memory      # ours at 0.2, 1 and 5 million rows
"""

import argparse
import io
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks.servers import new_database, postgres_options
from pipelines.private_redis import private_redis

RESULT = Path(__file__).parent / "results" / "materialize.json"
STORES = ("sqlite", "redis", "postgres")
SIDES = ("ours", "feast", "bare", "bare, our table")
BATCH = 20_000
AS_OF = datetime(2026, 1, 31, tzinfo=UTC)
DIMENSION = 64


def run(
    members: int = 200_000, repeats: int = 3, stores: tuple[str, ...] = STORES
) -> dict[str, Any]:
    """Measure every side of every store; print a table; write benchmarks/results/."""
    rows: list[dict[str, Any]] = []
    load = os.getloadavg()[0]  # of other work: two busy cores leave little to overlap
    with _servers(stores) as options, tempfile.TemporaryDirectory() as folder:
        source = _snapshot(Path(folder), members)
        for store in stores:
            for side in SIDES[: 3 if store == "redis" else 4]:  # both have the same hash
                runs = [_measure(options[store], store, side, source) for _ in range(repeats)]
                rows.append(
                    {
                        "store": store,
                        "side": side,
                        "members": members,
                        "seconds": median(one["seconds"] for one in runs),
                        "peak_mb": median(one["peak_mb"] for one in runs),
                        "runs": [one["seconds"] for one in runs],
                    }
                )
    result = {
        "members": members,
        "dimension": DIMENSION,
        "batch_rows": BATCH,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": load,
        "feast_settings": {"pull_latest_features": True, "online_write_batch_size": BATCH},
        "rows": rows,
    }
    _show(result)
    _save("speed", result)
    return result


def run_memory(
    sizes: tuple[int, ...] = (200_000, 1_000_000, 5_000_000), store: str = "sqlite"
) -> dict[str, Any]:
    """Measure the rate and the peak memory of the plug-ins as a table grows."""
    peaks = {}
    with _servers((store,)) as options:
        for members in sizes:
            with tempfile.TemporaryDirectory() as folder:
                source = _snapshot(Path(folder), members)
                peaks[members] = _measure(options[store], store, "ours", source)
    seconds = [peaks[size]["seconds"] for size in sizes]
    rates = [size / took for size, took in zip(sizes, seconds, strict=True)]
    result = {
        "store": store,
        "sizes": sizes,
        "peak_mb": [peaks[size]["peak_mb"] for size in sizes],
        "seconds": seconds,
        "ratio": peaks[sizes[-1]]["peak_mb"] / peaks[sizes[0]]["peak_mb"],
        "rate_kept": rates[-1] / max(rates),
    }
    Console().print(f"{store}, ours, as the table grows: {result}")
    _save("memory", result)
    return result


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"materialize {result['members']:,} members")
    for heading in ("store", "side", "seconds", "members/s", "peak MB", "ours is"):
        table.add_column(heading, justify="left" if heading in ("store", "side") else "right")
    ours = {row["store"]: row["seconds"] for row in result["rows"] if row["side"] == "ours"}
    for row in result["rows"]:
        table.add_row(
            row["store"],
            row["side"],
            f"{row['seconds']:.2f}",
            f"{row['members'] / row['seconds']:,.0f}",
            f"{row['peak_mb']:.0f}",
            "" if row["side"] == "ours" else f"{row['seconds'] / ours[row['store']]:.2f} x",
        )
    Console().print(table)


def _save(key: str, result: dict[str, Any]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | {key: result}, indent=2) + "\n")


def _snapshot(folder: Path, members: int) -> Path:
    path = folder / "members.parquet"
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(
            f"""
            copy (
                select
                    range as member_id,
                    '{AS_OF:%Y-%m-%d}'::timestamptz as event_timestamp,
                    '{AS_OF:%Y-%m-%d} 06:00'::timestamptz as created,
                    list_transform(
                        range({DIMENSION}),
                        lambda i: (hash(range * {DIMENSION} + i) % 2000 / 1000 - 1)::float
                    ) as embedding,
                    (range % 33)::bigint as n_actions,
                    '{AS_OF:%Y-%m-%d}'::timestamptz - to_seconds(range % 2419200) as last_action_at
                from range({members})
            ) to '{path}' (format parquet)
            """
        )
    return path


@contextmanager
def _servers(stores: tuple[str, ...]) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield each store's Feast options; start and stop its server."""
    options: dict[str, dict[str, Any]] = {"sqlite": {}}
    with ExitStack() as stack:
        if "postgres" in stores:
            url = stack.enter_context(new_database("activity_bench"))
            options["postgres"] = postgres_options(url)
        if "redis" in stores:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(private_redis(folder))
            options["redis"] = {"connection_string": f"127.0.0.1:{port}"}
        yield options


def _measure(options: dict[str, Any], store: str, side: str, source: Path) -> dict[str, float]:
    task = json.dumps([options, store, side, str(source)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.materialize", "--one", task],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"{store}, {side}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# --- one measurement, in a separate process -------------------------------------------------------


def _one(options: dict[str, Any], store: str, side: str, source: Path) -> dict[str, float]:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Array, Float32, Int64, UnixTimestamp
    from feast.value_type import ValueType

    kinds = {
        "sqlite": ("sqlite", "stores.sqlite.ColumnarSqliteOnlineStore"),
        "redis": ("redis", "stores.redis.ColumnarRedisOnlineStore"),
        "postgres": ("postgres", "stores.postgres.ColumnarPostgreSQLOnlineStore"),
    }
    with tempfile.TemporaryDirectory() as folder:
        if store == "sqlite":
            options = {"path": f"{folder}/online.db"}
        elif store == "postgres":
            options = options | {"db_schema": f"s{uuid4().hex}"}
        ours = side in ("ours", "bare, our table")
        engine = {"type": "stores.columnar.ColumnarComputeEngine", "batch_rows": BATCH}
        config = RepoConfig(
            project="bench",
            provider="local",
            registry={"path": f"{folder}/registry.db"},
            offline_store={"type": "duckdb"},
            online_store=options | {"type": kinds[store][int(ours)]},
            batch_engine=engine if ours else "local",
            materialization={"pull_latest_features": True, "online_write_batch_size": BATCH},
            entity_key_serialization_version=3,
        )
        feast = FeatureStore(config=config)
        fields = [
            Field(name="embedding", dtype=Array(Float32)),
            Field(name="n_actions", dtype=Int64),
            Field(name="last_action_at", dtype=UnixTimestamp),
        ]
        quiet = io.StringIO()
        with redirect_stdout(quiet), redirect_stderr(quiet):
            if store == "redis":
                _redis(options).flushall()
            member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
            view = FeatureView(
                name="members",
                entities=[member],
                schema=fields,
                source=FileSource(
                    name="members_source",
                    path=str(source),
                    timestamp_field="event_timestamp",
                    created_timestamp_column="created",
                ),
            )
            feast.apply([member, view])
            write = (
                _bare(store, view, options, source)
                if side.startswith("bare")
                else lambda: feast.materialize(AS_OF, AS_OF)
            )
            began = time.perf_counter()
            write()
            seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak}


def _redis(options: dict[str, Any]) -> Any:
    import redis

    host, port = options["connection_string"].split(":")
    return redis.Redis(host=host, port=int(port))


def _bare(store: str, view: Any, options: dict[str, Any], source: Path) -> Callable[[], None]:
    """Make every byte beforehand; return the writes alone, in Feast's own statements."""
    import pyarrow.parquet as pq
    from feast.infra.online_stores.helpers import _mmh3

    from stores.bytes.wire import timestamp_messages
    from stores.columnar import encode_rows

    table = pq.read_table(source).rename_columns(
        ["member_id", "event_timestamp", "created", "embedding", "n_actions", "last_action_at"]
    )
    batches = [encode_rows(view, batch) for batch in table.to_batches(max_chunksize=BATCH)]
    if store == "redis":
        hashes = []
        for batch in batches:
            fields = [_mmh3(f"members:{name}") for name in batch.features]
            columns = [column.values for column in batch.features.values()]
            events = timestamp_messages(batch.event_us)
            hashes.append(
                [
                    (key + b"bench", {b"_ts:members": event, **dict(zip(fields, row, strict=True))})
                    for key, event, *row in zip(batch.keys, events, *columns, strict=True)
                ]
            )
        client = _redis(options)

        def pipeline() -> None:
            for some in hashes:
                with client.pipeline(transaction=False) as pipe:
                    for key, mapping in some:
                        pipe.hset(key, mapping=mapping)
                    pipe.execute()

        return pipeline
    event_ts = int(AS_OF.timestamp()) if store == "sqlite" else AS_OF.replace(tzinfo=None)
    rows = [
        [
            (key, name, value, text, event_ts, event_ts)
            for nth, key in enumerate(batch.keys)
            for name, value, text in (
                (name, column.values[nth], column.texts[nth] if column.texts else None)
                for name, column in batch.features.items()
            )
        ]
        for batch in batches
    ]
    names = "entity_key, feature_name, value, value_text, event_ts, created_ts"
    updates = ", ".join(
        f"{name} = excluded.{name}" for name in ("value", "value_text", "event_ts", "created_ts")
    )
    mark = "?" if store == "sqlite" else "%s"
    statement = (
        f"insert into bench_members ({names}) values ({', '.join([mark] * 6)}) "
        f"on conflict (entity_key, feature_name) do update set {updates}"
    )
    if store == "sqlite":
        connection: Any = sqlite3.connect(options["path"])
        connection.execute("pragma journal_mode = wal")
    else:
        import psycopg

        connection = psycopg.connect(
            host=options["host"],
            port=options["port"],
            dbname=options["database"],
            user=options["user"],
            password=options["password"] or None,
            options=f"-c search_path={options['db_schema']}",
        )

    def executemany() -> None:
        for some in rows:
            connection.cursor().executemany(statement, some)
            connection.commit()
        connection.close()

    return executemany


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Materialization benchmark")
    parser.add_argument("--members", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--memory", action="store_true", help="as the table grows, instead")
    parser.add_argument("--sizes", default="200000,1000000,5000000", help="the sizes for --memory")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        warnings.simplefilter("ignore")
        options, store, side, source = json.loads(arguments.one)
        print(json.dumps(_one(options, store, side, Path(source))))
    elif arguments.memory:
        sizes = tuple(map(int, arguments.sizes.split(",")))
        run_memory(sizes, arguments.stores.split(",")[0])
    else:
        run(arguments.members, arguments.repeats, tuple(arguments.stores.split(",")))


if __name__ == "__main__":
    main()
