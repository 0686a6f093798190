"""What the store in Spark has besides the DuckDB store's suite, which runs over both."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.asof.coverage import QUANTILES
from stores.duckdb_asof import DuckDBAsofOfflineStore
from stores.spark import join as spark_join
from stores.spark import session as spark_session
from stores.spark.job import SparkAsofRetrievalJob, spark_schema
from stores.spark.parts import bucket_sql
from stores.spark_asof import SparkAsofOfflineStore
from tests.stores.test_asof_store import (
    DAY,
    FIRST,
    SETTINGS,
    doubled,
    frame,
    length,
    member,
    snapshot_view,
    snapshots,
    spoil,
)
from tests.worlds.asof import (
    LOCAL_SPARK,
    PROJECT,
    World,
    ages,
    config,
    expected,
    offline_store,
    plan,
    registry,
    worlds,
    write,
)

UTC_US = pa.timestamp("us", "UTC")


def join(
    folder: Path, view: FeatureView, labels: Any, known_at: bool = False, **options: Any
) -> SparkAsofRetrievalJob:
    settings = config(folder, SparkAsofOfflineStore)
    for name, value in options.items():
        setattr(settings.offline_store, name, value)
    job = SparkAsofOfflineStore.get_historical_features(
        settings,
        [view],
        [f"{view.name}:{field.name}" for field in view.features],
        labels,
        registry(folder),
        PROJECT,
        filter_by_created_timestamp=known_at,
    )
    assert isinstance(job, SparkAsofRetrievalJob)
    return job


def spark() -> Any:
    return spark_session.session_of(LOCAL_SPARK)


def rows(table: Any) -> list[str]:
    found = table.to_pylist() if isinstance(table, pa.Table) else table
    return sorted(map(str, found))


# The result


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    max_examples=6,
)
@given(worlds(), st.booleans(), st.sampled_from([1, 2**26]))
def test_equals_brute_force(world: World, as_spark: bool, chunk_bytes: int) -> None:
    """With 1 byte a chunk, each label is its own."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        write(Path(name), world)
        patch.setattr(spark_join, "CHUNK_BYTES", chunk_bytes)
        labels: Any = world.labels.copy()
        if as_spark:
            labels = spark().createDataFrame(pa.Table.from_pandas(labels, preserve_index=False))
        job: Any = plan(Path(name), world, SparkAsofOfflineStore, labels)
        result = job.to_arrow()
    wanted = expected(world)
    assert result["extra"].to_pylist() == world.labels["extra"].tolist()
    assert result.select(list(wanted[0])).to_pylist() == wanted
    for spec, got in zip(world.views, job.coverage, strict=True):
        found = sorted(age for age in ages(world, spec) if age is not None)
        ranks = [max(0, math.ceil(share * len(found)) - 1) for share in QUANTILES if found]
        assert got.without_row == len(world.times) - len(found)
        assert [age // (DAY / 24) for age in got.ages] == [
            found[rank] // (DAY / 24) for rank in ranks
        ]


