"""A newer row is never overwritten by an older one, whichever path wrote it."""

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast import types as ft
from feast.data_source import PushSource
from feast.utils import _convert_arrow_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.columnar import encode_rows
from stores.read import Reader
from tests.worlds.kinds import each_kind
from tests.worlds.stores import END, MOMENT, START, World, declare, open_world

US = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
UTC_US = pa.timestamp("us", "UTC")


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    opened = open_world(request.param, tmp_path, request)
    yield opened
    opened.close()


INT = Entity(name="int", join_keys=["int_id"], value_type=ValueType.INT64)
every_kind = pytest.mark.parametrize("world", each_kind(), indirect=True)


def table(rows: list[tuple[int, datetime, datetime | None, int]]) -> pa.Table:
    """Rows of key, event time, created time, and the number in both features."""
    ids, events, created, values = zip(*rows, strict=True)
    return pa.table(
        {
            "int_id": pa.array(ids, pa.int64()),
            "event_timestamp": pa.array(events, UTC_US),
            "created": pa.array(created, UTC_US),
            "number": pa.array(values, pa.int64()),
            "vector": pa.array([[float(value)] * 4 for value in values], pa.list_(pa.float32())),
        }
    )


def open_view(world: World, **engine: Any) -> tuple[FeatureStore, Any]:
    path = world.folder / "rows.parquet"
    if not path.exists():
        pq.write_table(table([(0, MOMENT, MOMENT, 0)]), path)
    fields = [
        Field(name="number", dtype=ft.Int64),
        Field(name="vector", dtype=ft.Array(ft.Float32)),
    ]
    objects = declare("rows", path, ["int"], fields, created="created")
    return world.store("ours", objects, **engine), objects[-1]


def read(store: FeatureStore, ids: list[int]) -> list[int | None]:
    """Return the number of each key, after checking that its features are of one row."""
    features = ["rows:number", "rows:vector"]
    found = store.get_online_features(features, [{"int_id": key} for key in ids]).to_dict()
    for number, vector in zip(found["number"], found["vector"], strict=True):
        assert vector == (None if number is None else [float(number)] * 4)
    return found["number"]


def by_materialize(world: World, store: FeatureStore, rows: pa.Table) -> None:
    pq.write_table(rows, world.folder / "rows.parquet")
    store.materialize(START, END)


def by_write_to_online_store(world: World, store: FeatureStore, rows: pa.Table) -> None:
    store.write_to_online_store("rows", rows.to_pandas())


def by_online_write_batch(world: World, store: FeatureStore, rows: pa.Table) -> None:
    write_batch(store, store.get_feature_view("rows"), rows)


