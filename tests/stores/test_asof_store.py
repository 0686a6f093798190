"""The ASOF offline store behind a real FeatureStore, compared with Feast's own DuckDB store."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import numpy as np
import pandas as pd
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
    RequestSource,
    ValueType,
)
from feast.data_format import DeltaFormat, ParquetFormat
from feast.errors import (
    EntityTimestampInferenceException,
    RequestDataNotFoundInEntityDfException,
    SavedDatasetLocationAlreadyExists,
)
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    SavedDatasetFileStorage,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int64, String

from stores import duckdb_asof
from stores.asof.job import AsofRetrievalJob
from tests.worlds.asof import PROJECT, Ours, config, offline_store, registry

pytestmark = pytest.mark.usefixtures("both_stores")
DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = """
project: asof
provider: local
registry: registry.db
offline_store: {store}
online_store:
    type: sqlite
    path: online.db
entity_key_serialization_version: 3
"""


def snapshots(folder: Path, days: int = 4, members: int = 3, width: int = 2) -> None:
    """Members' vectors as of each day, published six hours later; value = day * 100 + member."""
    for day in range(days):
        at = FIRST + day * DAY
        path = folder / f"as_of={at:%F}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = [day * 100.0 + member for member in range(members)]
        pq.write_table(
            pa.table(
                {
                    "member": pa.array(range(members), pa.int64()),
                    "event_time": pa.array([at] * members, pa.timestamp("us", tz="UTC")),
                    "created_time": pa.array(
                        [at + DAY / 4] * members, pa.timestamp("us", tz="UTC")
                    ),
                    "score": pa.array(values),
                    "vector": pa.array([[v] * width for v in values], pa.list_(pa.float32())),
                }
            ),
            path,
        )


member = Entity(name="member", join_keys=["member"], value_type=ValueType.INT64)
snapshot_source = FileSource(
    name="snapshots",
    path="data/snapshots",
    file_format=ParquetFormat(),
    timestamp_field="event_time",
    created_timestamp_column="created_time",
)
snapshot_view = FeatureView(
    name="snapshot",
    entities=[member],
    schema=[
        Field(name="member", dtype=Int64),
        Field(name="score", dtype=Float64),
        Field(name="vector", dtype=Array(Float32)),
    ],
    source=snapshot_source,
)
weather_view = FeatureView(
    name="weather",
    entities=[],
    schema=[Field(name="rain", dtype=Float64), Field(name="sky_y", dtype=String)],
    ttl=2 * DAY,
    source=FileSource(name="rains", path="data/weather.parquet", timestamp_field="event_time"),
)


@on_demand_feature_view(
    sources=[snapshot_view], schema=[Field(name="doubled", dtype=Float64)], mode="pandas"
)
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"doubled": inputs["score"] * 2})


@on_demand_feature_view(
    sources=[snapshot_view], schema=[Field(name="length", dtype=Float64)], mode="python"
)
def length(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"length": [None if v is None else float(sum(v)) for v in inputs["vector"]]}


