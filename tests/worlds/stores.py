"""Feast stores over the same data, one plain and one with the plug-ins, and their raw bytes."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast import types as ft
from feast.data_format import ParquetFormat

from tests.worlds.kinds import KINDS

PROJECT = "world"
ENGINE = "stores.columnar.ColumnarComputeEngine"
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """One kind of online store, empty, once for plain Feast and once for the plug-ins."""

    kind: str
    folder: Path
    plain: dict[str, Any]
    ours: dict[str, Any]
    opened: list[FeatureStore] = field(default_factory=list, repr=False)

    def close(self) -> None:
        """Close the connections that Feast's stores leave to the garbage collector."""
        for store in self.opened:
            online = store._get_provider().online_store
            for name in ("_conn", "_writer", "_client"):
                connection = getattr(online, name, None)
                if connection is not None:
                    connection.close()

    def config(self, which: str, **engine: Any) -> RepoConfig:
        """Return a repository's configuration; which is "plain" or "ours"."""
        ours = which == "ours"
        return RepoConfig(
            project=PROJECT,
            provider="local",
            registry={"path": str(self.folder / f"{which}.registry.db"), "cache_ttl_seconds": 0},
            offline_store={"type": "duckdb"},
            online_store=self.ours if ours else self.plain,
            batch_engine={"type": ENGINE, **engine} if ours else "local",
            materialization={"pull_latest_features": True, "online_write_batch_size": 1000},
            entity_key_serialization_version=3,
        )

    def store(self, which: str, objects: Sequence[Any], **engine: Any) -> FeatureStore:
        """Open a store with the objects applied."""
        store = FeatureStore(config=self.config(which, **engine))
        self.opened.append(store)
        store.apply(list(objects))
        return store

    def dump(self, which: str, view: str) -> dict[Any, Any]:
        """Return everything in the store that Feast knows, byte for byte."""
        if not KINDS[self.kind].tables:
            found: dict[Any, Any] = {}
            with self.redis(which) as client:
                for key in client.scan_iter():
                    fields = client.hgetall(key)
                    found[key] = {f: v for f, v in fields.items() if not f.startswith(b"_ct:")}
            return found
        columns = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"
        query = f'select {columns} from "{PROJECT}_{view}"'
        if self.kind == "sqlite":
            with closing(sqlite3.connect(getattr(self, which)["path"])) as connection:
                rows = connection.execute(query).fetchall()
        else:
            with self.postgres(which) as connection:
                rows = connection.execute(query).fetchall()
        return {(row[0], row[1]): row[2:] for row in rows}

    def redis(self, which: str) -> "redis.Redis":
        """Return a client of the database that a store uses."""
        where, database = getattr(self, which)["connection_string"].split(",db=")
        host, port = where.split(":")
        return redis.Redis(host=host, port=int(port), db=int(database))

    def postgres(self, which: str) -> "psycopg.Connection[Any]":
        """Return a connection whose search path is the schema that a store uses."""
        options = getattr(self, which)
        return psycopg.connect(
            host=options["host"],
            port=options["port"],
            dbname=options["database"],
            user=options["user"],
            password=options["password"] or None,
            options=f"-c search_path={options['db_schema']}",
        )


def open_world(kind: str, folder: Path, request: pytest.FixtureRequest) -> World:
    """Make an empty world of one kind; its server is from tests/worlds/servers.py."""
    line = KINDS[kind]
    return World(
        kind,
        folder,
        plain={"type": line.feasts, **line.options(request, folder, "plain")},
        ours={"type": line.ours, **line.options(request, folder, "ours")},
    )


# --- a view with every type ----------------------------------------------------------------------

MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
A_UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
# No integers: if the batch has a null struct, Feast makes doubles of them.
A_STRUCT = pa.struct([("a", pa.float64()), ("b", pa.string())])
NESTED = pa.list_(pa.list_(pa.int64()))