def write_batch(store: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    data = _convert_arrow_to_proto(rows, view, types)
    provider = store._get_provider()
    provider.online_store.online_write_batch(store.config, view, data, progress=None)


PATHS = [by_materialize, by_write_to_online_store, by_online_write_batch]
every_pair = pytest.mark.parametrize(
    ("first", "second"), [(one, two) for one in PATHS for two in PATHS if one is not two]
)


@every_kind
@every_pair
def test_an_older_row_changes_nothing(world: World, first: Any, second: Any) -> None:
    store, _ = open_view(world)
    first(world, store, table([(1, MOMENT, MOMENT, 5)]))
    second(world, store, table([(1, MOMENT - US, MOMENT + SECOND, 4)]))
    assert read(store, [1]) == [5]
    second(world, store, table([(1, MOMENT + US, MOMENT - SECOND, 6)]))
    assert read(store, [1]) == [6]


@every_kind
@every_pair
def test_at_an_equal_event_time_the_later_created_wins(
    world: World, first: Any, second: Any
) -> None:
    store, _ = open_view(world)
    first(world, store, table([(1, MOMENT, MOMENT + SECOND, 5)]))
    second(world, store, table([(1, MOMENT, MOMENT + SECOND - US, 4)]))
    assert read(store, [1]) == [5]
    second(world, store, table([(1, MOMENT, MOMENT + SECOND + US, 6)]))  # a correction takes effect
    assert read(store, [1]) == [6]
    second(world, store, table([(1, MOMENT, MOMENT + SECOND + US, 7)]))  # and another one
    assert read(store, [1]) == [7]


@every_kind
def test_a_row_without_a_created_time_counts_as_created_first(world: World) -> None:
    store, _ = open_view(world)
    by_materialize(world, store, table([(1, MOMENT, None, 1), (2, MOMENT, None, 1)]))
    by_materialize(world, store, table([(1, MOMENT, MOMENT, 2), (2, MOMENT, None, 2)]))
    assert read(store, [1, 2]) == [2, 2]
    by_materialize(world, store, table([(1, MOMENT, None, 3), (2, MOMENT, None, 3)]))
    assert read(store, [1, 2]) == [2, 3]
    # A newer row without one deletes it: the next correction is not compared with the old one.
    by_materialize(world, store, table([(1, MOMENT + SECOND, None, 4)]))
    by_materialize(world, store, table([(1, MOMENT + SECOND, datetime(1999, 1, 1, tzinfo=UTC), 5)]))
    assert read(store, [1]) == [5]


@every_kind
def test_times_before_1970_have_an_order_too(world: World) -> None:
    store, _ = open_view(world)
    old = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    by_online_write_batch(world, store, table([(1, old, None, 1), (2, old, None, 1)]))
    by_online_write_batch(world, store, table([(1, old - US, None, 2), (2, old + US, None, 2)]))
    assert read(store, [1, 2]) == [1, 2]
    far = datetime(1900, 1, 1, tzinfo=UTC)
    by_online_write_batch(world, store, table([(1, far, None, 3), (2, old + SECOND, None, 3)]))
    assert read(store, [1, 2]) == [1, 3]


@every_kind
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2))),
        min_size=1,
        max_size=9,
    ),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example empties the store
)
def test_any_order_in_any_batches_ends_at_the_newest(
    world: World, rows: list[tuple[int, int, int | None]], cuts: list[int]
) -> None:
    store, view = open_view(world)
    entities = [store.get_entity("int")]
    store._get_provider().teardown_infra(store.project, [view], entities)
    store.apply([*entities, view])
    expected: dict[int, tuple[tuple[int, int], int]] = {}
    written = []
    for nth, (key, event, created) in enumerate(rows):
        made = None if created is None else MOMENT + created * US
        written.append((key, MOMENT + event * US, made, nth))
        rank = (event, -1 if created is None else created)
        if key not in expected or rank >= expected[key][0]:
            expected[key] = (rank, nth)
    bounds = [0, *sorted(cuts), len(rows)]
    for start, end in pairwise(bounds):
        if written[start:end]:
            by_online_write_batch(world, store, table(written[start:end]))
    assert read(store, [0, 1]) == [expected[key][1] if key in expected else None for key in (0, 1)]


@pytest.mark.redis
@pytest.mark.parametrize("world", ["redis"], indirect=True)
def test_the_asyncio_path_on_redis(world: World) -> None:
    store, view = open_view(world)
    online = store._get_provider().online_store
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}

    async def write(*rows: Any) -> None:
        for row in rows:
            data = _convert_arrow_to_proto(table([row]), view, types)
            await online.online_write_batch_async(store.config, view, data, progress=None)
        await online._client_async.aclose()

    asyncio.run(
        write(
            (1, MOMENT, MOMENT, 5),
            (1, MOMENT - US, MOMENT + SECOND, 4),
            (2, MOMENT, MOMENT, 5),
            (2, MOMENT, MOMENT + US, 6),
        )
    )
    assert read(store, [1, 2]) == [5, 6]


@every_kind
def test_a_push_goes_the_same_way(world: World) -> None:
    store, view = open_view(world)
    source = PushSource(name="pushed", batch_source=view.batch_source)
    pushed = FeatureView(name="rows", entities=[INT], schema=view.schema, source=source)
    store.apply([INT, pushed])
    frame = table([(1, MOMENT, MOMENT, 5)]).to_pandas()
    store.push("pushed", frame)
    older = frame.assign(event_timestamp=pd.Timestamp(MOMENT - US), number=4)
    store.push("pushed", older)
    assert read(store, [1]) == [5]


