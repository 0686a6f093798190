"""Training joins as users request them, compared with Feast's own down to the column types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.types import Float64, Int32, Int64, String

from stores.asof.job import AsofRetrievalJob
from tests.worlds.asof import PROJECT, Ours, config, registry

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pa.timestamp("us", tz="UTC")
pytestmark = pytest.mark.usefixtures("both_stores")
place = Entity(name="place", join_keys=["place"], value_type=ValueType.INT64)
region = Entity(name="region", join_keys=["region"], value_type=ValueType.STRING)


def put(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def hours(*numbers: float) -> pa.Array:
    return pa.array([FIRST + number * HOUR for number in numbers], UTC_US)


def labels(**columns: list[Any]) -> pd.DataFrame:
    """An entity frame; `at` is in hours."""
    at = pd.Series([FIRST + hour * HOUR for hour in columns.pop("at")], dtype="M8[us, UTC]")
    return pd.DataFrame(columns).assign(event_timestamp=at)


def rains(path: Path, entities: list[Entity], *fields: Field, **mapping: str) -> FeatureView:
    keys = [Field(name="place", dtype=Int64), Field(name="region", dtype=String)]
    joined = [entity.join_key for entity in entities]
    return FeatureView(
        name="rains",
        entities=entities,
        schema=[*(key for key in keys if key.name in joined), *fields],
        source=FileSource(
            name="rains_source",
            path=str(path),
            file_format=ParquetFormat(),
            timestamp_field="event_time",
            created_timestamp_column="created_time",
            field_mapping=mapping,
        ),
    )


def both(folder: Path, view: FeatureView, frame: pd.DataFrame, **options: Any) -> list[Any]:
    """Join by ours, then by Feast's own; check that they are equal, and return ours as rows."""
    wanted = [f"{view.name}:{field.name}" for field in view.features]
    jobs = [
        kind.get_historical_features(
            config(folder, kind),
            [view],
            wanted,
            frame.copy(),
            registry(folder),
            PROJECT,
            **options,
        )
        for kind in (Ours.kind, DuckDBOfflineStore)
    ]
    assert isinstance(jobs[0], AsofRetrievalJob)
    ours, theirs = (job.to_arrow() for job in jobs)
    assert ours.schema == theirs.schema
    rows = ours.to_pylist()
    assert sorted(map(str, rows)) == sorted(map(str, theirs.to_pylist()))
    return rows


RAIN = Field(name="rain", dtype=Float64)


@pytest.mark.parametrize("known_at", [False, True])
def test_rows_that_the_frame_has_twice(tmp_path: Path, known_at: bool) -> None:
    put(
        tmp_path / "rains.parquet",
        place=[1, 1],
        event_time=hours(0, 1),
        created_time=hours(0, 3),
        rain=[0.5, 1.5],
    )
    frame = labels(place=[1, 1, 2, 1, 2], at=[2, 2, 2, 2, 2], label=["a", "a", "b", "a", "b"])
    view = rains(tmp_path / "rains.parquet", [place], RAIN)
    rows = both(tmp_path, view, frame, filter_by_created_timestamp=known_at)
    seen = 0.5 if known_at else 1.5
    assert [row["rain"] for row in rows] == [seen, seen, None, seen, None]


@pytest.mark.parametrize("known_at", [False, True])
def test_times_of_other_names_than_the_source_says(tmp_path: Path, known_at: bool) -> None:
    put(
        tmp_path / "rains.parquet",
        place=[1, 1],
        at=hours(0, 1),
        made=hours(0, 3),
        rain=[0.5, 1.5],
    )
    mapping = {"at": "event_time", "made": "created_time"}
    view = rains(tmp_path / "rains.parquet", [place], RAIN, **mapping)
    frame = labels(place=[1, 1], at=[2, 4])
    rows = both(tmp_path, view, frame, filter_by_created_timestamp=known_at)
    assert [row["rain"] for row in rows] == [0.5 if known_at else 1.5, 1.5]


@pytest.mark.parametrize("role", ["key", "feature"])
def test_a_partition_is_a_column_as_well(tmp_path: Path, role: str) -> None:
    for name, rain, hour in (("north", 0.5, 0), ("south", 1.5, 1)):
        put(
            tmp_path / f"rains/region={name}/part-0.parquet",
            place=[1],
            event_time=hours(hour),
            created_time=hours(hour),
            rain=[rain],
        )
    frame = labels(place=[1, 1, 1], at=[0.5, 2, -1], label=["a", "b", "c"])
    if role == "key":
        view = rains(tmp_path / "rains", [place, region], RAIN)
        rows = both(tmp_path, view, frame.assign(region=["north", "north", "south"]))
        assert [row["rain"] for row in rows] == [0.5, 0.5, None]
    else:
        view = rains(tmp_path / "rains", [place], RAIN, Field(name="region", dtype=String))
        rows = both(tmp_path, view, frame)
        assert [row["region"] for row in rows] == ["north", "south", None]


@pytest.mark.parametrize("stored", ["int32", "int64"])
@pytest.mark.parametrize("asked", ["int32", "int64"])
def test_keys_of_32_bits(tmp_path: Path, stored: str, asked: str) -> None:
    small = Entity(name="small", join_keys=["small"], value_type=ValueType.INT32)
    put(
        tmp_path / "rains.parquet",
        small=pa.array([-(2**31), 2**31 - 1], stored),
        event_time=hours(0, 0),
        created_time=hours(0, 0),
        rain=[0.5, 1.5],
    )
    view = rains(tmp_path / "rains.parquet", [small], Field(name="small", dtype=Int32), RAIN)
    frame = labels(small=[2**31 - 1, 7, -(2**31)], at=[1, 1, 1]).astype({"small": asked})
    rows = both(tmp_path, view, frame)
    assert [row["rain"] for row in rows] == [1.5, None, 0.5]


def test_a_service_with_one_view_twice(tmp_path: Path) -> None:
    put(
        tmp_path / "rains.parquet",
        place=[1, 2, 1],
        event_time=hours(0, 0, 1),
        created_time=hours(0, 0, 1),
        rain=[1.0, 2.0, 1.5],
    )
    view = rains(tmp_path / "rains.parquet", [place], RAIN)
    trip = FeatureService(
        name="trip",
        features=[
            view.with_name(name).with_join_key_map({"place": f"{name}_id"})
            for name in ("origin", "destination")
        ],
    )
    frame = labels(
        origin_id=[1, 2, 1], destination_id=[2, 1, 3], at=[0.5, 2, 2], label=["a", "b", "c"]
    )
    answers = []
    for kind in (Ours.kind, DuckDBOfflineStore):
        store = FeatureStore(config=config(tmp_path, kind))
        store.apply([place, view, trip])
        job = store.get_historical_features(frame.copy(), trip, full_feature_names=True)
        answers.append(job.to_arrow())
    ours, theirs = answers
    assert ours.schema == theirs.schema
    assert ours.to_pylist() == theirs.sort_by("label").to_pylist()
    assert ours["origin__rain"].to_pylist() == [1.0, 2.0, 1.5]
    assert ours["destination__rain"].to_pylist() == [2.0, 1.5, None]
