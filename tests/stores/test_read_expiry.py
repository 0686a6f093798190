"""ttl in the plug-ins' own online reads, blocking and asynchronous: expired values are null."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Int64

from tests.worlds.kinds import KINDS, each_kind
from tests.worlds.online import MEMBER, opened, view, write

MINUTE = timedelta(minutes=1)
AGING = view(
    "aging",
    [MEMBER],
    [Field(name="age", dtype=Int64), Field(name="twin", dtype=Int64)],
    ttl=60 * MINUTE,
)
STEADY = view("steady", [MEMBER], [Field(name="n", dtype=Int64)])
FEATURES = ["steady:n", "aging:age", "aging:twin", "doubled:doubled"]
ROWS = [{"member_id": member} for member in (1, 2, 3)]


@on_demand_feature_view(sources=[AGING], schema=[Field(name="doubled", dtype=Int64)], mode="python")
def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"doubled": [None if age is None else 2 * age for age in inputs["age"]]}


async def ask_async(store: FeatureStore) -> OnlineResponse:
    online = store._get_provider().online_store
    try:
        return await store.get_online_features_async(FEATURES, ROWS)
    finally:
        for name in ("_client_async", "_conn_async"):
            connection = getattr(online, name, None)
            if connection is not None:
                await (connection.aclose() if name == "_client_async" else connection.close())


@pytest.mark.parametrize("kind", each_kind("asynchronous"))
@pytest.mark.parametrize("way", ["blocking", "async"])
def test_expired_rows_are_null_and_so_on_demand_views_see_them(
    kind: str, way: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    for store in opened(kind, request, tmp_path, type=KINDS[kind].ours):
        store.apply([MEMBER, AGING, STEADY, doubled])
        for member, minutes in ((1, 65), (2, 55)):
            write(
                store,
                AGING,
                [{"member_id": member, "age": minutes, "twin": -minutes}],
                now - minutes * MINUTE,
            )
            write(store, STEADY, [{"member_id": member, "n": member}], now - 65 * MINUTE)
        if way == "blocking":
            answer = store.get_online_features(FEATURES, ROWS)
        else:
            answer = asyncio.run(ask_async(store))
        assert answer.to_dict() == {
            "member_id": [1, 2, 3],
            "n": [1, 2, None],
            "age": [None, 55, None],
            "twin": [None, -55, None],
            "doubled": [None, 110, None],
        }
        names = list(answer.proto.metadata.feature_names.val)
        for name in ("age", "twin"):
            assert list(answer.proto.results[names.index(name)].statuses) == [
                FieldStatus.OUTSIDE_MAX_AGE,
                FieldStatus.PRESENT,
                FieldStatus.NOT_FOUND,
            ]
