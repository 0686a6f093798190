"""Batches of a feature view in the byte layouts of Feast's online stores.

This package writes two layouts of Feast 0.67 with numpy, over whole columns: the entity key
(`feast.infra.key_encoding_utils.serialize_entity_key`, version 3) and, in stores/bytes/values.py,
the serialized `feast.types.Value`. tests/stores/test_encode.py compares the bytes with Feast's for
every type.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from feast.infra.key_encoding_utils import _serialize_val, serialize_entity_key_prefix
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

from stores.bytes import wire
from stores.bytes.values import Column


@dataclass(frozen=True)
class EncodedBatch:
    """Rows of one feature view, ready for any online store.

    Attributes:
        keys: Serialized entity keys, version 3, without the project, which Redis appends.
        features: Feature name to column, in the view's order.
        event_us: int64 [n], microseconds since 1970 in UTC.
        created_us: The same for the created timestamp; None when the source has none.
        created_known: bool [n]; False where a row's created timestamp is null.
    """

    keys: list[bytes]
    features: dict[str, Column]
    event_us: NDArray[np.int64]
    created_us: NDArray[np.int64] | None
    created_known: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.keys)


def entity_keys(
    names: Sequence[str],
    columns: Sequence[pa.Array | pa.ChunkedArray],
    value_types: Sequence[ValueType] | None = None,
) -> list[bytes]:
    """Serialize join keys as Feast's entity key version 3, one `bytes` per row.

    Args:
        names: Join key names, in any order; the key has them sorted, as in Feast.
        columns: Their values, of equal length, without nulls.
        value_types: The declared types. Default: those of the Arrow types (int64, int32, string,
            binary, or a timestamp).

    Raises:
        ValueError: a key is null (Feast cannot store it either), or its type cannot be a key.

    >>> entity_keys(["id"], [pa.array([7])])[0].hex()
    '010000000200000002000000696404000000080000000700000000000000'
    """
    if not names:
        raise ValueError("expected at least one join key, got none")
    if value_types is None:
        value_types = [_key_type(name, column) for name, column in zip(names, columns, strict=True)]
    joined = sorted(zip(names, columns, value_types, strict=True), key=lambda part: part[0])
    prefix = serialize_entity_key_prefix([name for name, _, _ in joined])
    parts = [_key_values(name, wire.flat(column), kind) for name, column, kind in joined]
    first, rest = parts[0], parts[1:]
    if not rest:
        return [prefix + value for value in first]
    return [prefix + b"".join(row) for row in zip(first, *rest, strict=True)]


def _key_type(name: str, column: pa.Array | pa.ChunkedArray) -> ValueType:
    kind = column.type
    if pa.types.is_int32(kind):
        return ValueType.INT32
    if pa.types.is_integer(kind):
        return ValueType.INT64
    if wire.is_text(kind):
        return ValueType.STRING
    if wire.is_bytes(kind):
        return ValueType.BYTES
    if pa.types.is_timestamp(kind):
        return ValueType.UNIX_TIMESTAMP
    raise ValueError(
        f"join key {name!r}: expected integers, strings, bytes or timestamps, got {kind}"
    )


def _key_values(name: str, array: pa.Array, value_type: ValueType) -> list[bytes]:
    """Return each value, preceded by its type and size."""
    if array.null_count:
        raise ValueError(
            f"join key {name!r}: expected a value in every row, got {array.null_count} null(s) in "
            f"{len(array)} rows; drop those rows from the source"
        )
    integers = {ValueType.INT64: ("<i8", wire.INT64), ValueType.INT32: ("<i4", wire.INT32)}
    if value_type in integers and pa.types.is_integer(array.type):
        dtype, (low, high) = integers[value_type]
        numbers = array.to_numpy(zero_copy_only=False)
        if len(numbers) == 0 or (low <= int(numbers.min()) and int(numbers.max()) <= high):
            width = np.dtype(dtype).itemsize
            head = struct.pack("<II", value_type.value, width)
            ends = np.arange(1, len(numbers) + 1, dtype=np.int64) * width
            return wire.with_heads(numbers.astype(dtype).tobytes(), ends, 0, lambda _: head)
    text = value_type is ValueType.STRING and wire.is_text(array.type)
    if text or (value_type is ValueType.BYTES and wire.is_bytes(array.type)):
        parts = wire.bytes_and_ends(array)
        assert parts is not None
        data, ends, start = parts
        return wire.with_heads(
            data, ends, start, lambda size: struct.pack("<II", value_type.value, size)
        )
    protos = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), value_type)
    out = []
    for proto in protos:
        value, code = _serialize_val(proto.WhichOneof("val"), proto, 3)
        out.append(struct.pack("<II", code, len(value)) + value)
    return out