@pytest.fixture(scope="module")
def repo(both_stores: type, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repo")
    for name, kind in (
        ("feature_store.yaml", both_stores),
        ("feasts.yaml", DuckDBOfflineStore),
    ):
        (folder / name).write_text(SETTINGS.format(store=json.dumps(offline_store(kind))))
    snapshots(folder / "data/snapshots")
    weather = {"event_time": [FIRST, FIRST + DAY], "rain": [0.5, 1.5], "sky_y": ["grey", "blue"]}
    pd.DataFrame(weather).to_parquet(folder / "data/weather.parquet")
    everything = [
        member,
        snapshot_view,
        weather_view,
        doubled,
        length,
        FeatureService(name="all", features=[snapshot_view, weather_view, doubled, length]),
    ]
    FeatureStore(repo_path=folder).apply(everything)
    return folder


@pytest.fixture
def store(repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=repo)


@pytest.fixture
def feasts(repo: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.chdir(repo)  # to which Feast's own store takes paths as relative
    return FeatureStore(repo_path=repo, fs_yaml_file=repo / "feasts.yaml")


def frame(*rows: tuple[int | None, float]) -> pd.DataFrame:
    """Labels: (member, days after FIRST)."""
    return pd.DataFrame(
        {
            "member": [member for member, _ in rows],
            "event_timestamp": pd.Series(
                [FIRST + day * DAY for _, day in rows], dtype="M8[us, UTC]"
            ),
            "label": [f"label {n}" for n in range(len(rows))],
        }
    )


LABELS = frame((2, 1.5), (0, 0), (7, 2), (1, 9), (0, -1), (2, 1.5))


def table(store: FeatureStore, features: Any, labels: Any = LABELS, **options: Any) -> pa.Table:
    return store.get_historical_features(labels, features, **options).to_arrow()


def join(folder: Path, view: FeatureView, labels: Any, **options: Any) -> AsofRetrievalJob:
    """Plan a join without a registry: one view, all its features."""
    job = Ours.kind.get_historical_features(
        config(folder),
        [view],
        [f"{view.name}:{field.name}" for field in view.features],
        labels,
        registry(folder),
        PROJECT,
        **options,
    )
    assert isinstance(job, AsofRetrievalJob)
    return job


# Results


def test_class_path_gives_this_store(store: FeatureStore) -> None:
    assert isinstance(store.get_historical_features(LABELS, ["snapshot:score"]), AsofRetrievalJob)


def test_newest_row_at_or_before_each_label_in_the_frames_order(store: FeatureStore) -> None:
    result = table(store, ["snapshot:score", "snapshot:vector"])
    assert result.column_names == ["member", "event_timestamp", "label", "score", "vector"]
    assert result["label"].to_pylist() == LABELS["label"].tolist()
    assert result["score"].to_pylist() == [102, 0, None, 301, None, 102]
    assert result["vector"].to_pylist() == [[102, 102], [0, 0], None, [301, 301], None, [102, 102]]


@pytest.mark.parametrize("full_feature_names", [False, True])
@pytest.mark.parametrize("known_at", [False, True])
def test_a_service_with_on_demand_views_equals_feasts(
    store: FeatureStore, feasts: FeatureStore, full_feature_names: bool, known_at: bool
) -> None:
    features = ["snapshot:score", "weather:rain", "doubled:doubled", "length:length"]
    options = {"full_feature_names": full_feature_names, "filter_by_created_timestamp": known_at}
    ours, theirs = (table(each, features, LABELS.copy(), **options) for each in (store, feasts))
    assert ours.schema == theirs.schema
    assert ours.to_pylist() == theirs.sort_by("label").to_pylist()


def test_to_df_equals_feasts(store: FeatureStore, feasts: FeatureStore) -> None:
    ours, theirs = (
        each.get_historical_features(LABELS.copy(), ["snapshot:score", "weather:rain"]).to_df()
        for each in (store, feasts)
    )
    pd.testing.assert_frame_equal(ours, theirs.sort_values("label", ignore_index=True))


def test_a_feature_that_ends_in_y_is_kept(store: FeatureStore) -> None:
    result = table(store, ["weather:sky_y"])
    assert result["sky_y"].to_pylist() == ["blue", "grey", "blue", None, None, "blue"]


def test_created_time_is_a_cutoff_only_when_asked(store: FeatureStore) -> None:
    labels = frame((1, 1.0), (1, 1.25), (1, 0.2))  # rows are published six hours, 0.25 days, late
    at = table(store, ["snapshot:score"], labels)["score"].to_pylist()
    known = table(store, ["snapshot:score"], labels, filter_by_created_timestamp=True)
    assert at == [101, 101, 1]
    assert known["score"].to_pylist() == [1, 101, None]


def test_an_older_snapshot_that_is_published_later_does_not_win(tmp_path: Path) -> None:
    times = pa.timestamp("us", tz="UTC")
    rows = {
        "member": [1, 1, 1],
        "event_time": pa.array([FIRST, FIRST + DAY, FIRST + DAY], times),
        # Day 0 is published (again) on day 3; day 1 on day 2, corrected on day 4.
        "created_time": pa.array([FIRST + 3 * DAY, FIRST + 2 * DAY, FIRST + 4 * DAY], times),
        "score": [0.0, 1.0, 1.5],
        "vector": pa.array([[0.0], [1.0], [1.5]], pa.list_(pa.float32())),
    }
    (tmp_path / "data/snapshots").mkdir(parents=True)
    pq.write_table(pa.table(rows), tmp_path / "data/snapshots/part-0.parquet")
    labels = frame((1, 1.5), (1, 2), (1, 3.5), (1, 4))
    known = join(tmp_path, snapshot_view, labels, filter_by_created_timestamp=True).to_arrow()
    assert known["score"].to_pylist() == [None, 1.0, 1.0, 1.5]


def test_ttl_includes_its_last_microsecond(store: FeatureStore) -> None:
    microsecond = 1 / (24 * 60 * 60 * 1_000_000)
    labels = frame((0, 1), (0, 3), (0, 3 + microsecond)).drop(columns="member")
    assert table(store, ["weather:rain"], labels)["rain"].to_pylist() == [1.5, 1.5, None]


def test_an_alias_may_name_one_key_of_two(tmp_path: Path) -> None:
    rows = {"member": [1, 1], "site": ["a", "b"], "event_time": [FIRST] * 2, "score": [1.0, 2.0]}
    pd.DataFrame(rows).to_parquet(tmp_path / "pairs.parquet")
    site = Entity(name="site", join_keys=["site"], value_type=ValueType.STRING)
    pairs = FeatureView(
        name="pairs",
        entities=[member, site],
        schema=[
            Field(name="member", dtype=Int64),
            Field(name="site", dtype=String),
            Field(name="score", dtype=Float64),
        ],
        source=FileSource(path="pairs.parquet", timestamp_field="event_time"),
    )
    labels = frame((None, 1), (None, 1)).assign(friend=1, site=["b", "a"])
    aliased = pairs.with_name("friends").with_join_key_map({"member": "friend"})
    job = Ours.kind.get_historical_features(
        config(tmp_path), [aliased], ["friends:score"], labels, registry(tmp_path), PROJECT, True
    )
    assert job.to_arrow()["friends__score"].to_pylist() == [2.0, 1.0]


@pytest.mark.parametrize("known_at", [False, True])
def test_ties_are_decided_alike_every_time(tmp_path: Path, known_at: bool) -> None:
    random = np.random.default_rng(5)
    rows, files, keys = 40_000, 4, 500
    best: dict[int, tuple[Any, ...]] = {}
    times = pa.timestamp("us", tz="UTC")
    for file in range(files):
        members = random.integers(0, keys, rows)
        created = random.integers(0, 3, rows)
        scores = random.random(rows)
        for position in range(rows):
            rank = (created[position], file, position, scores[position])
            best[members[position]] = max(best.get(members[position], rank), rank)
        path = tmp_path / f"data/snapshots/part-{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table(
                {
                    "member": members,
                    "event_time": pa.array([FIRST] * rows, times),
                    "created_time": pa.array([FIRST + int(c) * DAY for c in created], times),
                    "score": scores,
                    "vector": pa.nulls(rows, pa.list_(pa.float32())),
                }
            ),
            path,
            row_group_size=5_000,
        )
    labels = frame(*((key, 9.0) for key in range(keys)))
    job = join(tmp_path, snapshot_view, labels, filter_by_created_timestamp=known_at)
    wanted = [best[key][-1] for key in range(keys)]
    assert job.to_arrow()["score"].to_pylist() == wanted
    assert job.to_arrow()["score"].to_pylist() == wanted


