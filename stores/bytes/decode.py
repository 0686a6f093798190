"""Feast's stored values (serialized `feast.types.Value` messages) as numpy arrays.

The layouts are those of protobuf's wire format for the messages in Feast's `Value.proto`:
https://protobuf.dev/programming-guides/encoding/. A value is one field of a oneof, so its bytes
are one tag followed by the payload; a list of floats holds its numbers back to back, little endian.
This module checks and copies whole columns of such values at once. Bytes in any other legal layout
(protobuf lets a client split and reorder some of them) go through Feast's own message.
"""

from collections.abc import Sequence
from datetime import UTC
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import PROTO_VALUE_TO_VALUE_TYPE_MAP, feast_value_type_to_python_type
from feast.value_type import ValueType
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from stores.bytes.wire import packed_head as _packed_head
from stores.bytes.wire import tag_of as _tag

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class _Layout(NamedTuple):
    attribute: str  # the field's name in Value's oneof
    dtype: str  # of the payload's numbers


_VECTORS = {
    ValueType.FLOAT_LIST: _Layout("float_list_val", "<f4"),
    ValueType.DOUBLE_LIST: _Layout("double_list_val", "<f8"),
}
_SCALARS = {
    ValueType.FLOAT: _Layout("float_val", "<f4"),
    ValueType.DOUBLE: _Layout("double_val", "<f8"),
    ValueType.INT32: _Layout("int32_val", "<i4"),
    ValueType.INT64: _Layout("int64_val", "<i8"),
    ValueType.BOOL: _Layout("bool_val", "?"),
    ValueType.UNIX_TIMESTAMP: _Layout("unix_timestamp_val", "<M8[s]"),
}
NAT = np.iinfo(np.int64).min  # datetime64's NaT, and Feast's NULL_TIMESTAMP_INT_VALUE

_LONGEST_VARINT = 10
_SHIFTS = np.arange(_LONGEST_VARINT, dtype=np.uint64) * np.uint64(7)


class MisfitError(ValueError):
    """A stored value that does not match its declared type: its row, and what it holds."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row


def is_vector(value_type: ValueType) -> bool:
    """Whether `column` returns this type as `[n, dim]`: lists of float32 or float64."""
    return value_type in _VECTORS


def column(value_type: ValueType, raws: Sequence[bytes | None], dim: int = 0) -> tuple[Array, Mask]:
    """Decode one feature's stored bytes, which are None or empty where there is no value.

    Returns:
        values: `[n, dim]` for lists of floats (float32 or float64), `[n]` for the rest: float32,
            float64, int32, int64, bool, datetime64[s] (UTC), and for every other type an object
            array with the values of Feast's `to_dict()`. Zero (NaT, None) where there is no value.
        present: `[n]` mask, False where Feast's `to_dict()` holds None.

    Args:
        value_type: the declared type of the feature.
        raws: n serialized `Value` messages.
        dim: numbers per vector; 0 takes that of the first vector, or `[n, 0]` if there is none.

    Raises:
        MisfitError: a vector of another length, a value of another type than declared, or one that
            no value of its type can be.
    """
    if value_type in _VECTORS:
        return _vectors(_VECTORS[value_type], raws, dim)
    if value_type in _SCALARS:
        return _scalars(_SCALARS[value_type], raws)
    return _objects(value_type, raws)


def lists(value_type: ValueType, raws: Sequence[bytes | None]) -> tuple[Array, Mask]:
    """Decode lists of any length, of floats too: an object array [n], None where there is none.

    Returns:
        As `column`.

    Raises:
        MisfitError: as `column`.
    """
    return _objects(value_type, raws)


def with_nulls(values: Array, missing: float | str) -> Array:
    """Return lists [n] with None for the elements that stand for a missing one; NaN stands for NaN.

    >>> cells = np.array([[1.5, float("nan")], None], object)
    >>> with_nulls(cells, float("nan")).tolist()
    [[1.5, None], None]
    """
    nulled = np.empty(len(values), object)
    is_nan = missing != missing
    for row, cell in enumerate(values):
        if cell is not None:
            nulled[row] = [
                None if (value != value if is_nan else value == missing) else value
                for value in cell
            ]
    return nulled


def pythonic(values: Array, present: Mask) -> list[Any]:
    """Return the column as Feast's `to_dict()` has it: lists, numbers, aware datetimes, None."""
    cells: list[Any] = values.tolist()
    if values.dtype.kind == "M":  # naive, and None where NaT
        return [cell and cell.replace(tzinfo=UTC) for cell in cells]
    if present.all():
        return cells
    return [cell if p else None for cell, p in zip(cells, present, strict=True)]


