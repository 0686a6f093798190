"""Feature columns as Feast's `Value` messages, one encoder per layout.

The bytes are those of `feast.type_map.python_values_to_proto_values` and `SerializeToString`,
without one protobuf object per value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

from stores.bytes import wire


@dataclass(frozen=True)
class Column:
    """One feature of a batch, in the bytes of the stores.

    Attributes:
        values: One serialized `Value` per row; b"" is null.
        texts: The column `value_text` of Feast's SQL stores; None if it is null in all rows.
    """

    values: list[bytes]
    texts: list[str | None] | None


def encode_column(column: pa.Array | pa.ChunkedArray, value_type: ValueType) -> Column:
    """Serialize one feature column as Feast's `Value` messages.

    Where Feast's bytes depend on the other rows of the batch, this writes the lossless ones: an
    int64 in a batch with a null keeps all 64 bits (Feast rounds it through a double), and b"" stays
    b"" (Feast makes it null when the batch has no other bytes).

    Raises:
        ValueError, TypeError or AssertionError: as Feast's own conversion would.
    """
    array = wire.flat(column)
    encoder = _ENCODERS.get(value_type)
    encoded = encoder(array) if encoder is not None else None
    return encoded if encoded is not None else _by_feast(array, value_type)


def _column(array: pa.Array, values: list[bytes], texts: list[str | None] | None) -> Column:
    """Return an encoded column with its null rows set to null."""
    for row in wire.nulls(array):
        values[row] = b""
        if texts is not None:
            texts[row] = None
    return Column(values, texts)


def _by_feast(array: pa.Array, value_type: ValueType) -> Column:
    protos = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), value_type)
    # Feast's own rule, so that an unusual Arrow type under a plain Feast type (an integer column
    # declared as String) gets its text too.
    texts = [extract_text_and_num(proto, False)[0] for proto in protos]
    has_text = any(text is not None for text in texts)
    return Column([proto.SerializeToString() for proto in protos], texts if has_text else None)


def _integer(field: str, low: int, high: int) -> Callable[[pa.Array], Column | None]:
    tag = wire.tag_of(field)

    def encode(array: pa.Array) -> Column | None:
        if not pa.types.is_integer(array.type):
            return None
        numbers = wire.numbers(array)
        if len(numbers) and not (low <= int(numbers.min()) and int(numbers.max()) <= high):
            return None  # Feast's conversion raises the error
        return _column(array, _tagged_varints(tag, numbers), list(map(str, numbers.tolist())))

    return encode


def _tagged_varints(tag: bytes, numbers: NDArray[Any]) -> list[bytes]:
    varints, keep = wire.varints(numbers)
    tags = np.tile(np.frombuffer(tag, dtype=np.uint8), (len(numbers), 1))
    return wire.cut_rows(
        np.hstack([tags, varints]), np.hstack([np.ones_like(tags, dtype=bool), keep])
    )


def _floating(
    field: str, dtype: str, accepted: Callable[[pa.DataType], bool]
) -> Callable[[pa.Array], Column | None]:
    tag = wire.tag_of(field)
    width = np.dtype(dtype).itemsize

    def encode(array: pa.Array) -> Column | None:
        if not accepted(array.type):
            return None
        # Feast cannot tell NaN from null here and stores both as null.
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, type=array.type), array)
        with np.errstate(over="ignore"):
            numbers = wire.numbers(array, 0.0).astype(dtype)
        ends = np.arange(1, len(numbers) + 1, dtype=np.int64) * width
        values = wire.with_heads(numbers.tobytes(), ends, 0, lambda _: tag)
        return _column(array, values, list(map(str, numbers.astype("<f8").tolist())))

    return encode


def _boolean(array: pa.Array) -> Column | None:
    if not pa.types.is_boolean(array.type):
        return None
    tag = wire.tag_of("bool_val")
    choices = ((tag + b"\x00", "False"), (tag + b"\x01", "True"))
    picked = [choices[truth] for truth in wire.numbers(array, False).tolist()]
    return _column(array, [value for value, _ in picked], [text for _, text in picked])


def _string(array: pa.Array) -> Column | None:
    parts = wire.bytes_and_ends(array)
    if parts is None or not wire.is_text(array.type):
        return None
    tag = wire.tag_of("string_val")
    data, ends, start = parts
    values = wire.with_heads(data, ends, start, lambda size: tag + wire.varint(size))
    return _column(array, values, array.to_pylist())


def _binary(array: pa.Array) -> Column | None:
    parts = wire.bytes_and_ends(array)
    if parts is None or not wire.is_bytes(array.type):
        return None
    tag = wire.tag_of("bytes_val")
    data, ends, start = parts
    values = wire.with_heads(data, ends, start, lambda size: tag + wire.varint(size))
    return _column(array, values, None)


def _timestamp(array: pa.Array) -> Column | None:
    if not pa.types.is_timestamp(array.type):
        return None
    seconds = wire.readable(array) // wire.MICROSECONDS
    # Feast stores a null timestamp as this number, not as null.
    seconds[~wire.known(array)] = NULL_TIMESTAMP_INT_VALUE
    return Column(_tagged_varints(wire.tag_of("unix_timestamp_val"), seconds), None)


def _list(
    field: str, elements: Callable[[pa.Array], tuple[bytes, NDArray[np.int64] | int] | None]
) -> Callable[[pa.Array], Column | None]:
    """Encode a list type whose elements are packed: numbers, booleans and timestamps."""
    tag = wire.tag_of(field)

    def encode(array: pa.Array) -> Column | None:
        if not wire.is_list(array.type):
            return None
        packed = elements(array.flatten())
        if packed is None:
            return None
        data, sizes = packed
        ends = np.cumsum(wire.numbers(pc.list_value_length(array)).astype(np.int64))
        if isinstance(sizes, int):
            ends = ends * sizes
        else:
            ends = np.concatenate(([0], np.cumsum(sizes)))[ends]
        values = wire.with_heads(data, ends, 0, lambda size: wire.packed_head(tag, size))
        return _column(array, values, None)

    return encode


def _float_elements(
    dtype: str,
) -> Callable[[pa.Array], tuple[bytes, NDArray[np.int64] | int] | None]:
    def pack(elements: pa.Array) -> tuple[bytes, int] | None:
        if not (pa.types.is_float32(elements.type) or pa.types.is_float64(elements.type)):
            return None
        # Without zero copy, Arrow returns a null element as NaN, which is also what Feast gets.
        with np.errstate(over="ignore"):
            numbers = elements.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        return numbers.tobytes(), np.dtype(dtype).itemsize

    return pack


def _integer_elements(
    low: int, high: int
) -> Callable[[pa.Array], tuple[bytes, NDArray[np.int64] | int] | None]:
    def pack(elements: pa.Array) -> tuple[bytes, NDArray[np.int64]] | None:
        if not pa.types.is_integer(elements.type) or elements.null_count:
            return None
        numbers = elements.to_numpy(zero_copy_only=False)
        if len(numbers) and not (low <= int(numbers.min()) and int(numbers.max()) <= high):
            return None
        varints, keep = wire.varints(numbers)
        return varints[keep].tobytes(), keep.sum(axis=1, dtype=np.int64)

    return pack


def _boolean_elements(elements: pa.Array) -> tuple[bytes, int] | None:
    if not pa.types.is_boolean(elements.type):
        return None
    return wire.numbers(elements, False).astype(np.uint8).tobytes(), 1


def _timestamp_elements(elements: pa.Array) -> tuple[bytes, NDArray[np.int64]] | None:
    if not pa.types.is_timestamp(elements.type):
        return None
    # Truncated towards zero, unlike scalars: Feast uses the double of datetime.timestamp() here.
    # (It reads nanoseconds in lists as seconds, which is not followed.)
    seconds = np.trunc(wire.readable(elements) / wire.MICROSECONDS).astype(np.int64)
    seconds[~wire.known(elements)] = NULL_TIMESTAMP_INT_VALUE
    varints, keep = wire.varints(seconds)
    return varints[keep].tobytes(), keep.sum(axis=1, dtype=np.int64)


def _text_list(field: str, wanted: Callable[[pa.DataType], bool]) -> Callable[..., Column | None]:
    """Encode lists of strings or bytes: each element has its own tag and size."""
    tag = wire.tag_of(field)

    def encode(array: pa.Array) -> Column | None:
        if not wire.is_list(array.type) or not wanted(array.type.value_type):
            return None
        elements = array.flatten()
        if elements.null_count:
            elements = pc.fill_null(elements, pa.scalar(b"").cast(elements.type))
        parts = wire.bytes_and_ends(elements)
        if parts is None:
            return None
        framed, sizes = wire.framed(*parts, tag=0x0A)
        rows = np.cumsum(wire.numbers(pc.list_value_length(array)).astype(np.int64))
        bounds = np.concatenate(([0], np.cumsum(sizes)))[rows]
        values = wire.with_heads(framed, bounds, 0, lambda size: tag + wire.varint(size))
        return _column(array, values, None)

    return encode


_ENCODERS: dict[ValueType, Callable[[pa.Array], Column | None]] = {
    ValueType.INT32: _integer("int32_val", *wire.INT32),
    ValueType.INT64: _integer("int64_val", *wire.INT64),
    ValueType.FLOAT: _floating("float_val", "<f4", wire.is_float),
    # Feast refuses float32 under Float64; its own conversion raises the error.
    ValueType.DOUBLE: _floating("double_val", "<f8", pa.types.is_float64),
    ValueType.BOOL: _boolean,
    ValueType.STRING: _string,
    ValueType.BYTES: _binary,
    ValueType.PDF_BYTES: _binary,
    ValueType.IMAGE_BYTES: _binary,
    ValueType.UNIX_TIMESTAMP: _timestamp,
    ValueType.INT32_LIST: _list("int32_list_val", _integer_elements(*wire.INT32)),
    ValueType.INT64_LIST: _list("int64_list_val", _integer_elements(*wire.INT64)),
    ValueType.FLOAT_LIST: _list("float_list_val", _float_elements("<f4")),
    ValueType.DOUBLE_LIST: _list("double_list_val", _float_elements("<f8")),
    ValueType.BOOL_LIST: _list("bool_list_val", _boolean_elements),
    ValueType.UNIX_TIMESTAMP_LIST: _list("unix_timestamp_list_val", _timestamp_elements),
    ValueType.STRING_LIST: _text_list("string_list_val", wire.is_text),
    ValueType.BYTES_LIST: _text_list("bytes_list_val", wire.is_bytes),
}