def test_the_callers_frame_is_left_as_it_was(store: FeatureStore) -> None:
    labels = LABELS.assign(event_timestamp=LABELS["event_timestamp"].dt.strftime("%FT%TZ"))
    before = labels.copy(deep=True)
    result = table(store, ["snapshot:score"], labels)
    assert result["score"].to_pylist() == [102, 0, None, 301, None, 102]
    pd.testing.assert_frame_equal(labels, before)


def test_odd_columns_come_back_as_feast_gives_them(
    store: FeatureStore, feasts: FeatureStore
) -> None:
    labels = LABELS.assign(
        empty=None,
        code=pd.Categorical(["a", "b"] * 3),
        local=LABELS["event_timestamp"].dt.tz_convert("Europe/Paris"),
        list=[[1.5]] * 6,
        small=np.arange(6, dtype="uint8"),
        maybe=pd.array([1, None] * 3, dtype="Int64"),
    )
    ours, theirs = (table(each, ["snapshot:score"], labels.copy()) for each in (store, feasts))
    assert ours.schema == theirs.schema
    assert ours.to_pylist() == theirs.sort_by("label").to_pylist()


def test_no_labels(store: FeatureStore, feasts: FeatureStore) -> None:
    ours, theirs = (table(each, ["snapshot:score"], LABELS[:0].copy()) for each in (store, feasts))
    assert ours.schema == theirs.schema
    assert len(ours) == 0


