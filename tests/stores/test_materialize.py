"""stores.columnar against Feast's local engine: the same rows, the same bytes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Field
from feast import types as ft
from feast.infra.common.materialization_job import MaterializationJobStatus
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Connection

from stores import columnar
from stores import postgres as postgres_store
from stores import sqlite as sqlite_store
from stores.columnar import OnlineWriteError
from stores.redis import KEYS_PER_CALL, packed_calls
from stores.writing import newest, redis_script
from stores.writing.newest import Columns, newest_batches
from tests.worlds.kinds import each_kind
from tests.worlds.stores import END, MOMENT, START, World, declare, every_type, open_world

DAY = timedelta(days=1)
UTC_US = pa.timestamp("us", "UTC")


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    opened = open_world(request.param, tmp_path, request)
    yield opened
    opened.close()


every_kind = pytest.mark.parametrize("world", each_kind(), indirect=True)


def materialize_both(world: World, objects: list[Any], **engine: Any) -> None:
    world.store("plain", objects).materialize(START, END)
    world.store("ours", objects, **engine).materialize(START, END)


@every_kind
@pytest.mark.parametrize("keys", [["int"], ["text"], ["text", "int"]])
def test_the_store_holds_the_bytes_that_feast_would_have_written(
    world: World, keys: list[str]
) -> None:
    objects = every_type(world.folder / "source.parquet", keys)
    materialize_both(world, objects, batch_rows=5)
    plain, ours = world.dump("plain", "every_type"), world.dump("ours", "every_type")
    assert len(plain) >= 12
    assert ours == plain


@every_kind
def test_feast_reads_both_stores_alike(world: World) -> None:
    """Both stores read our rows as plain Feast reads its own."""
    objects = every_type(world.folder / "source.parquet", ["int"])
    materialize_both(world, objects)
    over_ours = world.ours | {"type": world.plain["type"]}
    back = World(world.kind, world.folder, over_ours, world.ours, world.opened)
    rows = [{"int_id": number} for number in (*range(12), 999)]
    features = [f"every_type:{field.name}" for field in objects[-1].features]
    plain, *both = (
        of.store(which, objects).get_online_features(features, rows).to_dict()
        for of, which in ((world, "plain"), (world, "ours"), (back, "plain"))
    )
    assert len(plain["f_json"]) == len(rows)
    assert [str(answer) for answer in both] == [str(plain)] * 2  # NaN is not equal to itself


@every_kind
def test_a_field_mapping_and_naive_times(world: World) -> None:
    path = world.folder / "source.parquet"
    table = pa.table(
        {
            "member": pa.array([1, 2, 1]),
            "at": pa.array([datetime(2024, 1, day) for day in (1, 2, 3)], pa.timestamp("us")),
            "made": pa.array([datetime(2024, 2, day) for day in (1, 2, 3)], pa.timestamp("us")),
            "n": pa.array([10, 20, 30]),
        }
    )
    pq.write_table(table, path)
    objects = declare("mapped", path, ["int"], [Field(name="count", dtype=ft.Int64)], created="c")
    objects[-1].batch_source.field_mapping = {
        "member": "int_id",
        "at": "event_timestamp",
        "made": "c",
        "n": "count",
    }
    materialize_both(world, objects)
    assert world.dump("ours", "mapped") == world.dump("plain", "mapped")
    read = world.store("ours", objects).get_online_features(["mapped:count"], [{"int_id": 1}])
    assert read.to_dict() == {"int_id": [1], "count": [30]}


# --- without a server: one kind is enough --------------------------------------------------------

on_sqlite = pytest.mark.parametrize("world", ["sqlite"], indirect=True)


def write_counts(path: Path, rows: list[tuple[int | None, datetime, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, timestamps, counts = zip(*rows, strict=True)
    pq.write_table(
        pa.table(
            {
                "int_id": pa.array(ids, pa.int64()),
                "event_timestamp": pa.array(timestamps, UTC_US),
                "count": pa.array(counts, pa.int64()),
            }
        ),
        path,
    )


def counts_view(path: Path, **options: Any) -> list[Any]:
    return declare("counts", path, ["int"], [Field(name="count", dtype=ft.Int64)], **options)


def read_counts(world: World, objects: list[Any], ids: list[int]) -> list[int | None]:
    store = world.store("ours", objects)
    rows = [{"int_id": number} for number in ids]
    return store.get_online_features(["counts:count"], rows).to_dict()["count"]


@on_sqlite
def test_a_folder_of_partitions_and_only_the_range_asked_for(world: World) -> None:
    folder = world.folder / "counts"
    for day in range(4):
        write_counts(folder / f"as_of=2024-05-0{day + 1}" / "part-0.parquet", [
            (1, MOMENT + day * DAY, day),
            (day + 10, MOMENT + day * DAY, day),
        ])  # fmt: skip
    objects = counts_view(folder)
    store = world.store("ours", objects)
    store.materialize(MOMENT + DAY, MOMENT + 2 * DAY)  # the range includes both ends
    assert read_counts(world, objects, [1, 10, 11, 12, 13]) == [2, None, 1, 2, None]


@on_sqlite
def test_a_path_relative_to_the_repository(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_counts(world.folder / "counts.parquet", [(1, MOMENT, 5)])
    objects = counts_view(Path("counts.parquet"))
    monkeypatch.chdir(world.folder)
    store = world.store("ours", objects)
    store.config.repo_path = world.folder
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.materialize(START, END)
    assert read_counts(world, objects, [1]) == [5]


@on_sqlite
def test_a_range_without_rows_writes_nothing(world: World) -> None:
    write_counts(world.folder / "counts.parquet", [(1, MOMENT, 5)])
    objects = counts_view(world.folder / "counts.parquet")
    world.store("ours", objects).materialize(START, START + DAY)
    assert world.dump("ours", "counts") == {}


@on_sqlite
def test_disable_event_timestamp_takes_every_row(world: World) -> None:
    write_counts(world.folder / "counts.parquet", [(1, datetime(1999, 1, 1, tzinfo=UTC), 5)])
    objects = counts_view(world.folder / "counts.parquet")
    world.store("ours", objects).materialize(START, END, disable_event_timestamp=True)
    assert read_counts(world, objects, [1]) == [5]


@on_sqlite
@pytest.mark.parametrize("zone", ["UTC", None])
def test_times_in_nanoseconds_as_pandas_writes_them(world: World, zone: str | None) -> None:
    """The newest row wins by what is left of its time, and is online at that time."""
    path = world.folder / "counts.parquet"
    nanoseconds = int(MOMENT.timestamp()) * 1_000_000_000 + 123_456_789
    table = pa.table(
        {
            "int_id": [1, 1, 2],
            "event_timestamp": pa.array(
                [nanoseconds, nanoseconds - 1000, nanoseconds], pa.timestamp("ns", zone)
            ),
            "count": [5, 4, 6],
            "seen": pa.array([[nanoseconds]] * 3, pa.list_(pa.timestamp("ns", zone))),
        }
    )
    pq.write_table(table, path)
    fields = [
        Field(name="count", dtype=ft.Int64),
        Field(name="seen", dtype=ft.Array(ft.UnixTimestamp)),
    ]
    objects = declare("counts", path, ["int"], fields)
    world.store("ours", objects).materialize(MOMENT.replace(microsecond=123_456), END)
    assert read_counts(world, objects, [1, 2]) == [5, 6]
    online = world.store("ours", objects).get_online_features(
        ["counts:seen"], [{"int_id": 1}], full_feature_names=False
    )
    [[seen]] = online.to_dict()["seen"]
    assert seen.replace(tzinfo=UTC) == MOMENT.replace(microsecond=0)


@on_sqlite
def test_incremental_materialization(world: World) -> None:
    now = datetime.now(UTC)
    path = world.folder / "counts.parquet"
    objects = counts_view(path, ttl=3 * DAY)
    write_counts(path, [(1, now - 2 * DAY, 1), (2, now - 2 * DAY, 1)])
    store = world.store("ours", objects)
    store.materialize_incremental(now - DAY)
    write_counts(path, [(1, now - 2 * DAY, 1), (2, now - timedelta(hours=1), 2)])
    store.materialize_incremental(now)
    assert read_counts(world, objects, [1, 2]) == [1, 2]


@on_sqlite
def test_a_null_key_is_an_error_that_names_it(world: World) -> None:
    write_counts(world.folder / "counts.parquet", [(1, MOMENT, 5), (None, MOMENT, 6)])
    store = world.store("ours", counts_view(world.folder / "counts.parquet"))
    with pytest.raises(ValueError, match=r"join key 'int_id'.*1 null\(s\)"):
        store.materialize(START, END)


@on_sqlite
def test_a_source_that_is_not_there_is_an_error_that_names_it(world: World) -> None:
    path = world.folder / "counts.parquet"
    write_counts(path, [(1, MOMENT, 5)])
    store = world.store("ours", counts_view(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"counts\.parquet, got nothing"):
        store.materialize(START, END)


@on_sqlite
def test_a_vector_of_another_length_than_declared_is_refused(world: World) -> None:
    path = world.folder / "vectors.parquet"
    pq.write_table(
        pa.table(
            {
                "int_id": pa.array([1]),
                "event_timestamp": pa.array([MOMENT], UTC_US),
                "vector": pa.array([[0.5, 0.5, 0.5]], pa.list_(pa.float32())),
            }
        ),
        path,
    )
    field = Field(
        name="vector",
        dtype=ft.Array(ft.Float32),
        vector_index=True,
        vector_length=2,
        vector_search_metric="L2",
    )
    store = world.store("ours", declare("vectors", path, ["int"], [field]))
    with pytest.raises(ValueError, match="Vector length 3 does not match expected 2"):
        store.materialize(START, END)


@on_sqlite
def test_a_store_that_fails_says_what_is_safe_and_what_to_do(world: World) -> None:
    write_counts(world.folder / "counts.parquet", [(1, MOMENT, 5), (2, MOMENT, 6)])
    store = world.store("ours", counts_view(world.folder / "counts.parquet"), batch_rows=1)
    with closing(sqlite3.connect(world.ours["path"], isolation_level=None)) as connection:
        connection.execute("drop table world_counts")
    with pytest.raises(OnlineWriteError, match=r"acknowledged 0 rows.*again.*no such table"):
        store.materialize(START, END)


class Clock:
    """A clock that stands still until somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@on_sqlite
