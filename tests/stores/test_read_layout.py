"""Feast's layout as `stores.read` relies on it: a new Feast that changes it fails here."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import feast
import psycopg
import pytest
import redis
from feast import FeatureStore, Field, utils
from feast.infra.online_stores.helpers import _mmh3, compute_table_id
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, python_values_to_proto_values
from feast.types import Array, Float32, Int64
from feast.value_type import ValueType

from tests.worlds.online import MEMBER, opened, view, write

LIKES = view(
    "likes", [MEMBER], [Field(name="v", dtype=Array(Float32)), Field(name="n", dtype=Int64)]
)
AT = datetime(2026, 3, 1, tzinfo=UTC)
# Entity key v3: one key, its name as a string, then type 4 (int64), 8 bytes, the number.
KEY = bytes.fromhex("01000000 02000000 09000000") + b"member_id" + bytes.fromhex(
    "04000000 08000000 0700000000000000"
)  # fmt: skip
VECTOR = bytes.fromhex("82010a 0a08 0000803f 00000040")  # field 16, field 1, 1.0 and 2.0
NUMBER = bytes.fromhex("20 ac02")  # field 4, 300
SECONDS = 1_772_323_200  # AT


def moved(what: str, where: str) -> str:
    return (
        f"Feast {feast.__version__} changed {what}. {where} reads the old layout: adapt it, then "
        "this test, and only then widen the range of Feast in pyproject.toml."
    )


@pytest.fixture
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for store in opened(request.param, request, tmp_path):
        store.apply([MEMBER, LIKES])
        write(store, LIKES, [{"member_id": 7, "v": [1.0, 2.0], "n": 300}], AT)
        yield store


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_sqlite(filled: FeatureStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "online.db") as connection:
        rows = connection.execute(
            "select entity_key, feature_name, value, event_ts from reads_likes order by 2"
        ).fetchall()
    connection.close()
    local = int(AT.replace(tzinfo=None).timestamp())  # UTC's clock, read in the machine's zone
    assert rows == [(KEY, "n", NUMBER, local), (KEY, "v", VECTOR, local)], moved(
        "the rows of its SQLite online store", "stores/reading/sql.py"
    )


@pytest.mark.postgres
@pytest.mark.parametrize("filled", ["postgres"], indirect=True)
def test_postgres(filled: FeatureStore) -> None:
    options: Any = filled.config.online_store
    with psycopg.connect(
        host=options.host, port=options.port, dbname=options.database, user=options.user,
        password=options.password,
    ) as connection:  # fmt: skip
        rows = connection.execute(
            "select entity_key, feature_name, value, extract(epoch from event_ts::timestamp)::int "
            "from reads_likes order by 2"
        ).fetchall()
    assert rows == [(KEY, "n", NUMBER, SECONDS), (KEY, "v", VECTOR, SECONDS)], moved(
        "the rows of its PostgreSQL online store", "stores/reading/sql.py"
    )


@pytest.mark.redis
@pytest.mark.parametrize("filled", ["redis"], indirect=True)
def test_redis(filled: FeatureStore) -> None:
    host, port = filled.config.online_store.connection_string.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        stored = {key: client.hgetall(key) for key in client.scan_iter()}
    timestamp = b"\x08" + bytes.fromhex("80838ecd06")  # google.protobuf.Timestamp, seconds only
    expected = {
        KEY + b"reads": {
            bytes.fromhex("7ee4dbca"): VECTOR,
            bytes.fromhex("676a5ca1"): NUMBER,
            b"_ts:likes": timestamp,
        }
    }
    assert stored == expected, moved(
        "the hashes of its Redis online store", "stores/reading/redis.py"
    )


def test_names() -> None:
    table = compute_table_id("reads", LIKES)
    assert table == "reads_likes", moved("the names of its tables", "stores/reading/sql.py")
    fields = {name: _mmh3(f"likes:{name}").hex() for name in ("v", "n")}
    assert fields == {"v": "7ee4dbca", "n": "676a5ca1"}, moved(
        "how it names the fields of a hash", "stores/reading/redis.py"
    )


def test_values() -> None:
    written = {
        (ValueType.FLOAT_LIST, (1.0,)): "8201060a040000803f",
        (ValueType.DOUBLE_LIST, (1.0,)): "7a0a0a08000000000000f03f",
        (ValueType.FLOAT, 1.0): "350000803f",
        (ValueType.DOUBLE, 1.0): "29000000000000f03f",
        (ValueType.INT32, -1): "18ffffffffffffffffff01",
        (ValueType.INT64, 300): "20ac02",
        (ValueType.BOOL, True): "3801",
        (ValueType.UNIX_TIMESTAMP, AT): "4080838ecd06",
        (ValueType.INT64, None): "",
    }
    got = {}
    for kind, value in written:
        cell = list(value) if isinstance(value, tuple) else value
        proto = python_values_to_proto_values([cell], kind)[0]
        got[kind, value] = proto.SerializeToString().hex()
    assert got == written, moved("how it stores values", "stores/bytes/decode.py")
    assert NULL_TIMESTAMP_INT_VALUE == -(2**63), moved(
        "its null timestamp", "stores/bytes/decode.py"
    )
    assert Value.DESCRIPTOR.fields_by_name["float_list_val"].number == 16


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_resolution(filled: FeatureStore) -> None:
    context = utils._get_online_request_context(filled.registry, filled.project, ["likes:n"], False)
    references, transforms, _, types, _, grouped, _, request_data, _ = context
    seen = (
        references,
        transforms,
        types,
        [(table.name, names) for table, names in grouped],
        set(request_data),
    )
    expected = (["likes:n"], [], {"member_id": ValueType.INT64}, [("likes", ["n"])], set())
    assert seen == expected, moved("how it resolves features", "stores/reading/plan.py")
    assert utils._parse_feature_ref("likes@v2:n") == ("likes", 2, "n"), moved(
        "its feature references", "stores/reading/plan.py"
    )
