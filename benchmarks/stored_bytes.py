"""Bytes per member online and in a snapshot, of a line that is kept as float32 and as int8.

The views are those that a catalogue's lines declare: the vectors, the counts, the last action and
what made the row. Each view is written alone into an empty store, by materialization. Redis is
asked for the memory of each member's key (MEMORY USAGE, every field counted), and again without the
vectors; SQLite for its file after a checkpoint, PostgreSQL for its table with its indexes, and both
for the lengths of the vectors' values. A snapshot is its Parquet file.

    python -m benchmarks.stored_bytes --members 20000
"""

import argparse
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import FeatureStore
from rich.console import Console
from rich.table import Table

from benchmarks.servers import new_database, postgres_options
from models.quantization import COLUMNS
from models.spec import Aggregator, GeometricDecay, LearnedDecay
from pipelines.private_redis import private_redis
from serving import publish
from serving.publish.snapshots import materialize
from transformations.config import Config
from transformations.layout import partition
from transformations.member_columns import UTC_US, member_columns

RESULT = Path(__file__).parent / "results" / "stored_bytes.json"
AS_OF = datetime(2026, 1, 31, tzinfo=UTC)
DIMENSION = 64
LINES = (GeometricDecay(version=1, decay=0.8), LearnedDecay(version=1))
SETTINGS = """
project: bench
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: duckdb}}
online_store: {online}
batch_engine: {{type: stores.columnar.ColumnarComputeEngine}}
entity_key_serialization_version: 3
"""


def run(members: int = 20_000) -> dict[str, Any]:
    """Measure both forms of each line in every store; write benchmarks/results/."""
    rows = []
    for line in LINES:
        for form in (line, replace(line, store="int8")):
            for store, (options, measure) in STORES.items():
                with tempfile.TemporaryDirectory() as folder, options(Path(folder)) as online:
                    config = _config(Path(folder), online)
                    snapshot = _snapshot(config, form, members)
                    feast = publish.open_store(config)
                    publish.apply(config, feast, [form])
                    materialize(feast, form.view, AS_OF, AS_OF)
                    online_bytes, values = measure(feast, form)
                rows.append(
                    {
                        "line": line.name,
                        "vectors": len(form.vectors(config)),
                        "kept_as": form.store,
                        "where": store,
                        "bytes_per_member": online_bytes / members,
                        "of_vectors": values / members,
                    }
                )
            rows.append(
                rows[-1]
                | {
                    "where": "Parquet",
                    "bytes_per_member": snapshot / members,
                    "of_vectors": None,
                }
            )
    result = {"members": members, "dimension": DIMENSION, "rows": rows}
    _show(result)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"Bytes per member, {result['members']:,} members")
    for heading in ("line", "where", "kept as", "bytes per member", "of which vectors"):
        table.add_column(heading)
    for row in result["rows"]:
        of_vectors = "" if row["of_vectors"] is None else f"{row['of_vectors']:,.0f}"
        table.add_row(
            row["line"],
            row["where"],
            row["kept_as"],
            f"{row['bytes_per_member']:,.0f}",
            of_vectors,
        )
    Console().print(table)


def _config(folder: Path, online: dict[str, Any]) -> Config:
    file = folder / "feature_store.yaml"
    file.write_text(SETTINGS.format(folder=folder, online=json.dumps(online)))
    return Config.model_validate(
        {
            "data_dir": str(folder / "data"),
            "feature_store": str(file),
            "items": {"text": ["title"]},
            "dim": DIMENSION,
        }
    )


