"""A DataFrame of labels as an Arrow table, column by column, whatever dtype a column has.

A column gets the type that Feast's DuckDB store gives it. Where Feast has none, it gets the nearest
that loses nothing (a sparse column its dense one, float16 float32, a UUID its text), else an error
names the column.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

# Arrow types that DuckDB or Feast does not take → the same values in one that both take.
PLAIN = (
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_binary_view, pa.binary()),
    (pa.types.is_fixed_size_binary, pa.binary()),
    (pa.types.is_float16, pa.float32()),
)
UUID = "arrow.uuid"


def table_of(frame: pd.DataFrame, con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the columns of a frame; its index is left out.

    Raises:
        EntityTimestampInferenceException: no column `event_timestamp` and not exactly one
            timestamp column.
        ValueError: a column's name or values have no place in a table; the message names it.
    """
    for name in frame.columns:
        if not isinstance(name, str):
            raise ValueError(
                f"expected texts as names of the entity frame's columns, got {name!r} "
                f"({type(name).__name__}). Rename it, or all: frame.columns.map(str)"
            )
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()].unique()
        raise ValueError(
            f"expected columns of different names in the entity frame, got {', '.join(twice)} "
            "more than once. Rename one"
        )
    dtypes: dict[Hashable, object] = dict(zip(frame.columns, frame.dtypes, strict=True))
    timestamp = infer_event_timestamp_from_entity_df(dtypes)
    arrays = [
        _array(name, _times(column) if name == timestamp else column)
        for name, column in frame.items()
    ]
    table = pa.table(arrays, names=list(frame.columns))
    for column in table.column_names:
        try:
            con.register("labels", table.select([column]).rename_columns(["column"]))
            con.execute("describe labels").fetchall()
        except duckdb.Error as error:
            raise _refused(column, table.schema.field(column).type, error) from error
    con.unregister("labels")
    return table


def _times(column: pd.Series) -> pd.Series:
    times = column.infer_objects()
    if isinstance(times.dtype, pd.ArrowDtype) and pa.types.is_string_view(
        times.dtype.pyarrow_dtype
    ):
        times = times.astype(object)
    if isinstance(times.dtype, pd.PeriodDtype | pd.IntervalDtype):
        return times  # refused with its name
    if pd.api.types.is_string_dtype(times) or pd.api.types.is_object_dtype(times):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # no format fits all
                return pd.to_datetime(times, utc=True)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{column.name}: expected timestamps, got {times.dtype}: {error}. Convert the "
                "column: pd.to_datetime(..., utc=True)"
            ) from error
    return times


def _array(name: Hashable, column: pd.Series) -> pa.Array | pa.ChunkedArray:
    if isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(column.to_numpy(), column.index, column.dtype.subtype)
    if pd.api.types.is_datetime64_any_dtype(column.dtype) and not isinstance(
        column.dtype, pd.ArrowDtype
    ):
        # Arrow cuts nanoseconds towards zero, which before 1970 is a later time.
        column = column.dt.floor("us")
    try:
        return _plain(_as_feast(column))
    except Exception as error:
        raise _refused(name, column.dtype, error) from error


def _refused(name: Hashable, kind: object, error: Exception) -> ValueError:
    return ValueError(
        f"{name}: expected numbers, texts, timestamps or another type that a table holds in the "
        f"entity frame, got {kind} ({type(error).__name__}: {error}). Convert the column, to text "
        "with .astype(str)"
    )


def _as_feast(column: pd.Series) -> pa.Array | pa.ChunkedArray:
    alone = column.to_frame("column").reset_index(drop=True)
    try:
        schema = ibis.memtable(alone).schema().to_pyarrow()
        return pa.Table.from_pandas(alone, schema=schema, preserve_index=False, safe=False)[0]
    except Exception:
        as_text = _mixed_ids(column)
        return pa.Array.from_pandas(column if as_text is None else as_text)


def _plain(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return an array of a type that DuckDB reads, with the same values; times are cut."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name != UUID:
            raise TypeError(f"{kind.extension_name} has no type in a table")
        return pa.array(
            [None if one is None else str(one) for one in array.to_pylist()], pa.string()
        )
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pc.floor_temporal(array, unit="microsecond").cast(pa.timestamp("us", kind.tz))
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array))
    wanted = next((plain for is_one, plain in PLAIN if is_one(kind)), None)
    return array if wanted is None else array.cast(wanted)


def _mixed_ids(column: pd.Series) -> pd.Series | None:
    """Return texts and integers together, or integers beyond int64, as texts."""
    if column.dtype != object:
        return None
    given = column.dropna()
    if int in set(map(type, given)) <= {int, str}:
        return given.map(str).reindex(column.index)
    return None
