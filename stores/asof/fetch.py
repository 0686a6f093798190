"""Fetch the features of found rows: read the files once, copy each value to its label's row.

A vector is copied once, from DuckDB's decoded batch into the column of the result. It goes through
no join and no sort.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stores.asof.query import AsofView, read_sql, sample_sql

ROWS_PER_READ = 65_536


class TooLargeError(Exception):
    """The features of these labels take more bytes than were allowed."""


class _UnevenError(Exception):
    """A list that is null, contains a null, or differs in length from the one before."""


class _Column(Protocol):
    """One feature of the result while its values arrive."""

    def put(self, array: pa.Array, sources: NDArray[np.int64], labels: NDArray[np.int64]) -> int:
        """Copy the values at `sources` to the rows `labels`; return their size in bytes."""

    def finish(self) -> pa.Array:
        """Return one value per row, null where none was put."""


class Fetch:
    """The features of one view, for one chunk of labels after the other.

    `positions` maps each file of the view to the position of its first row. `pick_<number>` must be
    filled.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        view: AsofView,
        number: int,
        positions: Mapping[str, int],
    ) -> None:
        self._con = con
        self._view = view
        self._number = number
        self._files = list(positions)
        self._first = positions
        self._positions = np.array(list(positions.values()), dtype=np.int64)
        none = con.sql(f"{read_sql(view, number, {self._files[0]: 0})} limit 0")
        self.types = dict(zip(view.features, none.to_arrow_table().schema.types[1:], strict=True))
        self._uneven: set[str] = set()

    def sample(self) -> pa.Table:
        """Return the features of some rows of a file with a found row; of any if none was found."""
        found = self._con.execute(
            f"select position from pick_{self._number} where position is not null limit 1"
        ).fetchall()
        file = self._file_of(np.array(found[0]))[0] if found else self._files[0]
        return self._con.sql(sample_sql(self._view, self._number, file)).to_arrow_table()

    def columns(self, first: int, end: int, most_bytes: float) -> list[pa.Array]:
        """Return the features of the labels from row `first` up to before `end`.

        Raises:
            TooLargeError: they take more than `most_bytes`.
        """
        picked = self._con.sql(
            f"select label_row - {first} as label, position from pick_{self._number} "
            f"where label_row >= {first} and label_row < {end} and position is not null"
        ).to_arrow_table()
        labels, positions = (picked[name].to_numpy() for name in ("label", "position"))
        order = np.argsort(positions, kind="stable")
        while True:
            try:
                return self._read(end - first, labels[order], positions[order], most_bytes)
            except _UnevenError as uneven:
                self._uneven.add(uneven.args[0])

    def _read(
        self, count: int, labels: NDArray[np.int64], positions: NDArray[np.int64], most_bytes: float
    ) -> list[pa.Array]:
        has_row = np.zeros(count, dtype=bool)
        has_row[labels] = True
        columns = {name: self._column(name, kind, has_row) for name, kind in self.types.items()}
        held = 0
        for batch in self._batches(positions):
            sources, targets = _matches(batch.column(0).to_numpy(), positions, labels)
            for index, (name, column) in enumerate(columns.items(), start=1):
                try:
                    held += column.put(batch.column(index), sources, targets)
                except _UnevenError:
                    raise _UnevenError(name) from None
            if held > most_bytes and count > 1:
                raise TooLargeError
        return [column.finish() for column in columns.values()]

    def _batches(self, positions: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        if len(positions):
            files = self._file_of(positions)
            query = read_sql(self._view, self._number, {file: self._first[file] for file in files})
            yield from self._con.sql(query).to_arrow_reader(ROWS_PER_READ)

    def _file_of(self, positions: NDArray[np.int64]) -> list[str]:
        used = np.unique(np.searchsorted(self._positions, positions, side="right") - 1)
        return [self._files[index] for index in used.tolist()]

    def _column(self, name: str, kind: pa.DataType, has_row: NDArray[np.bool_]) -> _Column:
        if _width(kind):
            return _Numbers(kind, len(has_row))
        if pa.types.is_list(kind) and _width(kind.value_type) and name not in self._uneven:
            return _Vectors(kind, has_row)
        return _Anything(kind, len(has_row))


def _matches(
    read: NDArray[np.int64], positions: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indexes of the wanted rows in `read`, and their labels; `positions` ascends.

    DuckDB returns runs of consecutive positions, the runs in any order. For example:

        read       7  8  9  2  3     two runs
        positions  3  8  8           what labels 5, 0 and 4 see, sorted
        labels     5  0  4
        returns    1  1  4  and  0  4  5: index 1 of `read` for labels 0 and 4, index 4 for label 5
    """
    starts = np.flatnonzero(np.diff(read) != 1) + 1
    bounds = [0, *starts.tolist(), len(read)]
    sources, targets = [], []
    for start, end in pairwise(bounds):
        if start == end:
            continue
        low, high = np.searchsorted(positions, (read[start], read[end - 1] + 1)).tolist()
        sources.append(positions[low:high] - (read[start] - start))
        targets.append(labels[low:high])
    if not sources:
        return labels[:0], labels[:0]
    return np.concatenate(sources), np.concatenate(targets)


def _width(kind: pa.DataType) -> int:
    """Return the bytes per value of an Arrow type of fixed width, else 0."""
    if not pa.types.is_primitive(kind) or kind.bit_width not in (8, 16, 32, 64):
        return 0
    return kind.bit_width // 8


def _side_by_side(array: pa.Array) -> NDArray[Any]:
    """Return the values as unsigned integers of their width; nulls are undefined."""
    dtype = np.dtype(f"u{_width(array.type)}")
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def _empty(rows: int, width: int, item_bytes: int) -> NDArray[Any]:
    """Return uninitialized unsigned integers in memory of ordinary pages.

    numpy asks for huge pages, which a virtual machine may have to get from its host one by one.
    That takes several times as long as filling ordinary ones.
    """
    buffer = pa.allocate_buffer(rows * width * item_bytes, memory_pool=pa.system_memory_pool())
    return np.frombuffer(buffer, f"u{item_bytes}").reshape(rows, width)


def _validity(valid: NDArray[np.bool_]) -> pa.Buffer | None:
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


class _Numbers:
    def __init__(self, kind: pa.DataType, count: int) -> None:
        self._kind = kind
        self._out = np.zeros(count, f"u{_width(kind)}")
        self._valid = np.zeros(count, dtype=bool)

    def put(self, array: pa.Array, sources: NDArray[np.int64], labels: NDArray[np.int64]) -> int:
        self._out[labels] = _side_by_side(array)[sources]
        known = array.is_valid().to_numpy(zero_copy_only=False)[sources]
        self._valid[labels] = known
        return len(sources) * self._out.itemsize

    def finish(self) -> pa.Array:
        buffers = [_validity(self._valid), pa.py_buffer(self._out)]
        return pa.Array.from_buffers(self._kind, len(self._out), buffers)


class _Vectors:
    """Lists of numbers of one length."""

    def __init__(self, kind: pa.DataType, has_row: NDArray[np.bool_]) -> None:
        self._kind = kind
        self._has_row = has_row
        self._ends = np.cumsum(has_row)
        self._out: NDArray[Any] | None = None

    def put(self, array: pa.Array, sources: NDArray[np.int64], labels: NDArray[np.int64]) -> int:
        bounds = np.frombuffer(array.buffers()[1], np.int32)
        bounds = bounds[array.offset : array.offset + len(array) + 1]
        lengths = np.diff(bounds)
        width = int(lengths[0])
        if self._out is None:
            self._out = _empty(int(self._ends[-1]), width, _width(self._kind.value_type))
        same = width == self._out.shape[1] > 0 and bool((lengths == width).all())
        if not same or array.null_count or array.values.null_count:
            raise _UnevenError
        vectors = _side_by_side(array.values)[bounds[0] : bounds[-1]].reshape(-1, width)
        # View a vector as one item, which numpy copies at once: this saves a quarter of the time.
        whole = f"V{width * self._out.itemsize}"
        self._out.view(whole)[self._ends[labels] - 1] = vectors.view(whole)[sources]
        return len(sources) * width * self._out.itemsize

    def finish(self) -> pa.Array:
        count = len(self._has_row)
        if self._out is None:
            return pa.nulls(count, self._kind)
        rows, width = self._out.shape
        bounds = np.zeros(count + 1, np.int32)
        bounds[1:] = self._ends * width
        values = pa.Array.from_buffers(
            self._kind.value_type, rows * width, [None, pa.py_buffer(self._out)]
        )
        buffers = [_validity(self._has_row), pa.py_buffer(bounds)]
        return pa.Array.from_buffers(self._kind, count, buffers, children=[values])


class _Anything:
    """Values of any type, by Arrow's own take."""

    def __init__(self, kind: pa.DataType, count: int) -> None:
        self._kind = kind
        self._count = count
        self._taken: list[pa.Array] = []
        self._labels: list[NDArray[np.int64]] = []

    def put(self, array: pa.Array, sources: NDArray[np.int64], labels: NDArray[np.int64]) -> int:
        self._taken.append(array.take(pa.array(sources)))
        self._labels.append(labels)
        return self._taken[-1].nbytes

    def finish(self) -> pa.Array:
        if not self._taken:
            return pa.nulls(self._count, self._kind)
        labels = np.concatenate(self._labels)
        order = np.full(self._count, -1, dtype=np.int64)
        order[labels] = np.arange(len(labels))
        return pa.concat_arrays(self._taken).take(pa.array(order, mask=order < 0))
