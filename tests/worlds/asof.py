"""Small generated worlds for the ASOF store: feature views on disk, labels, and a brute-force join.

Every value of a row contains the row's index, so that a wrongly picked row cannot look right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.registry import Registry
from feast.repo_config import RegistryConfig, RepoConfig
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)
from hypothesis import strategies as st

from stores.asof.coverage import MAX_AGE_TAG
from stores.duckdb_asof import DuckDBAsofOfflineStore
from stores.spark_asof import SparkAsofOfflineStore
from tests.worlds.spark import QUICK

START = datetime(2026, 1, 1, 22, tzinfo=UTC)
TIMES = [START + timedelta(hours=hours) for hours in range(4)]  # on two days
MAX_AGE = timedelta(hours=1)  # what every view declares
PROJECT = "worlds"
LOCAL_SPARK = QUICK | {
    "spark.master": "local[2]",
    "spark.driver.memory": "1g",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
ENTITIES = {
    "member": Entity(name="member", join_keys=["member"], value_type=ValueType.INT64),
    "site": Entity(name="site", join_keys=["site"], value_type=ValueType.STRING),
}
KEYS = {"member": (pa.int64(), Int64), "site": (pa.string(), String)}
FEATURES = {
    "number": (pa.float64(), Float64, float),
    "count": (pa.int64(), Int64, int),
    "text": (pa.string(), String, lambda index: f"t{index}"),
    "vector": (pa.list_(pa.float32()), Array(Float32), lambda index: [index, index + 0.5]),
    "flag": (pa.bool_(), Bool, lambda index: index % 2 == 0),
    "moment": (
        pa.timestamp("us", tz="UTC"),
        UnixTimestamp,
        lambda index: START + timedelta(days=index),
    ),
    "score_y": (pa.float64(), Float64, float),
    "single": (pa.float32(), Float32, lambda index: index + 0.5),
    "small": (pa.int32(), Int32, lambda index: index + 1),
    "short": (pa.int16(), Int32, lambda index: index + 1),
    "tiny": (pa.int8(), Int32, lambda index: index + 1),
    "bytes": (pa.binary(), Bytes, lambda index: b"\x00%d" % index),
    "day": (pa.date32(), UnixTimestamp, lambda index: START.date() + timedelta(days=index)),
    "price": (pa.decimal128(9, 2), Float64, lambda index: Decimal(f"{index}.25")),
    # Lists, some of one length and some of several.
    "doubles": (pa.list_(pa.float64()), Array(Float64), lambda index: [index, index + 0.5]),
    "counts": (pa.list_(pa.int64()), Array(Int64), lambda index: [index, -index]),
    "smalls": (pa.list_(pa.int32()), Array(Int32), lambda index: [index + 1] * (index % 3)),
    "texts": (pa.list_(pa.string()), Array(String), lambda index: [f"t{index}"] * (index % 3)),
    "flags": (pa.list_(pa.bool_()), Array(Bool), lambda index: [index % 2 == 0, index % 3 == 0]),
    "moments": (
        pa.list_(pa.timestamp("us", tz="UTC")),
        Array(UnixTimestamp),
        lambda index: [START + timedelta(days=index)],
    ),
}
TIME_TYPES = {
    "utc": pa.timestamp("us", tz="UTC"),
    "naive": pa.timestamp("us"),
    "zoned": pa.timestamp("us", tz="Europe/Paris"),
    "nanoseconds": pa.timestamp("ns", tz="UTC"),
}


@dataclass(frozen=True)
class Row:
    """One row of a feature view's source; `present` says which features are not null."""

    keys: tuple[Any, ...]
    event: datetime | None
    created: datetime | None
    present: frozenset[str]
    second_file: bool


@dataclass(frozen=True)
class ViewSpec:
    """A feature view and the rows of its source."""

    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    rows: tuple[Row, ...]
    has_created: bool
    ttl: timedelta | None
    layout: str
    time_type: str
    renamed: bool
    aliased: bool

    def frame_key(self, key: str) -> str:
        """The entity frame's column for a key of this view."""
        return f"other_{key}" if self.aliased else key

    def feature(self, kind: str) -> str:
        """The name of a feature; different in every view."""
        return f"{self.name}_{kind}"


@dataclass(frozen=True)
class World:
    """Views, labels, and the options of the join."""

    views: tuple[ViewSpec, ...]
    labels: pd.DataFrame
    times: tuple[datetime, ...]
    full_names: bool
    known_at: bool


class Ours:
    """Which of our two stores the tests of both join by; `both_stores` (tests/stores) switches."""

    kind: type = DuckDBAsofOfflineStore

    @classmethod
    def is_spark(cls) -> bool:
        return cls.kind is SparkAsofOfflineStore

    @classmethod
    def in_sql(cls, file: Path) -> str:
        """What a SQL text calls a Parquet file."""
        return f"parquet.`{file}`" if cls.is_spark() else f"read_parquet('{file}')"