@every_kind
def test_two_writers_at_once_leave_the_newest_row_of_every_key(world: World) -> None:
    keys, rounds = 60, 12
    # Separate connections to the same store: to the store, these are two processes.
    stores = [open_view(world), open_view(world)]
    view = stores[0][0].get_feature_view("rows")
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def write(seed: int) -> None:
        store, _ = stores[seed]
        draw = random.Random(seed)
        versions = list(range(seed, 2 * rounds, 2))
        draw.shuffle(versions)
        try:
            start.wait()
            for version in versions:
                ids = draw.sample(range(keys), keys)
                when = MOMENT + version * US
                write_batch(store, view, table([(key, when, None, version) for key in ids]))
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert read(stores[0][0], list(range(keys))) == [2 * rounds - 1] * keys


@every_kind
def test_two_bulk_writers_at_once_into_an_empty_table(world: World) -> None:
    keys, rounds = 200, 6
    stores = [open_view(world), open_view(world)]
    view = stores[0][0].get_feature_view("rows")
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def write(seed: int) -> None:
        store, _ = stores[seed]
        online = store._get_provider().online_store
        try:
            start.wait()
            # The last first, so that the other's rows are alternately older and newer.
            for version in reversed(range(seed, 2 * rounds, 2)):
                rows = [(key, MOMENT + version * US, None, version) for key in range(keys)]
                (batch,) = table(rows).to_batches()
                online.prepare_write(store.config, view, encode_rows(view, batch))()
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert read(stores[0][0], list(range(keys))) == [2 * rounds - 1] * keys


@every_kind
def test_a_batch_against_a_push_at_once(world: World) -> None:
    """The bulk path and the row path meet on the same keys, in opposite orders of key."""
    keys, rounds = 250, 10
    batch_store, _ = open_view(world)
    push_store, _ = open_view(world)
    # Read now: Feast rewrites its registry file in place during a materialization.
    view = push_store.get_feature_view("rows")
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def guarded(work: Any) -> Any:
        def run() -> None:
            try:
                start.wait()
                work()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def batches() -> None:
        for version in range(0, 2 * rounds, 2):
            when = MOMENT + version * US
            rows = table([(key, when, None, version) for key in reversed(range(keys))])
            by_materialize(world, batch_store, rows)

    def pushes() -> None:
        for version in range(2 * rounds - 1, 0, -2):
            when = MOMENT + version * US
            rows = table([(key, when, None, version) for key in range(keys)])
            write_batch(push_store, view, rows)

    writers = [guarded(batches), guarded(pushes)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert read(push_store, list(range(keys))) == [2 * rounds - 1] * keys


@every_kind
def test_rows_of_plain_feast_are_compared_as_well(world: World) -> None:
    """A table that plain Feast created and filled: its rows win if they are newer."""
    path = world.folder / "rows.parquet"
    pq.write_table(table([(1, MOMENT + SECOND, MOMENT, 5), (2, MOMENT, MOMENT, 5)]), path)
    fields = [
        Field(name="number", dtype=ft.Int64),
        Field(name="vector", dtype=ft.Array(ft.Float32)),
    ]
    objects = declare("rows", path, ["int"], fields, created="created")
    shared = World(
        world.kind, world.folder, world.plain, world.plain | {"type": world.ours["type"]}
    )
    shared.store("plain", objects).materialize(START, END)
    store, _ = open_view(shared)
    by_online_write_batch(shared, store, table([(1, MOMENT, MOMENT + SECOND, 6)]))
    by_online_write_batch(shared, store, table([(2, MOMENT, MOMENT + SECOND, 6)]))
    assert read(store, [1, 2]) == [5, 6]
    shared.close()


# --- zones ---------------------------------------------------------------------------------------

# In Berlin, 02:00 to 03:00 of this day does not exist: Feast keeps 02:59 as a time after 03:01.
SPRING = datetime(2024, 3, 31, 2, 59, tzinfo=UTC)
# And 02:00 to 03:00 of this day exists twice.
AUTUMN = datetime(2024, 10, 27, 2, 30, tzinfo=UTC)
ZONES = ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"]


@pytest.fixture
def in_zone() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:

        def change(zone: str) -> None:
            patch.setenv("TZ", zone)
            patch.setenv("PGTZ", zone)  # of the sessions that are opened from now on
            time.tzset()

        yield change
    time.tzset()


@pytest.mark.parametrize("newest", [SPRING, AUTUMN])
@every_pair
@every_kind
def test_summer_time_lets_no_older_row_win(
    world: World, first: Any, second: Any, newest: datetime, in_zone: Any
) -> None:
    in_zone("Europe/Berlin")
    store, _ = open_view(world)
    minute = timedelta(minutes=1)
    first(world, store, table([(1, newest + 2 * minute, MOMENT, 5), (2, MOMENT, newest, 5)]))
    second(world, store, table([(1, newest, MOMENT, 4), (2, MOMENT, newest + 2 * minute, 6)]))
    assert read(store, [1, 2]) == [5, 6]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    times=st.lists(
        st.tuples(st.sampled_from([SPRING, AUTUMN]), st.integers(-10_000, 10_000)),
        min_size=1,
        max_size=5,
    ),
    zones=st.lists(st.sampled_from(ZONES), min_size=6, max_size=6),
)
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_the_zones_of_writers_and_readers_do_not_matter(
    world: World, in_zone: Any, times: list[tuple[datetime, int]], zones: list[str]
) -> None:
    moments = [around + timedelta(seconds=seconds) for around, seconds in times]
    in_zone("UTC")
    if not world.opened:
        open_view(world)
    store = world.opened[0]
    view = store.get_feature_view("rows")
    with sqlite3.connect(world.ours["path"]) as connection:
        connection.execute(f'delete from "{store.project}_rows"')
    connection.close()
    for moment, zone in zip(moments, zones, strict=False):
        in_zone(zone)
        write_batch(store, view, table([(1, moment, None, int(moment.timestamp()))]))
    in_zone(zones[-1])
    newest = int(max(moments).timestamp())
    answer = store.get_online_features(["rows:number"], [{"int_id": 1}])
    assert answer.to_dict()["number"] == [newest]
    assert [stamp.seconds for stamp in answer.proto.results[-1].event_timestamps] == [newest]
    with Reader(store, ["rows:number"], event_timestamps=True) as reader:
        (found,) = reader.read({"int_id": [1]}).event_timestamps["rows"]
    assert found == np.datetime64(newest, "s")


