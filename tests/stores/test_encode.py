"""The bytes of stores.bytes.encode against Feast's own, type by type."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Field
from feast import types as ft
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType as V
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import columnar
from stores.bytes.encode import entity_keys
from stores.bytes.values import _ENCODERS, encode_column
from stores.bytes.wire import microseconds, timestamp_messages
from tests.worlds.stores import declare

MOMENTS = [
    datetime(2020, 1, 1, 3, 4, 5, 678901, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC),
    datetime(1900, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
NEAR = MOMENTS[:4]  # those that fit nanoseconds
MOMENT_US = pa.timestamp("us", "UTC")
INT64 = st.integers(-(2**63), 2**63 - 1)

# Value type, Arrow type, values: encoded without Feast.
LAID_OUT: list[tuple[V, pa.DataType, list[Any]]] = [
    (V.INT32, pa.int32(), [0, 1, -1, 2**31 - 1, -(2**31), 127, 128, None]),
    (V.INT32, pa.int64(), [1, 2]),
    (V.INT32, pa.uint8(), [1, 200]),
    (V.INT64, pa.int64(), [0, 1, -1, 2**63 - 1, -(2**63), 127, 128, 16384]),
    (V.INT64, pa.int64(), [1, None]),
    (V.INT64, pa.int64(), [None, None]),
    (V.INT64, pa.int16(), [3]),
    (V.FLOAT, pa.float32(), [0.0, -0.0, 1.5, float("nan"), float("inf"), 3.4e38, None]),
    (V.FLOAT, pa.float64(), [0.1, None, 1e39]),
    (V.DOUBLE, pa.float64(), [0.0, -0.0, 0.1, float("nan"), float("-inf"), 1e300, None]),
    (V.BOOL, pa.bool_(), [True, False]),
    (V.BOOL, pa.bool_(), [None, False, True]),
    (V.STRING, pa.string(), ["", "a", "é" * 100, None]),
    (V.STRING, pa.large_string(), ["x"]),
    (V.BYTES, pa.binary(), [b"a", b"", None, b"\x00" * 200]),
    (V.BYTES, pa.large_binary(), [b"x"]),
    (V.PDF_BYTES, pa.binary(), [b"%PDF", b"\x00" * 200, None]),
    (V.IMAGE_BYTES, pa.binary(), [b"x", None]),
    (V.UNIX_TIMESTAMP, pa.timestamp("us", "UTC"), [*MOMENTS, None]),
    (V.UNIX_TIMESTAMP, pa.timestamp("us"), [*MOMENTS, None]),
    (V.UNIX_TIMESTAMP, pa.timestamp("ms"), [None]),
    (V.UNIX_TIMESTAMP, pa.timestamp("s"), NEAR),
    (V.UNIX_TIMESTAMP, pa.timestamp("ns", "America/New_York"), NEAR),
    (V.INT32_LIST, pa.list_(pa.int32()), [[1, -1, 0], [], None, [2**31 - 1] * 50]),
    (V.INT64_LIST, pa.list_(pa.int64()), [[1, -1, 0], [], None, [2**63 - 1] * 50]),
    (V.INT64_LIST, pa.list_(pa.int64(), 2), [[1, 2], [3, 4]]),
    (V.FLOAT_LIST, pa.list_(pa.float32()), [[1, -1, 0], [], None, [0.1] * 64, [float("nan")]]),
    (V.FLOAT_LIST, pa.list_(pa.float64(), 2), [[0.1, 0.2], None]),
    (V.FLOAT_LIST, pa.list_(pa.float32()), [[0.1, 0.2], [None, 1]]),
    (V.FLOAT_LIST, pa.large_list(pa.float32()), [[0.1], []]),
    (V.DOUBLE_LIST, pa.list_(pa.float64()), [[1, -1, 0], [], None, [0.1] * 64]),
    (V.DOUBLE_LIST, pa.list_(pa.float32()), [[0.1]]),
    (V.BOOL_LIST, pa.list_(pa.bool_()), [[True, False], [], None]),
    (V.STRING_LIST, pa.list_(pa.string()), [["a", "", None], [], None, ["é" * 100]]),
    (V.BYTES_LIST, pa.list_(pa.binary()), [[b"a", b"", None], [], None, [b"\x00" * 300]]),
    (V.UNIX_TIMESTAMP_LIST, pa.list_(pa.timestamp("us", "UTC")), [[*MOMENTS, None], [], None]),
    (V.UNIX_TIMESTAMP_LIST, pa.list_(pa.timestamp("s")), [NEAR]),
]

# Types that go through Feast's own conversion, for their column only.
LEFT_TO_FEAST: list[tuple[V, pa.DataType, list[Any]]] = [
    (V.INT64, pa.null(), [None]),
    (V.FLOAT, pa.int64(), [1, 2]),
    (V.STRING, pa.int64(), [1, 2]),
    (V.UNIX_TIMESTAMP, pa.int64(), [5, 6]),
    (V.UNIX_TIMESTAMP, pa.date32(), [date(2020, 1, 1)]),
    (V.UUID, pa.string(), ["6ba7b810-9dad-11d1-80b4-00c04fd430c8", None]),
    (V.JSON, pa.string(), ['{"a": 1}', None]),
    (V.DECIMAL, pa.string(), ["1.5", None]),
    (V.INT64_SET, pa.list_(pa.int64()), [[1], None]),
    (V.MAP, pa.map_(pa.string(), pa.int64()), [None]),
]


def feasts(array: pa.Array, kind: V) -> tuple[list[bytes], list[str | None]]:
    protos = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), kind)
    texts = [extract_text_and_num(proto, False)[0] for proto in protos]
    return [proto.SerializeToString() for proto in protos], texts


def ours(array: pa.Array, kind: V) -> tuple[list[bytes], list[str | None]]:
    column = encode_column(array, kind)
    return column.values, column.texts or [None] * len(column.values)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(("kind", "arrow", "values"), LAID_OUT + LEFT_TO_FEAST)
def test_a_column_is_what_feast_writes(
    kind: V, arrow: pa.DataType, values: list[Any], start: int
) -> None:
    array = pa.array(values, type=arrow)[start:]
    assert ours(array, kind) == feasts(array, kind)


@pytest.mark.parametrize(("kind", "arrow", "values"), LAID_OUT)
def test_no_value_of_a_known_type_becomes_a_protobuf_object(
    kind: V, arrow: pa.DataType, values: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("stores.bytes.values.python_values_to_proto_values")
    encode_column(pa.array(values, type=arrow), kind)


def test_of_a_mixed_batch_only_the_column_of_an_unknown_type_goes_through_feasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[V] = []

    def watched(values: Any, kind: V) -> list[Value]:
        given.append(kind)
        return python_values_to_proto_values(values, kind)

    monkeypatch.setattr("stores.bytes.values.python_values_to_proto_values", watched)
    types: dict[str, tuple[Any, pa.Array]] = {
        "count": (ft.Int64, pa.array([1, None])),
        "json": (ft.Json, pa.array(['{"a": 1}', None])),
        "vector": (ft.Array(ft.Float32), pa.array([[0.5], None], pa.list_(pa.float32()))),
        "moments": (ft.Array(ft.UnixTimestamp), pa.array([NEAR, []], pa.list_(MOMENT_US))),
    }
    fields = [Field(name=name, dtype=dtype) for name, (dtype, _) in types.items()]
    view = declare("mixed", Path("mixed.parquet"), ["int"], fields)[-1]
    columns = {name: array for name, (_, array) in types.items()}
    times = pa.array(NEAR[:2], MOMENT_US)
    batch = pa.record_batch({"int_id": [1, 2], "event_timestamp": times, **columns})
    # As `feast apply` sets it.
    view.entity_columns = [Field(name="int_id", dtype=ft.Int64)]
    found = columnar.encode_rows(view, batch).features
    assert given == [V.JSON]
    for name, (dtype, array) in types.items():
        assert found[name].values == feasts(array, dtype.to_value_type())[0]


def test_every_scalar_and_list_type_of_feast_is_laid_out_or_known_to_be_left() -> None:
    left = {
        *(kind for kind in V if kind.name.endswith("_SET")),
        *(V.UNKNOWN, V.NULL, V.MAP, V.MAP_LIST, V.JSON, V.JSON_LIST, V.STRUCT, V.STRUCT_LIST),
        *(V.UUID, V.TIME_UUID, V.UUID_LIST, V.TIME_UUID_LIST, V.VALUE_LIST, V.DECIMAL),
        *(V.DECIMAL_LIST, V.SCALAR_MAP, V.ZONED_TIMESTAMP),
    }
    assert {kind for kind, *_ in LAID_OUT} == set(_ENCODERS)
    new = set(V) - left - set(_ENCODERS)
    assert not new, f"this Feast has feature types that nobody has looked at: {new}"


@pytest.mark.parametrize(
    ("kind", "arrow", "values"),
    [
        (V.INT32, pa.int64(), [2**31]),
        (V.DOUBLE, pa.float32(), [0.5]),
        (V.INT64_LIST, pa.list_(pa.int64()), [[1, None]]),
        (V.JSON, pa.string(), ["{"]),
    ],
)
def test_what_feast_refuses_is_refused_with_its_own_error(
    kind: V, arrow: pa.DataType, values: list[Any]
) -> None:
    array = pa.array(values, type=arrow)
    with pytest.raises(Exception) as feasts_error:  # noqa: PT011
        feasts(array, kind)
    with pytest.raises(feasts_error.type):
        ours(array, kind)


def test_where_feasts_bytes_depend_on_the_batch_ours_lose_nothing() -> None:
    large = 2**60 + 1
    array = pa.array([large, None])
    assert Value.FromString(ours(array, V.INT64)[0][0]).int64_val == large
    assert Value.FromString(feasts(array, V.INT64)[0][0]).int64_val != large
    empty = ours(pa.array([b""]), V.BYTES)[0]
    assert Value.FromString(empty[0]).WhichOneof("val") == "bytes_val"


@given(
    st.lists(st.one_of(st.none(), st.lists(st.floats(width=32), max_size=70)), max_size=20),
    st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_any_float_lists(values: list[list[float] | None], start: int) -> None:
    array = pa.array(values, type=pa.list_(pa.float32()))[start:]
    assert ours(array, V.FLOAT_LIST) == feasts(array, V.FLOAT_LIST)


@given(st.lists(st.one_of(st.none(), st.lists(INT64, max_size=9)), max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_integer_lists(values: list[list[int] | None]) -> None:
    array = pa.array(values, type=pa.list_(pa.int64()))
    assert ours(array, V.INT64_LIST) == feasts(array, V.INT64_LIST)


@given(st.lists(st.one_of(st.none(), st.text(max_size=200)), max_size=20), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_any_strings(values: list[str | None], start: int) -> None:
    array = pa.array(values, type=pa.string())[start:]
    assert ours(array, V.STRING) == feasts(array, V.STRING)


@given(st.lists(INT64, max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_integers(values: list[int]) -> None:
    array = pa.array(values, type=pa.int64())
    assert ours(array, V.INT64) == feasts(array, V.INT64)


@given(
    st.lists(st.tuples(INT64, st.text(max_size=150), st.integers(-(2**31), 2**31 - 1)), max_size=10)
)
@settings(max_examples=100, deadline=None)
def test_composite_keys_are_sorted_by_name_as_feast_sorts_them(
    rows: list[tuple[int, str, int]],
) -> None:
    numbers, texts, small = zip(*rows, strict=True) if rows else ((), (), ())
    keys = entity_keys(
        ["member", "Zone", "band"],
        [
            pa.array(numbers, type=pa.int64()),
            pa.array(texts, type=pa.string()),
            pa.array(small, type=pa.int32()),
        ],
    )
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=["member", "Zone", "band"],
                entity_values=[
                    Value(int64_val=number),
                    Value(string_val=text),
                    Value(int32_val=few),
                ],
            ),
            3,
        )
        for number, text, few in rows
    ]
    assert keys == expected


@pytest.mark.parametrize(
    ("array", "kind", "value"),
    [
        (pa.array([7], type=pa.int32()), V.INT64, Value(int64_val=7)),
        (pa.array([7], type=pa.int64()), V.STRING, Value(string_val="7")),
        (pa.array([b"\x00a"]), V.BYTES, Value(bytes_val=b"\x00a")),
        (
            pa.array([MOMENTS[0]], type=pa.timestamp("us", "UTC")),
            V.UNIX_TIMESTAMP,
            Value(unix_timestamp_val=int(MOMENTS[0].timestamp())),
        ),
    ],
)
def test_the_declared_type_of_a_key_decides(array: pa.Array, kind: V, value: Value) -> None:
    expected = serialize_entity_key(EntityKey(join_keys=["id"], entity_values=[value]), 3)
    assert entity_keys(["id"], [array], [kind]) == [expected]
    chunks = pa.chunked_array([array, array])
    assert entity_keys(["id"], [chunks], [kind]) == [expected] * 2


def test_a_null_key_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match=r"join key 'id'.* 1 null\(s\) in 2 rows"):
        entity_keys(["id"], [pa.array([1, None])])


def test_a_key_of_an_unusable_type_is_refused() -> None:
    with pytest.raises(ValueError, match="join key 'id': expected integers, strings"):
        entity_keys(["id"], [pa.array([0.5])])


def test_a_key_needs_a_name() -> None:
    with pytest.raises(ValueError, match="at least one join key"):
        entity_keys([], [])


@given(
    st.lists(
        st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(
            lambda time: time.replace(tzinfo=UTC)
        ),
        max_size=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_timestamp_messages_are_protobufs(timestamps: list[datetime]) -> None:
    expected = []
    for timestamp in timestamps:
        message = Timestamp()
        message.FromDatetime(timestamp)
        expected.append(message.SerializeToString())
    array = pa.array(timestamps, type=pa.timestamp("us", "UTC"))
    assert timestamp_messages(microseconds(array)) == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_timestamps_of_any_unit_and_zone_are_utc_microseconds(unit: str, zone: str | None) -> None:
    timestamp = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
    array = pa.array([timestamp, None], type=pa.timestamp(unit, zone))
    expected = np.array([int(timestamp.timestamp()) * 1_000_000, 0])
    np.testing.assert_array_equal(microseconds(array), expected)
