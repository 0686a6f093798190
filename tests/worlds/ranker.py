"""Members and items as a ranker reads them: every kind of value and key, nulls and gaps."""

from datetime import UTC, datetime
from typing import Any

from feast import FeatureService, FeatureStore, Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from tests.worlds.online import ITEM, MEMBER, view, write, write_values

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MEMBERS = view(
    "members",
    [MEMBER],
    [
        Field(name="taste", dtype=Array(Float32)),
        Field(name="n_actions", dtype=Int64),
        Field(name="last_action_at", dtype=UnixTimestamp),
        Field(name="model", dtype=String),
    ],
)
HISTORY = view("history", [MEMBER], [Field(name="recent", dtype=Array(Int64))])
ITEMS = view(
    "items",
    [ITEM],
    [
        Field(name="vector", dtype=Array(Float32), vector_length=2),
        Field(name="price", dtype=Float64),
        Field(name="score", dtype=Float32),
        Field(name="open", dtype=Bool),
        Field(name="rank", dtype=Int32),
    ],
)
PAIRS = view("pairs", [MEMBER, ITEM], [Field(name="clicks", dtype=Int64)])
EVERYTHING = view("everything", [], [Field(name="total", dtype=Int64)])
SERVICE = FeatureService(name="ranker", features=[MEMBERS, HISTORY, ITEMS, PAIRS])


def fill(store: FeatureStore) -> None:
    """Members 1 to 3 (2 has nulls), items a to c (b has nulls), one pair, one total."""
    store.apply([MEMBER, ITEM, MEMBERS, HISTORY, ITEMS, PAIRS, EVERYTHING, SERVICE])
    write(
        store,
        MEMBERS,
        [
            {"member_id": 1, "taste": [1.0, 0.5, 0.1], "n_actions": 300, "last_action_at": NOON,
             "model": "average"},
            {"member_id": 3, "taste": [0.0, -1.0, 2.0], "n_actions": -7, "last_action_at": NOON,
             "model": "decay é"},
        ],
    )  # fmt: skip
    nothing = Value()
    nulls = dict.fromkeys(["taste", "n_actions", "last_action_at", "model"], nothing)
    write_values(store, MEMBERS, [({"member_id": Value(int64_val=2)}, nulls)])
    write(store, HISTORY, [{"member_id": 1, "recent": [5, -6]}, {"member_id": 2, "recent": [7]}])
    write(
        store,
        ITEMS,
        [
            {"item_id": "a", "vector": [1.0, 2.0], "price": 0.1, "score": 0.1, "open": True,
             "rank": -5},
            {"item_id": "c", "vector": [3.0, 4.0], "price": -2.5, "score": 1e30, "open": False,
             "rank": 9},
        ],
    )  # fmt: skip
    nulls = dict.fromkeys(["vector", "price", "score", "open", "rank"], nothing)
    write_values(store, ITEMS, [({"item_id": Value(string_val="b")}, nulls)])
    write(store, PAIRS, [{"member_id": 1, "item_id": "c", "clicks": 4}])
    # As materialization writes it; write_to_online_store omits the placeholder key.
    total = ({"__dummy_id": Value(string_val="")}, {"total": Value(int64_val=12)})
    write_values(store, EVERYTHING, [total])


def feasts(store: FeatureStore, features: Any, rows: dict[str, list[Any]], **more: Any) -> Any:
    """Feast's answer, without the ids and request data."""
    answer = store.get_online_features(features, rows, **more).to_dict()
    return {name: cells for name, cells in answer.items() if name not in rows}