TYPES: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "f_int32": (ft.Int32, pa.int32(), [0, 1, -1, 2**31 - 1, -(2**31)]),
    "f_int64": (ft.Int64, pa.int64(), [0, 127, 128, -(2**40), 2**53]),
    "f_float32": (ft.Float32, pa.float32(), [0.0, -0.0, 0.1, 3.0e38, float("inf")]),
    "f_float64": (ft.Float64, pa.float64(), [0.0, 0.1, -1e300, 5e-324, float("nan")]),
    "f_bool": (ft.Bool, pa.bool_(), [True, False, True, False, True]),
    "f_string": (ft.String, pa.string(), ["", "a", "é" * 70, "x" * 20_000, "\x01"]),
    "f_bytes": (ft.Bytes, pa.binary(), [b"\x00", b"a", b"\xff" * 300, b"b", b"c"]),
    "f_moment": (
        ft.UnixTimestamp,
        pa.timestamp("us", "UTC"),
        [MOMENT, MOMENT + timedelta(days=400), datetime(1969, 12, 31, 23, 59, 59, 5, UTC)] * 2,
    ),
    "f_uuid": (ft.Uuid, pa.string(), [A_UUID] * 5),
    "f_json": (ft.Json, pa.string(), ['{"a": 1}', "[]", "1", '"x"', "{}"]),
    "f_int32s": (ft.Array(ft.Int32), pa.list_(pa.int32()), [[], [1], [-1, 0], [2**31 - 1] * 40]),
    "f_int64s": (ft.Array(ft.Int64), pa.list_(pa.int64()), [[], [1], [-1, 0], [2**62] * 40]),
    "f_float32s": (ft.Array(ft.Float32), pa.list_(pa.float32()), [[], [0.1] * 64, [1.5, -0.0]]),
    "f_float64s": (ft.Array(ft.Float64), pa.list_(pa.float64()), [[], [0.1] * 64, [1.5, -0.0]]),
    "f_bools": (ft.Array(ft.Bool), pa.list_(pa.bool_()), [[], [True, False], [False]]),
    "f_strings": (ft.Array(ft.String), pa.list_(pa.string()), [[], ["", "é"], ["x" * 200]]),
    "f_bytess": (ft.Array(ft.Bytes), pa.list_(pa.binary()), [[], [b"", b"\x00"], [b"x" * 200]]),
    "f_moments": (ft.Array(ft.UnixTimestamp), pa.list_(pa.timestamp("us", "UTC")), [[], [MOMENT]]),
    "f_pdf": (ft.PdfBytes, pa.binary(), [b"%PDF", b"\x00", b"\xff" * 300]),
    "f_image": (ft.ImageBytes, pa.binary(), [b"GIF", b"\x00", b"\xff" * 300]),
    # Types that the encoder leaves to Feast's conversion.
    "f_time_uuid": (ft.TimeUuid, pa.string(), [A_UUID, "0" * 8 + A_UUID[8:]]),
    "f_decimal": (ft.Decimal, pa.string(), ["1.50", "-0.1", "1E+30"]),
    "f_map": (ft.Map, A_STRUCT, [{"a": 1.5, "b": "x"}, {"a": 0.0, "b": ""}]),
    "f_struct": (
        ft.Struct({"a": ft.Float64, "b": ft.String}),
        A_STRUCT,
        [{"a": 1.5, "b": "x"}, {"a": 0.0, "b": ""}],
    ),
    "f_int64_set": (ft.Set(ft.Int64), pa.list_(pa.int64()), [[3, 1, 3], [2**62], []]),
    "f_string_set": (ft.Set(ft.String), pa.list_(pa.string()), [["b", "a", "b"], ["é"], []]),
    "f_uuids": (ft.Array(ft.Uuid), pa.list_(pa.string()), [[A_UUID, A_UUID], []]),
    "f_decimals": (ft.Array(ft.Decimal), pa.list_(pa.string()), [["1.50", "-0.1"], []]),
    "f_jsons": (ft.Array(ft.Json), pa.list_(pa.string()), [['{"a": 1}', "[]"], ["1"]]),
    "f_int64ss": (ft.Array(ft.Array(ft.Int64)), NESTED, [[[1, 2], []], [[2**62]], []]),
}

KEYS: dict[str, tuple[ValueType, pa.DataType]] = {
    "int": (ValueType.INT64, pa.int64()),
    "text": (ValueType.STRING, pa.string()),
}


def every_type(path: Path, keys: Sequence[str], rows: int = 24) -> list[Any]:
    """Write a source with every feature type, nulls and several rows per key; declare it.

    The last value of each cycle is null. Row i belongs to key i // 2 and is newer when i is odd;
    each third pair has equal event times and differs only in its created time. The newer row
    of key k has value k + 1 of each cycle, the older one value k.
    """
    arrays: dict[str, pa.Array] = {}
    for nth, key in enumerate(keys):
        numbers = [(row // 2) * (-1) ** nth for row in range(rows)]
        values = [f"é{number}" for number in numbers] if key == "text" else numbers
        arrays[f"{key}_id"] = pa.array(values, type=KEYS[key][1])
    arrays["event_timestamp"] = pa.array(
        [MOMENT + timedelta(seconds=row % 2 if (row // 2) % 3 else 0) for row in range(rows)],
        type=pa.timestamp("us", "UTC"),
    )
    arrays["created"] = pa.array(
        [MOMENT + timedelta(hours=1, seconds=row % 2) for row in range(rows)],
        type=pa.timestamp("us", "UTC"),
    )
    for name, (_, kind, values) in TYPES.items():
        cycle = [*values, None]
        turns = [(row // 2 + row % 2) % len(cycle) for row in range(rows)]
        assert set(turns[1::2]) == set(range(len(cycle))), f"{name}: some values never win"
        arrays[name] = pa.array([cycle[turn] for turn in turns], type=kind)
    pq.write_table(pa.table(arrays), path)
    return declare(
        "every_type",
        path,
        keys,
        [Field(name=name, dtype=dtype) for name, (dtype, _, _) in TYPES.items()],
        created="created",
    )


def declare(
    name: str,
    path: Path,
    keys: Sequence[str],
    fields: Sequence[Field],
    *,
    created: str | None = None,
    ttl: timedelta | None = None,
) -> list[Any]:
    """Return the entities and the view over a Parquet file or folder."""
    entities = [Entity(name=key, join_keys=[f"{key}_id"], value_type=KEYS[key][0]) for key in keys]
    source = FileSource(
        name=f"{name}_source",
        path=str(path),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column=created,
    )
    view = FeatureView(name=name, entities=entities, schema=fields, source=source, ttl=ttl)
    return [*entities, view]
