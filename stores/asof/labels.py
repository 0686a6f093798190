"""The left side of a training join: a DataFrame, Parquet on disk, or a SQL text.

Each becomes a DuckDB relation `labels` whose last column, ROW, numbers the rows from 0 in their
given order. Joins lose that order; the number restores it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.errors import EntityTimestampInferenceException
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from stores.asof.session import literal, quote, rows_per_file
from stores.ids import given_sql

ROW = "__asof_row"


@dataclass(frozen=True)
class AsofLabels:
    """The source and columns of the labels; `load` makes them the relation `labels`."""

    source: pa.Table | Path | str
    """An Arrow table, the absolute path of a Parquet file or folder, or a SQL text."""
    columns: Mapping[str, str]
    """Each column and its DuckDB type, in order; without ROW."""
    timestamp: str
    """The column with the timestamp of each row."""
    converted: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Each column that `labels` has besides: the one it is made of, and the SQL of its ids."""

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        """Create `labels` in the session. This reads files and SQL once, into a table.

        Raises:
            ValueError: a value that cannot be made an id of its key's type.
        """
        _load(con, self.source)
        if self.columns[self.timestamp] == "VARCHAR":
            name = quote(self.timestamp)
            con.execute("alter view labels rename to labels_as_text")
            con.execute(
                "create temp view labels as select * replace "
                f"(cast({name} as timestamptz) as {name}) from labels_as_text"
            )
        if self.converted:
            self._convert(con)

    def _convert(self, con: duckdb.DuckDBPyConnection) -> None:
        made = ", ".join(f"{sql} as {name}" for name, (_, sql) in self.converted.items())
        con.execute("alter view labels rename to labels_as_given")
        con.execute(f"create temp view labels as select *, {made} from labels_as_given")
        for name, (column, _) in self.converted.items():
            given = given_sql(quote(column), self.columns[column])
            refused = con.execute(
                f"select {quote(column)} from labels where {name} is null and {given} limit 1"
            ).fetchone()
            if refused is not None:
                raise ValueError(
                    f"{column}: expected ids that become the key's type and back without a change, "
                    f"got {refused[0]!r}. Convert the column"
                )

    def part(self, con: duckdb.DuckDBPyConnection, first: int, end: int) -> pa.Table:
        """Return the rows from `first` up to before `end`, in order; those of a frame unchanged."""
        if isinstance(self.source, pa.Table):
            return self.source.slice(first, end - first)
        columns = ", ".join(map(quote, self.columns))
        return con.sql(
            f"select {columns} from labels where {ROW} >= {first} and {ROW} < {end} order by {ROW}"
        ).to_arrow_table()


def read_labels(
    entity_df: pd.DataFrame | str | os.PathLike[str],
    repo_path: Path,
    con: duckdb.DuckDBPyConnection,
) -> AsofLabels:
    """Resolve an entity frame without reading its rows.

    A string is a path where it ends in .parquet or names a file or folder (relative to the
    repository); else it is SQL for DuckDB, whose own relative paths also start there.

    Raises:
        EntityTimestampInferenceException: no column `event_timestamp` and not exactly one
            timestamp or date column.
        duckdb.Error: the path does not exist, or the SQL does not parse or bind.
    """
    source: pa.Table | Path | str
    if isinstance(entity_df, pd.DataFrame):
        source = _arrow(entity_df)
    elif _is_path(entity_df, repo_path):
        source = repo_path / entity_df
    else:
        source = str(entity_df)
    if isinstance(source, pa.Table):
        con.register("labels_described", source)
        described = con.execute("describe select * from labels_described").fetchall()
    else:
        described = con.execute(f"describe {_query(con, source)}").fetchall()
    columns = {name: kind for name, kind, *_ in described}
    return AsofLabels(source, columns, _timestamp(columns))


def _is_path(entity_df: str | os.PathLike[str], repo_path: Path) -> bool:
    if not isinstance(entity_df, str) or entity_df.endswith(".parquet"):
        return True
    try:
        return (repo_path / entity_df).exists()
    except OSError:  # a long SQL text is not a valid file name
        return False


def _load(con: duckdb.DuckDBPyConnection, source: pa.Table | Path | str) -> None:
    if isinstance(source, pa.Table):
        numbers = pa.array(np.arange(len(source), dtype=np.int64))
        con.register("labels_in_memory", source.append_column(ROW, numbers))
        con.execute("create temp view labels as select * from labels_in_memory")
    else:
        con.execute(f"create temp table labels_as_stored as {_query(con, source)}")
        # rowid follows the order of insertion, so an `order by` in a SQL text is kept.
        con.execute(f"create temp view labels as select *, rowid as {ROW} from labels_as_stored")


def _query(con: duckdb.DuckDBPyConnection, source: Path | str) -> str:
    if isinstance(source, str):
        return source
    files = ", ".join(map(literal, rows_per_file(con, str(source))))
    return f"select * from read_parquet([{files}])"


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Convert as Feast's DuckDB store does, so that the result has Feast's types."""
    dtypes = dict(zip(frame.columns, frame.dtypes, strict=True))
    timestamp = infer_event_timestamp_from_entity_df(dtypes)
    times = frame[timestamp].infer_objects()
    if pd.api.types.is_string_dtype(times) or pd.api.types.is_object_dtype(times):
        times = pd.to_datetime(times, utc=True)
    frame = frame.assign(**{timestamp: times})
    try:
        return _table(frame)
    except (pa.ArrowTypeError, OverflowError):
        return _table(frame.assign(**_mixed_ids(frame)))


def _table(frame: pd.DataFrame) -> pa.Table:
    schema = ibis.memtable(frame).schema().to_pyarrow()
    # safe=False cuts nanoseconds to microseconds; rounding up could pass a later row.
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False, safe=False)


def _mixed_ids(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the columns of texts and integers together, or of integers beyond int64, as texts."""
    found = {}
    for name, column in frame.select_dtypes(object).items():
        given = column.dropna()
        if int in set(map(type, given)) <= {int, str}:
            found[str(name)] = given.map(str).reindex(column.index)
    return found


def _timestamp(columns: Mapping[str, str]) -> str:
    if "event_timestamp" in columns:
        return "event_timestamp"
    candidates = [name for name, kind in columns.items() if kind.startswith(("TIMESTAMP", "DATE"))]
    if len(candidates) != 1:
        raise EntityTimestampInferenceException("event_timestamp")
    return candidates[0]
