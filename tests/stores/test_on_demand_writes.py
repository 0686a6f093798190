"""What plain Feast does for other views of a project, the SQLite store does: computed and stored.

After tests of Feast's own: TestOnlineWrites::test_online_retrieval,
TestOnDemandPythonTransformation::test_stored_writes and
test_materialize_incremental_odfv_entity_name_differs_from_join_key.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Float32, Float64, Int64, String, UnixTimestamp

from tests.worlds.kinds import each_kind
from tests.worlds.stores import World, open_world

NOW = datetime.now(UTC).replace(microsecond=0)
ROWS = pd.DataFrame(
    {
        "driver_id": [1, 1, 2],
        "conv": [0.25, 0.5, 1.5],
        "acc": [0.5, 1.0, 2.0],
        "event_timestamp": [NOW - timedelta(hours=2), NOW - timedelta(hours=1), NOW],
        "created": [NOW] * 3,
    }
)


@pytest.fixture(params=each_kind())
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    opened = open_world(request.param, tmp_path, request)
    yield opened
    opened.close()


def declared(folder: Path, name: str = "driver") -> tuple[Entity, FeatureView]:
    path = folder / "drivers.parquet"
    ROWS.to_parquet(path, coerce_timestamps="us")
    driver = Entity(name=name, join_keys=["driver_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="drivers",
        path=str(path),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    view = FeatureView(
        name="stats",
        entities=[driver],
        ttl=timedelta(0),
        schema=[Field(name="conv", dtype=Float32), Field(name="acc", dtype=Float32)],
        source=source,
    )
    return driver, view


def both(world: World, objects: Any) -> dict[str, FeatureStore]:
    return {which: world.store(which, objects) for which in ("plain", "ours")}


def test_rows_and_what_is_computed_of_them(world: World) -> None:
    """Written as a frame and as lists; read also when the folder is gone, as in Feast's test."""
    driver, view = declared(world.folder)

    @on_demand_feature_view(
        sources=[view[["conv", "acc"]]],
        schema=[Field(name="total", dtype=Float64)],
        mode="python",
    )
    def totals(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"total": [a + b for a, b in zip(inputs["conv"], inputs["acc"], strict=True)]}

    answers = {}
    for which, store in both(world, [driver, view, totals]).items():
        store.write_to_online_store(feature_view_name="stats", df=ROWS)
        store.write_to_online_store(feature_view_name="stats", inputs=ROWS.to_dict(orient="list"))
        if world.kind == "sqlite":
            shutil.copytree(world.folder, world.folder.with_name("kept"))
            for file in world.folder.glob(f"{which}.db*"):
                file.unlink()
        answers[which] = store.get_online_features(
            features=["stats:conv", "stats:acc", "totals:total"],
            entity_rows=[{"driver_id": 1}, {"driver_id": 2}],
        ).to_dict()
        shutil.rmtree(world.folder.with_name("kept"), ignore_errors=True)
    assert answers["ours"] == answers["plain"]
    assert answers["ours"]["total"] == [1.5, 3.5]


def test_an_on_demand_view_that_is_stored(world: World) -> None:
    driver, view = declared(world.folder)
    asked = RequestSource(
        name="asked",
        schema=[Field(name="counter", dtype=Int64), Field(name="at", dtype=UnixTimestamp)],
    )

    @on_demand_feature_view(
        entities=[driver],
        sources=[view[["conv", "acc"]], asked],
        schema=[
            Field(name="total", dtype=Float64),
            Field(name="counter", dtype=Int64),
            Field(name="at", dtype=UnixTimestamp),
        ],
        mode="python",
        write_to_online_store=True,
    )
    def stored(inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "total": [a + b for a, b in zip(inputs["conv"], inputs["acc"], strict=True)],
            "counter": [n + 1 for n in inputs["counter"]],
            "at": list(inputs["at"]),
        }

    answers = {}
    for which, store in both(world, [driver, view, stored]).items():
        store.write_to_online_store(feature_view_name="stats", df=ROWS)
        # One row per key: of several, plain Feast's Redis store keeps the first.
        given = ROWS[1:].assign(counter=[5, 7], at=NOW)
        store.write_to_online_store(feature_view_name="stored", df=given)
        answers[which] = store.get_online_features(
            features=["stored:total", "stored:counter", "stored:at"],
            entity_rows=[{"driver_id": 1, "counter": 0, "at": NOW}],
        ).to_dict()
    assert answers["ours"] == answers["plain"]
    assert answers["ours"]["counter"] == [6]


def test_a_stored_view_of_an_entity_whose_key_has_another_name(world: World) -> None:
    driver, view = declared(world.folder, name="person")

    def label(features: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"label": ["high" if v >= 1 else "low" for v in features["conv"]]})

    labels = OnDemandFeatureView(
        name="labels",
        entities=[driver],
        sources=[view],
        schema=[Field(name="label", dtype=String)],
        feature_transformation=PandasTransformation(udf=label, udf_string="label"),
        write_to_online_store=True,
    )
    answers = {}
    for which, store in both(world, [driver, view, labels]).items():
        store.materialize_incremental(end_date=datetime.now(UTC))
        answers[which] = store.get_online_features(
            features=["labels:label"], entity_rows=[{"driver_id": 1}, {"driver_id": 2}]
        ).to_dict()
    assert answers["ours"] == answers["plain"]
    assert answers["ours"]["label"] == ["low", "high"]
