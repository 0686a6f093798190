"""Joins that the ASOF store leaves to Feast's own: each reason is logged once, nothing is lost."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from feast import BigQuerySource, Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import Float64, Int64

from stores import duckdb_asof
from stores.duckdb_asof import DuckDBAsofOfflineStore
from tests.worlds.asof import PROJECT, config, registry

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = pd.DataFrame({"member": [2, 1], "event_timestamp": ["2026-01-01T00:00:00Z"] * 2})
FILE = {"path": "rows.parquet", "timestamp_field": "event_time"}


@pytest.mark.parametrize(
    ("source", "mode", "reason"),
    [
        (FileSource(**FILE, file_format=DeltaFormat()), None, "rows reads DeltaFormat"),
        (
            FileSource(**FILE | {"path": "s3://b/c"}, s3_endpoint_override="http://here"),
            None,
            "rows reads from s3://b/c, at the endpoint http://here",
        ),
        (FileSource(**FILE | {"path": "xx://b/c"}), None, "rows reads from xx://b/c, which fsspec"),
        (BigQuerySource(table="a.b", timestamp_field="event_time"), None, "BigQuerySource"),
        (FileSource(**FILE), "substrait", "plan is an on-demand view in substrait mode"),
    ],
    ids=["delta", "endpoint", "unknown", "no file", "substrait"],
)
def test_every_reason_is_said_once_and_feast_gets_the_whole_question(
    tmp_path: Path,
    source: Any,
    mode: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = {"member": [1, 2], "event_time": [MOMENT] * 2, "size": [1.0, 2.0]}
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    member = Entity(name="member", join_keys=["member"], value_type=ValueType.INT64)
    fields = [Field(name="member", dtype=Int64), Field(name="size", dtype=Float64)]
    view = FeatureView(name="rows", entities=[member], schema=fields, source=source)
    asked: list[dict[str, Any]] = []

    def feasts(**arguments: Any) -> str:
        arguments["entity_df"]["event_timestamp"] = None  # as Feast's own writes into its frame
        asked.append(arguments)
        return "feast's job"

    monkeypatch.setattr(DuckDBOfflineStore, "get_historical_features", feasts)
    if mode is not None:
        plan = SimpleNamespace(name="plan", mode=mode)
        monkeypatch.setattr(OnDemandFeatureView, "get_requested_odfvs", lambda *_: [plan])
    duckdb_asof._log_once.cache_clear()
    settings, listed, labels = config(tmp_path), registry(tmp_path), LABELS.copy()
    arguments = (settings, [view], ["rows:size"], labels, listed, PROJECT, True, True)
    with caplog.at_level(logging.WARNING, "stores.duckdb_asof"):
        jobs = [DuckDBAsofOfflineStore.get_historical_features(*arguments) for _ in range(2)]

    assert jobs == ["feast's job"] * 2
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("Feast's own join is used where ")
    assert reason in said
    pd.testing.assert_frame_equal(labels, LABELS)
    for question in asked:
        (moved,) = question.pop("feature_views")
        assert moved.name == "rows"
        if isinstance(source, FileSource) and "://" not in source.path:
            assert moved.batch_source.path == str(tmp_path / "rows.parquet")
        else:
            assert moved.batch_source == source
        assert list(question.pop("entity_df")) == list(LABELS)
        assert question == {
            "config": settings,
            "feature_refs": ["rows:size"],
            "registry": listed,
            "project": PROJECT,
            "full_feature_names": True,
            "filter_by_created_timestamp": True,
        }