# Labels that never pass through pandas


@pytest.mark.parametrize("give", ["file", "relative", "folder", "sql"])
def test_labels_from_disk_or_sql_equal_a_frame(
    give: str, store: FeatureStore, repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (repo / "labels").mkdir(exist_ok=True)
    LABELS[:4].to_parquet(repo / "labels/part-0.parquet")
    LABELS[4:].to_parquet(repo / "labels/part-1.parquet")
    LABELS.to_parquet(repo / "labels.parquet")
    given: Any = {
        "file": repo / "labels.parquet",
        "relative": "labels.parquet",
        "folder": "labels",
        "sql": f"select * from {Ours.in_sql(repo / 'labels.parquet')} order by label desc",
    }[give]
    result = table(store, ["snapshot:score", "weather:rain"], given)
    wanted = table(store, ["snapshot:score", "weather:rain"])
    if give == "sql":
        wanted = wanted.sort_by([("label", "descending")])
    assert (
        result.drop(["event_timestamp"]).to_pylist() == wanted.drop(["event_timestamp"]).to_pylist()
    )
    assert pa.types.is_timestamp(result.schema.field("event_timestamp").type)


def test_sql_labels_with_text_times(store: FeatureStore) -> None:
    labels = "select 1::bigint as member, '2026-01-02 13:00:00+01' as event_timestamp"
    result = table(store, ["snapshot:score"], labels)
    assert result.to_pylist() == [
        {"member": 1, "event_timestamp": datetime(2026, 1, 2, 12, tzinfo=UTC), "score": 101.0}
    ]


def test_labels_without_a_time_are_refused(store: FeatureStore) -> None:
    with pytest.raises(EntityTimestampInferenceException, match="event_timestamp"):
        table(store, ["snapshot:score"], "select 1 as member")


# Streams


def test_batches_and_parquet_equal_to_arrow(store: FeatureStore, tmp_path: Path) -> None:
    features = ["snapshot:score", "weather:rain", "doubled:doubled", "length:length"]
    job = store.get_historical_features(LABELS, features)
    whole = job.to_arrow()
    batches = list(job.to_arrow_batches(rows_per_batch=4))
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).to_pylist() == whole.to_pylist()
    target = tmp_path / "deep" / "set.parquet"
    assert job.to_parquet(target) == len(whole)
    assert pq.read_table(target).to_pylist() == whole.to_pylist()
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_stream_has_the_declared_columns(store: FeatureStore, tmp_path: Path) -> None:
    job = store.get_historical_features(LABELS[:0], ["snapshot:score", "doubled:doubled"])
    assert list(job.to_arrow_batches()) == []
    assert job.to_parquet(tmp_path / "none.parquet") == 0
    assert pq.read_schema(tmp_path / "none.parquet").names == job.to_arrow().column_names


def test_a_stream_that_is_left_early_cleans_up(store: FeatureStore, repo: Path) -> None:
    store.config.offline_store.temp_directory = "spill"
    batches = store.get_historical_features(LABELS, ["snapshot:score"]).to_arrow_batches(1)
    next(batches)
    assert len(list((repo / "spill").iterdir())) == 1
    batches.close()
    assert list((repo / "spill").iterdir()) == []