def test_rows_are_written_at_a_bounded_rate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_counts(world.folder / "counts.parquet", [(key, START, key) for key in range(100)])
    objects = counts_view(world.folder / "counts.parquet")
    store = world.store("ours", objects, rows_per_second=20)
    clock = Clock()
    monkeypatch.setattr(columnar, "time", clock)
    store.materialize(START, END)
    # 20 batches, the first of which waits for none.
    assert clock.now - 100 == pytest.approx(19 * 5 / 20)
    assert read_counts(world, objects, [0, 99]) == [0, 99]


@on_sqlite
def test_any_other_online_store_gets_the_rows_that_feast_makes(world: World) -> None:
    objects = every_type(world.folder / "source.parquet", ["int"])
    world.store("plain", objects).materialize(START, END)
    other = World(world.kind, world.folder, world.plain, world.plain | {"path": world.ours["path"]})
    other.store("ours", objects, batch_rows=5).materialize(START, END)
    assert other.dump("ours", "every_type") == world.dump("plain", "every_type")


@on_sqlite
def test_a_view_that_also_writes_offline_is_left_to_feast_and_the_log_says_so_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_counts(world.folder / "counts.parquet", [(1, MOMENT, 5)])
    objects = counts_view(world.folder / "counts.parquet")
    objects[-1].offline = True
    store = world.store("ours", objects)
    given: list[str] = []

    def feasts(engine: Any, registry: Any, task: Any) -> LocalMaterializationJob:
        given.append(task.feature_view.name)
        return LocalMaterializationJob("job", MaterializationJobStatus.SUCCEEDED)

    monkeypatch.setattr(LocalComputeEngine, "_materialize_one", feasts)
    with caplog.at_level("INFO", logger="stores.columnar"):
        store.materialize(START, END)
        store.materialize(START, END)
    assert given == ["counts", "counts"]
    assert [record.getMessage() for record in caplog.records] == [
        "counts: left to Feast's local engine, because it has `offline`"
    ]


