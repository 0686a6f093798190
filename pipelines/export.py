"""The rows of a view in one file for others: Parquet as the table is, or numpy arrays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transformations.errors import InputError
from transformations.files import replacing

MADE_BY = ("model_version", "encoder", "encoder_version", "encoder_fit")
"""Columns that say what made the vectors: the same in every row of a snapshot."""


def export(table: pa.Table, file: Path, *, replace: bool = False) -> None:
    """Write a table to one file, whole or not at all; its suffix says how.

    `.parquet` holds the table as it is; `.npz` holds `arrays`.

    Args:
        replace: Whether a file that is there may be replaced.

    Raises:
        InputError: as `refuse` says.
    """
    refuse(file, replace=replace)
    with replacing(file) as temporary:
        FORMATS[file.suffix](table, temporary)


def refuse(file: Path, *, replace: bool) -> None:
    """Raise InputError where `export` would not write: an unknown suffix, or a file in its way."""
    if file.suffix not in FORMATS:
        raise InputError(f"expected a file that ends in {' or '.join(FORMATS)}, got {file}")
    if file.is_dir():
        raise InputError(f"expected the name of a file, got the folder {file}")
    if file.exists() and not replace:
        raise InputError(f"{file} is there already; --force replaces it")


def arrays(table: pa.Table) -> dict[str, NDArray]:
    """Return the columns of a view's rows as numpy arrays, none of them of objects.

    A vector is float32 [rows, dim]. Another list, as of item_ids, is the values of all rows one
    after the other, with `<name>_ends` int64 [rows], where each row's values end. Numbers are as
    they are, timestamps datetime64[us] in UTC (NaT where null), text is Unicode. What made the
    vectors (`MADE_BY`) is told once, not per row.

    >>> table = pa.table({"v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())),
    ...                   "item_ids": [[7], [8, 9]], "model_version": ["a", "a"]})
    >>> for name, array in arrays(table).items():
    ...     print(name, array.tolist())
    v [[1.0, 2.0], [3.0, 4.0]]
    item_ids [7, 8, 9]
    item_ids_ends [1, 3]
    model_version ['a']
    """
    found: dict[str, NDArray] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not pa.types.is_list(column.type):
            found[name] = _flat(column.unique() if name in MADE_BY else column)
        elif pa.types.is_floating(column.type.value_type):
            vectors = _flat(column.flatten()).astype(np.float32, copy=False)
            found[name] = vectors.reshape(len(column), len(vectors) // max(1, len(column)))
        else:
            found[name] = _flat(column.flatten())
            found[f"{name}_ends"] = np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)
    return found


def _flat(column: pa.Array) -> NDArray:
    if pa.types.is_timestamp(column.type):
        us = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
        return us.astype("datetime64[us]", copy=False)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    return column.to_numpy(zero_copy_only=False)


def _write_npz(table: pa.Table, file: Path) -> None:
    with file.open("wb") as opened:  # given a path, numpy appends .npz to the temporary name
        np.savez(opened, allow_pickle=False, **arrays(table))


def _write_parquet(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, compression="zstd")


FORMATS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
}
