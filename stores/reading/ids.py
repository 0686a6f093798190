"""The requested ids, as the entity keys under which Feast stores rows."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.value_type import ValueType
from numpy.typing import NDArray

from stores.bytes.encode import entity_keys
from stores.ids import IdError, ids_of
from stores.reading.plan import JoinKey, KeyGroup, Plan, ReadError

_PLAIN = {ValueType.INT32: 4, ValueType.INT64: 8, ValueType.STRING: 0}  # bytes per id


@dataclass(frozen=True)
class Keys:
    """The distinct entity keys of one group, and the index of each request row's key.

    Example: ids 7, 9, 7 give `distinct` [key of 7, key of 9] and `rows` [0, 1, 0].
    """

    distinct: list[bytes]
    rows: NDArray[np.intp] | None  # None: row i is key i


@dataclass(frozen=True)
class Ids:
    """A request's columns: `cells` has n ids per column, or one that stands for all n rows."""

    cells: dict[str, list[Any]]
    n: int

    def full(self, column: str) -> list[Any]:
        """Return the column with n cells."""
        cells = self.cells[column]
        return cells if len(cells) == self.n else cells * self.n

    def at(self, group: KeyGroup, row: int) -> str:
        """Return the ids of one row, for a message: `member_id=7, item_id='a'`."""
        return ", ".join(
            f"{key.column}={self.full(key.column)[row]!r}"
            for key in group.keys
            if key.column in self.cells
        )


def gather(plan: Plan, ids: Mapping[str, Any]) -> Ids:
    """Take the plan's columns from the caller's; scalars and single cells stand for all rows.

    Raises:
        ReadError: a column is missing, holds what is no id of its key's type (stores/ids.py), or
            two columns differ in length and neither has one cell.
    """
    missing = [column for column in plan.columns if column not in ids]
    if missing:
        raise ReadError(
            f"expected ids for {', '.join(plan.columns)}; got {', '.join(ids) or 'none'}: "
            f"add {', '.join(missing)}"
        )
    cells = {column: _cells(ids[column]) for column in plan.columns}
    for key in plan.keys:
        cells[key.column] = _checked(key, ids[key.column], cells[key.column])
    lengths = {column: len(values) for column, values in cells.items() if len(values) != 1}
    if len(set(lengths.values())) > 1:
        raise ReadError(
            f"expected columns of one length (or a single id that stands for all rows), got "
            f"{', '.join(f'{length} of {column}' for column, length in lengths.items())}"
        )
    return Ids(cells, next(iter(lengths.values()), 1))


def distinct(group: KeyGroup, ids: Ids) -> Keys:
    """Encode each row's entity key; list a key that many rows share once."""
    cells = [
        [DUMMY_ENTITY_VAL] if key.column == DUMMY_ENTITY_ID else ids.cells[key.column]
        for key in group.keys
    ]
    single = ids.n > 0 and all(len(values) == 1 for values in cells)
    if not single:
        cells = [values * ids.n if len(values) == 1 else values for values in cells]
    keys = _encode(group, cells)
    if single:
        return Keys(keys, np.zeros(ids.n, np.intp) if ids.n > 1 else None)
    index_of: dict[bytes, int] = {}
    rows = [index_of.setdefault(key, len(index_of)) for key in keys]
    if len(index_of) == len(keys):
        return Keys(keys, None)
    return Keys(list(index_of), np.array(rows, np.intp))


def _encode(group: KeyGroup, columns: Sequence[list[Any]]) -> list[bytes]:
    """Return entity keys as `stores.bytes.encode` does, without Arrow where ids are plain.

    A request has hundreds of ids at most, and encoding a single member id must cost less than the
    lookup.
    """
    ordered = sorted(zip(group.keys, columns, strict=True), key=lambda pair: pair[0].name)
    keys = [key for key, _ in ordered]
    if any(key.type not in _PLAIN for key in keys):
        arrays = [pa.array(cells) for _, cells in ordered]
        return entity_keys([key.name for key in keys], arrays, [key.type for key in keys])
    head = serialize_entity_key_prefix([key.name for key in keys])
    parts = [_parts(key, cells) for key, cells in ordered]
    if len(parts) == 1:
        return [head + part for part in parts[0]]
    return [head + b"".join(row) for row in zip(*parts, strict=True)]


def _parts(key: JoinKey, cells: list[Any]) -> list[bytes]:
    """Return each id as in an entity key: its type, its size, its bytes."""
    code = key.type.value
    if key.type is ValueType.STRING:
        texts = [cell.encode() for cell in cells]
        return [struct.pack("<II", code, len(text)) + text for text in texts]
    size = _PLAIN[key.type]
    head = struct.pack("<II", code, size)
    try:
        return [head + int(cell).to_bytes(size, "little", signed=True) for cell in cells]
    except OverflowError:
        widest = max(cells, key=abs)
        raise _unfit(key, f"{widest}, which does not fit into {size} bytes") from None


def _unfit(key: JoinKey, got: str) -> ReadError:
    return ReadError(f"{key.column}: expected {key.type.name.lower()} ids, got {got}")


def _checked(key: JoinKey, given: Any, cells: list[Any]) -> list[Any]:
    """Return ids of the key's type, by the rule of stores/ids.py."""
    if key.type not in _PLAIN:
        if any(cell is None for cell in cells):
            raise _unfit(key, "None")
        return cells
    if getattr(given, "dtype", None) in (np.float16, np.float32):
        raise _unfit(key, f"{given.dtype}, which does not hold every id")
    try:
        return ids_of(cells, key.type.name.lower(), key.column)
    except IdError as error:
        raise ReadError(str(error)) from None


def _cells(ids: Any) -> list[Any]:
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return ids.to_pylist()
    if isinstance(ids, np.ndarray):
        return np.atleast_1d(ids).tolist()
    if isinstance(ids, str | bytes) or not hasattr(ids, "__iter__"):
        return [ids]
    return list(ids)
