"""Random rows of every type: `stores.read` returns the values of Feast's own answer."""

import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feast import FeatureService, FeatureStore, Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    String,
    UnixTimestamp,
    Uuid,
)
from feast.types import Decimal as FeastDecimal
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.bytes import decode
from stores.read import Reader
from tests.worlds.kinds import each_kind
from tests.worlds.online import ITEM, MEMBER, opened, view, write_values

TTL = timedelta(hours=1)
DIM = 3
_float32 = st.floats(width=32)
_int32 = st.integers(-(2**31), 2**31 - 1)
_int64 = st.integers(-(2**63), 2**63 - 1)
_timestamp = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
_seconds = _timestamp.map(lambda timestamp: timestamp.replace(microsecond=0))
# PostgreSQL text has no NUL, and Feast stores a string as text too.
_LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "vector32": (Array(Float32), st.lists(_float32, min_size=DIM, max_size=DIM)),
    "vector64": (Array(Float64), st.lists(st.floats(), min_size=DIM, max_size=DIM)),
    "float32": (Float32, _float32.filter(lambda number: number == number)),
    "float64": (Float64, st.floats(allow_nan=False)),
    "int32": (Int32, _int32),
    "int64": (Int64, _int64),
    "bool": (Bool, st.booleans()),
    "string": (String, st.text(_LETTERS, max_size=5)),
    "bytes": (Bytes, st.binary(max_size=5)),
    "moment": (UnixTimestamp, _seconds),
    "ints": (Array(Int64), st.lists(_int64, max_size=3)),
    "strings": (Array(String), st.lists(st.text(max_size=3), max_size=3)),
    "moments": (Array(UnixTimestamp), st.lists(_seconds, max_size=3)),
    "bools": (Array(Bool), st.lists(st.booleans(), max_size=3)),
    "json": (Json, st.fixed_dictionaries({"a": st.integers(0, 9)})),
    "map": (Map, st.fixed_dictionaries({"a": st.integers(0, 9)})),
    "uuid": (Uuid, st.uuids()),
    "decimal": (FeastDecimal, st.decimals(allow_nan=False, allow_infinity=False)),
}
FIELDS = [Field(name=name, dtype=dtype) for name, (dtype, _) in VALUES.items()]
BY_MEMBER = view("by_member", [MEMBER], FIELDS, ttl=TTL)
ITEM_FIELDS = [Field(name=f"item_{field.name}", dtype=field.dtype) for field in FIELDS]
BY_ITEM = view("by_item", [ITEM], ITEM_FIELDS)
BY_BOTH = view("by_both", [MEMBER, ITEM], [Field(name="both", dtype=Int64)], ttl=TTL)
SERVICE = FeatureService(name="everything", features=[BY_MEMBER, BY_ITEM, BY_BOTH])


@pytest.fixture(params=each_kind())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    for made in opened(request.param, request, tmp_path):
        made.apply([MEMBER, ITEM, BY_MEMBER, BY_ITEM, BY_BOTH, SERVICE])
        yield made


def _proto(name: str, value: Any) -> Value:
    dtype, _ = VALUES[name]
    return python_values_to_proto_values([value], dtype.to_value_type())[0]


@st.composite
def _row(draw: st.DrawFn) -> tuple[dict[str, Value], bool]:
    """Some features with a value, some null, some not stored at all; and whether it is expired."""
    row = {}
    for name, (_, values) in VALUES.items():
        kind = draw(st.sampled_from(["value", "value", "null", "missing"]))
        if kind != "missing":
            row[name] = Value() if kind == "null" else _proto(name, draw(values))
    return row, draw(st.booleans())


KEYS = st.integers(0, 3)
_runs = itertools.count()