@every_kind
def test_an_expired_row_reads_as_null(world: World) -> None:
    now = datetime.now(UTC)
    path = world.folder / "counts.parquet"
    write_counts(path, [(1, now - 3 * DAY, 1), (2, now - DAY, 2)])
    objects = counts_view(path, ttl=2 * DAY)
    store = world.store("ours", objects)
    store.materialize(START, END)
    rows = [{"int_id": number} for number in (1, 2, 3)]
    answer = store.get_online_features(["counts:count"], rows)
    assert answer.to_dict()["count"] == [None, 2, None]
    statuses = next(
        list(vector.statuses)
        for name, vector in zip(
            answer.proto.metadata.feature_names.val, answer.proto.results, strict=True
        )
        if name == "count"
    )
    assert statuses == [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.PRESENT, FieldStatus.NOT_FOUND]


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima"])
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_ttl_counts_in_utc_whatever_the_sessions_zone(
    world: World, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", zone)
    now = datetime.now(UTC)
    path = world.folder / "counts.parquet"
    hour = timedelta(hours=1)
    write_counts(path, [(1, now - 2 * DAY - hour, 1), (2, now - 2 * DAY + hour, 2)])
    store = world.store("ours", counts_view(path, ttl=2 * DAY))
    store.materialize(START, END)
    rows = [{"int_id": number} for number in (1, 2)]
    assert store.get_online_features(["counts:count"], rows).to_dict()["count"] == [None, 2]


# --- the choice of the newest row ----------------------------------------------------------------

SOURCE_ROW = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["a", "b"]),
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(0, 3)),
)