def offline_store(kind: type) -> dict[str, Any]:
    """The settings of an offline store in feature_store.yaml."""
    if kind is DuckDBOfflineStore:
        return {"type": "duckdb"}
    if kind is SparkAsofOfflineStore:
        # As many parts as cores, so that some labels lie in each.
        return {
            "type": "stores.spark_asof.SparkAsofOfflineStore",
            "parts": 2,
            "spark_conf": LOCAL_SPARK,
        }
    return {"type": "stores.duckdb_asof.DuckDBAsofOfflineStore"}


def config(folder: Path, kind: type | None = None) -> RepoConfig:
    """A repository in `folder` with the given offline store and an empty registry."""
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry=RegistryConfig(path=str(folder / "registry.db")),
        offline_store=offline_store(kind or Ours.kind),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def registry(folder: Path) -> Registry:
    """An empty registry: the stores look only for on-demand views there."""
    return Registry(PROJECT, RegistryConfig(path=str(folder / "registry.db")), folder)


def ask(folder: Path, world: World, kind: type | None = None, labels: Any = None) -> pa.Table:
    """Join a world that `write` put into `folder`, by ours or by Feast's own store."""
    return plan(folder, world, kind, labels).to_arrow()


def plan(folder: Path, world: World, kind: type | None = None, labels: Any = None) -> RetrievalJob:
    """The job of `ask`, not run yet."""
    views = [declare(folder, spec) for spec in world.views]
    return (kind or Ours.kind).get_historical_features(
        config(folder, kind),
        views,
        [
            f"{spec.name}:{spec.feature(feature)}"
            for spec in world.views
            for feature in spec.features
        ],
        world.labels.copy() if labels is None else labels,
        registry(folder),
        PROJECT,
        world.full_names,
        filter_by_created_timestamp=world.known_at,
    )


def declare(folder: Path, spec: ViewSpec) -> FeatureView:
    """The feature view of a spec, as `feast apply` would leave it."""
    suffix = ".parquet" if spec.layout == "file" else ""
    renamed = [*spec.keys, *map(spec.feature, spec.features)] if spec.renamed else []
    view = FeatureView(
        name=spec.name,
        entities=[ENTITIES[key] for key in spec.keys],
        schema=[
            *(Field(name=key, dtype=KEYS[key][1]) for key in spec.keys),
            *(Field(name=spec.feature(kind), dtype=FEATURES[kind][1]) for kind in spec.features),
        ],
        ttl=spec.ttl,
        source=FileSource(
            name=f"{spec.name}_source",
            path=str(folder / f"{spec.name}{suffix}"),
            file_format=ParquetFormat(),
            timestamp_field="event_time",
            created_timestamp_column="created_time" if spec.has_created else "",
            field_mapping={f"raw_{name}": name for name in renamed},
        ),
        tags={MAX_AGE_TAG: str(MAX_AGE.total_seconds())},
    )
    if spec.aliased:
        return view.with_join_key_map({key: spec.frame_key(key) for key in spec.keys})
    return view


def write(folder: Path, world: World) -> None:
    """Write each view's source: a file, a folder of two files, or hive partitions by day."""
    for spec in world.views:
        for relative, rows in files(spec):
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(spec, rows), path)


def files(spec: ViewSpec) -> list[tuple[str, list[tuple[int, Row]]]]:
    """Each file of a source, in the order of names, and its rows with their index."""
    numbered = list(enumerate(spec.rows))
    if spec.layout == "file":
        return [(f"{spec.name}.parquet", numbered)]
    if spec.layout == "folder":
        split = {f"{spec.name}/part-{n}.parquet": [] for n in (0, 1)}
        for index, row in numbered:
            split[f"{spec.name}/part-{int(row.second_file)}.parquet"].append((index, row))
        return sorted(split.items())
    days: dict[str, list[tuple[int, Row]]] = {f"{spec.name}/day={TIMES[0]:%F}/part-0.parquet": []}
    for index, row in numbered:
        day = (row.event or TIMES[0]).strftime("%F")
        days.setdefault(f"{spec.name}/day={day}/part-0.parquet", []).append((index, row))
    return sorted(days.items())


def expected(world: World) -> list[dict[str, Any]]:
    """The join by brute force: per label, each feature's value."""
    return [
        {
            name: value
            for spec in world.views
            for name, value in _features(world, spec, _seen(world, spec, label)).items()
        }
        for label in range(len(world.times))
    ]


def ages(world: World, spec: ViewSpec) -> list[timedelta | None]:
    """Per label, by brute force, the age of the row that it gets; None where it gets none."""
    seen = [(time, _seen(world, spec, label)) for label, time in enumerate(world.times)]
    return [time - rows[-1][0] if rows else None for time, rows in seen]


def undecided(world: World) -> list[int]:
    """Labels for which some view has several newest rows, of which Feast takes any."""
    return [
        label
        for label in range(len(world.times))
        if any(_tied(_seen(world, spec, label)) for spec in world.views)
    ]