@given(
    members=st.dictionaries(KEYS, _row(), max_size=3),
    items=st.dictionaries(KEYS, _row(), max_size=3),
    pairs=st.dictionaries(st.tuples(KEYS, KEYS), st.tuples(_int64, st.booleans()), max_size=4),
    asked=st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=8),
)
@settings(
    max_examples=60,
    deadline=None,
    # One store for all examples; each has its own keys.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_read_holds_what_feast_answers(
    store: FeatureStore,
    members: dict[int, tuple[dict[str, Value], bool]],
    items: dict[int, tuple[dict[str, Value], bool]],
    pairs: dict[tuple[int, int], tuple[int, bool]],
    asked: list[tuple[int, int]],
) -> None:
    first = next(_runs) * 10  # every example has its own keys
    now = datetime.now(UTC)
    ages = {False: now - TTL / 2, True: now - TTL * 2}

    def member(key: int) -> int:
        return first + key if key % 2 else -first - key - 1

    def item(key: int) -> str:
        return f"é{first + key}" * key or f"{first}"

    for key, (row, old) in members.items():
        write_values(
            store, BY_MEMBER, [({"member_id": Value(int64_val=member(key))}, row)], ages[old]
        )
    for key, (row, old) in items.items():
        named = {f"item_{name}": value for name, value in row.items()}
        write_values(store, BY_ITEM, [({"item_id": Value(string_val=item(key))}, named)], ages[old])
    for (left, right), (number, old) in pairs.items():
        ids = {"item_id": Value(string_val=item(right)), "member_id": Value(int64_val=member(left))}
        write_values(store, BY_BOTH, [(ids, {"both": Value(int64_val=number)})], ages[old])

    rows = {
        "member_id": [member(left) for left, _ in asked],
        "item_id": [item(right) for _, right in asked],
    }
    answer = store.get_online_features(SERVICE, rows).to_dict()
    feasts = {name: cells for name, cells in answer.items() if name not in rows}
    dims = {name: DIM for name in feasts if "vector" in name}
    with Reader(store, SERVICE, dims=dims) as reader:
        got = reader.read(rows)
    assert _written(got.to_dict()) == _written(feasts)
    for name, cells in feasts.items():
        assert got.present[name].tolist() == [cell is not None for cell in cells]

    # Feast's own stores serve expired rows; where ttl counts, those cells and no others are absent.
    for name in VALUES:
        for index, (left, _) in enumerate(asked):
            if left in members and members[left][1]:
                feasts[name][index] = None
    for index, pair in enumerate(asked):
        if pair in pairs and pairs[pair][1]:
            feasts["both"][index] = None
    with Reader(store, SERVICE, dims=dims, enforce_ttl=True) as reader:
        assert _written(reader.read(rows).to_dict()) == _written(feasts)


def _written(answer: dict[str, list[Any]]) -> dict[str, str]:
    """Make values comparable, even if a number is NaN or -0.0."""
    return {name: repr(cells) for name, cells in sorted(answer.items())}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_column_is_decoded_as_feast_decodes_each_value(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    dtype, values = VALUES[name]
    protos = [
        Value() if value is None else _proto(name, value)
        for value in data.draw(st.lists(st.none() | values, max_size=6))
    ]
    raws = [None if proto == Value() else proto.SerializeToString() for proto in protos]
    kind = dtype.to_value_type()
    arrays, present = decode.column(kind, raws, DIM if decode.is_vector(kind) else 0)
    expected = [feast_value_type_to_python_type(proto, kind) for proto in protos]
    assert repr(decode.pythonic(arrays, present)) == repr(expected)
    if decode.is_vector(kind):
        assert arrays.shape == (len(protos), DIM)
        assert not arrays[~present].any()


def test_values_are_not_only_the_python_ones() -> None:
    """The strategies above generate the edge cases of wire formats."""
    for number in (0, -1, 2**63 - 1, -(2**63), 127, 128):
        values, _ = decode.column(ValueType.INT64, [Value(int64_val=number).SerializeToString()])
        assert values.tolist() == [number]
    values, present = decode.column(
        ValueType.UNIX_TIMESTAMP, [Value(unix_timestamp_val=-(2**63)).SerializeToString()]
    )
    assert np.isnat(values).all()
    assert not present.any(), "Feast's own null timestamp"
    values, _ = decode.column(ValueType.STRING, [Value(string_val="\0").SerializeToString()])
    assert values.tolist() == ["\0"]
    texts = [uuid.UUID(int=7), Decimal("1.10")]
    for kind, value in zip((ValueType.UUID, ValueType.DECIMAL), texts, strict=True):
        raw = python_values_to_proto_values([value], kind)[0].SerializeToString()
        assert decode.column(kind, [raw])[0].tolist() == [value]