@pytest.mark.parametrize("world", ["postgres"], indirect=True)
@pytest.mark.parametrize("by", PATHS)
def test_the_zones_of_sessions_do_not_matter(world: World, by: Any, in_zone: Any) -> None:
    in_zone("America/New_York")
    store, _ = open_view(world)
    by(world, store, table([(1, SPRING, MOMENT, 4), (2, AUTUMN, MOMENT, 5)]))
    in_zone("Europe/Berlin")
    other = world.store("ours", [])
    by_online_write_batch(world, other, table([(1, SPRING - SECOND, MOMENT, 3)]))
    answer = other.get_online_features(["rows:number"], [{"int_id": 1}, {"int_id": 2}])
    assert answer.to_dict()["number"] == [4, 5]
    expected = [int(SPRING.timestamp()), int(AUTUMN.timestamp())]
    assert [stamp.seconds for stamp in answer.proto.results[-1].event_timestamps] == expected
    with Reader(other, ["rows:number"], event_timestamps=True) as reader:
        found = reader.read({"int_id": [1, 2]}).event_timestamps["rows"]
    assert found.astype("M8[s]").astype(int).tolist() == expected


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_rows_of_plain_feast_are_read_in_this_machines_zone(world: World, in_zone: Any) -> None:
    in_zone("Asia/Tokyo")
    path = world.folder / "rows.parquet"
    pq.write_table(table([(1, MOMENT, MOMENT, 5), (2, MOMENT, MOMENT, 5)]), path)
    fields = [
        Field(name="number", dtype=ft.Int64),
        Field(name="vector", dtype=ft.Array(ft.Float32)),
    ]
    objects = declare("rows", path, ["int"], fields, created="created")
    shared = World(
        world.kind, world.folder, world.plain, world.plain | {"type": world.ours["type"]}
    )
    shared.store("plain", objects).materialize(START, END)
    store, view = open_view(shared)
    second = int(MOMENT.timestamp())

    def stamps() -> list[int]:
        answer = store.get_online_features(["rows:number"], [{"int_id": 1}, {"int_id": 2}])
        return [stamp.seconds for stamp in answer.proto.results[-1].event_timestamps]

    assert stamps() == [second, second]
    write_batch(store, view, table([(1, MOMENT - SECOND, None, 4), (2, MOMENT + SECOND, None, 6)]))
    assert read(store, [1, 2]) == [5, 6]
    assert stamps() == [second, second + 1]
    shared.close()
