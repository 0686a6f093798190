"""A Feast service of a user's own: what its rows tell, what a join finds, what is online."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64

from pipelines.gates.service import check_service, same
from tests.worlds.stores import World, open_world
from tests.worlds.workspace import DAY, END, Workspace
from transformations.errors import InputError

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)
START = NOW - 48 * HOUR
SINCE = NOW - 72 * HOUR
AT = pa.timestamp("us", "UTC")


def write(file: Path, members: int = 20, each: int = 6) -> None:
    """Rows of members, an hour apart, each readable half an hour after its moment."""
    rows = [(member, row) for row in range(each) for member in range(members)]
    events = [START + row * HOUR + timedelta(seconds=member) for member, row in rows]
    columns = {
        "who": pa.array([member for member, _ in rows], pa.int64()),
        "actions": pa.array([row for _, row in rows], pa.int64()),
        "vector": pa.array([[member, row + 0.5] for member, row in rows], pa.list_(pa.float32())),
        "at": pa.array(events, AT),
        "known_at": pa.array([event + HOUR / 2 for event in events], AT),
    }
    pq.write_table(pa.table(columns), file)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    world = open_world("sqlite", tmp_path_factory.mktemp("gate"), request)
    yield world
    world.close()


def opened(world: World, file: Path, created: str = "known_at") -> FeatureStore:
    """A store with the service `own`, which names the member otherwise than the view."""
    member = Entity(name="member", join_keys=["who"], value_type=ValueType.INT64)
    view = FeatureView(
        name="lately",
        entities=[member],
        ttl=timedelta(days=30),
        schema=[Field(name="actions", dtype=Int64), Field(name="vector", dtype=Array(Float32))],
        source=FileSource(
            path=str(file), timestamp_field="at", created_timestamp_column=created or None
        ),
    )
    asked = view.with_name("of_member").with_join_key_map({"who": "reader"})
    store = world.store("ours", [member, view, FeatureService(name="own", features=[asked])])
    store.materialize(SINCE, NOW)
    return store


@pytest.fixture(scope="module")
def store(world: World) -> FeatureStore:
    file = world.folder / "rows.parquet"
    write(file)
    return opened(world, file)


def found(store: FeatureStore) -> dict[str, tuple[int, int]]:
    checked = check_service(store, "own", SINCE, NOW, 50)
    assert {each.view for each in checked} == {"lately"}
    return {each.check: (each.compared, each.off) for each in checked}


def test_nothing_is_off_where_all_is_right(store: FeatureStore) -> None:
    checked = found(store)
    assert {check: off for check, (_, off) in checked.items()} == {
        "created": 0, "future": 0, "parity": 0,
    }  # fmt: skip
    assert checked["future"][0] > 100
    assert checked["parity"][0] == 20


def test_a_join_that_reads_what_was_known_later_is_found(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = FeatureStore.get_historical_features

    def leaking(self: Any, **asked: Any) -> Any:
        return join(self, **{**asked, "filter_by_created_timestamp": False})

    monkeypatch.setattr(FeatureStore, "get_historical_features", leaking)
    compared, off = found(store)["future"]
    # At the tick before it could be read, each row is one that a label may not see.
    assert compared / 4 < off < compared / 2
    (future,) = (
        each for each in check_service(store, "own", SINCE, NOW, 50) if each.check == "future"
    )
    assert future.example.startswith("actions of ")


def test_what_is_stale_online_is_found_and_what_is_newer_is_not(world: World) -> None:
    file = world.folder / "more.parquet"
    write(file)
    store = opened(world, file)
    write(file, each=7)  # and never materialized
    assert found(store)["parity"] == (20, 20)
    store.materialize(SINCE, NOW)
    write(file, each=5)  # as where a stream is ahead of the offline store
    assert found(store)["parity"] == (20, 0)


def test_a_row_that_could_be_read_before_its_moment_is_found(world: World) -> None:
    file = world.folder / "early.parquet"
    write(file, members=3)
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[4]["known_at"] = rows[4]["at"] - HOUR
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    store = opened(world, file)
    assert found(store)["created"] == (18, 1)
    # Without the column the event timestamp is when a row could be read.
    assert "created" not in found(opened(world, file, created=""))


def test_who_left_the_window_of_a_backfill_is_online_as_in_a_join(tmp_path: Path) -> None:
    """Its last row is of a past snapshot: neither the newest one nor a later run brings it."""
    workspace = Workspace(tmp_path)
    events = workspace.root / "source" / "events.csv"
    left = END - timedelta(days=30, hours=12)
    events.write_text(f"{events.read_text()}99,g-1,play,{left:%Y-%m-%d %H:%M:%S}\n")
    workspace.run(END)
    workspace.backfill(END - 3 * DAY, END - 2 * DAY, END - DAY)
    assert re.search(r"publish +3 rows", workspace.said)
    answer = workspace.store.get_online_features(
        features=["member_activity_average_v1:play_embedding"], entity_rows=[{"member_id": 99}]
    ).to_dict(include_event_timestamps=True)
    assert answer["play_embedding"] == [[0.0, 0.0]]
    assert answer["play_embedding__ts"] == [int((END - 2 * DAY).timestamp())]
    checked = check_service(workspace.store, "ranker_average_v1", END - 60 * DAY, NOW, 50)
    assert {each.check for each in checked} == {"created", "future", "parity"}
    assert not any(each.off for each in checked)


def test_another_service_is_refused_with_those_there_are(store: FeatureStore) -> None:
    with pytest.raises(InputError, match="got 'other'; there are: own"):
        check_service(store, "other", SINCE, NOW, 50)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1, True),
        (1, 2, False),
        (1e6, 1e6 + 1, True),
        (1e6, 1e6 + 100, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 0.0, False),
        (None, 0.0, False),
        (None, None, True),
        (None, [], True),
        ([1.0, None], [1.0, None], True),
        ([1.0], [1.0, 2.0], False),
        ("a", "a", True),
        (b"a", b"b", False),
        (NOW, NOW + timedelta(milliseconds=900), True),
        (NOW, NOW + timedelta(seconds=1), False),
    ],
)
def test_same(one: Any, other: Any, expected: bool) -> None:
    assert same(one, other) is expected
    assert same(other, one) is expected
