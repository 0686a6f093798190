"""Pieces of the protobuf wire format, many values at a time, and helpers for Arrow arrays.

The format is https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import Value
from numpy.typing import NDArray

MICROSECONDS = 1_000_000

# What Python's datetime holds, in microseconds since 1970.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999

INT64 = (-(2**63), 2**63 - 1)
INT32 = (-(2**31), 2**31 - 1)


def varint(value: int) -> bytes:
    """Return one non-negative number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varints(values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the varints of int64 values as [n, 10] bytes and the mask of the bytes that count."""
    unsigned = values.astype(np.int64).view(np.uint64)
    groups = unsigned[:, None] >> (np.arange(10, dtype=np.uint64) * np.uint64(7))
    keep = groups != 0
    keep[:, 0] = True
    more = np.zeros_like(keep)
    more[:, :-1] = keep[:, 1:]
    return (groups & np.uint64(0x7F)).astype(np.uint8) | (more * np.uint8(0x80)), keep


def cut_rows(matrix: NDArray[np.uint8], keep: NDArray[np.bool_]) -> list[bytes]:
    """Return the kept bytes of each row as one `bytes`."""
    flat = matrix[keep].tobytes()
    ends = np.cumsum(keep.sum(axis=1)).tolist()
    return [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@cache
def tag_of(field: str) -> bytes:
    """Return the tag of one of Value's fields, from Feast's own descriptor."""
    descriptor = Value.DESCRIPTOR.fields_by_name[field]
    wire = {
        descriptor.TYPE_DOUBLE: 1,
        descriptor.TYPE_FLOAT: 5,
        descriptor.TYPE_STRING: 2,
        descriptor.TYPE_BYTES: 2,
        descriptor.TYPE_MESSAGE: 2,
    }.get(descriptor.type, 0)
    return varint(descriptor.number << 3 | wire)


def packed_head(tag: bytes, size: int) -> bytes:
    """Return the bytes before the `size` bytes of a packed list inside its list message."""
    if size == 0:
        return tag + b"\x00"
    inner = b"\x0a" + varint(size)
    return tag + varint(len(inner) + size) + inner


def with_heads(
    data: bytes, ends: NDArray[np.int64], start: int, head: Callable[[int], bytes]
) -> list[bytes]:
    """Cut `data` at `ends`; return each piece after the head for its size."""
    starts = np.concatenate(([start], ends[:-1])) if len(ends) else ends
    sizes = ends - starts
    heads = {size: head(size) for size in np.unique(sizes).tolist()}
    if len(heads) == 1:
        (only,) = heads.values()
        return [only + data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return [heads[b - a] + data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def framed(data: bytes, ends: NDArray[np.int64], start: int, tag: int) -> tuple[bytes, Any]:
    """Return the pieces of `data`, each after a tag and its size; and each one's size with that.

    As `with_heads`, for pieces too many and too small to be objects: texts in lists.
    """
    sizes = np.diff(ends, prepend=start)
    numbers, keep = varints(sizes)
    heads = np.hstack([np.full((len(sizes), 1), tag, np.uint8), numbers])
    keep = np.hstack([np.ones((len(sizes), 1), bool), keep])
    head_sizes = keep.sum(axis=1, dtype=np.int64)
    in_turn = np.column_stack([head_sizes, sizes]).ravel()
    is_data = np.repeat(np.tile([False, True], len(sizes)), in_turn)
    out = np.empty(len(is_data), np.uint8)
    out[is_data] = np.frombuffer(data, np.uint8)[start : start + int(sizes.sum())]
    out[~is_data] = heads[keep]
    return out.tobytes(), head_sizes + sizes


def timestamp_messages(timestamps_us: NDArray[np.int64]) -> list[bytes]:
    """Serialize `google.protobuf.Timestamp` messages, as Redis stores event timestamps."""
    distinct, where = np.unique(timestamps_us, return_inverse=True)
    if 2 * len(distinct) < len(timestamps_us):  # snapshots have few distinct timestamps
        messages = timestamp_messages(distinct)
        return [messages[nth] for nth in where.tolist()]
    seconds, rest = np.divmod(timestamps_us, MICROSECONDS)
    second_bytes, second_keep = varints(seconds)
    nano_bytes, nano_keep = varints(rest * 1000)
    tag = np.ones((len(timestamps_us), 1), dtype=np.uint8)
    matrix = np.hstack([tag * 0x08, second_bytes, tag * 0x10, nano_bytes])
    # proto3 omits a field that is zero, with its tag.
    has_seconds, has_nanos = (seconds != 0)[:, None], (rest != 0)[:, None]
    keep = np.hstack(
        [has_seconds, second_keep & has_seconds, has_nanos, nano_keep & has_nanos],
    )
    return cut_rows(matrix, keep)


def in_turn(columns: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the first of each column, then the second of each, and so on.

    One tuple per row would make the garbage collector visit all of them again and again.
    """
    out: list[Any] = [None] * (len(columns) * len(columns[0]))
    for nth, column in enumerate(columns):
        out[nth :: len(columns)] = column
    return out


def microseconds(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Return timestamps as int64 microseconds since 1970; naive ones are UTC, null is 0."""
    array = flat(column)
    if pa.types.is_timestamp(array.type) and array.type.unit in ("us", "ns"):
        integers = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return integers if array.type.unit == "us" else integers // 1000
    plain = array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None)))
    return pc.fill_null(plain.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)


def readable(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """As `microseconds`, of the years 1 to 9999: Python, and so every later read, knows no other.

    Raises:
        ValueError: a timestamp lies outside.
    """
    times = microseconds(column)
    outside = (times < FIRST_US) | (times > LAST_US)
    if outside.any():
        raise ValueError(
            "expected timestamps of the years 1 to 9999, which every reader knows, got "
            f"{flat(column)[int(np.argmax(outside))].cast(pa.string())}. Make it null in the source"
        )
    return times


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunks
            column = pa.array([], type=column.type)
    return column


def known(array: pa.Array) -> NDArray[np.bool_]:
    """Return bool [n]: True where there is a value."""
    return pc.is_valid(array).to_numpy(zero_copy_only=False)


def nulls(array: pa.Array) -> list[int]:
    """Return the rows without a value."""
    return [] if array.null_count == 0 else np.flatnonzero(~known(array)).tolist()


def numbers(array: pa.Array, zero: object = 0) -> NDArray[Any]:
    """Return the values, `zero` where there is none, without a conversion to doubles."""
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(zero, type=array.type))
    return array.to_numpy(zero_copy_only=False)


def bytes_and_ends(array: pa.Array) -> tuple[bytes, NDArray[np.int64], int] | None:
    """Return the data of a string or binary array, the end of each value, and the first start."""
    width: np.dtype[Any]
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        width = np.dtype(np.int32)
    elif pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type):
        width = np.dtype(np.int64)
    else:
        return None
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return b"", np.zeros(len(array), dtype=np.int64), 0
    bounds = np.frombuffer(offsets, dtype=width)[array.offset : array.offset + len(array) + 1]
    return (data.to_pybytes() if data else b""), bounds[1:].astype(np.int64), int(bounds[0])


def is_list(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's list types that `flatten` supports."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether this is a string type with offsets."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether this is a binary type with offsets."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_float(kind: pa.DataType) -> bool:
    """Whether this is float32 or float64."""
    return pa.types.is_float32(kind) or pa.types.is_float64(kind)