# Which files are read


def spoil(path: Path, *columns: str) -> None:
    """Overwrite the data pages of a Parquet file (of some columns); its footer stays intact."""
    content = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        if columns and column.path_in_schema.split(".")[0] not in columns:
            continue
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        content[start:end] = b"\xff" * (end - start)
    path.write_bytes(bytes(content))


def test_partitions_that_cannot_matter_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "data/snapshots"
    snapshots(folder, days=6)
    short = FeatureView(
        name="snapshot",
        entities=[member],
        schema=snapshot_view.schema,
        source=snapshot_source,
        ttl=DAY,
    )
    for day in (1, 2, 5, 6):  # before the ttl of the first label, and after the last label
        spoil(folder / f"as_of=2026-01-0{day}" / "part-0.parquet")
    labels = frame((1, 3.5), (0, 3.1))
    assert join(tmp_path, short, labels).to_arrow()["score"].to_pylist() == [301, 300]
    with pytest.raises(duckdb.Error):
        join(tmp_path, snapshot_view, labels).to_arrow()  # without ttl the old ones do matter


def test_features_are_read_only_from_files_that_hold_a_picked_row(tmp_path: Path) -> None:
    folder = tmp_path / "data/snapshots"
    snapshots(folder, days=4)
    for day in (1, 2, 3):
        spoil(folder / f"as_of=2026-01-0{day}" / "part-0.parquet", "score", "vector")
    result = join(tmp_path, snapshot_view, frame((1, 3.5), (0, 9))).to_arrow()
    assert result["score"].to_pylist() == [301, 300]


