"""Reads for rankers: the same values as Feast's, as arrays, over every online store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureService, FeatureStore, Field, RequestSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Float32, Float64, Int64, String
from feast.value_type import ValueType

from stores.read import Reader, ReadError
from stores.reading.ids import Ids, distinct
from stores.reading.plan import JoinKey, KeyGroup
from tests.worlds.kinds import KINDS, each_kind
from tests.worlds.online import (
    MEMBER,
    close,
    feature_store,
    opened,
    settings,
    view,
    write,
    write_values,
)
from tests.worlds.ranker import HISTORY, ITEMS, MEMBERS, NOON, SERVICE, feasts, fill


@pytest.fixture(params=each_kind())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened(request.param, request, tmp_path):
        fill(made)
        yield made


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened("sqlite", request, tmp_path):
        fill(made)
        yield made


def test_same_values_as_feast(store: FeatureStore) -> None:
    """Missing keys, null features, duplicates, and keys of one, another and both entities."""
    rows = {
        "member_id": [1, 1, 2, 3, 404, 1, 2],
        "item_id": ["a", "c", "b", "c", "c", "nobody", "b"],
    }
    with Reader(store, SERVICE) as reader:
        got = reader.read(rows)
    assert got.to_dict() == feasts(store, SERVICE, rows)
    assert got["n_actions"].tolist() == [300, 300, 0, -7, 0, 300, 0]
    assert got.present["n_actions"].tolist() == [True, True, False, True, False, True, False]
    assert got["clicks"].tolist() == [0, 4, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(
        got["vector"], np.array([[1, 2], [3, 4], [0, 0], [3, 4], [3, 4], [0, 0], [0, 0]], "f4")
    )


def test_arrays_are_typed_and_contiguous(store: FeatureStore) -> None:
    with Reader(store, SERVICE) as reader:
        got = reader.read({"member_id": 1, "item_id": ["a", "b", "c"]})
    kinds = {name: (values.dtype.str, values.shape) for name, values in got.arrays.items()}
    assert kinds == {
        "taste": ("<f4", (3, 3)),
        "n_actions": ("<i8", (3,)),
        "last_action_at": ("<M8[s]", (3,)),
        "model": ("|O", (3,)),
        "recent": ("|O", (3,)),
        "vector": ("<f4", (3, 2)),
        "price": ("<f8", (3,)),
        "score": ("<f4", (3,)),
        "open": ("|b1", (3,)),
        "rank": ("<i4", (3,)),
        "clicks": ("<i8", (3,)),
    }
    for n in (0, 1, 3):  # only for a single row would a view of the stored bytes be contiguous
        with Reader(store, SERVICE) as reader:
            got = reader.read({"member_id": [1] * n, "item_id": ["a"] * n})
        for values in (*got.arrays.values(), *got.present.values()):
            assert len(values) == n
            assert values.flags.c_contiguous
            assert values.flags.aligned
            assert values.flags.writeable
    assert (got["last_action_at"] == np.datetime64("2026-03-01T12:00:00")).all()


@pytest.mark.parametrize("items", [["a"], [], np.array(["c", "a", "c"]), pd.Series(["b", "c"])])
def test_one_id_stands_for_all_rows(sqlite: FeatureStore, items: Any) -> None:
    rows = {"member_id": [1] * len(items), "item_id": list(items)}
    with Reader(sqlite, SERVICE) as reader:
        many = reader.read(rows)
        for one in (1, np.int64(1), [1], np.array(1)):
            got = reader.read({"member_id": one, "item_id": items, "not_asked": 0})
            assert got.to_dict() == many.to_dict()
            assert len(got["n_actions"]) == len(items)


CARRIED = view(
    "carried",
    [MEMBER],
    [
        Field(name="dwell", dtype=Array(Float64), tags={"missing": "nan"}),
        Field(name="stars", dtype=Array(Float32), tags={"missing": "nan"}),
        Field(name="seen_on", dtype=Array(String), tags={"missing": "?"}),
        # Tags that say nothing of a list's elements.
        Field(name="codes", dtype=Array(Int64), tags={"missing": "nan"}),
        Field(name="taste_of", dtype=Array(Float64), tags={"missing": "never"}),
        Field(name="words", dtype=Array(String), tags={"unit": "?"}),
    ],
)


@on_demand_feature_view(sources=[CARRIED], schema=[Field(name="sum", dtype=Float64)], mode="python")
def known(inputs: dict[str, Any]) -> dict[str, Any]:
    """Sums what is no NaN: fails on None, which Feast never passes inside a list."""
    return {"sum": [sum(n for n in cell or [] if n == n) * 1.0 for cell in inputs["dwell"]]}


def test_what_a_tag_names_missing_is_null_inside_lists_of_any_length(store: FeatureStore) -> None:
    store.apply([CARRIED, known])
    nan = float("nan")
    rest = {"codes": [0], "taste_of": [0.5, nan], "words": ["?"]}
    write(
        store,
        CARRIED,
        [
            {"member_id": 1, "dwell": [2.5, nan], "stars": [nan], "seen_on": ["ad", "?"], **rest},
            {"member_id": 2, "dwell": [nan], "stars": [0.5, 1.0], "seen_on": ["?"], **rest},
            {"member_id": 3, "dwell": [0.1 + 0.2], "stars": [4.0], "seen_on": ["", "x"], **rest},
        ],
    )
    features = [f"carried:{field.name}" for field in CARRIED.features] + ["known:sum"]
    asked = {"member_id": [1, 2, 404, 3, 1]}
    with Reader(store, features) as reader:
        got = reader.read(asked)
        # No length is learned: one read may meet only what another did not.
        assert reader.read({"member_id": [404]})["dwell"].tolist() == [None]
        assert reader.read({"member_id": [2]})["dwell"].tolist() == [[None]]
    first = [2.5, None]
    assert got["dwell"].tolist() == [first, [None], None, [0.1 + 0.2], first]
    assert got["stars"].tolist() == [[None], [0.5, 1.0], None, [4.0], [None]]
    assert got["seen_on"].tolist() == [["ad", None], [None], None, ["", "x"], ["ad", None]]
    assert got.present["dwell"].tolist() == [True, True, False, True, True]
    assert got["codes"].tolist() == [[0], [0], None, [0], [0]]
    assert got["words"].tolist() == [["?"], ["?"], None, ["?"], ["?"]]
    assert got["taste_of"].shape == (5, 2)  # a vector
    assert np.isnan(got["taste_of"]).sum() == 4

    # Feast's own answer keeps what was stored; the on-demand view was computed on it.
    feast = feasts(store, features, asked)
    assert str(feast["dwell"][:2]) == "[[2.5, nan], [nan]]"
    assert feast["seen_on"][:2] == [["ad", "?"], ["?"]]
    assert got["sum"].tolist() == feast["sum"] == [2.5, 0.0, 0.0, 0.1 + 0.2, 2.5]


def test_full_names_single_features_and_aliases(sqlite: FeatureStore) -> None:
    rows = {"member_id": [1, 2], "item_id": ["c", "a"]}
    references = ["items:score", "members:n_actions"]
    with Reader(sqlite, references, full_feature_names=True) as reader:
        got = reader.read(rows).to_dict()
    assert list(got) == ["items__score", "members__n_actions"]
    assert got == feasts(sqlite, references, rows, full_feature_names=True)

    friend = MEMBERS.with_name("friend").with_join_key_map({"member_id": "friend_id"})
    # (Feast cannot compare services where only one of two such views has another name.)
    me = MEMBERS.with_name("me")
    pair = FeatureService(name="two", features=[me[["n_actions"]], friend[["n_actions"]]])
    sqlite.apply([pair])
    rows = {"member_id": [1, 3], "friend_id": [3, 404]}
    with Reader(sqlite, pair, full_feature_names=True) as reader:
        got = reader.read(rows).to_dict()
    assert got == feasts(sqlite, pair, rows, full_feature_names=True)
    assert got["friend__n_actions"] == [-7, None]


def test_a_view_without_entities(store: FeatureStore) -> None:
    references = ["everything:total", "members:n_actions"]
    rows = {"member_id": [1, 404]}
    with Reader(store, references) as reader, Reader(store, ["everything:total"]) as alone:
        assert reader.read(rows).to_dict() == {"total": [12, 12], "n_actions": [300, None]}
        assert reader.read(rows).to_dict() == feasts(store, references, rows)
        assert alone.columns == ()
        assert alone.read({}).to_dict() == {"total": [12]}


def test_ttl(store: FeatureStore) -> None:
    """An expired row is absent where ttl counts, even if its vector has another dimension."""
    now = datetime.now(UTC)
    aging = view("aging", [MEMBER], [Field(name="v", dtype=Array(Float32), vector_length=2)],
                 ttl=timedelta(hours=1))  # fmt: skip
    store.apply([aging])
    write(store, aging, [{"member_id": 1, "v": [1.0, 2.0]}], now - timedelta(minutes=55))
    write(store, aging, [{"member_id": 2, "v": [3.0, 4.0, 5.0]}], now - timedelta(minutes=65))
    rows = {"member_id": [1, 2, 3]}
    with Reader(store, ["aging:v"], enforce_ttl=True, event_timestamps=True) as reader:
        got = reader.read(rows)
    assert got.to_dict() == {"v": [[1.0, 2.0], None, None]}
    at = got.event_timestamps["aging"]
    assert (np.isnat(at) == [False, False, True]).all()
    ages = np.datetime64(now.replace(tzinfo=None)) - at[:2]
    assert (ages.astype("m8[s]") // np.timedelta64(1, "m")).tolist() == [55, 65]
    with Reader(store, ["aging:v"], dims={"v": 3}, enforce_ttl=False) as reader:
        assert reader.read({"member_id": [2]}).to_dict() == feasts(
            store, ["aging:v"], {"member_id": [2]}
        )


@pytest.mark.parametrize("kind", each_kind())
def test_subclassed_stores_answer_alike_and_say_whether_ttl_counts(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    aging = view("aging", [MEMBER], [Field(name="age", dtype=Int64)], ttl=timedelta(hours=1))
    rows = {"member_id": [1, 2, 3, 2], "item_id": ["a", "b", "nobody", "c"]}
    features = [f"{each.name}:{field.name}" for each in (MEMBERS, ITEMS) for field in each.features]
    features += ["aging:age", "pairs:clicks"]
    for store in opened(kind, request, tmp_path, type=KINDS[kind].ours):
        fill(store)
        store.apply([aging])
        write(store, aging, [{"member_id": 1, "age": 65}], now - timedelta(minutes=65))
        write(store, aging, [{"member_id": 2, "age": 55}], now - timedelta(minutes=55))
        with Reader(store, features) as reader:
            got = reader.read(rows).to_dict()
        assert got == feasts(store, features, rows)
        assert got["age"] == [None, 55, None, 55]


def test_event_times_of_views_that_share_a_key(store: FeatureStore) -> None:
    late = view("late", [MEMBER], [Field(name="n", dtype=Int64)])
    store.apply([late])
    write(store, late, [{"member_id": 2, "n": 5}], NOON)
    features = ["members:model", "late:n", "history:recent"]
    with Reader(store, features, event_timestamps=True) as reader:
        got = reader.read({"member_id": [2, 3, 2]})
    assert got.to_dict() == {
        "model": [None, "decay é", None],
        "n": [5, None, 5],
        "recent": [[7], None, [7]],
    }
    midnight = "2026-03-01T00:00:00.000000"
    at = {of: np.datetime_as_string(times).tolist() for of, times in got.event_timestamps.items()}
    assert at == {
        "members": [midnight] * 3,
        "late": ["2026-03-01T12:00:00.000000", "NaT", "2026-03-01T12:00:00.000000"],
        "history": [midnight, "NaT", midnight],
    }


def test_a_vector_of_another_dimension_names_its_key(store: FeatureStore) -> None:
    write(store, MEMBERS, [{"member_id": 4, "taste": [1.0, 2.0], "n_actions": 1,
                            "last_action_at": NOON, "model": "old"}])  # fmt: skip
    wrong = {"item_id": "d", "vector": [1.0], "price": 0.0, "score": 0.0, "open": True, "rank": 1}
    write(store, ITEMS, [wrong])
    with Reader(store, SERVICE) as reader:
        with pytest.raises(
            ReadError, match="items:vector of item_id='d' holds 1 numbers, expected 2"
        ):
            reader.read({"member_id": 1, "item_id": ["a", "a", "nobody", "d"]})
        # Members declare no dimension: that of the first vector read (of member 1) counts.
        with pytest.raises(
            ReadError, match="members:taste of member_id=4 holds 2 numbers, expected 3 as in the"
        ):
            reader.read({"member_id": [404, 404, 4], "item_id": "a"})
    with (
        Reader(store, ["members:taste"], dims={"taste": 2}) as reader,
        pytest.raises(ReadError, match="members:taste of member_id=1 holds 3 numbers, expected 2"),
    ):
        reader.read({"member_id": [4, 1]})


def test_an_undeclared_dimension_is_kept_for_reads_that_find_nothing(sqlite: FeatureStore) -> None:
    with Reader(sqlite, ["members:taste"]) as reader:
        assert reader.read({"member_id": [404]})["taste"].shape == (1, 0)
        assert reader.read({"member_id": [1]})["taste"].shape == (1, 3)
        assert reader.read({"member_id": [404, 405]})["taste"].shape == (2, 3)


def test_a_value_of_another_type_than_declared_names_its_key(sqlite: FeatureStore) -> None:
    stale = {"n_actions": Value(double_val=1.0)}
    write_values(sqlite, MEMBERS, [({"member_id": Value(int64_val=9)}, stale)])
    with (
        Reader(sqlite, ["members:n_actions"]) as reader,
        pytest.raises(ReadError, match="member_id=9 holds a double_val, expected a int64_val"),
    ):
        reader.read({"member_id": [1, 9]})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"member_id": 1}, "expected ids for member_id, item_id; got member_id: add item_id"),
        ({"member_id": [1, 2], "item_id": ["a"] * 3}, "got 2 of member_id, 3 of item_id"),
        ({"member_id": [1, None], "item_id": "a"}, "member_id: expected int64 ids, got None"),
        ({"member_id": [1.5], "item_id": "a"}, "member_id: expected int64 ids"),
        (
            {"member_id": [True], "item_id": "a"},
            "member_id: expected int64 ids, got True",
        ),
        ({"member_id": "01", "item_id": "a"}, "member_id: expected int64 ids"),
        ({"member_id": 2**63, "item_id": "a"}, "member_id: expected int64 ids"),
        ({"member_id": 1, "item_id": [7.0]}, "item_id: expected string ids"),
    ],
)
def test_wrong_ids_are_refused(sqlite: FeatureStore, ids: dict[str, Any], message: str) -> None:
    with Reader(sqlite, SERVICE) as reader, pytest.raises(ReadError, match=message):
        reader.read(ids)


def test_more_keys_than_a_statement_takes(store: FeatureStore) -> None:
    ids = [1, *range(1_000, 41_000), 3]
    with Reader(store, ["members:n_actions"]) as reader:
        got = reader.read({"member_id": ids})
    assert got["n_actions"][[0, -1]].tolist() == [300, -7]
    assert got.present["n_actions"].sum() == 2


@pytest.mark.parametrize(
    "ids",
    [
        {"b": (ValueType.INT64, [-(2**63), 2**63 - 1, 0])},
        {"b": (ValueType.INT32, [-(2**31), 2**31 - 1, np.int32(5)])},
        {"b": (ValueType.STRING, ["", "é" * 200, np.str_("x")])},
        {"b": (ValueType.BYTES, [b"", b"\x00", b"abc"])},
        {"b": (ValueType.UNIX_TIMESTAMP, [NOON, NOON, datetime(1969, 1, 1, tzinfo=UTC)])},
        {"b": (ValueType.INT64, [1, 2, 3]), "a": (ValueType.STRING, ["x", "y", "z"])},
        {"b": (ValueType.BYTES, [b"1", b"2", b"3"]), "a": (ValueType.STRING, ["x", "y", "z"])},
    ],
)
def test_keys_of_every_type_are_those_of_feast(ids: dict[str, tuple[ValueType, list[Any]]]) -> None:
    """Composite keys too, whose names Feast sorts."""
    group = KeyGroup(tuple(JoinKey(name, name, kind) for name, (kind, _) in ids.items()), ())
    keys = distinct(group, Ids({name: cells for name, (_, cells) in ids.items()}, 3))
    columns = [python_values_to_proto_values(cells, kind) for kind, cells in ids.values()]
    feasts = [
        serialize_entity_key(EntityKey(join_keys=list(ids), entity_values=row), 3)
        for row in zip(*columns, strict=True)
    ]
    rows = range(3) if keys.rows is None else keys.rows
    assert [keys.distinct[row] for row in rows] == feasts


@on_demand_feature_view(
    sources=[
        MEMBERS,
        ITEMS,
        RequestSource(name="boost", schema=[Field(name="boost", dtype=Float64)]),
    ],
    schema=[Field(name="match", dtype=Float64), Field(name="label", dtype=String)],
    mode="python",
)
def match(inputs: dict[str, Any]) -> dict[str, Any]:
    taste, vector = inputs["taste"], inputs["vector"]
    assert "recent" not in inputs, "only declared sources are seen"
    return {
        "match": [
            None if a is None or b is None else sum(a) * sum(b) * c
            for a, b, c in zip(taste, vector, inputs["boost"], strict=True)
        ],
        # Feast tries the function without ids when it is applied.
        "label": [f"for {item}" for item in inputs.get("item_id", ["?"])],
    }


@on_demand_feature_view(
    sources=[MEMBERS], schema=[Field(name="doubled", dtype=Float64)], mode="pandas"
)
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"doubled": inputs["n_actions"] * 2.0})


def test_on_demand_views_are_computed_by_their_own_functions(sqlite: FeatureStore) -> None:
    service = FeatureService(name="matched", features=[HISTORY, ITEMS[["price"]], match, doubled])
    sqlite.apply([match, doubled, service])
    rows = {
        "member_id": [1, 1, 3, 404, 2],
        "item_id": ["a", "nobody", "c", "a", "c"],
        "boost": [0.1, 1.0, 2.0, 1.0, 3.5],
    }
    with Reader(sqlite, service) as reader:
        got = reader.read(rows)
        assert got.to_dict() == feasts(sqlite, service, rows)
        assert got.to_dict()["match"] == [pytest.approx(0.48), None, 14.0, None, None]
        assert list(got.arrays) == ["recent", "price", "match", "label", "doubled"]
        assert reader.columns == ("member_id", "item_id", "boost")
        broadcast = reader.read({"member_id": 1, "item_id": ["a", "c"], "boost": 2.0})
        assert broadcast["match"].tolist() == pytest.approx([9.6, 22.4])
    with Reader(sqlite, service, on_demand=False) as reader:
        assert reader.columns == ("member_id", "item_id")
        assert list(reader.read(rows).arrays) == ["recent", "price"]

    with Reader(sqlite, ["history:recent", "match:match"], on_demand=False) as reader:
        assert reader.columns == ("member_id",), (
            "features that only on-demand views read are skipped"
        )


def test_other_online_stores_are_refused(tmp_path: Path) -> None:
    store = feature_store(tmp_path, {"type": "remote", "path": "http://localhost:1"})
    with pytest.raises(ReadError, match=r"got .*RemoteOnlineStore: use get_online_features"):
        Reader(store, ["members:n_actions"])


@pytest.mark.parametrize("kind", each_kind("tables"))
def test_a_view_that_was_never_applied_to_the_store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The registry knows the view, the online store does not."""
    online = settings(kind, request, tmp_path)
    store = feature_store(tmp_path, online)
    for each in (MEMBER, MEMBERS):
        register = (
            store.registry.apply_entity if each is MEMBER else store.registry.apply_feature_view
        )
        register(each, project="reads", commit=True)
    if not KINDS[kind].server:  # a file, which does not exist yet
        with (
            Reader(store, ["members:n_actions"]) as reader,
            pytest.raises(ReadError, match="Run feast apply"),
        ):
            reader.read({"member_id": 1})
        store._get_provider().online_store._get_conn(store.config)
    with (
        Reader(store, ["members:n_actions"]) as reader,
        pytest.raises(ReadError, match="Run feast apply"),
    ):
        reader.read({"member_id": 1})
    close(store)