def timestamps(raws: Sequence[bytes | None]) -> Array:
    """Decode `google.protobuf.Timestamp` messages as datetime64[us], NaT for None or empty."""
    known: dict[bytes | None, int] = {None: NAT, b"": NAT}  # snapshots have few distinct timestamps
    for raw in set(raws):
        if raw:
            try:
                message = Timestamp.FromString(raw)
            except DecodeError as error:
                raise MisfitError(
                    raws.index(raw), f"has an event timestamp that cannot be read: {error}"
                ) from error
            known[raw] = message.seconds * 1_000_000 + message.nanos // 1_000
    return np.array([known[raw] for raw in raws], np.int64).view("M8[us]")


def _vectors(layout: _Layout, raws: Sequence[bytes | None], dim: int) -> tuple[Array, Mask]:
    present = np.fromiter(map(bool, raws), bool, len(raws))
    held = [raw for raw in raws if raw]
    if not held:
        return np.zeros((len(raws), dim), layout.dtype), present
    dim = dim or len(_parse(layout, held[0], _row(present, 0)).val)
    # The slice below is copied, so that the result is writable and aligned.
    size = dim * np.dtype(layout.dtype).itemsize
    head = _packed_head(_tag(layout.attribute), size)
    if set(map(len, held)) == {len(head) + size}:
        block = np.frombuffer(b"".join(held), np.uint8).reshape(len(held), -1)
        if (block[:, : len(head)] == np.frombuffer(head, np.uint8)).all():
            numbers = block[:, len(head) :].copy().view(layout.dtype)
            return _spread(numbers, present), present
    numbers = np.empty((len(held), dim), layout.dtype)
    for i, raw in enumerate(held):
        vector = _parse(layout, raw, _row(present, i)).val
        if len(vector) != dim:
            raise MisfitError(_row(present, i), f"holds {len(vector)} numbers, expected {dim}")
        numbers[i] = vector
    return _spread(numbers, present), present


def _scalars(layout: _Layout, raws: Sequence[bytes | None]) -> tuple[Array, Mask]:
    present = np.fromiter(map(bool, raws), bool, len(raws))
    held = [raw for raw in raws if raw]
    if not held:
        numbers = np.zeros(0, layout.dtype)
    elif np.dtype(layout.dtype).kind == "f":
        numbers = _fixed(layout, held, present)
    else:
        numbers = _varints(layout, held, present)
    if layout.dtype == "<M8[s]":
        present[present] = ~np.isnat(numbers)
        numbers = numbers[~np.isnat(numbers)]
    return _spread(numbers, present), present


def _fixed(layout: _Layout, held: Sequence[bytes], present: Mask) -> Array:
    tag = _tag(layout.attribute)
    if set(map(len, held)) == {len(tag) + np.dtype(layout.dtype).itemsize}:
        block = np.frombuffer(b"".join(held), np.uint8).reshape(len(held), -1)
        if (block[:, : len(tag)] == np.frombuffer(tag, np.uint8)).all():
            return block[:, len(tag) :].copy().view(layout.dtype)[:, 0]
    return _one_by_one(layout, held, present)