def test_few_labels_among_many_rows(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots", days=2, members=50)
    result = join(tmp_path, snapshot_view, frame((7, 1.5), (None, 1), (49, 0))).to_arrow()
    assert result["score"].to_pylist() == [107, None, 49]


def test_a_source_that_changes_under_the_join_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "data/snapshots"
    snapshots(folder)
    job = join(tmp_path, snapshot_view, LABELS)
    with job._join.run(10) as joined:
        fresh = folder / "as_of=2026-01-02" / "fresh"
        fresh.write_bytes((folder / "as_of=2026-01-02/part-0.parquet").read_bytes())
        fresh.replace(folder / "as_of=2026-01-02/part-0.parquet")
        with pytest.raises(RuntimeError, match=r"as_of=2026-01-02.*Run the join again"):
            list(joined.tables)


def test_paths_start_at_the_repo(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert table(store, ["snapshot:score"])["score"].to_pylist()[0] == 102
    latest = Ours.kind.pull_latest_from_table_or_query(
        store.config,
        snapshot_source,
        ["member"],
        ["score"],
        "event_time",
        "created_time",
        FIRST,
        FIRST + 1.5 * DAY,
    )
    assert sorted(latest.to_arrow()["score"].to_pylist()) == [100, 101, 102]
    every = Ours.kind.pull_all_from_table_or_query(
        store.config, snapshot_source, ["member"], ["score"], "event_time"
    )
    assert len(every.to_arrow()) == 12


# Saved datasets


def test_a_saved_dataset(store: FeatureStore, repo: Path) -> None:
    job = store.get_historical_features(LABELS, ["snapshot:score"])
    storage = SavedDatasetFileStorage(path=str(repo / "saved.parquet"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Saving dataset is an experimental", RuntimeWarning)
        store.create_saved_dataset(job, "saved", storage)
    saved = pq.read_table(repo / "saved.parquet")
    assert saved.to_pylist() == job.to_arrow().to_pylist()
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    job.persist(SavedDatasetFileStorage(path=str(repo / "saved_folder")))
    assert pq.read_table(repo / "saved_folder").to_pylist() == saved.to_pylist()
    assert job.metadata.keys == ["member", "label"]
    assert job.metadata.min_event_timestamp == FIRST - DAY
    assert job.metadata.max_event_timestamp == FIRST + 9 * DAY


# Logged features


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_logged_features_are_whole_files_below_the_repo(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    logs = pa.table({"member": [1, 2], "at": pa.array([FIRST, FIRST + DAY])})
    pq.write_table(logs.slice(1), tmp_path / "logs.parquet")
    destination = FileLoggingDestination(path="logs/snapshots")

    def write(data: pa.Table | Path) -> None:
        source, logging = Mock(LoggingSource), LoggingConfig(destination)
        Ours.kind.write_logged_features(store.config, data, source, logging, store.registry)

    write(logs)
    write(tmp_path)
    every = Ours.kind.pull_all_from_table_or_query(
        store.config, destination.to_data_source(), [], ["member"], "at", None, FIRST, FIRST + DAY
    )
    assert sorted(every.to_arrow()["member"].to_pylist()) == [1, 2, 2]
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", Mock(side_effect=OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            write(logs)
    files = [*(store.config.repo_path / "logs/snapshots").iterdir()]
    assert [file.suffix for file in files] == [".parquet"] * 2
    feasts = Mock()
    monkeypatch.setattr(DuckDBOfflineStore, "write_logged_features", feasts)
    destination = FileLoggingDestination(path="logs/by", partition_by=["member"])
    write(logs)
    feasts.assert_called_once()


# Joins left to Feast, and joins refused


def test_what_it_cannot_do_is_left_to_feast_and_said_once(
    store: FeatureStore,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    duckdb_asof._log_once.cache_clear()  # another store may have said it in this process
    # A stand-in for the reasons of `_not_ours`, which need a lake or a bucket.
    monkeypatch.setattr(duckdb_asof, "_not_ours", lambda *_: "documents lies in a lake")
    rows = {"member": [1, 2], "event_time": [FIRST] * 2, "size": [1.0, 2.0]}
    pd.DataFrame(rows).to_parquet(repo / "documents.parquet")
    documents = FeatureView(
        name="documents",
        entities=[member],
        schema=[
            Field(name="member", dtype=Int64),
            Field(name="size", dtype=Float64),
        ],
        source=FileSource(path="documents.parquet", timestamp_field="event_time"),
    )
    labels = frame((2, 1), (1, 2))
    before = labels.copy(deep=True)
    with caplog.at_level(logging.WARNING, "stores.duckdb_asof"):
        jobs = [
            Ours.kind.get_historical_features(
                store.config, [documents], ["documents:size"], labels, store.registry, PROJECT
            )
            for _ in range(2)
        ]
    assert not any(isinstance(job, AsofRetrievalJob) for job in jobs)
    result = jobs[0].to_arrow().sort_by("label")
    assert result["size"].to_pylist() == [2.0, 1.0]
    pd.testing.assert_frame_equal(labels, before)
    assert [record.message for record in caplog.records] == [
        "Feast's own join is used where documents lies in a lake"
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"file_format": DeltaFormat()}, "DeltaFormat, not Parquet"),
        ({"path": "xx://bucket/rows.parquet"}, "which fsspec cannot"),
    ],
)
def test_labels_in_sql_cannot_be_left_to_feast(
    tmp_path: Path, source: dict[str, Any], reason: str
) -> None:
    view = FeatureView(
        name="elsewhere",
        entities=[member],
        schema=snapshot_view.schema,
        source=FileSource(**{"path": "rows", "timestamp_field": "event_time", **source}),
    )
    with pytest.raises(ValueError, match=reason):
        join(tmp_path, view, "select 1 as member, now() as event_timestamp")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.drop(columns="member"), "expected a column 'member' in the entity frame"),
        (LABELS.astype({"member": bool}), r"expected BIGINT, got BOOLEAN\. Convert"),
        (LABELS.rename(columns={"label": "score"}), "score would appear twice"),
        (LABELS.rename(columns={"label": "doubled"}), "doubled would appear twice"),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    store: FeatureStore, labels: pd.DataFrame, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.get_historical_features(labels, ["snapshot:score", "doubled:doubled"])


@pytest.mark.parametrize("name", ["DOUBLED", "Score", "VECTOR", "__asof_row"])
@pytest.mark.parametrize("full_feature_names", [False, True])
def test_a_label_column_of_another_letter_case_is_no_feature(
    store: FeatureStore, feasts: FeatureStore, name: str, full_feature_names: bool
) -> None:
    labels = LABELS.assign(**{name: [9.0] * len(LABELS)})
    features = ["snapshot:score", "snapshot:vector", "doubled:doubled"]
    ours, theirs = (
        table(of, features, labels, full_feature_names=full_feature_names).sort_by("label")
        for of in (store, feasts)
    )
    assert ours.to_pydict() == theirs.to_pydict()


def test_a_feature_that_the_files_lack_is_named(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots")
    view = FeatureView(
        name="snapshot",
        entities=[member],
        schema=[*snapshot_view.schema, Field(name="absent", dtype=Float64)],
        source=snapshot_source,
    )
    with pytest.raises(ValueError, match="expected the feature 'absent' of feature view snapshot"):
        join(tmp_path, view, LABELS)


def test_a_feature_that_some_files_lack_is_null_in_their_rows(tmp_path: Path) -> None:
    """It came on the second day, and went, and a backfill made the fourth day again."""
    folder = tmp_path / "data/snapshots"
    snapshots(folder)
    for day, length in ((2, 1), (4, 2)):
        file = folder / f"as_of=2026-01-0{day}" / "part-0.parquet"
        rows = pq.read_table(file)
        carried = pa.array([[day + 0.5] * length] * len(rows), pa.list_(pa.float64()))
        level = pa.array([day] * len(rows), pa.int64())
        pq.write_table(rows.append_column("carried", carried).append_column("level", level), file)
    added = [Field(name="carried", dtype=Array(Float64)), Field(name="level", dtype=Int64)]
    view = FeatureView(
        name="snapshot",
        entities=[member],
        schema=[*snapshot_view.schema, *added],
        source=snapshot_source,
    )
    labels = frame((1, 0.5), (1, 1.5), (1, 2.5), (1, 3.5))
    joined = join(tmp_path, view, labels).to_arrow()
    assert joined["carried"].to_pylist() == [None, [2.5], None, [4.5, 4.5]]
    assert joined["level"].to_pylist() == [None, 2, None, 4]
    assert joined["score"].to_pylist() == [1, 101, 201, 301]
    for only in (0.5, 1.5):  # no file that is read has it, and every one
        one = join(tmp_path, view, frame((1, only))).to_arrow()
        assert one["level"].to_pylist() == [None if only < 1 else 2]
    batches = list(join(tmp_path, view, labels).to_arrow_batches(2))
    assert [row for batch in batches for row in batch["level"].to_pylist()] == [None, 2, None, 4]


def test_feast_still_calls_a_store_as_this_one_expects() -> None:
    theirs = inspect.signature(DuckDBOfflineStore.get_historical_features)
    ours = inspect.signature(Ours.kind.get_historical_features)
    assert list(ours.parameters) == list(theirs.parameters), (
        "this Feast gives its DuckDB store other arguments than the one that "
        "stores/duckdb_asof.py was written for (0.67); compare the two before you widen the range"
    )


def test_request_data_is_asked_of_every_kind_of_frame(store: FeatureStore) -> None:
    given = RequestSource(name="given", schema=[Field(name="bonus", dtype=Float64)])

    @on_demand_feature_view(
        sources=[snapshot_view, given],
        schema=[Field(name="total", dtype=Float64)],
        mode="pandas",
    )
    def total(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"total": inputs["score"] + inputs["bonus"]})

    store.apply(total)
    labels = "select 1::bigint as member, timestamp '2026-01-02' as event_timestamp"
    with pytest.raises(RequestDataNotFoundInEntityDfException, match="bonus"):
        table(store, ["total:total"], labels)
    assert table(store, ["total:total"], f"{labels}, 0.5::double as bonus")[
        "total"
    ].to_pylist() == [101.5]