def _snapshot(config: Config, line: Aggregator, members: int) -> int:
    """Write a snapshot of random vectors; return the bytes of its file."""
    random = np.random.default_rng(0)
    file = partition(config.layout.embeddings(line.view), AS_OF)
    file.parent.mkdir(parents=True)
    stamps = pa.array([AS_OF] * members, UTC_US)
    columns: dict[str, pa.Array] = {
        "member_id": pa.array(np.arange(members)),
        "event_timestamp": stamps,
        "created_timestamp": stamps,
    }
    for field, dim in line.vectors(config).items():
        vectors = random.normal(size=(members, dim)).astype(np.float32) / np.sqrt(dim)
        columns[field] = COLUMNS[line.store].of(vectors.astype(np.float32))
    for column in member_columns(config.rules):
        counts = pa.array(random.integers(0, 12, members))
        columns[column.name] = counts if column.kind == "int64" else stamps
    made_by = f"{line}/0123456789ab/{config.space}"
    columns["model_version"] = pa.array([made_by] * members)
    vectors_ = list(line.vectors(config))
    others = [name for name in columns if name not in vectors_]
    pq.write_table(pa.table(columns), file, compression="lz4", use_dictionary=others)
    return file.stat().st_size


@contextmanager
def _in_sqlite(folder: Path) -> Iterator[dict[str, Any]]:
    yield {"type": "stores.sqlite.ColumnarSqliteOnlineStore", "path": str(folder / "online.db")}


@contextmanager
def _in_redis(folder: Path) -> Iterator[dict[str, Any]]:
    with private_redis(folder) as port:
        address = f"127.0.0.1:{port}"
        yield {"type": "stores.redis.ColumnarRedisOnlineStore", "connection_string": address}


@contextmanager
def _in_postgres(_: Path) -> Iterator[dict[str, Any]]:
    with new_database("activity_bench") as url:
        yield {"type": "stores.postgres.ColumnarPostgreSQLOnlineStore", **postgres_options(url)}


def _names(line: Aggregator, store: FeatureStore) -> list[str]:
    fields = [field.name for field in store.get_feature_view(line.view).features]
    return [name for name in fields if name.endswith("_embedding")]


def _sqlite_bytes(store: FeatureStore, line: Aggregator) -> tuple[int, int]:
    path = store.config.online_store.path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        values = _values(connection.execute, store, line, "length", "?")
    return Path(path).stat().st_size, values


def _postgres_bytes(store: FeatureStore, line: Aggregator) -> tuple[int, int]:
    options = store.config.online_store
    names = {"dbname": options.database, "user": options.user, "password": options.password}
    with psycopg.connect(host=options.host, port=options.port, **names) as connection:
        size = "select pg_total_relation_size(%s)"
        ((total,),) = connection.execute(size, [f"bench_{line.view}"]).fetchall()
        values = _values(connection.execute, store, line, "octet_length", "%s")
    return total, values


def _values(
    execute: Callable[..., Any], store: FeatureStore, line: Aggregator, length: str, mark: str
) -> int:
    names = _names(line, store)
    query = (
        f'select sum({length}(value)) from "bench_{line.view}" '
        f"where feature_name in ({', '.join([mark] * len(names))})"
    )
    ((values,),) = execute(query, names).fetchall()
    return int(values)


def _redis_bytes(store: FeatureStore, line: Aggregator) -> tuple[int, int]:
    from feast.infra.online_stores.helpers import _mmh3

    host, port = store.config.online_store.connection_string.split(":")
    names = [_mmh3(f"{line.view}:{name}") for name in _names(line, store)]
    with redis.Redis(host=host, port=int(port)) as client:
        # The owner's mark is no member.
        keys = [key for key in client.scan_iter(count=1_000) if client.type(key) == b"hash"]
        total = _memory(client, keys)
        for key in keys:
            client.hdel(key, *names)
        return total, total - _memory(client, keys)


def _memory(client: redis.Redis, keys: list[bytes]) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.memory_usage(key, samples=0)
        return sum(pipe.execute())


Options = Callable[[Path], Any]
Measure = Callable[[FeatureStore, Aggregator], tuple[int, int]]
STORES: dict[str, tuple[Options, Measure]] = {
    "Redis": (_in_redis, _redis_bytes),
    "SQLite": (_in_sqlite, _sqlite_bytes),
    "PostgreSQL": (_in_postgres, _postgres_bytes),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=20_000)
    run(**vars(parser.parse_args()))