def test_a_row_that_is_stored_twice_gives_a_label_one_row(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots")
    part = tmp_path / "data/snapshots/as_of=2026-01-02/part-0.parquet"
    shutil.copy(part, part.with_name("part-1.parquet"))
    labels = frame((1, 1.5), (1, 1.5), (2, 1.5), (0, 9))
    result = join(tmp_path, snapshot_view, labels, known_at=True).to_arrow()
    assert result["score"].to_pylist() == [101, 101, 102, 300]


@pytest.mark.parametrize("as_spark", [False, True])
def test_rows_stay_in_spark_or_go_into_files(tmp_path: Path, as_spark: bool) -> None:
    """The same rows as in memory, on-demand features of two modes among them."""
    snapshots(tmp_path / "data/snapshots")
    store = offline_store(SparkAsofOfflineStore) | {"staging_location": "staged"}
    (tmp_path / "feature_store.yaml").write_text(SETTINGS.format(store=json.dumps(store)))
    opened = FeatureStore(repo_path=tmp_path)
    opened.apply([member, snapshot_view, doubled, length])
    labels: Any = frame((2, 1.5), (0, 0), (7, 2), (1, 9), (0, -1), (2, 1.5))
    features = ["snapshot:score", "snapshot:vector", "doubled:doubled", "length:length"]
    wanted = opened.get_historical_features(labels, features).to_arrow()
    if as_spark:
        labels = spark().createDataFrame(labels)
    job: Any = opened.get_historical_features(labels, features)
    in_spark = job.to_spark_df()
    assert in_spark.columns == wanted.column_names
    assert rows(in_spark.toArrow()) == rows(wanted)
    files = job.to_remote_storage()
    assert files == sorted(map(str, (tmp_path / "staged").rglob("part-0000?.parquet")))
    assert rows(pa.concat_tables(map(pq.read_table, files))) == rows(wanted)
    assert job.supports_remote_storage_export()
    assert len([*(tmp_path / "staged").iterdir()]) == 1


def test_an_error_in_a_task_leaves_no_file(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots")
    for file in (tmp_path / "data/snapshots").rglob("*.parquet"):
        spoil(file, "vector")
    job = join(tmp_path, snapshot_view, frame((1, 1.5)))
    job._staging_location = "staged"
    with pytest.raises(duckdb.Error):
        job.to_remote_storage()
    assert [*(tmp_path / "staged").iterdir()] == []


@pytest.mark.parametrize("said", [None, "s3://bucket/joined"])
def test_files_need_a_folder(tmp_path: Path, said: str | None) -> None:
    snapshots(tmp_path / "data/snapshots")
    job = join(tmp_path, snapshot_view, frame((1, 1.5)))
    job._staging_location = said
    with pytest.raises(ValueError, match=f"`staging_location` to be a folder .* got {said}"):
        job.to_remote_storage()


def test_a_column_that_spark_has_no_type_for_is_named(tmp_path: Path) -> None:
    snapshots(tmp_path / "data/snapshots")
    labels = frame((1, 1.5)).assign(small=pd.array([7], "uint64"), kind=pd.Categorical(["a"]))
    [row] = join(tmp_path, snapshot_view, labels).to_spark_df().collect()
    assert (row.small, row.kind, row.score) == (7, "a", 101)
    with pytest.raises(ValueError, match=r"lasted: expected a type that Spark has, got month_day"):
        spark_schema(pa.schema([("lasted", pa.month_day_nano_interval())]))


# Buckets


def bucket(one: Any, buckets: int) -> int:
    return int(hashlib.sha256(str(one).encode()).hexdigest()[-15:], 16) % buckets


@pytest.mark.parametrize("ids", [[42, -1, 0, 2**63 - 1], ["42", "日本", "", "a'b"]])
def test_a_bucket_is_the_same_in_sql(ids: list[Any]) -> None:
    kind = "bigint" if isinstance(ids[0], int) else "varchar"
    for one in ids:
        found = duckdb.execute(f"select {bucket_sql(f'$1::{kind}', 12)}", [one]).fetchall()
        assert found == [(bucket(one, 12),)]
    assert [bucket(one, 16) for one in (42, "42", -1, "日本")] == [9, 9, 4, 2]


BUCKETS = 4
MEMBERS = [f"m{n}" for n in range(40)]
ITEMS = [7, 8]
text_member = Entity(name="member", join_keys=["member"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
bucketed_view = FeatureView(
    name="bucketed",
    entities=[text_member],
    schema=[Field(name="member", dtype=String), Field(name="vector", dtype=Array(Float32))],
    source=FileSource(
        path="bucketed", timestamp_field="event_time", created_timestamp_column="created_time"
    ),
)
item_view = FeatureView(
    name="items",
    entities=[item],
    schema=[Field(name="item", dtype=Int64), Field(name="size", dtype=Int64)],
    source=FileSource(path="items.parquet", timestamp_field="event_time"),
)


def put_buckets(folder: Path) -> None:
    """Two snapshots in buckets, a part of a stream in none, and items."""
    for day in range(2):
        for number in range(BUCKETS):
            some = [one for one in MEMBERS if bucket(one, BUCKETS) == number]
            at = f"as_of=2026-01-0{day + 1}/bucket={number}/part-0.parquet"
            put_vectors(folder / "bucketed" / at, some, day)
    put_vectors(folder / "bucketed/as_of=stream-1/part-0.parquet", MEMBERS[:3], 2)
    both = {"item": ITEMS, "event_time": pa.array([FIRST] * 2, UTC_US), "size": [70, 80]}
    pq.write_table(pa.table(both), folder / "items.parquet")


def put_vectors(file: Path, members: list[str], day: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    vectors = [[day + 0.5, float(name[1:])] for name in members]
    columns = {
        "member": members,
        "event_time": pa.array([FIRST + day * DAY] * len(members), UTC_US),
        "created_time": pa.array([FIRST + (day + 0.25) * DAY] * len(members), UTC_US),
        "vector": pa.array(vectors, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), file)


def bucketed_labels(members: list[str]) -> pd.DataFrame:
    labels = pd.concat([frame((0, day)).assign(member=one) for one in members for day in (0.5, 3)])
    return labels.assign(item=[ITEMS[n % 2] for n in range(len(labels))])


@pytest.mark.parametrize("as_spark", [False, True])
def test_files_in_buckets_give_what_they_give_one_machine(tmp_path: Path, as_spark: bool) -> None:
    """Beside them files in no bucket, and a view with a key of its own; a member of none."""
    put_buckets(tmp_path)
    labels: Any = bucketed_labels([*MEMBERS, "nobody"])
    results = []
    for kind in (DuckDBAsofOfflineStore, SparkAsofOfflineStore):
        settings = config(tmp_path, kind)
        if kind is SparkAsofOfflineStore:
            settings.offline_store.buckets = BUCKETS
            labels = spark().createDataFrame(labels) if as_spark else labels
        job = kind.get_historical_features(
            settings,
            [bucketed_view, item_view],
            ["bucketed:vector", "items:size"],
            labels,
            registry(tmp_path),
            PROJECT,
            filter_by_created_timestamp=True,
        )
        results.append(job.to_arrow())
    assert results[0].to_pylist() == results[1].to_pylist()


def test_a_part_reads_its_buckets_files_alone(tmp_path: Path) -> None:
    put_buckets(tmp_path)
    some = [one for one in MEMBERS if bucket(one, BUCKETS) == 2]
    for file in (tmp_path / "bucketed").rglob("bucket=*/*.parquet"):
        if "bucket=2" not in str(file):
            spoil(file)
    labels = bucketed_labels(some)
    result = join(tmp_path, bucketed_view, labels, buckets=BUCKETS).to_arrow()
    assert [vector[1] for vector in result["vector"].to_pylist()] == [
        float(name[1:]) for name in some for _ in range(2)
    ]
    with pytest.raises(duckdb.Error):
        join(tmp_path, bucketed_view, labels).to_arrow()


@pytest.mark.parametrize(("said", "message"), [(2, "got bucket=3"), (8, "of bucket . of 8 in")])
def test_another_number_of_buckets_is_refused(tmp_path: Path, said: int, message: str) -> None:
    put_buckets(tmp_path)
    with pytest.raises(ValueError, match=message):
        join(tmp_path, bucketed_view, bucketed_labels(MEMBERS), buckets=said).to_arrow()


# What is missing


def test_without_pyspark_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(ImportError, match=r"expected pyspark.*pip install -e '\.\[spark\]'"):
        spark_session.session_of({})


@pytest.mark.parametrize("home", [None, "/nowhere"])
def test_without_java_too(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home:
        monkeypatch.setenv("JAVA_HOME", home)
    with pytest.raises(RuntimeError, match=r"expected Java 17 .*apt-get install openjdk-17"):
        spark_session.session_of({})


def test_tasks_need_neither_feast_nor_what_it_brings() -> None:
    """An executor has DuckDB, numpy and pyarrow."""
    code = "import sys, stores.spark.tasks as t; print(sorted({'feast', 'ibis'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
