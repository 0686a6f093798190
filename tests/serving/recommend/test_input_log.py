"""What a ranker read of a share of answers, as rows of Feast's feature logging."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    Project,
    ValueType,
)
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.repo_config import RepoConfig
from feast.saved_dataset import ValidationReference
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp

from serving.recommend.asked import Request
from serving.recommend.input_log import PAIRS, InputLog, Logged, logged_table
from serving.recommend.metrics import RecommendMetrics
from serving.recommend.recommend import Recommender
from serving.recommend.scored import Scored, Served
from serving.request.sequences import Event
from stores.read import Features
from tests.worlds.recommend import (
    NOW,
    StandInScorer,
    StandInSources,
    config_of,
    parts_of,
    write_catalogue,
)
from transformations.config import Config

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
RANKERS = ("linear_v1", "linear_v1_f2")
COUNTED = "activity_recommend_logged_features_total"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_of(tmp_path, {"log_features": 1})


@pytest.fixture
def store(tmp_path: Path, config: Config) -> FeatureStore:
    """A project with what two fits of a ranker read: a view of members, one of items."""
    source = FileSource(path=str(tmp_path), timestamp_field="event_timestamp")
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
    of_member = [
        Field(name="member_id", dtype=Int64),
        Field(name="city", dtype=String),
        Field(name="vector", dtype=Array(Float32), vector_length=2),
        Field(name="seconds", dtype=Array(Float64), tags={"missing": "nan"}),
        Field(name="times", dtype=Array(UnixTimestamp)),
    ]
    of_item = [
        Field(name="item_id", dtype=Int64),
        Field(name="rank", dtype=Float64),
        Field(name="seen_at", dtype=UnixTimestamp),
    ]
    views = [
        FeatureView(name="did", entities=[member], schema=of_member, source=source),
        FeatureView(name="stats", entities=[item], schema=of_item, source=source),
    ]
    services = [
        FeatureService(
            name=f"recommend_{ranker}",
            features=views,
            logging_config=LoggingConfig(
                FileLoggingDestination(path=str(config.layout.logged_features / ranker))
            ),
        )
        for ranker in RANKERS
    ]
    settings = RepoConfig(
        project="logged",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        offline_store={"type": "stores.duckdb_asof.DuckDBAsofOfflineStore"},
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=settings)
    store.registry.apply_project(Project(name="logged"), commit=True)
    for entity in (member, item):
        store.registry.apply_entity(entity, store.project)
    for view in views:
        store.registry.apply_feature_view(view, store.project)
    for service in services:
        store.registry.apply_feature_service(service, store.project)
    store.registry.commit()
    return store


def read_of(values: dict[str, list[Any]], view: str, at: list[str]) -> Features:
    """Columns of a view as a Reader returns them; None is missing."""
    arrays, present = {}, {}
    for name, column in values.items():
        cells = np.empty(len(column), object)
        for row, value in enumerate(column):
            cells[row] = value
        arrays[f"{view}__{name}"] = cells
        present[f"{view}__{name}"] = np.array([value is not None for value in column])
    return Features(arrays, present, {view: np.array(at, "datetime64[us]")})


def served_of(items: int) -> Served:
    """A member with a row, and items of which the first has none."""
    did: dict[str, list[Any]] = {
        "city": [None],
        "vector": [np.array([1.0, 2.0], np.float32)],
        "seconds": [[30.0, None]],
        "times": [[AT - timedelta(hours=1), AT]],
    }
    stats = {"rank": [None, *range(1, items)], "seen_at": [None] * items}
    at = ["NaT", *["2026-11-29T06:00:00.7"] * (items - 1)]
    return Served(read_of(did, "did", ["2026-11-29T11:00:00"]), read_of(stats, "stats", at))


def scored_of(items: int, ranker: str = "linear_v1") -> Scored:
    """Items 100, 101, …, the last one with the highest score."""
    return Scored(
        np.arange(items) + 100,
        np.arange(items, dtype=np.float32),
        [{}] * items,
        ranker=ranker,
        served=served_of(items),
    )


def rows(config: Config, ranker: str = "linear_v1") -> pa.Table:
    files = sorted((config.layout.logged_features / ranker).glob("*"))
    assert all(file.suffix == ".parquet" for file in files)
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files]) if files else []


def test_a_pair_is_a_row_as_feast_logs_it(store: FeatureStore) -> None:
    service = store.get_feature_service("recommend_linear_v1")
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    some = Logged("a", 42, [100, 101], "linear_v1", AT, served_of(2))
    table = logged_table(schema, service, [some])
    assert table.schema == schema
    present, null, no_row = 1, 2, 3
    of_member = {
        "did__city": None,
        "did__city__status": null,
        "did__vector": [1.0, 2.0],
        "did__vector__status": present,
        "did__times": [datetime(2026, 11, 29, 11), datetime(2026, 11, 29, 12)],
        "did__vector__timestamp": AT - timedelta(hours=1),
        "__request_id": "a",
        "__log_timestamp": AT,
        "__log_date": AT.date(),
        "member_id": 42,
    }
    first, second = table.to_pylist()
    assert first.items() >= {**of_member, "item_id": 100}.items()
    assert second.items() >= {**of_member, "item_id": 101}.items()
    assert np.isnan(first["did__seconds"][1])  # as the offline source has it
    ranks = [(one["stats__rank"], one["stats__rank__status"]) for one in (first, second)]
    assert ranks == [(None, no_row), (1.0, present)]
    assert [one["stats__seen_at__status"] for one in (first, second)] == [no_row, null]
    times = [one["stats__rank__timestamp"] for one in (first, second)]
    assert times == [None, datetime(2026, 11, 29, 6, tzinfo=UTC)]


def test_the_best_of_a_share_of_answers_are_logged(tmp_path: Path, store: FeatureStore) -> None:
    config, metrics = config_of(tmp_path, {"log_features": 0.5}), RecommendMetrics()
    draws = iter([0.2, 0.5, 0.9, 0.1])
    log = InputLog(config, store, metrics, draw=lambda: next(draws))
    requests = [Request(member) for member in (1, 2, 3, 4)]
    for request in requests:
        log.add(request, scored_of(PAIRS + 5), AT)
    log.add(Request(5), Scored(np.array([100]), np.zeros(1, np.float32), [{}]), AT)  # no ranker
    log.add(Request(6), Scored(np.array([]), np.zeros(0, np.float32), [], served=served_of(1)), AT)
    log.close()
    table = rows(config)
    assert table["member_id"].to_pylist() == [1] * PAIRS + [4] * PAIRS
    assert {*table["__request_id"].to_pylist()} == {requests[0].id, requests[3].id}
    best = [*range(104 + PAIRS, 104, -1)]
    assert table["item_id"].to_pylist() == best * 2
    assert table["stats__rank"].to_pylist() == [item - 100 for item in best] * 2
    assert metrics.registry.get_sample_value(COUNTED, {"outcome": "written"}) == 2 * PAIRS
    draws = iter([0.0])
    log.add(Request(7), scored_of(3), AT)  # it is closed: counted
    assert metrics.registry.get_sample_value(COUNTED, {"outcome": "lost"}) == 3


def test_each_fit_has_a_folder_and_one_without_a_service_is_lost(
    config: Config, store: FeatureStore
) -> None:
    metrics = RecommendMetrics()
    log = InputLog(config, store, metrics)
    for ranker in ("linear_v1", "linear_v1_f2", "linear_v1_f2"):
        log.add(Request(1), scored_of(1, ranker), AT)
    log.close()
    assert [len(rows(config, ranker)) for ranker in RANKERS] == [1, 2]
    log = InputLog(config, store, metrics)
    log.add(Request(1), scored_of(2, "left_v1"), AT)
    log.close()
    assert metrics.registry.get_sample_value(COUNTED, {"outcome": "lost"}) == 2


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_nothing_and_of_all(tmp_path: Path, store: FeatureStore, share: float) -> None:
    config = config_of(tmp_path, {"log_features": share})
    log = InputLog(config, store)
    for member in range(5):
        log.add(Request(member), scored_of(1), AT)
    log.close()
    assert len(rows(config)) == 5 * share


class Expecting:
    """A profile of Feast's that wants one member, and keeps what it was shown."""

    is_success, errors = True, ()

    def validate(self, dataset: Any) -> "Expecting":
        self.members = dataset["member_id"].tolist()
        return self


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_feast_reads_and_validates_the_log(config: Config, store: FeatureStore) -> None:
    log = InputLog(config, store)
    for member, hours in ((1, 0), (2, 5)):
        log.add(Request(member), scored_of(2), AT + timedelta(hours=hours))
    log.close()
    service = store.get_feature_service("recommend_linear_v1")
    assert service.logging_config is not None
    source = service.logging_config.destination.to_data_source()
    columns = source.get_table_column_names_and_types(store.config)
    assert {"did__vector", "stats__rank__status", "__log_timestamp"} <= {*dict(columns)}
    profile, reference = Expecting(), ValidationReference("fine", "no dataset")
    reference._profile = profile
    hour = timedelta(hours=1)
    with pytest.warns(RuntimeWarning, match="experimental"):
        store.validate_logged_features(
            service, AT - hour, AT + hour, reference, cache_profile=False
        )
    assert profile.members == [1, 1]


class Reading(StandInScorer):
    """A scorer that says what it read."""

    last: Scored

    def of(self, *asked: Any, **more: Any) -> Scored:
        self.last = super().of(*asked, **more)
        self.last.ranker, self.last.served = "linear_v1", served_of(len(self.last.items))
        return self.last


def test_the_recommender_logs_what_was_read_and_keeps_none_of_it(
    config: Config, store: FeatureStore
) -> None:
    write_catalogue(config)
    scorer = Reading()
    parts = parts_of(config, StandInSources(), scorer=scorer)
    with Recommender(config, parts, log=InputLog(config, store)) as recommender:
        answer = recommender.of(Request(42))
        assert scorer.last.served is None  # a kept list would hold its vectors for half a minute
        recommender.of(Request(42))  # from memory: nothing was read
        at = NOW - timedelta(minutes=1)
        recommender.of(Request(43, events=[Event(43, 1, "APPLY", at)]))  # no store has it
        recommender.of(Request(44, by="votes"))
    table = rows(config)
    assert {*table["member_id"].to_pylist()} == {42}
    assert {*table["__request_id"].to_pylist()} == {answer.request_id}
