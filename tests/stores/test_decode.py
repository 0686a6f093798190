"""Stored bytes as arrays: every legal layout is read, everything else is refused."""

from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType

from stores.bytes import decode


@pytest.mark.parametrize(
    ("value_type", "raw", "expected"),
    [
        # Legal protobuf that Feast itself does not write.
        (ValueType.FLOAT_LIST, b"\x82\x01\x0a\x0d\x00\x00\x80\x3f\x0d\x00\x00\x00\x40", [1.0, 2.0]),
        (ValueType.INT64, b"\x20\x85\x80\x00", 5),
        (ValueType.INT64, b"\x20\x01\x20\x07", 7),
        (ValueType.FLOAT, b"\x35\x00\x00\x00\x00\x35\x00\x00\x80\x3f", 1.0),
        (ValueType.BOOL, b"\x38\x81\x00", True),
        (ValueType.UNIX_TIMESTAMP, b"\x40\x80\x01\x40\x01", np.datetime64(1, "s")),
    ],
)
def test_unusual_bytes_go_through_feasts_own_message(
    value_type: ValueType, raw: bytes, expected: Any
) -> None:
    values, present = decode.column(value_type, [None, raw])
    assert present.tolist() == [False, True]
    assert np.array_equal(values[1], expected)


@pytest.mark.parametrize("raw", [b"\x20\x05\x80", b"\x20" + b"\xff" * 12, b"\x20"])
def test_broken_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(decode.MisfitError, match=r"not a feast\.types\.Value") as error:
        decode.column(ValueType.INT64, [b"\x20\x05", raw])
    assert error.value.row == 1


def test_a_vector_message_with_trailing_numbers_is_not_cut() -> None:
    """Length and head must both match: here only the length does."""
    right = Value(float_list_val=FloatList(val=[1.0, 2.0])).SerializeToString()
    other = Value(double_val=3.0).SerializeToString() + b"\x28\x01\x28\x01"
    assert len(other) == len(right)
    with pytest.raises(decode.MisfitError, match="holds a double_val") as error:
        decode.column(ValueType.FLOAT_LIST, [right, None, other])
    assert error.value.row == 2


# What each type's value is taken for by its bytes: one of every other type is refused.
OF_TYPES: dict[ValueType, Value] = {
    ValueType.STRING: Value(string_val="a"),
    ValueType.BYTES: Value(bytes_val=b"a"),
    ValueType.BOOL: Value(bool_val=True),
    ValueType.UNIX_TIMESTAMP: Value(unix_timestamp_val=1),
    ValueType.INT64: Value(int64_val=1),
    ValueType.INT32: Value(int32_val=1),
    ValueType.DOUBLE: Value(double_val=1.0),
    ValueType.FLOAT: Value(float_val=1.0),
    ValueType.JSON: Value(json_val="1"),
    ValueType.UUID: Value(uuid_val="6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ValueType.DECIMAL: Value(decimal_val="1"),
    ValueType.STRING_LIST: Value(string_list_val=StringList(val=["a"])),
    ValueType.INT64_LIST: Value(int64_list_val=Int64List(val=[1])),
    ValueType.FLOAT_LIST: Value(float_list_val=FloatList(val=[1.0])),
    ValueType.UNIX_TIMESTAMP_LIST: Value(unix_timestamp_list_val=Int64List(val=[1])),
}
LEGACY = {(ValueType.UUID, ValueType.STRING)}  # which Feast reads too, where it is a UUID


@pytest.mark.parametrize("declared", OF_TYPES)
def test_a_value_of_another_type_is_refused(declared: ValueType) -> None:
    right = OF_TYPES[declared].SerializeToString()
    values, present = decode.column(declared, [right, None])
    assert present.tolist() == [True, False]
    as_feast = feast_value_type_to_python_type(OF_TYPES[declared], declared)
    assert decode.pythonic(values[:1], present[:1]) == [as_feast]
    for other, value in OF_TYPES.items():
        if other != declared:
            what = "is no UUID" if (declared, other) in LEGACY else "expected a"
            with pytest.raises(decode.MisfitError, match=f"holds a .*{what}") as error:
                decode.column(declared, [right, value.SerializeToString()])
            assert error.value.row == 1


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (ValueType.UUID, Value(uuid_val="no")),
        (ValueType.DECIMAL, Value(decimal_val="no")),
        (ValueType.UNIX_TIMESTAMP_LIST, Value(unix_timestamp_list_val=Int64List(val=[2**62]))),
    ],
)
def test_what_no_value_of_the_type_can_be_is_refused(declared: ValueType, value: Value) -> None:
    with pytest.raises(decode.MisfitError, match=f"that is no {declared.name}"):
        decode.column(declared, [value.SerializeToString()])


def test_a_broken_event_timestamp_is_refused() -> None:
    with pytest.raises(decode.MisfitError, match="event timestamp that cannot be read"):
        decode.timestamps([None, b"\xff"])