def _tied(seen: Sequence[tuple[Any, ...]]) -> bool:
    return len(seen) > 1 and seen[-1][:2] == seen[-2][:2]


def _seen(world: World, spec: ViewSpec, label: int) -> list[tuple[Any, ...]]:
    """(event, created, file, position, index) of the rows that a label sees, best last."""
    time = world.times[label]
    wanted = tuple(world.labels[spec.frame_key(key)][label] for key in spec.keys)
    found = []
    for file, (_, rows) in enumerate(files(spec)):
        for position, (index, row) in enumerate(rows):
            if None in row.keys or None in wanted or row.keys != wanted:
                continue
            if row.event is None or row.event > time:
                continue
            if spec.ttl and row.event + spec.ttl < time:
                continue
            created = row.created if spec.has_created else None
            if world.known_at and spec.has_created and (created is None or created > time):
                continue
            oldest = datetime.min.replace(tzinfo=UTC)
            found.append((row.event, created or oldest, file, position, index))
    return sorted(found)


def _features(world: World, spec: ViewSpec, seen: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    prefix = f"{spec.name}__" if world.full_names else ""
    values: dict[str, Any] = {}
    for kind in spec.features:
        index = seen[-1][-1] if seen else None
        known = index is not None and kind in spec.rows[index].present
        values[prefix + spec.feature(kind)] = FEATURES[kind][2](index) if known else None
    return values


def _table(spec: ViewSpec, rows: Sequence[tuple[int, Row]]) -> pa.Table:
    raw = "raw_" if spec.renamed else ""
    columns = {
        raw + key: pa.array([row.keys[index] for _, row in rows], KEYS[key][0])
        for index, key in enumerate(spec.keys)
    }
    for kind in spec.features:
        arrow, _, value = FEATURES[kind]
        columns[raw + spec.feature(kind)] = pa.array(
            [value(index) if kind in row.present else None for index, row in rows], arrow
        )
    times = pa.timestamp("us", tz="UTC")
    stored = TIME_TYPES[spec.time_type]
    columns["event_time"] = pa.array([row.event for _, row in rows], times).cast(stored)
    if spec.has_created:
        columns["created_time"] = pa.array([row.created for _, row in rows], times).cast(stored)
    return pa.table(columns)


# Few keys and times, so that rows meet labels and tie with one another.
members = st.sampled_from([1, 1, 1, 2, None])
sites = st.sampled_from(["a", "a", "a", "b", None])
timestamps = st.sampled_from(TIMES)
some_timestamps = st.sampled_from([*TIMES, None])


@st.composite
def view_specs(draw: st.DrawFn, name: str, feasts: bool) -> ViewSpec:
    keys = draw(st.sampled_from([("member",), ("member",), ("site",), ("member", "site"), ()]))
    kinds = [kind for kind in FEATURES if not (feasts and kind.endswith("_y"))]
    features = tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6, unique=True)))
    row = st.builds(
        Row,
        keys=st.tuples(*(members if key == "member" else sites for key in keys)),
        event=some_timestamps,
        created=some_timestamps,
        present=st.sets(st.sampled_from(features)).map(frozenset),
        second_file=st.booleans(),
    )
    return ViewSpec(
        name=name,
        keys=keys,
        features=features,
        rows=tuple(draw(st.lists(row, min_size=2, max_size=12))),
        has_created=draw(st.booleans()),
        ttl=draw(st.sampled_from([None, timedelta(0), timedelta(hours=1), timedelta(hours=2)])),
        layout=draw(st.sampled_from(["file", "folder", "hive"])),
        time_type=draw(st.sampled_from(list(TIME_TYPES))),
        renamed=draw(st.booleans()),
        aliased=bool(keys) and draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn, feasts: bool = False) -> World:
    """Draw a world; `feasts` leaves out what Feast's own store cannot do."""
    views = tuple(
        draw(view_specs(f"view{number}", feasts)) for number in range(draw(st.integers(1, 2)))
    )
    label = st.tuples(members, sites, members, sites, timestamps)
    drawn = draw(st.lists(label, min_size=1, max_size=8))
    columns = list(zip(*drawn, strict=True))
    times = pd.Series(columns[4]).astype("datetime64[us, UTC]")
    zone = draw(st.sampled_from(["UTC", "Europe/Paris", None]))
    frame = pd.DataFrame({"extra": [f"x{n}" for n in range(len(drawn))]})
    frame["event_timestamp"] = times.dt.tz_convert(zone)
    for index, key in enumerate(("member", "site", "other_member", "other_site")):
        kind = "Int64" if key.endswith("member") else object
        frame[key] = pd.Series(columns[index], dtype=kind)
        frame[key] = frame[key].astype(object).where(frame[key].notna(), None)
    return World(views, frame, columns[4], draw(st.booleans()), draw(st.booleans()))