@given(
    st.lists(st.lists(SOURCE_ROW, min_size=1, max_size=8), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(3, 6),
    st.sampled_from([1, 3, 250_000]),
)
@settings(max_examples=40, deadline=None)
def test_the_newest_row_of_every_key_in_the_range(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[tuple[int, str, int, int | None]]],
    first: int,
    last: int,
    rows_per_pass: int,
) -> None:
    folder = tmp_path_factory.mktemp("newest")
    expected: dict[tuple[int, str], tuple[Any, ...]] = {}
    for nth, rows in enumerate(files):
        path = folder / f"{nth}.parquet"
        numbers, texts, events, created = zip(*rows, strict=True)
        pq.write_table(
            pa.table(
                {
                    "number": pa.array(numbers),
                    "text": pa.array(texts),
                    "at": pa.array([MOMENT + DAY * event for event in events], UTC_US),
                    "made": pa.array(
                        [None if made is None else MOMENT + DAY * made for made in created], UTC_US
                    ),
                    "position": pa.array([f"{nth}/{line}" for line in range(len(rows))]),
                }
            ),
            path,
            row_group_size=3,
        )
        for line, (number, text, event, made) in enumerate(rows):
            rank = (event, -1 if made is None else made, nth, line)
            if first <= event <= last and rank > expected.get((number, text), (-1,)):
                expected[number, text] = rank
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest, "ROWS_PER_PASS", rows_per_pass)
        batches = list(
            newest_batches(
                str(folder),
                Columns(["number", "text"], ["position"], "at", "made"),
                MOMENT + DAY * first,
                MOMENT + DAY * last,
                batch_rows=4,
                memory_limit="100MB",
                threads=1,
            )
        )
    found = [row for batch in batches for row in batch.to_pylist()]
    assert len(found) == len(expected)
    assert {(row["number"], row["text"]): row["position"] for row in found} == {
        key: f"{rank[2]}/{rank[3]}" for key, rank in expected.items()
    }


