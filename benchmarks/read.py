"""Reads for rankers: `stores.read`, Feast's own `get_online_features().to_dict()`, bare redis-py.

One member and 500 random items, a 64-float vector each, out of `--rows` of both; and one member
alone. The sides take turns, read by read, so that a busy machine slows them equally. p99 is over
all reads of a side, with garbage collection, as in a server.

Feast's side: its store classes (redis-py with hiredis), the registry cached for the whole run, ids
given as columns. Ours: the same stores and stored bytes. Bare: one redis-py pipeline of HMGETs
without a transaction, keys and field names made beforehand, the payloads joined and viewed as
float32, without any check.

    python -m benchmarks.read --repeats 50
"""

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.types import Array, Float32, Int64
from feast.value_type import ValueType
from rich.console import Console
from rich.table import Table

from pipelines.private_redis import private_redis
from stores.read import Reader

RESULT = Path(__file__).parent / "results" / "read.json"
DIMENSION = 64
ITEMS = 500
PROJECT = "bench"
HEAD = 7  # bytes of a stored 64-float vector before its numbers

Side = Callable[[], Any]


def run(rows: int = 20_000, repeats: int = 1_000) -> dict[str, Any]:
    """Measure all cases; print a table; write benchmarks/results/read.json."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    cases = {}
    with tempfile.TemporaryDirectory() as name, private_redis(Path(name)) as port:
        host = "127.0.0.1"
        address = f"{host}:{port}"
        stores = {
            "Redis": _filled(
                Path(name) / "redis", {"type": "redis", "connection_string": address}, rows
            ),
            "SQLite": _filled(
                Path(name) / "sqlite", {"type": "sqlite", "path": f"{name}/online.db"}, rows
            ),
        }
        with redis.Redis(host=host, port=port) as client:
            for label, store in stores.items():
                bare = {"bare": _bare(client, rows)} if label == "Redis" else {}
                many = _ranker(store, rows)
                cases[f"1 member + {ITEMS} items, {label}"] = _measure({**many, **bare}, repeats)
            for label, store in stores.items():
                cases[f"1 member, {label}"] = _measure(_member(store, rows), repeats)
    result = {
        "rows": rows,
        "repeats": repeats,
        "dimension": DIMENSION,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],  # of other work too: trust the ratios
        "feast_settings": {
            "stores": "Feast's own classes, redis-py with hiredis",
            "registry": "cached for the whole run",
            "entity_rows": "columns",
        },
        "cases": cases,
    }
    _show(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _filled(folder: Path, online: dict[str, Any], rows: int) -> FeatureStore:
    """Return a store with `rows` members and as many items, a random vector each."""
    folder.mkdir()
    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=online,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    random = np.random.default_rng(0)
    views = []
    for name in ("member", "item"):
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        view = FeatureView(
            name=f"{name}_view",
            entities=[entity],
            schema=[
                Field(name=f"{name}_id", dtype=Int64),
                Field(name=f"{name}_vector", dtype=Array(Float32), vector_length=DIMENSION),
            ],
            source=FileSource(name=name, path=f"{name}.parquet", timestamp_field="at"),
        )
        store.apply([entity, view])
        views.append(view)
        vectors = random.normal(size=(rows, DIMENSION)).astype(np.float32).tolist()
        store._get_provider().online_store.online_write_batch(
            store.config,
            view,
            [
                (
                    _key(f"{name}_id", number),
                    {f"{name}_vector": Value(float_list_val=FloatList(val=vector))},
                    datetime(2026, 1, 31, tzinfo=UTC),
                    None,
                )
                for number, vector in enumerate(vectors)
            ],
            None,
        )
    store.apply([FeatureService(name="ranker", features=views)])
    return store


def _key(name: str, number: int) -> EntityKey:
    return EntityKey(join_keys=[name], entity_values=[Value(int64_val=number)])


def _ids(rows: int) -> Callable[[], tuple[int, list[int]]]:
    """Return a draw of one member and 500 different items; every side draws the same ones."""
    random = np.random.default_rng(1)

    def draw() -> tuple[int, list[int]]:
        return int(random.integers(rows)), random.choice(rows, ITEMS, replace=False).tolist()

    return draw


def _ranker(store: FeatureStore, rows: int) -> dict[str, Side]:
    service = store.get_feature_service("ranker")
    reader = Reader(store, service)
    for_ours, for_feast = _ids(rows), _ids(rows)

    def ours() -> Any:
        member, items = for_ours()
        start = time.perf_counter()
        reader.read({"member_id": member, "item_id": items})
        return time.perf_counter() - start

    def feast() -> Any:
        member, items = for_feast()
        start = time.perf_counter()
        ids = {"member_id": [member] * ITEMS, "item_id": items}
        store.get_online_features(service, ids).to_dict()
        return time.perf_counter() - start

    member, items = _ids(rows)()
    found = reader.read({"member_id": member, "item_id": items}).to_dict()
    ids = {"member_id": [member] * ITEMS, "item_id": items}
    answer = store.get_online_features(service, ids).to_dict()
    assert {**ids, **found} == answer, "the answers of the two sides differ"
    return {"ours": ours, "feast": feast}


def _bare(client: redis.Redis, rows: int) -> Side:
    members = [_redis_key(PROJECT, _key("member_id", number)) for number in range(rows)]
    items = [_redis_key(PROJECT, _key("item_id", number)) for number in range(rows)]
    member_field = [_mmh3("member_view:member_vector")]
    item_field = [_mmh3("item_view:item_vector")]
    draw = _ids(rows)

    def bare() -> Any:
        member, wanted = draw()
        start = time.perf_counter()
        with client.pipeline(transaction=False) as pipe:
            pipe.hmget(members[member], member_field)
            for item in wanted:
                pipe.hmget(items[item], item_field)
            replies = pipe.execute()
        payload = b"".join([reply[0][HEAD:] for reply in replies])
        vectors = np.frombuffer(payload, "<f4").reshape(-1, DIMENSION)
        assert vectors.shape == (ITEMS + 1, DIMENSION)
        return time.perf_counter() - start

    return bare


def _member(store: FeatureStore, rows: int) -> dict[str, Side]:
    features = ["member_view:member_vector"]
    reader = Reader(store, features)
    for_ours, for_feast = np.random.default_rng(2), np.random.default_rng(2)

    def ours() -> Any:
        member = int(for_ours.integers(rows))
        start = time.perf_counter()
        reader.read({"member_id": member})
        return time.perf_counter() - start

    def feast() -> Any:
        member = int(for_feast.integers(rows))
        start = time.perf_counter()
        store.get_online_features(features, {"member_id": [member]}).to_dict()
        return time.perf_counter() - start

    return {"ours": ours, "feast": feast}


def _measure(sides: dict[str, Side], repeats: int) -> dict[str, dict[str, float]]:
    """Return the median and 99th percentile of each side, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(5):
        for side in sides.values():
            side()
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(1_000 * side())
    return {
        name: {"median_ms": float(np.median(each)), "p99_ms": float(np.quantile(each, 0.99))}
        for name, each in times.items()
    }


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"reads, {result['repeats']} each, {DIMENSION}-float vectors")
    for heading in ("what", "side", "median ms", "p99 ms", "median / ours", "p99 / ours"):
        table.add_column(heading, justify="left" if heading in ("what", "side") else "right")
    for what, sides in result["cases"].items():
        ours = sides["ours"]
        for side, numbers in sides.items():
            table.add_row(
                what,
                side,
                *(f"{numbers[name]:.2f}" for name in ("median_ms", "p99_ms")),
                *(f"{numbers[name] / ours[name]:.2f}" for name in ("median_ms", "p99_ms")),
            )
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="members, and items, stored")
    parser.add_argument("--repeats", type=int, default=1_000, help="reads of each side")
    run(**vars(parser.parse_args()))