def _varints(layout: _Layout, held: Sequence[bytes], present: Mask) -> Array:
    tag = _tag(layout.attribute)
    width = len(tag) + _LONGEST_VARINT
    sizes = np.fromiter(map(len, held), np.int64, len(held)) - len(tag)
    if sizes.min() >= 1 and sizes.max() <= _LONGEST_VARINT:
        block = np.frombuffer(b"".join([raw.ljust(width, b"\0") for raw in held]), np.uint8)
        block = block.reshape(len(held), width)
        digits = block[:, len(tag) :]
        # A number ends at the first byte without the high bit; the zeros after it are our padding.
        continues = digits >= 0x80
        whole = continues == (np.arange(_LONGEST_VARINT) < (sizes - 1)[:, None])
        if whole.all() and (block[:, : len(tag)] == np.frombuffer(tag, np.uint8)).all():
            bits = ((digits & 0x7F).astype(np.uint64) << _SHIFTS).sum(axis=1, dtype=np.uint64)
            return _from_bits(bits.view(np.int64), layout)
    return _one_by_one(layout, held, present)


def _from_bits(numbers: Array, layout: _Layout) -> Array:
    return numbers.view(layout.dtype) if layout.dtype == "<M8[s]" else numbers.astype(layout.dtype)


def _one_by_one(layout: _Layout, held: Sequence[bytes], present: Mask) -> Array:
    numbers = [_parse(layout, raw, _row(present, i)) for i, raw in enumerate(held)]
    return _from_bits(np.array(numbers), layout)


def _objects(value_type: ValueType, raws: Sequence[bytes | None]) -> tuple[Array, Mask]:
    expected = _attributes(value_type)
    cells = [
        _python(value_type, expected, raw, row) if raw else None for row, raw in enumerate(raws)
    ]
    values = np.fromiter(cells, object, len(cells))
    return values, np.fromiter((cell is not None for cell in cells), bool, len(cells))


def _python(value_type: ValueType, expected: Sequence[str], raw: bytes, row: int) -> Any:
    value = _message((*expected, None), raw, row)  # without a value it is null, as to Feast
    try:
        return feast_value_type_to_python_type(value, value_type)
    except (ArithmeticError, ValueError, OSError) as error:  # no such moment, UUID or decimal
        raise MisfitError(
            row, f"holds a {value.WhichOneof('val')} that is no {value_type.name}: {error}"
        ) from error


@cache
def _attributes(value_type: ValueType) -> tuple[str, ...]:
    """Return the fields of Value's oneof that may hold a type, the usual one first."""
    name = value_type.name.lower()
    found = [key for key, kind in PROTO_VALUE_TO_VALUE_TYPE_MAP.items() if kind == value_type]
    if value_type in (ValueType.PDF_BYTES, ValueType.IMAGE_BYTES):
        found.append("bytes_val")
    if "UUID" in value_type.name:  # older versions of Feast kept these as text
        found.append("string" + name.removeprefix("time_").removeprefix("uuid") + "_val")
    return tuple(dict.fromkeys([*found, f"{name}_val"]))


def _parse(layout: _Layout, raw: bytes, row: int) -> Any:
    """Decode a value through Feast's own message, which reads every legal layout."""
    return getattr(_message((layout.attribute,), raw, row), layout.attribute)


def _message(expected: Sequence[str | None], raw: bytes, row: int) -> Value:
    try:
        value = Value.FromString(raw)
    except DecodeError as error:
        raise MisfitError(row, f"holds bytes that are not a feast.types.Value: {error}") from error
    if value.WhichOneof("val") not in expected:
        raise MisfitError(
            row, f"holds a {value.WhichOneof('val')}, expected a {expected[0]}: was the "
            "view's schema changed after its rows were written? Materialize it again"
        )  # fmt: skip
    return value


def _spread(numbers: Array, present: Mask) -> Array:
    """Put the numbers of the present rows at their rows, zeros (NaT) elsewhere."""
    if len(numbers) == len(present):
        return numbers
    out = np.zeros((len(present), *numbers.shape[1:]), numbers.dtype)
    if out.dtype.kind == "M":
        out[:] = "NaT"
    out[present] = numbers
    return out


def _row(present: Mask, nth: int) -> int:
    return int(np.flatnonzero(present)[nth])