def test_two_steps_read_the_wide_columns_of_winning_files_only(tmp_path: Path) -> None:
    new, old = tmp_path / "new.parquet", tmp_path / "old.parquet"
    write_counts(new, [(1, MOMENT, 1)])
    write_counts(old, [(1, MOMENT - DAY, 0)])
    # A file without the wide column: rows of it may be counted and compared, but not fetched.
    pq.write_table(pq.read_table(old).drop_columns(["count"]), old)
    columns = Columns(["int_id"], ["count"], "event_timestamp", None)
    batches = newest_batches(
        str(tmp_path), columns, START, END, batch_rows=9, memory_limit="100MB", threads=1
    )
    assert [row["count"] for batch in batches for row in batch.to_pylist()] == [1]


@every_kind
def test_more_features_than_one_statement_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "FEATURES_PER_STATEMENT", 50)
    names = [f"it's_{number}" for number in range(2 * redis_script.FIELDS_PER_HSET + 3)]
    columns: dict[str, Any] = {
        "int_id": [1, 2],
        "event_timestamp": pa.array([MOMENT] * 2, pa.timestamp("us", "UTC")),
    }
    for number, name in enumerate(names):
        columns[name] = [number, -number]
    path = world.folder / "wide.parquet"
    pq.write_table(pa.table(columns), path)
    fields = [Field(name=name, dtype=ft.Int64) for name in names]
    store = world.store("ours", declare("wide", path, ["int"], fields))
    store.materialize(START, END)
    wanted = [f"wide:{name}" for name in names]
    found = store.get_online_features(wanted, [{"int_id": 1}, {"int_id": 2}]).to_dict()
    assert [found[name] for name in names] == [[n, -n] for n in range(len(names))]


def test_packed_calls_are_what_redis_py_would_send() -> None:
    keys = [b"key %d" % number for number in range(300)]
    columns = [[b"x" * (number % size) for number in range(300)] for size in (1, 7, 2000)]
    head = ("_ts:rows", b"_ct:rows", 0, 1, b"abcd")
    expected = []
    for first in range(0, len(keys), KEYS_PER_CALL):
        some = slice(first, first + KEYS_PER_CALL)
        rows = zip(*(column[some] for column in columns), strict=True)
        values = [value for row in rows for value in row]
        call = ("EVALSHA", "sha", len(keys[some]), *keys[some], *head, *values)
        expected.append(b"".join(Connection().pack_command(*call)))
    assert packed_calls("sha", head, keys, columns) == expected


@pytest.mark.postgres
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_first_load_is_copied_and_a_second_one_merged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = []
    whole = postgres_store.copy_rows

    def watched(cursor: Any, table: str, *rest: Any) -> None:
        into.append(table)
        whole(cursor, table, *rest)

    monkeypatch.setattr(postgres_store, "copy_rows", watched)
    store = world.store("ours", every_type(world.folder / "types.parquet", ["int"]), batch_rows=4)
    store.materialize(START, END)
    assert set(into) == {"world_every_type"}
    into.clear()
    store.materialize(START, END)
    assert into[0] == "world_every_type"
    assert set(into[1:]) == {"feast_incoming"}


@every_kind
def test_a_view_that_is_taken_out_leaves_no_rows_behind(world: World) -> None:
    path = world.folder / "counts.parquet"
    write_counts(path, [(1, MOMENT, 1), (2, MOMENT, 2)])
    objects = counts_view(path)
    store = world.store("ours", objects)
    rows = [{"int_id": number} for number in (1, 2)]

    def stored() -> list[int | None]:
        return store.get_online_features(["counts:count"], rows).to_dict()["count"]

    store.materialize(START, END)
    assert stored() == [1, 2]
    store.apply([], objects_to_delete=[objects[-1]], partial=False)
    store.apply(objects)
    assert stored() == [None, None]
    store.materialize(START, END)
    assert stored() == [1, 2]
